//! Two ends that get new SAs by hand, at different moments, under traffic.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use ravelin_esp::{
    Algorithm, DropReason, InboundSa, Mode, OutboundSa, Packet, Provider, SaParameters, Secret,
};
use ravelin_xdp_common::{InboundEndpoint, OutboundKey};

use super::*;
use crate::address::to_address;
use crate::adjacency::Ends;
use crate::connection::Settings;
use crate::path_mtu::PathMtu;

const GRACE: Duration = Duration::from_secs(30);

/// 28 bytes of UDP, 10.1.0.1 to 10.2.0.1.
const CLEAR: [u8; 28] = [
    0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0x66, 0xcc, 10, 1, 0, 1, 10, 2, 0, 1, 0x9c, 0x40, 0, 53, 0, 8, 0, 0,
];

/// One end: its connection, and what is under way.
struct End {
    here: u8,
    connection: Arc<Connection>,
    rekeys: Rekeys,
}

fn parameters(here: u8, sender: u8, pair: u32) -> SaParameters {
    let address = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let mode = Mode::Tunnel {
        local: address(here),
        remote: address(3 - here),
    };
    let key = [sender + 2 * pair as u8; 36];
    let spi = 0x1000 + 2 * pair + u32::from(sender);
    SaParameters::new(spi, mode, Algorithm::AES_256_GCM, Secret::copy_from(&key))
}

/// An end's connection with the SAs of a pair, which both ends number alike.
fn connection(here: u8, pair: u32, grace: Duration) -> Arc<Connection> {
    let now = Instant::now();
    let outbound = OutboundSa::new(parameters(here, here, pair), Provider::AwsLc, 0, now).unwrap();
    outbound.sequence().raise_ceiling(1 << 30);
    let inbound = InboundSa::new(parameters(here, 3 - here, pair), Provider::AwsLc, 0, now).unwrap();
    let remote = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3 - here));
    let endpoint = InboundEndpoint {
        local: [0; 2],
        remote: [0; 2],
        slot: pair,
        local_port: 0,
        remote_port: 0,
        family: 4,
        encapsulation: 0,
        shortest: 0,
        verify_moved: 0,
        reserved: [0; 3],
    };
    Arc::new(Connection {
        slot: 7,
        since: 1,
        name: "c".to_owned(),
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, here)),
        remote,
        ends: Ends::between(IpAddr::V4(Ipv4Addr::new(192, 0, 2, here)), remote),
        settings: Settings {
            rekey_grace: grace,
            ..crate::connection::sample(7, "").settings
        },
        path: Arc::new(PathMtu::new(now)),
        pair,
        outbound: Some(Outbound {
            pair,
            sa: outbound.into(),
        }),
        inbound: Some(Arc::new(Inbound {
            pair,
            connection: 7,
            endpoint,
            quoted: OutboundKey {
                remote: to_address(remote),
                spi: 0x1000 + 2 * pair + u32::from(here),
                family: 4,
            },
            sa: inbound.into(),
        })),
    })
}

impl End {
    fn new(here: u8) -> Self {
        Self {
            here,
            connection: connection(here, 0, GRACE),
            rekeys: Rekeys::default(),
        }
    }

    fn rekey(&mut self, pair: u32, now: Instant, trial: Option<Instant>) {
        let next = connection(self.here, pair, GRACE);
        self.change_to(next, now, trial);
    }

    fn change_to(&mut self, next: Arc<Connection>, now: Instant, trial: Option<Instant>) {
        let before = std::mem::replace(&mut self.connection, next);
        self.rekeys
            .begin(&[before], &[Arc::clone(&self.connection)], now, trial);
    }

    /// The pair whose outbound SA seals.
    fn sealing(&self) -> Option<u32> {
        let outbound = self.rekeys.as_it_is(&self.connection).outbound.clone();
        outbound.map(|outbound| outbound.pair)
    }

    fn next(&self) -> Vec<u32> {
        self.rekeys.next(7).map(|outbound| outbound.pair).collect()
    }

    /// Pairs whose inbound SAs are armed.
    fn armed(&self) -> Vec<u32> {
        let own = self.connection.inbound.iter();
        let mut armed: Vec<u32> = own
            .chain(self.rekeys.old(7).iter().map(|old| &old.inbound))
            .map(|inbound| inbound.pair)
            .collect();
        armed.sort_unstable();
        armed
    }

    /// Seals a packet; which pair's it is.
    fn send(&self) -> (u32, Vec<u8>) {
        let outbound = self.rekeys.as_it_is(&self.connection).outbound.clone().unwrap();
        let mut buffer = vec![0; 256];
        buffer[100..128].copy_from_slice(&CLEAR);
        let mut packet = [Packet::new(&mut buffer, 100..128).unwrap()];
        let mut outcome = [Err(DropReason::SaMissing)];
        outbound.sa.seal_batch(&mut packet, &mut outcome, Instant::now());
        outcome[0].unwrap();
        (outbound.pair, packet[0].bytes().to_vec())
    }

