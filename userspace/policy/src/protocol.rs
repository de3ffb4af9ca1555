//! IP protocol numbers and their names.

use std::fmt;

use crate::address::Family;

/// An IP protocol number (IPv4 protocol, or the last IPv6 next header).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

const NAMES: &[(&str, Protocol)] = &[
    ("icmp", Protocol::ICMP),
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("dccp", Protocol::DCCP),
    ("gre", Protocol(47)),
    ("esp", Protocol::ESP),
    ("ah", Protocol(51)),
    ("icmp6", Protocol::ICMP6),
    ("sctp", Protocol::SCTP),
    ("udplite", Protocol::UDPLITE),
];

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// DCCP (RFC 4340).
    pub const DCCP: Self = Self(33);
    /// ESP (RFC 4303).
    pub const ESP: Self = Self(50);
    /// ICMP for IPv6.
    pub const ICMP6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
    /// UDP-Lite (RFC 3828).
    pub const UDPLITE: Self = Self(136);

    /// The protocol with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, protocol)| *protocol)
    }

    /// Every name that can be written.
    pub(crate) fn words() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// The same, for messages.
    pub(crate) fn names() -> String {
        Self::words().collect::<Vec<_>>().join(", ")
    }

    /// Whether its header starts with a 16-bit source port and a 16-bit destination port.
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(
            self,
            Self::TCP | Self::UDP | Self::SCTP | Self::DCCP | Self::UDPLITE
        )
    }

    /// Whether its header starts with an ICMP type and code.
    #[must_use]
    pub fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMP6)
    }

    /// The only family the protocol belongs to, for the two versions of ICMP.
    #[must_use]
    pub fn family(self) -> Option<Family> {
        match self {
            Self::ICMP => Some(Family::V4),
            Self::ICMP6 => Some(Family::V6),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}
