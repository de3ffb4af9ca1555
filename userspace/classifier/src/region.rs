//! What entries and nodes cover: one range of values in each dimension of the key.

use ravelin_xdp_common::line::{dimension, entry_flags};
use ravelin_xdp_common::{Direction, Entry, Family, halves};

/// Dimensions in which IPv4 entries differ.
const V4: [usize; 6] = [
    dimension::SOURCE + 3,
    dimension::DESTINATION + 3,
    dimension::SOURCE_PORT,
    dimension::DESTINATION_PORT,
    dimension::PROTOCOL,
    dimension::DIRECTION,
];

/// Dimensions in which IPv6 entries differ.
const V6: [usize; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

/// Dimensions in which entries of a family differ.
pub(crate) const fn dimensions(family: Family) -> &'static [usize] {
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

/// A box: lowest and highest value in each dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Region {
    pub(crate) low: [u32; dimension::COUNT],
    pub(crate) high: [u32; dimension::COUNT],
}

impl Region {
    /// Everything that a packet's key can be.
    pub(crate) const WHOLE: Self = {
        let mut high = [u32::MAX; dimension::COUNT];
        high[dimension::SOURCE_PORT] = 0xffff;
        high[dimension::DESTINATION_PORT] = 0xffff;
        high[dimension::PROTOCOL] = 0xff;
        high[dimension::DIRECTION] = Direction::Inbound as u32;
        let mut low = [0; dimension::COUNT];
        low[dimension::DIRECTION] = Direction::Outbound as u32;
        Self { low, high }
    };

    /// What an entry matches. Its ports are those of packets that have ports; others never get past its protocol.
    pub(crate) fn of(entry: &Entry, family: Family) -> Self {
        let mut region = Self::WHOLE;
        region.address(dimension::SOURCE, entry.source, entry.source_length, family);
        region.address(
            dimension::DESTINATION,
            entry.destination,
            entry.destination_length,
            family,
        );
        for (dimension, [low, high]) in [
            (dimension::SOURCE_PORT, entry.source_port),
            (dimension::DESTINATION_PORT, entry.destination_port),
        ] {
            region.low[dimension] = low.into();
            region.high[dimension] = high.into();
        }
        if entry.flags & entry_flags::ANY_PROTOCOL == 0 {
            region.low[dimension::PROTOCOL] = entry.protocol.into();
            region.high[dimension::PROTOCOL] = entry.protocol.into();
        }
        if entry.flags & entry_flags::OUTBOUND == 0 {
            region.low[dimension::DIRECTION] = Direction::Inbound as u32;
        }
        if entry.flags & entry_flags::INBOUND == 0 {
            region.high[dimension::DIRECTION] = Direction::Outbound as u32;
        }
        region
    }

    fn address(&mut self, first: usize, address: [u64; 2], length: u8, family: Family) {
        let words = halves(address);
        let start = match family {
            Family::V4 => 3,
            Family::V6 => 0,
        };
        for (index, word) in words.iter().enumerate().skip(start) {
            let bits = u32::from(length)
                .saturating_sub(32 * (index - start) as u32)
                .min(32);
            let free = u32::MAX.checked_shr(bits).unwrap_or(0);
            self.low[first + index] = word & !free;
            self.high[first + index] = word | free;
        }
    }

    /// Whether all of `other` is in it, looking at these dimensions.
    pub(crate) fn covers(&self, other: &Self, dimensions: &[usize]) -> bool {
        dimensions
            .iter()
            .all(|d| self.low[*d] <= other.low[*d] && other.high[*d] <= self.high[*d])
    }
}
