//! Where peers were seen last, if not where they should be; and connections that follow them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ravelin_esp::Encapsulation;
use ravelin_policy::AddressUpdate;
use ravelin_xdp_common::Family;

use crate::address::from_address;
use crate::connection::{Connection, Inbound};
use crate::engine::Engine;
use crate::sighting::Sighting;
use crate::status::PeerStatus;

/// How often the log is told of one peer.
const SAY: Duration = Duration::from_secs(10);

/// Peers that were seen elsewhere, by slot of their connection.
#[derive(Debug, Default)]
pub(crate) struct Peers(HashMap<u32, Peer>);

#[derive(Debug)]
struct Peer {
    /// First generation of the connection: its slot may become another's.
    since: u32,
    seen: SocketAddr,
    /// Inbound SPI and sequence number of the newest packet that said so: workers may tell late.
    newest: (u32, u64),
    packets: u64,
    followed: bool,
    /// What the log was told, and when.
    said: Option<(SocketAddr, Instant)>,
}

impl Peers {
    /// Where the peer of a connection was seen.
    pub(crate) fn status(&self, connection: &Connection) -> Option<PeerStatus> {
        let peer = self.of(connection)?;
        Some(PeerStatus {
            address: peer.seen.ip().to_string(),
            port: peer.seen.port(),
            packets: peer.packets,
            followed: peer.followed,
        })
    }

    fn of(&self, connection: &Connection) -> Option<&Peer> {
        let peer = self.0.get(&connection.slot)?;
        (peer.since == connection.since).then_some(peer)
    }

    /// Takes a sighting up that an inbound SA of the connection brought.
    fn take(&mut self, sighting: Sighting, inbound: &Inbound, connection: &Connection, now: Instant) -> Told {
        // After a rekey the peer's old SA says nothing any more once the new one was used.
        let own = connection.inbound.as_ref();
        let outdated = own.is_some_and(|own| own.pair != inbound.pair && own.sa.counters().packets > 0);
        if sighting.spi != inbound.sa.spi() || outdated {
            return Told::default();
        }
        let family = if connection.remote.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let seen = SocketAddr::new(from_address(sighting.address, family), sighting.port);
        let known = self.of(connection);
        let is_old = |(spi, sequence)| spi == sighting.spi && sequence >= sighting.sequence;
        if known.is_some_and(|peer| is_old(peer.newest)) {
            return Told::default();
        }
        let (packets, said) = known.map_or((0, None), |peer| (peer.packets, peer.said));
        let follow = follow(inbound, connection, seen);
        let quiet = said.is_some_and(|(place, when)| place == seen || now.duration_since(when) < SAY);
        let peer = Peer {
            since: connection.since,
            seen,
            newest: (sighting.spi, sighting.sequence),
            packets: packets + 1,
            followed: follow.is_some(),
            said: if quiet { said } else { Some((seen, now)) },
        };
        self.0.insert(connection.slot, peer);
        let expected = expected(inbound, connection);
        Told {
            text: (!quiet).then(|| describe(&connection.name, seen, expected, follow.is_some())),
            follow,
        }
    }
}

/// What a sighting comes to.
#[derive(Debug, Default)]
struct Told {
    /// For the log.
    text: Option<String>,
    /// The port of the policy, and the one to follow the peer to.
    follow: Option<[NonZero<u16>; 2]>,
}

/// Whether to send to where the peer was seen: from which port of the policy to which.
///
/// RFC 7296 section 2.23: a host that is not behind a NAT "SHOULD send all packets (including retransmission packets) to the IP
/// address and port in the validated packet". Only a port is followed: another address would need other rules.
fn follow(inbound: &Inbound, connection: &Connection, seen: SocketAddr) -> Option<[NonZero<u16>; 2]> {
    let follows =
        connection.settings.nat.address_update == AddressUpdate::Port && seen.ip() == connection.remote;
    let [from, to] = [inbound.endpoint.remote_port, seen.port()].map(NonZero::new);
    follows.then_some([from?, to?])
}

/// Where packets go to.
fn expected(inbound: &Inbound, connection: &Connection) -> SocketAddr {
    let outbound = connection.outbound.as_ref();
    let port = match outbound.map(|outbound| outbound.sa.encapsulation()) {
        Some(Encapsulation::Udp { destination_port, .. }) => destination_port,
        _ => inbound.endpoint.remote_port,
    };
    SocketAddr::new(connection.remote, port)
}

fn describe(name: &str, seen: SocketAddr, expected: SocketAddr, followed: bool) -> String {
    let what = if followed {
        "packets go there from now on"
    } else {
        "they are dropped"
    };
    format!(
        "connection `{name}`: authentic packets of its peer come from {seen}, not from {expected}; {what} (address-update)"
    )
}

