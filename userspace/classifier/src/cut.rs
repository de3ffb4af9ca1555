//! Where a node of a tree is cut: in which dimension, and at which values.

use ravelin_xdp_common::line::{MAX_CHILDREN, THRESHOLDS};

use crate::region::Region;
use crate::tree::{Item, Pending, Plan, entries_per_line};

/// Nodes with more members choose their cuts by a sample.
const SAMPLE: usize = 4096;

/// A way to cut a node.
pub(crate) struct Cut {
    pub(crate) dimension: usize,
    pub(crate) thresholds: Vec<u32>,
    /// Members of the children, squared and summed: what is left to do after it.
    pub(crate) cost: u64,
    /// Members of all children: more than before where some were copied.
    pub(crate) members: u64,
}

impl Cut {
    /// The best cut in one dimension; `None` if no member ends inside the region there.
    pub(crate) fn choose(items: &[Item], node: &Pending, dimension: usize, plan: Plan) -> Option<Self> {
        let members = &node.members;
        let (low, high) = (node.region.low[dimension], node.region.high[dimension]);
        if low == high {
            return None;
        }
        let stride = members.len().div_ceil(SAMPLE);
        let sample = || {
            members
                .iter()
                .step_by(stride)
                .map(|index| &items[*index as usize].region)
        };
        let ends = Ends::of(
            sample().map(|item| item.low[dimension].max(low)),
            sample().map(|item| item.high[dimension].min(high)),
            (low, high),
        );
        if ends.0.is_empty() {
            return None;
        }
        // As many children as there are lines' worth of members: emptier leaves cost lines and save no step.
        let wanted = THRESHOLDS.min(members.len().div_ceil(entries_per_line(plan.family)));
        let mut cut = Self {
            dimension,
            thresholds: ends.thresholds(wanted),
            cost: 0,
            members: 0,
        };
        let limit = plan.copies.limit(members.len(), cut.thresholds.len() + 1);
        let mut change = [0i64; MAX_CHILDREN + 1];
        let mut left_out = 0u64;
        for index in members {
            let (first, last) = cut.span(&items[*index as usize].region);
            if last - first + 1 > limit {
                left_out += 1;
                continue;
            }
            change[first] += 1;
            change[last + 1] -= 1;
        }
        // They are members of one node of the next tree.
        cut.cost = left_out * left_out;
        let mut count = 0i64;
        for step in &change[..=cut.thresholds.len()] {
            count += step;
            let count = count as u64;
            cut.cost += count * count;
            cut.members += count;
        }
        Some(cut)
    }

    /// First and last child that an item is in.
    pub(crate) fn span(&self, item: &Region) -> (usize, usize) {
        let child = |value: u32| self.thresholds.partition_point(|threshold| *threshold < value);
        (child(item.low[self.dimension]), child(item.high[self.dimension]))
    }
}

/// Where members of a node end in one dimension: candidates for thresholds, ascending.
struct Ends(Vec<End>);

/// A value at which members end, or behind which others begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    value: u32,
    /// How many members end or begin there.
    weight: usize,
    /// How many go across, and would be copied.
    crossing: usize,
}

impl Ends {
    /// From the lowest and the highest values of the members, which all lie within `bounds`.
    fn of(lows: impl Iterator<Item = u32>, highs: impl Iterator<Item = u32>, bounds: (u32, u32)) -> Self {
        let mut lows: Vec<u32> = lows.collect();
        let mut highs: Vec<u32> = highs.collect();
        lows.sort_unstable();
        highs.sort_unstable();
        let begun_at_once = lows.partition_point(|value| *value == bounds.0);
        let mut begins = lows[begun_at_once..].chunk_by(|a, b| a == b).peekable();
        let mut ends = highs.chunk_by(|a, b| a == b).peekable();
        let mut open = begun_at_once;
        let mut found = Vec::new();
        loop {
            let begin = begins.peek().map(|group| group[0] - 1);
            let end = ends
                .peek()
                .map(|group| group[0])
                .filter(|value| *value < bounds.1);
            let value = match (begin, end) {
                (None, None) => break,
                (Some(value), None) | (None, Some(value)) => value,
                (Some(begin), Some(end)) => begin.min(end),
            };
            let mut weight = 0;
            if end == Some(value) {
                let group = ends.next().map_or(0, <[u32]>::len);
                open -= group;
                weight += group;
            }
            let crossing = open;
            if begin == Some(value) {
                let group = begins.next().map_or(0, <[u32]>::len);
                open += group;
                weight += group;
            }
            found.push(End {
                value,
                weight,
                crossing,
            });
        }
        Self(found)
    }

    /// At most `wanted` of the values: with about as many ends between each two, and of those near each other the one
    /// that fewest members go across.
    fn thresholds(&self, wanted: usize) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(wanted);
        let mut rest: usize = self.0.iter().map(|end| end.weight).sum();
        let mut window = 0;
        let mut since = 0;
        for (index, end) in self.0.iter().enumerate() {
            since += end.weight;
            // What is left is shared by the thresholds that are left.
            if since * (wanted - chosen.len() + 1) < rest {
                continue;
            }
            // Of equals the last, which shares the members best.
            let candidates = self.0[window..=index].iter().rev();
            if let Some(best) = candidates.min_by_key(|end| end.crossing) {
                chosen.push(best.value);
            }
            rest -= since;
            since = 0;
            window = index + 1;
            if chosen.len() == wanted {
                break;
            }
        }
        if chosen.is_empty() {
            chosen.extend(self.0.iter().min_by_key(|end| end.crossing).map(|end| end.value));
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Ends};

    fn ends(ranges: &[(u32, u32)]) -> Ends {
        Ends::of(
            ranges.iter().map(|range| range.0),
            ranges.iter().map(|range| range.1),
            (0, 1000),
        )
    }

    #[test]
    fn ends_know_who_goes_across() {
        let found = ends(&[(0, 1000), (0, 9), (10, 19), (10, 1000), (30, 30)]).0;
        let end = |value, weight, crossing| End {
            value,
            weight,
            crossing,
        };
        // Behind 9 one ends and two begin, and the one that matches all goes across.
        assert_eq!(found, [end(9, 3, 1), end(19, 1, 2), end(29, 1, 2), end(30, 1, 2)]);
        assert!(ends(&[(0, 1000)]).0.is_empty());
    }

    #[test]
    fn thresholds_share_the_members_and_avoid_to_copy() {
        let points: Vec<(u32, u32)> = (1..=800).map(|value| (value, value)).collect();
        let chosen = ends(&points).thresholds(15);
        assert_eq!(chosen.len(), 15);
        assert!(
            chosen
                .windows(2)
                .all(|pair| (30..70).contains(&(pair[1] - pair[0])))
        );
        // Two blocks of nested ranges: the one cut that copies nothing lies between them.
        let mut nested: Vec<(u32, u32)> = (0..50).map(|value| (value + 1, 100)).collect();
        nested.extend((0..50).map(|value| (101, 200 - value)));
        assert_eq!(ends(&nested).thresholds(1), [100]);
    }
}
