//! The flow cache in front of the trees: what the rule set has said about a flow before.

use crate::{Direction, Flow, Verdict};

/// Entries of the cache of each CPU, a power of two: 512 KiB, which stays in the second-level cache.
pub const FLOW_CACHE_SLOTS: usize = 1 << 13;

/// One flow and its verdict: one cache line. A flow is looked for in two neighbours; of those that meet there the last
/// two stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CachedVerdict {
    flow: [u64; 5],
    /// Generation of the rule set, then the rule id: another rule set's verdicts are worth nothing.
    generation: u32,
    rule_id: u32,
    /// Second word of the verdict.
    bits: u32,
    reserved: [u32; 3],
}

const _: () = assert!(size_of::<CachedVerdict>() == 64);

impl CachedVerdict {
    /// What the cache keeps: not verdicts about fragments whose ports nobody knows.
    #[must_use]
    #[inline(always)]
    pub const fn new(generation: u32, flow: &[u64; 5], verdict: &Verdict) -> Self {
        let [rule_id, bits] = verdict.to_words();
        Self {
            flow: *flow,
            generation,
            rule_id,
            bits,
            reserved: [0; 3],
        }
    }

    /// All that a verdict depends on.
    #[must_use]
    #[inline(always)]
    pub const fn flow(flow: &Flow, direction: Direction) -> [u64; 5] {
        [
            flow.source[0],
            flow.source[1],
            flow.destination[0],
            flow.destination[1],
            flow.source_port as u64
                | (flow.destination_port as u64) << 16
                | (flow.protocol as u64) << 32
                | (flow.family as u64) << 40
                | (flow.ports as u64) << 48
                | (direction as u64) << 56,
        ]
    }

    /// The first of the two entries in which a flow is looked for.
    #[must_use]
    #[inline(always)]
    pub const fn slot(flow: &[u64; 5]) -> u32 {
        // Odd constants with even bits, from the fractional parts of square roots (as in SplitMix and xxHash).
        let source = (flow[0].rotate_left(32) ^ flow[1]).wrapping_mul(0x9e37_79b1_85eb_ca87);
        let destination = (flow[2].rotate_left(32) ^ flow[3]).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let rest = flow[4].wrapping_mul(0x1656_67b1_9e37_79f9);
        let mixed = (source.rotate_left(23) ^ destination)
            .wrapping_add(rest)
            .wrapping_mul(0x9fb2_1c65_1e98_df25);
        (mixed >> (64 - FLOW_CACHE_SLOTS.trailing_zeros())) as u32 & !1
    }

    /// The verdict, if it is about this flow by this rule set.
    #[must_use]
    #[inline(always)]
    pub fn verdict(&self, generation: u32, flow: &[u64; 5]) -> Option<Verdict> {
        (self.generation == generation && self.flow == *flow)
            .then(|| Verdict::from_words(self.rule_id, self.bits, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decision, Family, Ports, mapped_v4};

    fn flow(port: u16) -> Flow {
        Flow {
            source: mapped_v4([10, 0, 0, 1]),
            destination: mapped_v4([10, 0, 0, 2]),
            source_port: port,
            destination_port: 80,
            family: Family::V4,
            protocol: 6,
            ports: Ports::Known,
        }
    }

    #[test]
    fn a_verdict_is_found_under_its_own_flow_and_generation_only() {
        let verdict = Verdict {
            rule_id: 7,
            connection: 3,
            decision: Decision::Protect,
            accept_unsecured: true,
            audit: false,
        };
        let words = CachedVerdict::flow(&flow(1), Direction::Outbound);
        let cached = CachedVerdict::new(9, &words, &verdict);
        assert_eq!(cached.verdict(9, &words), Some(verdict));
        assert_eq!(cached.verdict(8, &words), None);
        let inbound = CachedVerdict::flow(&flow(1), Direction::Inbound);
        assert_eq!(cached.verdict(9, &inbound), None);
        let mut other = flow(1);
        other.ports = Ports::Absent;
        assert_eq!(
            cached.verdict(9, &CachedVerdict::flow(&other, Direction::Outbound)),
            None
        );
    }

    #[test]
    fn neighbouring_flows_spread() {
        let mut taken = [0; FLOW_CACHE_SLOTS];
        for port in 0..2048 {
            let words = CachedVerdict::flow(&flow(port), Direction::Outbound);
            taken[CachedVerdict::slot(&words) as usize] += 1;
        }
        // Thrown at random into 4,096 pairs, 2,048 flows leave about 64 without a place.
        let left_out: i32 = taken.iter().map(|count: &i32| (count - 2).max(0)).sum();
        assert!(left_out < 110, "{left_out}");
    }
}
