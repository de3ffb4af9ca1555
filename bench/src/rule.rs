//! One rule: what it matches, and what happens then.

use std::fmt::Write as _;

use ravelin_classifier::reference::{Packet, Transport};

use crate::Prefix;
use crate::prefix::number;

/// Every port.
pub(crate) const ANY_PORT: [u16; 2] = [0, u16::MAX];

/// A rule in the five fields that the field publishes, and an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Source addresses.
    pub source: Prefix,
    /// Destination addresses, of the same family.
    pub destination: Prefix,
    /// Lowest and highest source port, host order; all of them unless the protocol is TCP or UDP.
    pub source_ports: [u16; 2],
    /// Lowest and highest destination port, host order; all of them unless the protocol is TCP or UDP.
    pub destination_ports: [u16; 2],
    /// The protocol, unless it is any.
    pub protocol: Option<u8>,
    /// Whether matching packets pass; else they are dropped.
    pub permit: bool,
}

impl Rule {
    /// Whether the rule matches a packet of its own family.
    #[must_use]
    pub fn matches(&self, packet: &Packet) -> bool {
        if self.protocol.is_some_and(|protocol| protocol != packet.protocol)
            || !self.source.contains(number(packet.source))
            || !self.destination.contains(number(packet.destination))
        {
            return false;
        }
        if !self.names_ports() {
            return true;
        }
        let within = |range: [u16; 2], port| (range[0]..=range[1]).contains(&port);
        match packet.transport {
            Transport::Ports(from, to) => {
                within(self.source_ports, from) && within(self.destination_ports, to)
            }
            Transport::Absent | Transport::LaterFragment => false,
        }
    }

    /// Whether it limits a port.
    #[must_use]
    pub fn names_ports(&self) -> bool {
        self.source_ports != ANY_PORT || self.destination_ports != ANY_PORT
    }

    /// Appends the rule as a line of a ClassBench file, whose last column (TCP flags) says "any".
    pub(crate) fn write_classbench(&self, text: &mut String) {
        let protocol = self
            .protocol
            .map_or("0x00/0x00".to_owned(), |number| format!("0x{number:02x}/0xFF"));
        let _ = writeln!(
            text,
            "@{}\t{}\t{} : {}\t{} : {}\t{protocol}\t0x0000/0x0000",
            self.source,
            self.destination,
            self.source_ports[0],
            self.source_ports[1],
            self.destination_ports[0],
            self.destination_ports[1],
        );
    }

    /// Appends the rule as a filter of a policy.
    pub(crate) fn write_filter(&self, text: &mut String) {
        let _ = write!(
            text,
            "{{source=\"{}\",destination=\"{}\"",
            self.source, self.destination
        );
        if let Some(protocol) = self.protocol {
            let _ = write!(text, ",protocol={protocol}");
        }
        for (key, [low, high]) in [
            ("source-port", self.source_ports),
            ("destination-port", self.destination_ports),
        ] {
            if low == high {
                let _ = write!(text, ",{key}={low}");
            } else if [low, high] != ANY_PORT {
                let _ = write!(text, ",{key}=\"{low}-{high}\"");
            }
        }
        text.push_str(",mirrored=false}");
    }

    /// `permit` or `block`.
    #[must_use]
    pub fn action(&self) -> &'static str {
        if self.permit { "permit" } else { "block" }
    }
}
