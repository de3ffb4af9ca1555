//! UDP encapsulation beside the packets themselves (RFC 3948): keepalives, the non-ESP marker, checksums, and peers that move.
//!
//! Needs python3 with scapy (Debian: `python3-scapy`), and fails without.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::num::NonZero;
use std::time::{Duration, Instant};

use ravelin_esp::{DropReason, Encapsulation, InboundSa, Verified, nat_keepalive};
use support::headers::{HeadersPeer, inbound, outbound, plain_case};
use support::{Case, Frames, ipv4, ipv6, open_one, seal_one};

fn in_udp(tunnel: bool, outer_v6: bool) -> Case {
    Case {
        udp: true,
        ..plain_case(tunnel, outer_v6)
    }
}

fn clear(case: Case) -> Vec<u8> {
    if case.outer_v6 {
        ipv6(0, &[], b"clear")
    } else {
        ipv4(0, &[], b"clear")
    }
}

fn verify(sa: &InboundSa, wire: &[u8]) -> Result<Verified, DropReason> {
    verify_at(sa, wire, Instant::now())
}

fn verify_at(sa: &InboundSa, wire: &[u8], now: Instant) -> Result<Verified, DropReason> {
    let wire = wire.to_vec();
    let mut frames = Frames::new([&wire]);
    let mut outcomes = [Err(DropReason::SaMissing)];
    sa.verify_batch(&mut frames.packets(), &mut outcomes, now);
    outcomes[0]
}

/// RFC 3948 section 2.3, by scapy.
#[test]
fn keepalives_are_one_byte_of_ones() {
    let mut scapy = HeadersPeer::start();
    for (source, destination, expression) in [
        (
            "192.0.2.1:4500",
            "198.51.100.7:61000",
            "IP(src='192.0.2.1', dst='198.51.100.7', id=0, flags='DF', ttl=64)\
             /UDP(sport=4500, dport=61000, chksum=0)/Raw(b'\\xff')",
        ),
        (
            "[2001:db8::1]:4500",
            "[2001:db8::2]:4501",
            "IPv6(src='2001:db8::1', dst='2001:db8::2', hlim=64)/UDP(sport=4500, dport=4501)/Raw(b'\\xff')",
        ),
    ] {
        let mut packet = nat_keepalive(source.parse().unwrap(), destination.parse().unwrap()).unwrap();
        if source.starts_with('[') {
            // The label of no SA in particular.
            assert_ne!(packet[1..4], [0, 0, 0]);
            packet[1..4].fill(0);
        }
        assert_eq!(packet[..], scapy.build(expression)[..], "{source}");
    }
    let (v4, v6) = (
        "192.0.2.1:4500".parse().unwrap(),
        "[2001:db8::2]:4500".parse().unwrap(),
    );
    assert_eq!(nat_keepalive(v4, v6), None);
}

