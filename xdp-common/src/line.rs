//! The compiled form of a rule set: 64-byte lines of one BPF array, line 0 being the header.
//!
//! All integers are in host order: both sides of the map run on one machine.

use crate::{Address, Direction, Flow, Ports};

/// Slots of the array that holds a rule set: the header and up to [`MAX_LINES`] lines.
pub const LINE_SLOTS: usize = 1 + MAX_LINES;

/// Most lines of a rule set.
pub const MAX_LINES: usize = 1023;

/// Rule id of a verdict that no rule gave.
pub const NO_RULE: u32 = u32::MAX;

/// Connection of a line that does not protect.
pub const NO_CONNECTION: u32 = u32::MAX;

/// What happens to matching packets: RFC 4301 BYPASS, DISCARD and PROTECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// Passes in the clear.
    Permit = 0,
    /// Silently dropped.
    Block = 1,
    /// Must be ESP under the rule's connection.
    Protect = 2,
}

impl Action {
    /// The action with this value; anything unknown is [`Action::Block`], so that a damaged line fails closed.
    #[must_use]
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Permit,
            2 => Self::Protect,
            _ => Self::Block,
        }
    }
}

/// Bits of [`Line::flags`].
pub mod line_flags {
    /// Any protocol matches.
    pub const ANY_PROTOCOL: u8 = 1;
    /// The line limits a port (or ICMP type or code).
    pub const PORTS: u8 = 1 << 1;
    /// The line applies to outbound packets.
    pub const OUTBOUND: u8 = 1 << 2;
    /// The line applies to inbound packets.
    pub const INBOUND: u8 = 1 << 3;
    /// A clear inbound packet is accepted although the line protects ("inpass").
    pub const ACCEPT_UNSECURED: u8 = 1 << 4;
}

/// Value of [`Line::family`] that matches both families.
pub const ANY_FAMILY: u8 = 0;

/// One filter in compiled form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Line {
    /// Source prefix; bits beyond the prefix length are ignored.
    pub source: Address,
    /// Destination prefix; bits beyond the prefix length are ignored.
    pub destination: Address,
    /// Length of the source prefix in bits, 0 to 128 (IPv4: its own length + 96).
    pub source_prefix_length: u8,
    /// Length of the destination prefix in bits, 0 to 128 (IPv4: its own length + 96).
    pub destination_prefix_length: u8,
    /// 4, 6 or [`ANY_FAMILY`].
    pub family: u8,
    /// Protocol number, ignored with [`line_flags::ANY_PROTOCOL`].
    pub protocol: u8,
    /// Bits of [`line_flags`].
    pub flags: u8,
    /// An [`Action`].
    pub action: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Lowest and highest source port, or ICMP type; `[0, 65535]` matches any.
    pub source_port: [u16; 2],
    /// Lowest and highest destination port, or ICMP code; `[0, 65535]` matches any.
    pub destination_port: [u16; 2],
    /// Index of the rule in its policy: the key of its counters.
    pub rule_id: u32,
    /// Index of the connection in its policy, or [`NO_CONNECTION`].
    pub connection: u32,
    /// Position in the total order; smaller wins.
    pub rank: u32,
    /// Zero.
    pub reserved_end: u32,
}

const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 8);

/// What line 0 says about the rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of lines that follow, at most [`MAX_LINES`].
    pub line_count: u32,
    /// Generation of the rule set, never 0: an array that was never written has generation 0.
    pub generation: u32,
    /// Action for packets that no line matches; `Protect` is not valid and blocks.
    pub default_action: Action,
    /// Action for frames that are neither IP nor ARP.
    pub non_ip: Action,
}

impl Header {
    /// The header as line 0.
    #[must_use]
    pub const fn to_line(self) -> Line {
        Line {
            rule_id: self.generation,
            rank: self.line_count,
            action: self.default_action as u8,
            flags: self.non_ip as u8,
            ..Line::EMPTY
        }
    }