impl Engine {
    /// Looks after what workers have seen of peers.
    pub(crate) fn meet_peers(&mut self) {
        let shared = Arc::clone(self.enforcement.shared());
        let regime = shared.regime();
        for sighting in shared.sightings.receiver.try_iter() {
            let Some(inbound) = regime.inbound(sighting.pair) else {
                continue;
            };
            let Some(connection) = regime.connection(inbound.connection) else {
                continue;
            };
            let told = self.peers.take(sighting, inbound, connection, Instant::now());
            if let Some(text) = told.text {
                eprintln!("ravelin: {text}");
            }
            if let Some([from, to]) = told.follow
                && let Err(error) = self.enforcement.follow_peer(connection.slot, from, to)
            {
                // The worker goes on taking its packets one by one.
                eprintln!("ravelin: connection `{}`: {error}", connection.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use ravelin_esp::{
        Algorithm, DropReason, Encapsulation, Mode, OutboundSa, Packet, Provider, SaParameters, Secret,
    };

    use super::{Connection, Inbound, Peers, SAY, Sighting};
    use crate::address::to_address;
    use crate::connection::sample;

    fn connection(address_update: &str) -> Connection {
        sample(
            3,
            &format!("encapsulation = \"udp\"\naddress-update = \"{address_update}\""),
        )
    }

    fn sighting(connection: &Connection, address: [u8; 4], port: u16, sequence: u64) -> Sighting {
        Sighting {
            pair: 3,
            spi: inbound(connection).sa.spi(),
            address: to_address(address.into()),
            port,
            sequence,
        }
    }

    fn inbound(connection: &Connection) -> &Inbound {
        connection.inbound.as_ref().unwrap()
    }

    /// Has an inbound SA open a packet of its peer.
    fn receive(inbound: &Inbound) {
        let [local, remote] = [[192, 0, 2, 2], [192, 0, 2, 1]].map(Into::into);
        let key = Secret::copy_from(&[2; 20]);
        let mut parameters = SaParameters::new(
            0x1002,
            Mode::Tunnel { local, remote },
            Algorithm::AES_128_GCM,
            key,
        );
        parameters.encapsulation = Encapsulation::Udp {
            source_port: 4500,
            destination_port: 4500,
        };
        let now = Instant::now();
        let peer = OutboundSa::new(parameters, Provider::preferred(), 0, now).unwrap();
        peer.sequence().raise_ceiling(9);
        let mut buffer = [0; 300];
        buffer[100] = 0x45;
        buffer[103] = 20;
        let mut packet = [Packet::new(&mut buffer, 100..120).unwrap()];
        let mut sealed = [Err(DropReason::SaMissing)];
        peer.seal_batch(&mut packet, &mut sealed, now);
        sealed[0].unwrap();
        let mut opened = [Err(DropReason::SaMissing)];
        inbound.sa.open_batch(&mut packet, &mut opened, now);
        opened[0].unwrap();
    }

    #[test]
    fn a_peer_that_moved_is_told_of_and_not_followed() {
        let connection = connection("signal");
        let mut peers = Peers::default();
        let now = Instant::now();
        let told = peers.take(
            sighting(&connection, [192, 0, 2, 2], 61_000, 7),
            inbound(&connection),
            &connection,
            now,
        );
        let text = told.text.unwrap();
        assert!(
            text.contains("come from 192.0.2.2:61000, not from 192.0.2.2:4500; they are dropped"),
            "{text}"
        );
        assert_eq!(told.follow, None);
        let status = peers.status(&connection).unwrap();
        assert_eq!(
            (
                status.address.as_str(),
                status.port,
                status.packets,
                status.followed
            ),
            ("192.0.2.2", 61_000, 1, false)
        );
    }

    #[test]
    fn a_port_is_followed_and_an_address_never() {
        let connection = connection("port");
        let mut peers = Peers::default();
        let now = Instant::now();
        let mut take = |address, port, sequence| {
            let sighting = sighting(&connection, address, port, sequence);
            let told = peers.take(sighting, inbound(&connection), &connection, now);
            told.follow.map(|ports| ports.map(NonZero::get))
        };
        assert_eq!(take([192, 0, 2, 2], 61_000, 7), Some([4500, 61_000]));
        // What a worker tells late is older news.
        assert_eq!(take([192, 0, 2, 2], 50_000, 6), None);
        assert_eq!(take([192, 0, 2, 2], 50_000, 7), None);
        assert_eq!(take([198, 51, 100, 9], 50_000, 8), None);
        // Back again.
        assert_eq!(take([192, 0, 2, 2], 4500, 9), Some([4500, 4500]));
        let other = Sighting {
            spi: 0x9999,
            ..sighting(&connection, [192, 0, 2, 2], 1, 10)
        };
        let told = peers.take(other, inbound(&connection), &connection, now);
        assert_eq!(told.follow, None, "of an SA before");
    }

    /// The peer's last packets under its old SA may come late, and then they are from where it was.
    #[test]
    fn after_a_rekey_the_new_sa_counts() {
        let (old, mut new) = (connection("port"), connection("port"));
        let own = Arc::get_mut(new.inbound.as_mut().unwrap()).unwrap();
        own.pair = 4;
        let mut peers = Peers::default();
        let now = Instant::now();
        let mut take = |new: &Connection, port, sequence| {
            let sighting = sighting(&old, [192, 0, 2, 2], port, sequence);
            let told = peers.take(sighting, inbound(&old), new, now);
            told.follow.map(|[_, to]| to.get())
        };
        assert_eq!(take(&new, 61_000, 7), Some(61_000));
        receive(inbound(&new));
        assert_eq!(take(&new, 50_000, 8), None);
    }

    #[test]
    fn the_log_is_not_flooded() {
        let connection = connection("signal");
        let mut peers = Peers::default();
        let start = Instant::now();
        let mut lines = 0;
        for n in 0..100 {
            let now = start + Duration::from_millis(100 * n);
            let told = peers.take(
                sighting(&connection, [192, 0, 2, 2], 1 + n as u16, n + 1),
                inbound(&connection),
                &connection,
                now,
            );
            lines += usize::from(told.text.is_some());
        }
        assert_eq!(lines, 1, "in the first {SAY:?}");
        let told = peers.take(
            sighting(&connection, [192, 0, 2, 2], 500, 200),
            inbound(&connection),
            &connection,
            start + SAY,
        );
        assert!(told.text.is_some());
        assert_eq!(peers.status(&connection).unwrap().packets, 101);
    }
}
