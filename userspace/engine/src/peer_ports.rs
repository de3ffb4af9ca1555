//! Ports of peers that a NAT has moved and that are followed (RFC 7296 section 2.23): what driver and SAs make of them.

use std::collections::HashMap;
use std::num::NonZero;

use ravelin_esp::Encapsulation;
use ravelin_policy::AddressUpdate;
use ravelin_xdp_common::InboundEndpoint;

use crate::connection::{Connection, Inbound, Outbound, verify_moved};

/// The ports that connections follow their peers to, by slot of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerPorts(HashMap<u32, Moved>);

/// A port and the one of the policy, in place of which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moved {
    /// First generation of the connection: slots change hands.
    since: u32,
    from: NonZero<u16>,
    to: NonZero<u16>,
}

impl PeerPorts {
    /// Follows the peer of a connection, whose policy has port `from`.
    pub(crate) fn follow(&mut self, connection: &Connection, from: NonZero<u16>, to: NonZero<u16>) {
        let since = connection.since;
        self.0.insert(connection.slot, Moved { since, from, to });
    }

    /// Those of connections that are still there and still follow.
    pub(crate) fn among<'c>(&self, connections: impl IntoIterator<Item = &'c Connection>) -> Self {
        if self.0.is_empty() {
            return Self::default();
        }
        let follows = |one: &&Connection| one.settings.nat.address_update == AddressUpdate::Port;
        let kept = connections
            .into_iter()
            .filter(follows)
            .filter_map(|one| Some((one.slot, *self.of(one)?)));
        Self(kept.collect())
    }

    /// What the driver is to expect of an inbound SA of the connection.
    pub(crate) fn endpoint(&self, connection: &Connection, inbound: &Inbound) -> InboundEndpoint {
        let endpoint = inbound.endpoint;
        // An SA of a rekey may be for other ports, to which no peer has moved yet.
        let moved = self
            .of(connection)
            .filter(|moved| moved.from.get() == endpoint.remote_port);
        InboundEndpoint {
            remote_port: moved.map_or(endpoint.remote_port, |moved| moved.to.get()),
            verify_moved: verify_moved(&connection.settings.nat),
            ..endpoint
        }
    }

    /// Has an outbound SA of the connection send to where the peer is, if it sends to where the peer `was` or should be; and
    /// to where the policy says if the peer is not followed any more.
    pub(crate) fn steer(&self, was: &Self, connection: &Connection, outbound: &Outbound) {
        let Encapsulation::Udp { destination_port, .. } = outbound.sa.encapsulation() else {
            return;
        };
        let at = |moved: &Moved| {
            [moved.from, moved.to]
                .map(NonZero::get)
                .contains(&destination_port)
        };
        let to = match (self.of(connection), was.of(connection)) {
            (Some(now), was) if at(now) || was.is_some_and(at) => now.to,
            (None, Some(was)) if at(was) => was.from,
            _ => return,
        };
        outbound.sa.set_destination_port(to);
    }

    /// Slots of connections whose peers have moved.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    fn of(&self, connection: &Connection) -> Option<&Moved> {
        let moved = self.0.get(&connection.slot)?;
        (moved.since == connection.since).then_some(moved)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::connection::sample;

    const FOLLOWS: &str = "encapsulation = \"udp\"\naddress-update = \"port\"";

    fn to(connection: &Connection, port: u16) -> PeerPorts {
        let mut ports = PeerPorts::default();
        let [from, to] = [4500, port].map(|port| NonZero::new(port).unwrap());
        ports.follow(connection, from, to);
        ports
    }

    /// Where the connection's outbound SA sends to, and where its inbound SA expects packets from.
    fn ends(ports: &PeerPorts, was: &PeerPorts, connection: &Connection) -> [u16; 2] {
        let (outbound, inbound) = (connection.outbound.as_ref(), connection.inbound.as_ref());
        let outbound = outbound.unwrap();
        ports.steer(was, connection, outbound);
        let Encapsulation::Udp { destination_port, .. } = outbound.sa.encapsulation() else {
            panic!("no UDP");
        };
        [
            destination_port,
            ports.endpoint(connection, inbound.unwrap()).remote_port,
        ]
    }

    #[test]
    fn all_sas_of_a_connection_go_where_the_peer_is() {
        let none = PeerPorts::default();
        let one = sample(3, FOLLOWS);
        assert_eq!(ends(&none, &none, &one), [4500; 2]);
        let first = to(&one, 61_000);
        assert_eq!(ends(&first, &none, &one), [61_000; 2]);
        let second = to(&one, 500);
        assert_eq!(ends(&second, &first, &one), [500; 2]);
        // The SAs of a rekey start where the policy says.
        assert_eq!(ends(&second, &second, &sample(3, FOLLOWS)), [500; 2]);
        // Other ports of the policy than those that the peer has moved from.
        let other = sample(3, &format!("{FOLLOWS}\nremote-port = 4501"));
        assert_eq!(ends(&second, &second, &other), [4501; 2]);
        assert_eq!(ends(&none, &second, &one), [4500; 2]);
    }

    #[test]
    fn a_peer_is_followed_as_long_as_its_connection_follows() {
        let one = sample(3, FOLLOWS);
        let ports = to(&one, 61_000);
        assert_eq!(ports.among([&one]), ports);
        let none = PeerPorts::default();
        assert_eq!(ports.among([]), none);
        assert_eq!(ports.among([&sample(4, FOLLOWS)]), none);
        assert_eq!(ports.among([&sample(3, "encapsulation = \"udp\"")]), none);
        let later = Connection { since: 9, ..one };
        assert_eq!(ports.among([&later]), none, "its slot changed hands");
        let inbound = later.inbound.as_ref().map(Arc::clone).unwrap();
        assert_eq!(ports.endpoint(&later, &inbound).remote_port, 4500);
    }

    #[test]
    fn what_the_policy_says_of_packets_from_elsewhere_holds_for_running_sas() {
        let off = sample(3, "encapsulation = \"udp\"\naddress-update = \"off\"");
        let on = sample(3, FOLLOWS);
        let ports = PeerPorts::default();
        let inbound = off.inbound.as_ref().unwrap();
        assert_eq!(ports.endpoint(&off, inbound).verify_moved, 0);
        assert_eq!(ports.endpoint(&on, inbound).verify_moved, 1);
    }
}
