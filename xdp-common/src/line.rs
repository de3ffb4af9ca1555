//! The compiled form of a rule set: 64-byte lines of one BPF array. Line 0 is the header, the others are the nodes of
//! decision trees and the table of verdicts.
//!
//! All integers are in host order: both sides of the map run on one machine.
//!
//! | kind | word 0 | words 1 to 3 | words 4 to 15 |
//! |---|---|---|---|
//! | cut | kind, dimension, first child | thresholds (15 of them, words 1 to 15) | |
//! | leaf, IPv4 | kind, number of entries | what follows, its best rank, 0 | two entries of six words |
//! | leaf, IPv6 | kind, number of entries | as above | one entry of twelve words |
//! | verdicts | eight pairs: rule id; connection, action, flags | | |

use crate::Action;

/// Slots of the array that holds a rule set: the header and the lines. 32 MiB.
pub const LINE_SLOTS: usize = 1 << 19;

/// Most steps of one walk. The compiler refuses rule sets that could need more.
pub const MAX_STEPS: u32 = 8192;

/// Most children of a cut.
pub const MAX_CHILDREN: usize = 16;

/// Thresholds of a cut.
pub const THRESHOLDS: usize = MAX_CHILDREN - 1;

/// Entries of an IPv4 leaf line.
pub const ENTRIES_V4: usize = 2;

/// Entries of an IPv6 leaf line.
pub const ENTRIES_V6: usize = 1;

/// Verdicts of one line.
pub const VERDICTS: usize = 8;

/// Rule id of a verdict that no rule gave.
pub const NO_RULE: u32 = u32::MAX;

/// Connection of a verdict that does not protect.
pub const NO_CONNECTION: u32 = u32::MAX;

/// Connections a verdict can name: its value for [`NO_CONNECTION`].
pub const CONNECTION_LIMIT: u32 = 0xff_ffff;

/// Rank that nothing has: all others are better.
pub const NO_RANK: u32 = u32::MAX;

/// Words of a [`Key`], by their index.
pub mod dimension {
    /// First of the four words of the source address, the most significant first.
    pub const SOURCE: usize = 0;
    /// First of the four words of the destination address.
    pub const DESTINATION: usize = 4;
    /// Source port, or ICMP type.
    pub const SOURCE_PORT: usize = 8;
    /// Destination port, or ICMP code.
    pub const DESTINATION_PORT: usize = 9;
    /// Upper-layer protocol.
    pub const PROTOCOL: usize = 10;
    /// A [`Direction`](crate::Direction).
    pub const DIRECTION: usize = 11;
    /// How many there are. A key has sixteen words, so that an index of four bits is always in bounds.
    pub const COUNT: usize = 12;
}

/// The values that cuts compare, one word for each [`dimension`]; an IPv4 address stands in the last word of its four.
pub type Key = [u32; 16];

/// Kinds of lines, in the lowest bits of word 0.
pub mod line_kind {
    /// An inner node.
    pub const CUT: u32 = 1;
    /// A leaf with IPv4 entries.
    pub const LEAF_V4: u32 = 2;
    /// A leaf with IPv6 entries.
    pub const LEAF_V6: u32 = 3;
    /// Bits of the kind.
    pub const BITS: u32 = 2;
    /// Mask of the kind.
    pub const MASK: u32 = 3;
}

/// Bits of an entry's flags: the highest byte of its word of lengths.
pub mod entry_flags {
    /// Any protocol matches.
    pub const ANY_PROTOCOL: u32 = 1 << 24;
    /// The entry limits a port (or ICMP type or code).
    pub const PORTS: u32 = 1 << 25;
    /// The entry applies to outbound packets.
    pub const OUTBOUND: u32 = 1 << 26;
    /// The entry applies to inbound packets.
    pub const INBOUND: u32 = 1 << 27;
}

/// Bits of the second word of a verdict; the connection is below them.
pub mod verdict_bits {
    /// Position of the [`Action`](crate::Action).
    pub const ACTION: u32 = 24;
    /// A clear inbound packet is accepted although the rule protects ("inpass").
    pub const ACCEPT_UNSECURED: u32 = 1 << 26;
    /// What the rule would drop passes and is only counted.
    pub const AUDIT: u32 = 1 << 27;
}

