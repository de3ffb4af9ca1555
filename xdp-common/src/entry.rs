//! Entries of leaf lines: what a packet is compared with in the end.

use crate::line::{ENTRIES_V4, ENTRIES_V6, Key, NO_RANK, dimension, entry_flags, line_kind};
use crate::{Address, Line};

/// One combination of prefixes, protocol and ports, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Source prefix; bits beyond the prefix length are zero.
    pub source: Address,
    /// Destination prefix; bits beyond the prefix length are zero.
    pub destination: Address,
    /// Length of the source prefix in bits, by the length of an address of its family: 0 to 32 or 128.
    pub source_length: u8,
    /// Length of the destination prefix in bits.
    pub destination_length: u8,
    /// The protocol, ignored with [`entry_flags::ANY_PROTOCOL`].
    pub protocol: u8,
    /// Bits of [`entry_flags`].
    pub flags: u32,
    /// Lowest and highest source port, or ICMP type.
    pub source_port: [u16; 2],
    /// Lowest and highest destination port, or ICMP code.
    pub destination_port: [u16; 2],
    /// Position in the total order, shifted left by one; smaller wins. The lowest bit marks an entry of a filter with
    /// ports that stands for "cannot be known" (see [`Decision::FragmentUnknown`](crate::Decision)).
    pub rank: u32,
}

impl Entry {
    const fn lengths(&self) -> u32 {
        self.source_length as u32
            | (self.destination_length as u32) << 8
            | (self.protocol as u32) << 16
            | self.flags
    }
}

const fn range(ports: [u16; 2]) -> u32 {
    ports[0] as u32 | (ports[1] as u32) << 16
}

impl Line {
    /// A leaf line with at most [`ENTRIES_V4`] entries in the order of their rank. [`Line::set_next`] says how a walk
    /// goes on after it.
    ///
    /// # Panics
    ///
    /// With more entries.
    #[must_use]
    pub fn leaf_v4(entries: &[Entry]) -> Self {
        assert!(entries.len() <= ENTRIES_V4);
        let mut words = [0; 16];
        words[0] = line_kind::LEAF_V4 | (entries.len() as u32) << line_kind::BITS;
        words[2] = NO_RANK;
        for (entry, words) in entries.iter().zip(words[4..].chunks_exact_mut(6)) {
            words.copy_from_slice(&[
                entry.source[1] as u32,
                entry.destination[1] as u32,
                range(entry.source_port),
                range(entry.destination_port),
                entry.lengths(),
                entry.rank,
            ]);
        }
        Self(words)
    }

    /// As [`Line::leaf_v4`], with at most [`ENTRIES_V6`] entries.
    ///
    /// # Panics
    ///
    /// With more entries.
    #[must_use]
    pub fn leaf_v6(entries: &[Entry]) -> Self {
        assert!(entries.len() <= ENTRIES_V6);
        let mut words = [0; 16];
        words[0] = line_kind::LEAF_V6 | (entries.len() as u32) << line_kind::BITS;
        words[2] = NO_RANK;
        for (entry, words) in entries.iter().zip(words[4..].chunks_exact_mut(12)) {
            words[..4].copy_from_slice(&halves(entry.source));
            words[4..8].copy_from_slice(&halves(entry.destination));
            words[8] = range(entry.source_port);
            words[9] = range(entry.destination_port);
            words[10] = entry.lengths();
            words[11] = entry.rank;
        }
        Self(words)
    }

    /// The line at which a walk goes on after this leaf line (0 for none), if it has found nothing better than
    /// `best_rank`: the best of all that follows, in this tree and those behind it.
    pub const fn set_next(&mut self, line: u32, best_rank: u32) {
        self.0[1] = line;
        self.0[2] = best_rank;
    }

    /// What [`Line::set_next`] has set.
    #[must_use]
    pub const fn next(&self) -> (u32, u32) {
        (self.0[1], self.0[2])
    }

    /// Whether the line is a leaf's.
    #[must_use]
    pub const fn is_leaf(&self) -> bool {
        matches!(
            self.0[0] & line_kind::MASK,
            line_kind::LEAF_V4 | line_kind::LEAF_V6
        )
    }
}

/// The four words of an address, the most significant first.
#[must_use]
#[inline(always)]
pub const fn halves(address: Address) -> [u32; 4] {
    [
        (address[0] >> 32) as u32,
        address[0] as u32,
        (address[1] >> 32) as u32,
        address[1] as u32,
    ]
}