/// RFC 3948 section 2.2: four bytes of zeros are IKE's mark. No SA has that SPI, so none sends it; received, it is no ESP.
#[test]
fn the_non_esp_marker_is_never_taken_for_an_spi() {
    for (tunnel, outer_v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let case = in_udp(tunnel, outer_v6);
        let (mut wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
        let at = case.esp_at();
        assert_eq!(wire[at..at + 4], support::SPI.to_be_bytes());
        wire[at..at + 4].fill(0);
        assert_eq!(open_one(&case.inbound(), &wire), Err(DropReason::SpiReserved));
        assert_eq!(verify(&case.inbound(), &wire), Err(DropReason::SpiReserved));
    }
}

/// RFC 3948 section 2.1: "receivers MUST NOT depend on the UDP checksum being a zero value", nor on any other: NATs that change
/// an address and not the checksum have been seen, and the ICV says more.
#[test]
fn the_udp_checksum_is_not_looked_at() {
    for (tunnel, outer_v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let case = in_udp(tunnel, outer_v6);
        let (wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
        let checksum_at = case.esp_at() - 2;
        assert_eq!(wire[checksum_at..][..2] == [0, 0], !outer_v6);
        for checksum in [[0, 0], [0xff, 0xff], [0x12, 0x34]] {
            let mut wire = wire.clone();
            wire[checksum_at..][..2].copy_from_slice(&checksum);
            assert_eq!(open_one(&case.inbound(), &wire).unwrap().0, clear(case));
        }
    }
}

/// From another address and port a packet is not opened, but can be verified, and that changes nothing.
#[test]
fn a_packet_from_elsewhere_is_verified_and_leaves_no_trace() {
    let mut scapy = HeadersPeer::start();
    for outer_v6 in [false, true] {
        let case = in_udp(true, outer_v6);
        let (sender, receiver) = (case.outbound(), case.inbound());
        let next = || seal_one(&sender, &clear(case)).unwrap().0;
        let (first, second, third) = (next(), next(), next());
        let ends = if outer_v6 {
            ["2001:db8:9::9", "2001:db8::2"]
        } else {
            ["198.51.100.9", "192.0.2.2"]
        };
        let moved = scapy.translate(&second, ends);
        assert_eq!(open_one(&receiver, &moved), Err(DropReason::SpiWrongEndpoint));

        let newest = |sequence, newest| Ok(Verified { sequence, newest });
        assert_eq!(verify(&receiver, &moved), newest(2, true));
        // It was not seen: the same packet from the peer is taken, and so are those before it.
        assert_eq!(verify(&receiver, &moved), newest(2, true));
        open_one(&receiver, &third).unwrap();
        assert_eq!(verify(&receiver, &moved), newest(2, false));
        open_one(&receiver, &second).unwrap();
        assert_eq!(verify(&receiver, &moved), Err(DropReason::ReplayDuplicate));
        open_one(&receiver, &first).unwrap();

        let mut forged = scapy.translate(&next(), ends);
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(verify(&receiver, &forged), Err(DropReason::IcvMismatch));
        assert_eq!(receiver.highest_sequence(), Some(3));
        // To another address of ours it is nobody's.
        let elsewhere = if outer_v6 {
            ["2001:db8::1", "2001:db8::77"]
        } else {
            ["192.0.2.1", "192.0.2.77"]
        };
        let elsewhere = scapy.translate(&next(), elsewhere);
        assert_eq!(verify(&receiver, &elsewhere), Err(DropReason::SpiWrongEndpoint));
        assert_eq!(receiver.counters().packets, 3);
        assert_eq!(receiver.counters().dropped(DropReason::IcvMismatch), 1);
    }
}

/// RFC 7296 section 2.23: without replay protection old packets could move the peer.
#[test]
fn without_anti_replay_no_packet_is_the_newest() {
    let case = in_udp(true, false);
    let receiver = inbound(case, |parameters| parameters.replay_window = 0);
    let (wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
    assert!(!verify(&receiver, &wire).unwrap().newest);
}

/// Nor does a key work longer for those than for others.
#[test]
fn an_sa_at_its_end_verifies_nothing() {
    let case = in_udp(true, false);
    let receiver = inbound(case, |parameters| {
        parameters.lifetime.seconds.hard = Some(60);
    });
    let (wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
    assert!(verify(&receiver, &wire).is_ok());
    let later = Instant::now() + Duration::from_secs(61);
    assert_eq!(
        verify_at(&receiver, &wire, later),
        Err(DropReason::LifetimeExpired)
    );
    assert_eq!(receiver.counters().dropped(DropReason::LifetimeExpired), 1);
}

#[test]
fn the_port_of_the_moment_is_sent_to() {
    for (tunnel, outer_v6) in [(false, false), (false, true), (true, false), (true, true)] {
        let case = in_udp(tunnel, outer_v6);
        let sa = case.outbound();
        let udp_at = case.esp_at() - 8;
        for port in [4500, 61_000, 1] {
            sa.set_destination_port(NonZero::new(port).unwrap());
            let (wire, _) = seal_one(&sa, &clear(case)).unwrap();
            let [source_port, destination_port] =
                [0, 2].map(|at| u16::from_be_bytes([wire[udp_at + at], wire[udp_at + at + 1]]));
            assert_eq!((source_port, destination_port), (4501, port));
            assert_eq!(
                sa.encapsulation(),
                Encapsulation::Udp {
                    source_port,
                    destination_port
                }
            );
            if outer_v6 {
                let mut pseudo = wire[8..40].to_vec();
                pseudo.extend_from_slice(&((wire.len() - udp_at) as u32).to_be_bytes());
                pseudo.extend_from_slice(&[0, 0, 0, 17]);
                pseudo.extend_from_slice(&wire[udp_at..]);
                assert_eq!(support::checksum(&pseudo), 0);
            }
        }
    }
    let plain = plain_case(true, false).outbound();
    plain.set_destination_port(NonZero::new(9).unwrap());
    assert_eq!(plain.encapsulation(), Encapsulation::None);
}

#[test]
fn an_sa_knows_when_it_sealed_last() {
    let case = in_udp(true, false);
    let sa = outbound(case, |_| ());
    assert_eq!(sa.last_used(), None);
    let before = Instant::now();
    seal_one(&sa, &clear(case)).unwrap();
    let (used, after) = (sa.last_used().unwrap(), Instant::now());
    // However long that took. The SA's clock is not as fine.
    let fine = Duration::from_secs(1);
    assert!(
        used + fine > before && used < after + fine,
        "{used:?}: {before:?} to {after:?}"
    );
    assert_eq!(sa.last_used(), sa.counters().last_used);
}