/// Bits of [`Header::flags`].
pub mod header_flags {
    /// Verdicts are worth remembering: a walk takes longer than the flow cache.
    pub const CACHE: u8 = 1;
    /// What the policy would drop passes and is only counted.
    pub const AUDIT: u8 = 1 << 1;
    /// A rule that blocks or protects speaks of all addresses of the machine, whichever they are.
    pub const OWN: u8 = 1 << 2;
}

/// One cache line of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Line(pub [u32; 16]);

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// A line of no kind: a walk that gets there fails.
    pub const EMPTY: Self = Self([0; 16]);

    /// An inner node: the child is `first_child` plus the number of thresholds below the value, so a threshold is the
    /// largest value of the child it ends. Unused ones are `u32::MAX`, which no value exceeds.
    #[must_use]
    pub const fn cut(dimension: usize, first_child: u32, thresholds: [u32; THRESHOLDS]) -> Self {
        let mut words = [0; 16];
        words[0] = line_kind::CUT | (dimension as u32 & 15) << line_kind::BITS | first_child << 6;
        let mut index = 0;
        while index < THRESHOLDS {
            words[index + 1] = thresholds[index];
            index += 1;
        }
        Self(words)
    }

    /// Moves the children of a cut by so many lines.
    pub const fn move_children(&mut self, lines: u32) {
        self.0[0] += lines << 6;
    }
}

/// What line 0 says about the rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Generation of the rule set, never 0: an array that was never written has generation 0.
    pub generation: u32,
    /// First line of the table of verdicts.
    pub verdicts: u32,
    /// First trees; 0 for none.
    pub roots: Roots,
    /// Action for packets that no entry matches; `Protect` is not valid and blocks.
    pub default_action: Action,
    /// Action for frames that are neither IP nor ARP.
    pub non_ip: Action,
    /// What filters are not asked about, as in the original's `ipsecexempt`: 0 the most, 3 the least.
    pub exemptions: u8,
    /// Bits of [`header_flags`].
    pub flags: u8,
}

/// The first tree for each kind of packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// IPv4.
    pub v4: u32,
    /// IPv4 fragments whose ports nobody knows.
    pub v4_fragment: u32,
    /// IPv6.
    pub v6: u32,
    /// IPv6 fragments whose ports nobody knows.
    pub v6_fragment: u32,
}

impl Header {
    /// The header as line 0.
    #[must_use]
    pub const fn to_line(self) -> Line {
        let mut words = [0; 16];
        words[0] = self.generation;
        words[1] = self.verdicts;
        words[2] = self.default_action as u32
            | (self.non_ip as u32) << 8
            | (self.exemptions as u32) << 16
            | (self.flags as u32) << 24;
        words[3] = self.roots.v4;
        words[4] = self.roots.v4_fragment;
        words[5] = self.roots.v6;
        words[6] = self.roots.v6_fragment;
        Line(words)
    }

    /// Reads line 0.
    #[must_use]
    #[inline(always)]
    pub const fn from_line(line: &Line) -> Self {
        let words = &line.0;
        Self {
            generation: words[0],
            verdicts: words[1],
            roots: Roots {
                v4: words[3],
                v4_fragment: words[4],
                v6: words[5],
                v6_fragment: words[6],
            },
            default_action: Action::from_u8(words[2] as u8),
            non_ip: Action::from_u8((words[2] >> 8) as u8),
            exemptions: (words[2] >> 16) as u8,
            flags: (words[2] >> 24) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_its_line() {
        let header = Header {
            generation: 3,
            verdicts: 9,
            roots: Roots {
                v4: 1,
                v4_fragment: 2,
                v6: 3,
                v6_fragment: 4,
            },
            default_action: Action::Permit,
            non_ip: Action::Block,
            exemptions: 3,
            flags: header_flags::AUDIT,
        };
        assert_eq!(Header::from_line(&header.to_line()), header);
    }
}