/// Whether the entry at `words[at..at + 6]` of an IPv4 leaf matches. `wanted` has the bit of the packet's direction and
/// `ports_known` tells whether entries with ports can match at all.
#[inline(always)]
pub(crate) fn matches_v4<const AT: usize>(line: &Line, key: &Key, wanted: u32, ports_known: bool) -> bool {
    let words = &line.0;
    let lengths = words[AT + 4];
    differs(key[dimension::SOURCE + 3] ^ words[AT], lengths & 0xff) == 0
        && differs(
            key[dimension::DESTINATION + 3] ^ words[AT + 1],
            lengths >> 8 & 0xff,
        ) == 0
        && matches_rest(words[AT + 2], words[AT + 3], lengths, key, wanted, ports_known)
}

/// Whether the entry of an IPv6 leaf matches.
#[inline(always)]
pub(crate) fn matches_v6(line: &Line, key: &Key, wanted: u32, ports_known: bool) -> bool {
    let words = &line.0;
    let lengths = words[14];
    differs_v6::<{ dimension::SOURCE }, 4>(key, words, lengths & 0xff) == 0
        && differs_v6::<{ dimension::DESTINATION }, 8>(key, words, lengths >> 8 & 0xff) == 0
        && matches_rest(words[12], words[13], lengths, key, wanted, ports_known)
}

#[inline(always)]
fn matches_rest(
    source_port: u32,
    destination_port: u32,
    lengths: u32,
    key: &Key,
    wanted: u32,
    ports_known: bool,
) -> bool {
    lengths & wanted != 0
        && (lengths & entry_flags::ANY_PROTOCOL != 0 || lengths >> 16 & 0xff == key[dimension::PROTOCOL])
        && (lengths & entry_flags::PORTS == 0
            || (ports_known
                && within(source_port, key[dimension::SOURCE_PORT])
                && within(destination_port, key[dimension::DESTINATION_PORT])))
}

/// Not 0 if two IPv4 addresses whose exclusive or is `bits` differ in the first `length` bits.
#[inline(always)]
const fn differs(bits: u32, length: u32) -> u64 {
    (bits as u64) >> (32u64.wrapping_sub(length as u64) & 63)
}

/// Not 0 if the address at key word `K` and the prefix at line word `W` differ in the first `length` bits.
#[inline(always)]
fn differs_v6<const K: usize, const W: usize>(key: &Key, words: &[u32; 16], length: u32) -> u64 {
    let bits = |index: usize| u64::from(key[K + index] ^ words[W + index]);
    let high = bits(0) << 32 | bits(1);
    let low = bits(2) << 32 | bits(3);
    if length <= 64 {
        // A shift by 64 would be one by 0.
        if length == 0 {
            0
        } else {
            high >> (64u32.wrapping_sub(length) & 63)
        }
    } else {
        high | low >> (128u32.wrapping_sub(length) & 63)
    }
}

#[inline(always)]
const fn within(range: u32, port: u32) -> bool {
    range & 0xffff <= port && port <= range >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_compare_their_leading_bits_only() {
        assert_eq!(differs(0xffff_ffff, 0), 0);
        assert_eq!(differs(0x100, 23), 0);
        assert_ne!(differs(0x100, 24), 0);
        assert_eq!(differs(0, 32), 0);
        assert_ne!(differs(1, 32), 0);
        let words = [0; 16];
        let mut key: Key = [0; 16];
        key[2] = 1 << 31;
        assert_eq!(differs_v6::<0, 4>(&key, &words, 0), 0);
        assert_eq!(differs_v6::<0, 4>(&key, &words, 64), 0);
        assert_ne!(differs_v6::<0, 4>(&key, &words, 65), 0);
        assert_ne!(differs_v6::<0, 4>(&key, &words, 128), 0);
        key[2] = 0;
        key[3] = 1;
        assert_eq!(differs_v6::<0, 4>(&key, &words, 127), 0);
        assert_ne!(differs_v6::<0, 4>(&key, &words, 128), 0);
        key = [0; 16];
        key[0] = 1 << 31;
        assert_ne!(differs_v6::<0, 4>(&key, &words, 1), 0);
        assert_ne!(differs_v6::<0, 4>(&key, &words, 128), 0);
    }
}
