//! Whose ESP a filter matches, found without looking at every connection for every filter.

use std::net::IpAddr;

use crate::address::Address;
use crate::connection::{Connection, Encapsulation, Mode};
use crate::filter::{Filter, Selector};
use crate::protocol::Protocol;

/// Connections that are looked at in one check. Policies that need more are made for that, and what is found is only
/// worth a warning.
const MOST_LOOKS: u64 = 20_000_000;

/// The tunnels of a policy by their ends.
#[derive(Debug)]
pub(crate) struct Endpoints<'p> {
    by_local: Vec<(IpAddr, &'p Connection)>,
    by_remote: Vec<(IpAddr, &'p Connection)>,
    looks: u64,
}

impl<'p> Endpoints<'p> {
    pub(crate) fn new(connections: &'p [Connection]) -> Self {
        let by = |end: fn(&Connection) -> IpAddr| {
            let tunnels = connections.iter().filter(|one| one.mode == Mode::Tunnel);
            let mut ends: Vec<_> = tunnels.map(|one| (end(one), one)).collect();
            // Stable: of those with one address the first of the policy.
            ends.sort_by_key(|(end, _)| *end);
            ends
        };
        Self {
            by_local: by(|one| one.local),
            by_remote: by(|one| one.remote),
            looks: 0,
        }
    }

    /// A tunnel whose ESP from the local to the remote end matches the filter.
    pub(crate) fn carried(&mut self, filter: &Filter) -> Option<&'p Connection> {
        let local = within(&self.by_local, &filter.source);
        let remote = within(&self.by_remote, &filter.destination);
        let fewer = if local.len() < remote.len() { local } else { remote };
        for (_, connection) in fewer {
            if self.looks >= MOST_LOOKS {
                return None;
            }
            self.looks += 1;
            if carries(filter, connection) {
                return Some(connection);
            }
        }
        None
    }
}

/// Those whose address is one of `address`.
fn within<'e, 'p>(ends: &'e [(IpAddr, &'p Connection)], address: &Address) -> &'e [(IpAddr, &'p Connection)] {
    let (first, last) = match address {
        Address::Any => return ends,
        Address::Prefix(prefix) => (prefix.network(), prefix.broadcast()),
        Address::Range(first, last) => (*first, *last),
    };
    let from = ends.partition_point(|(end, _)| *end < first);
    let to = ends.partition_point(|(end, _)| *end <= last);
    &ends[from..to]
}

/// Whether ESP from the connection's local to its remote end matches the filter.
pub(crate) fn carries(filter: &Filter, connection: &Connection) -> bool {
    let protocol = match connection.encapsulation {
        Encapsulation::None => Protocol::ESP,
        Encapsulation::Udp { .. } => Protocol::UDP,
    };
    let ports = match (&filter.selector, connection.encapsulation) {
        (Selector::Any, _) => true,
        (
            Selector::Ports { source, destination },
            Encapsulation::Udp {
                local_port,
                remote_port,
            },
        ) => source.contains(local_port) && destination.contains(remote_port),
        _ => false,
    };
    ports
        && filter.protocol.is_none_or(|wanted| wanted == protocol)
        && filter.matches_addresses(connection.local, connection.remote)
}

#[cfg(test)]
mod tests {
    use super::{Endpoints, carries};
    use crate::Policy;

    /// With every connection of a policy, and every filter, the same answer as by looking at all.
    #[test]
    fn it_finds_one_where_there_is_one() {
        let mut text = String::new();
        for number in 0..60 {
            let (third, last) = (number / 7, number % 7);
            let local = if number % 2 == 0 {
                "192.0.2.1"
            } else {
                "198.51.100.9"
            };
            text.push_str(&format!(
                "[connections.c{number}]\nmode = \"tunnel\"\nlocal = \"{local}\"\nremote = \"203.0.{third}.{}\"\n\
                 [connections.c{number}.static]\nalgorithm = \"aes-256-gcm\"\n\
                 outbound = {{ spi = {}, key-file = \"o{number}\" }}\ninbound = {{ spi = {}, key-file = \"i{number}\" }}\n",
                last + 1,
                0x1000 + number,
                0x2000 + number
            ));
        }
        let ends = |wide: &[&str]| -> Vec<String> {
            let single = (0..5).map(|third| format!("203.0.{third}.3"));
            wide.iter().map(ToString::to_string).chain(single).collect()
        };
        let sources = [
            "any",
            "192.0.2.0/24",
            "198.51.100.9",
            "10.0.0.0/8",
            "192.0.2.1-198.51.100.1",
        ];
        let destinations = ends(&[
            "any",
            "203.0.0.0/16",
            "203.0.2.5-203.0.3.2",
            "203.0.9.0/24",
            "::/0",
        ]);
        text.push_str("[filter-lists.f]\nfilters = [\n");
        for source in sources {
            for destination in &destinations {
                if source == "any" || destination != "::/0" {
                    text.push_str(&format!(
                        "{{ source = \"{source}\", destination = \"{destination}\" }},\n"
                    ));
                }
            }
        }
        text.push_str("]\n[[rules]]\nname = \"r\"\nfilter-list = \"f\"\naction = \"permit\"\n");
        let (policy, _) = Policy::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}"));
        let mut endpoints = Endpoints::new(policy.connections());
        let (mut found, mut none) = (0, 0);
        for filter in policy.filters(&policy.rules()[0]) {
            let any = policy.connections().iter().any(|one| carries(filter, one));
            match endpoints.carried(filter) {
                Some(one) => {
                    assert!(carries(filter, one), "{filter:?}");
                    found += 1;
                }
                None => {
                    assert!(!any, "{filter:?}");
                    none += 1;
                }
            }
        }
        assert!(found > 10 && none > 10, "{found} {none}");
    }
}