    /// Whether a packet of a pair can be opened.
    fn receive(&self, (pair, packet): &(u32, Vec<u8>)) -> bool {
        let own = self.connection.inbound.iter();
        let mut armed = own.chain(self.rekeys.old(7).iter().map(|old| &old.inbound));
        armed
            .find(|inbound| inbound.pair == *pair)
            .is_some_and(|inbound| {
                let mut buffer = packet.clone();
                let length = buffer.len();
                let mut packet = [Packet::new(&mut buffer, 0..length).unwrap()];
                let mut outcome = [Err(DropReason::SaMissing)];
                inbound.sa.open_batch(&mut packet, &mut outcome, Instant::now());
                outcome[0].is_ok()
            })
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

proptest! {
    /// Each end gets its pairs in order, each within half of the grace time of the other; packets take up to a second.
    /// Not one is lost, whichever end is first and whoever sends.
    #[test]
    fn two_ends_lose_nothing(
        first in prop::collection::vec((0_u64..60, 0_u64..14, any::<bool>()), 1..4),
        sends in (any::<bool>(), any::<bool>()),
    ) {
        let mut ends = [End::new(1), End::new(2)];
        let start = Instant::now();
        // When an end gets which pair.
        let mut plan = [Vec::new(), Vec::new()];
        let mut base = 1;
        for (pair, (pause, lag, swapped)) in (1..).zip(&first) {
            base += pause;
            plan[usize::from(*swapped)].push((base, pair));
            plan[usize::from(!*swapped)].push((base + lag, pair));
            base += lag + 1;
        }
        let mut under_way: [Vec<(u32, Vec<u8>)>; 2] = [Vec::new(), Vec::new()];
        for second in 0..base + 70 {
            let now = start + seconds(second);
            for (end, plan) in ends.iter_mut().zip(&plan) {
                for (_, pair) in plan.iter().filter(|(at, _)| *at == second) {
                    end.rekey(*pair, now, None);
                }
                end.rekeys.advance(now);
            }
            for (from, sends) in [(0, sends.0), (1, sends.1)] {
                for packet in std::mem::take(&mut under_way[from]) {
                    prop_assert!(
                        ends[1 - from].receive(&packet),
                        "second {}: pair {} of end {}, armed {:?}", second, packet.0, from, ends[1 - from].armed()
                    );
                }
                if sends {
                    under_way[from].push(ends[from].send());
                }
            }
        }
        let last = first.len() as u32;
        for end in &ends {
            prop_assert_eq!(end.sealing(), Some(last));
            prop_assert_eq!(end.armed(), [last]);
            prop_assert!(end.rekeys.0.is_empty());
        }
    }
}

#[test]
fn the_first_packet_under_the_new_pair_switches() {
    let (mut one, mut two) = (End::new(1), End::new(2));
    let now = Instant::now();
    one.rekey(1, now, None);
    two.rekey(1, now, None);
    assert!(!one.rekeys.advance(now).is_some());
    assert_eq!(
        (one.sealing(), one.next(), one.armed()),
        (Some(0), vec![1], vec![0, 1])
    );
    assert_eq!(one.rekeys.switch_at(7), Some(now + GRACE / 2));
    // Half of the grace time is over for one end, which the other sees.
    let later = now + GRACE / 2;
    assert!(one.rekeys.advance(later).switched);
    assert_eq!((one.sealing(), one.next()), (Some(1), vec![]));
    assert!(two.receive(&one.send()));
    assert!(two.rekeys.advance(now).switched);
    assert_eq!(two.sealing(), Some(1));
    // The old inbound SAs stay until the end.
    let end = now + GRACE;
    assert!(!one.rekeys.advance(end - seconds(1)).is_some());
    assert_eq!(one.armed(), [0, 1]);
    let gone = one.rekeys.advance(end).gone;
    assert_eq!(gone.iter().map(|inbound| inbound.pair).collect::<Vec<_>>(), [0]);
    assert_eq!(one.armed(), [1]);
}

#[test]
fn without_grace_nothing_stays() {
    let mut end = End::new(1);
    end.change_to(connection(1, 1, Duration::ZERO), Instant::now(), None);
    assert_eq!((end.sealing(), end.armed()), (Some(1), vec![1]));
    // But while the policy is on trial, its packets are still taken: it may come back.
    let now = Instant::now();
    end.change_to(connection(1, 2, Duration::ZERO), now, Some(now + seconds(60)));
    assert_eq!((end.sealing(), end.armed()), (Some(2), vec![1, 2]));
    end.rekeys.confirm(now);
    end.rekeys.advance(now);
    assert_eq!(end.armed(), [2]);
}

#[test]
fn a_policy_on_trial_keeps_the_old_inbound_sa_and_goes_back_at_once() {
    let mut end = End::new(1);
    let before = Arc::clone(&end.connection);
    let rekeys = end.rekeys.clone();
    let now = Instant::now();
    end.rekey(1, now, Some(now + seconds(600)));
    end.rekeys.advance(now + seconds(599));
    assert_eq!((end.sealing(), end.armed()), (Some(1), vec![0, 1]));

    // Confirmed, it stays for the grace time from then on.
    let mut confirmed = end.rekeys.clone();
    let later = now + seconds(100);
    confirmed.confirm(later);
    assert_eq!(confirmed.old(7)[0].until, later + GRACE);

    let back = rekeys.back(
        &[Arc::clone(&end.connection)],
        &[Arc::clone(&before)],
        now + seconds(599),
    );
    (end.connection, end.rekeys) = (before, back);
    assert_eq!((end.sealing(), end.armed()), (Some(0), vec![0, 1]));
    end.rekeys.advance(now + seconds(599) + GRACE);
    assert_eq!(end.armed(), [0]);
}

#[test]
fn a_connection_that_goes_takes_its_rekey_along() {
    let mut end = End::new(1);
    let now = Instant::now();
    end.rekey(1, now, None);
    end.rekeys.begin(&[Arc::clone(&end.connection)], &[], now, None);
    assert!(end.rekeys.0.is_empty());
}

#[test]
fn deleted_sas_are_passed_over() {
    let now = Instant::now();
    let on_its_way = || {
        let mut end = End::new(1);
        end.rekey(1, now, None);
        end.rekey(2, now + seconds(1), None);
        assert_eq!((end.sealing(), end.next()), (Some(0), vec![1, 2]));
        end
    };
    // What seals: the next one does.
    let mut end = on_its_way();
    end.rekeys.remove_outbound(0);
    assert_eq!((end.sealing(), end.next()), (Some(1), vec![2]));
    end.rekeys.remove_outbound(1);
    assert_eq!((end.sealing(), end.next()), (Some(2), vec![]));
    // One in between.
    let mut end = on_its_way();
    end.rekeys.remove_outbound(1);
    assert_eq!((end.sealing(), end.next()), (Some(0), vec![2]));
    // The last: what seals does so until its time is over, then the connection is closed.
    let mut end = on_its_way();
    end.rekeys.remove_outbound(2);
    end.connection = Arc::new(Connection {
        outbound: None,
        ..Connection::clone(&end.connection)
    });
    end.rekeys.advance(now + seconds(15));
    assert_eq!(end.sealing(), Some(1));
    end.rekeys.advance(now + seconds(16));
    assert_eq!(end.sealing(), None);
    // Or it gets another pair before.
    let mut end = on_its_way();
    end.rekeys.remove_outbound(2);
    end.connection = Arc::new(Connection {
        outbound: None,
        ..Connection::clone(&end.connection)
    });
    end.rekey(3, now + seconds(2), None);
    assert_eq!((end.sealing(), end.next()), (Some(0), vec![1, 3]));
    // Inbound SAs.
    let mut end = on_its_way();
    end.rekeys.remove_inbound(0);
    assert_eq!(end.armed(), [1, 2]);
}

/// Their keys are erased when the last has let go of them.
#[test]
fn deleted_sas_are_let_go_of() {
    let mut end = End::new(1);
    let now = Instant::now();
    end.rekey(1, now, None);
    let (outbound, inbound) = (&end.connection.outbound, &end.connection.inbound);
    let outbound = Arc::downgrade(&outbound.as_ref().unwrap().sa);
    let inbound = Arc::downgrade(&inbound.as_ref().unwrap().sa);
    end.connection = Arc::new(Connection {
        outbound: None,
        inbound: None,
        ..Connection::clone(&end.connection)
    });
    assert!(outbound.upgrade().is_some() && inbound.upgrade().is_some());
    end.rekeys.remove_inbound(1);
    assert!(inbound.upgrade().is_none());
    end.rekeys.remove_outbound(1);
    assert!(outbound.upgrade().is_none());
    // What seals still does so until its time is over.
    assert_eq!((end.sealing(), end.next()), (Some(0), vec![]));
    end.rekeys.advance(now + GRACE / 2);
    assert_eq!(end.sealing(), None);
}

/// An outbound SA whose numbers are used up, or whose life is over, is of no use any more.
#[test]
fn an_sa_at_its_end_is_followed_at_once() {
    let start = Instant::now();
    let exhausted = OutboundSa::new(
        SaParameters {
            extended_sequence_numbers: false,
            ..parameters(1, 1, 0)
        },
        Provider::AwsLc,
        u64::from(u32::MAX),
        start,
    );
    assert_eq!(sealing_after_rekey(exhausted.unwrap(), start), Some(1));
    let ended = || {
        let mut parameters = parameters(1, 1, 0);
        parameters.lifetime.seconds.hard = Some(5);
        OutboundSa::new(parameters, Provider::AwsLc, 0, start).unwrap()
    };
    assert_eq!(sealing_after_rekey(ended(), start + seconds(4)), Some(0));
    assert_eq!(sealing_after_rekey(ended(), start + seconds(5)), Some(1));
}

/// The pair that seals once the connection of an SA got another pair, and before the peer has it.
fn sealing_after_rekey(sealing: OutboundSa, now: Instant) -> Option<u32> {
    let mut end = End::new(1);
    end.connection = Arc::new(Connection {
        outbound: Some(Outbound {
            pair: 0,
            sa: sealing.into(),
        }),
        ..Connection::clone(&end.connection)
    });
    end.rekey(1, now, None);
    end.rekeys.advance(now);
    end.sealing()
}
