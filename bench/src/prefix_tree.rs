//! Where prefixes come from: a binary tree that exists only as a rule for walking it.

use ravelin_classifier::arbitrary::Rng;
use ravelin_policy::Family;

use crate::Prefix;
use crate::prefix::width;
use crate::profile::Statistics;

/// A tree of addresses in use. Its nodes have one or two children, always the same ones, so prefixes drawn from it
/// nest in each other; of two children one is drawn more often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrefixTree {
    family: Family,
    seed: u64,
    branching: [u8; 4],
    skew: u8,
}

impl PrefixTree {
    pub(crate) fn new(family: Family, statistics: &Statistics, seed: u64) -> Self {
        Self {
            family,
            seed,
            branching: statistics.branching,
            skew: statistics.skew,
        }
    }

    /// A prefix of this length. Below `shared` it is drawn; its first `shared` bits are those of `like`. Every
    /// `effort` makes more nodes branch, for when the tree is too small for the prefixes wanted of it.
    pub(crate) fn draw(&self, rng: &mut Rng, length: u8, effort: u8, like: Option<(Prefix, u8)>) -> Prefix {
        let (mut bits, shared) = like.map_or((0, 0), |(like, shared)| (like.first(), shared.min(length)));
        let width = width(self.family);
        bits = Prefix::new(self.family, bits, shared).first();
        for depth in shared..length {
            let bit = self.child(rng, bits, depth, effort);
            bits |= u128::from(bit) << (width - 1 - depth);
        }
        Prefix::new(self.family, bits, length)
    }

    /// Which child of the node the walk goes on with.
    fn child(&self, rng: &mut Rng, bits: u128, depth: u8, effort: u8) -> bool {
        let heavy = match self.fixed(bits, depth) {
            Some(bit) => return bit,
            None => self.hash(bits, depth),
        };
        let heavier = heavy & 1 == 1;
        let two = (heavy >> 8) % 100 < u64::from(self.branching(depth).saturating_add(effort).min(100));
        if two && !rng.chance(usize::from(self.skew)) {
            !heavier
        } else {
            heavier
        }
    }

    /// Bits that are the same wherever addresses are in use: IPv4 unicast without 0/8 and 127/8, IPv6 2000::/3 with
    /// small interface identifiers.
    fn fixed(&self, bits: u128, depth: u8) -> Option<bool> {
        match self.family {
            // 1.0.0.0 to 126.255.255.255, and 128.0.0.0 to 191.255.255.255: the first two bits are not 11, and the
            // seventh and eighth keep the rest away from 0 and 127.
            Family::V4 => match depth {
                1 if bits >> 31 == 1 => Some(false),
                6 => Some(false),
                7 => Some(true),
                _ => None,
            },
            Family::V6 => match depth {
                0 | 1 => Some(false),
                2 => Some(true),
                64..=111 => Some(false),
                _ => None,
            },
        }
    }

    fn branching(&self, depth: u8) -> u8 {
        match self.family {
            Family::V4 => self.branching[usize::from(depth / 8).min(3)],
            // Providers, sites, subnets, hosts; a third less per bit, since there are more bits.
            Family::V6 => {
                let part = match depth {
                    0..=23 => 0,
                    24..=47 => 1,
                    48..=63 => 2,
                    _ => 3,
                };
                self.branching[part] * 2 / 3
            }
        }
    }

    fn hash(&self, bits: u128, depth: u8) -> u64 {
        let mixed = (bits as u64) ^ ((bits >> 64) as u64).rotate_left(32) ^ (u64::from(depth) << 57);
        Rng::new(self.seed ^ mixed).bits()
    }
}