    /// Reads line 0.
    #[must_use]
    #[inline(always)]
    pub const fn from_line(line: &Line) -> Self {
        Self {
            line_count: line.rank,
            generation: line.rule_id,
            default_action: Action::from_u8(line.action),
            non_ip: Action::from_u8(line.flags),
        }
    }
}

impl Line {
    /// A line that matches nothing, because it applies to no direction.
    pub const EMPTY: Self = Self {
        source: [0; 2],
        destination: [0; 2],
        source_prefix_length: 0,
        destination_prefix_length: 0,
        family: ANY_FAMILY,
        protocol: 0,
        flags: 0,
        action: Action::Block as u8,
        reserved: [0; 2],
        source_port: [0, u16::MAX],
        destination_port: [0, u16::MAX],
        rule_id: NO_RULE,
        connection: NO_CONNECTION,
        rank: u32::MAX,
        reserved_end: 0,
    };

    /// Compares the line with a packet.
    #[must_use]
    #[inline(always)]
    pub fn compare(&self, flow: &Flow, direction: Direction) -> Comparison {
        let wanted = match direction {
            Direction::Outbound => line_flags::OUTBOUND,
            Direction::Inbound => line_flags::INBOUND,
        };
        if self.flags & wanted == 0
            || (self.family != ANY_FAMILY && self.family != flow.family as u8)
            || (self.flags & line_flags::ANY_PROTOCOL == 0 && self.protocol != flow.protocol)
            || differs(self.source, flow.source, self.source_prefix_length)
            || differs(self.destination, flow.destination, self.destination_prefix_length)
        {
            return Comparison::Differs;
        }
        if self.flags & line_flags::PORTS == 0 {
            return Comparison::Matches;
        }
        match flow.ports {
            Ports::Unknown => Comparison::MatchesButPorts,
            Ports::Absent => Comparison::Differs,
            Ports::Known
                if within(self.source_port, flow.source_port)
                    && within(self.destination_port, flow.destination_port) =>
            {
                Comparison::Matches
            }
            Ports::Known => Comparison::Differs,
        }
    }
}

/// How a line relates to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Some field differs.
    Differs,
    /// Every field matches.
    Matches,
    /// All but the ports match, and those are in another fragment.
    MatchesButPorts,
}

/// Whether two addresses differ in their first `prefix_length` bits.
#[inline(always)]
fn differs(prefix: Address, address: Address, prefix_length: u8) -> bool {
    let high = prefix[0] ^ address[0];
    let low = prefix[1] ^ address[1];
    if prefix_length <= 64 {
        prefix_length != 0 && high >> ((64 - prefix_length) & 63) != 0
    } else {
        high != 0 || low >> ((128 - u32::from(prefix_length)) & 63) != 0
    }
}

#[inline(always)]
const fn within(range: [u16; 2], port: u16) -> bool {
    range[0] <= port && port <= range[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped_v4;

    #[test]
    fn prefixes_compare_their_leading_bits_only() {
        let a = mapped_v4([10, 1, 2, 3]);
        let b = mapped_v4([10, 1, 3, 3]);
        assert!(!differs(a, b, 96 + 23));
        assert!(differs(a, b, 96 + 24));
        assert!(!differs(a, a, 128));
        assert!(differs(a, mapped_v4([10, 1, 2, 2]), 128));
        assert!(!differs([1, 0], [2, 0], 0));
        assert!(!differs([1, 0], [1, u64::MAX], 64));
        assert!(differs([1, 0], [0, 0], 64));
        assert!(differs([0, 1 << 63], [0, 0], 65));
        assert!(!differs([0, 1 << 62], [0, 0], 65));
    }

    #[test]
    fn header_survives_its_line() {
        let header = Header {
            line_count: 7,
            generation: 3,
            default_action: Action::Permit,
            non_ip: Action::Block,
        };
        assert_eq!(Header::from_line(&header.to_line()), header);
    }
}
