//! One decision tree over some entries.

use ravelin_xdp_common::line::{ENTRIES_V4, ENTRIES_V6, MAX_CHILDREN, NO_RANK, THRESHOLDS, line_kind};
use ravelin_xdp_common::{Entry, Family, Line};

use crate::region::{Region, dimensions};

/// Leaves of at most this many lines are not cut any further.
const LEAF_LINES: usize = 2;

/// A leaf of up to this many entries is kept where a cut would copy most of them into most children.
const STUBBORN_LEAF: usize = 8;

/// Nodes with more members choose their cuts by a sample.
const SAMPLE: usize = 4096;

/// Nodes with at most this many members never give up spanning ones.
const TOO_FEW_TO_SPAN: usize = 2 * MAX_CHILDREN;

/// An entry with what it covers. Members of a tree are indexes into a list of these, in the order of their rank.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) entry: Entry,
    pub(crate) region: Region,
}

/// A finished tree: its lines refer to each other by their index in it, the root is line 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) lines: Vec<Line>,
    /// Steps of the longest walk through it.
    pub(crate) steps: u32,
    /// Rank of its best entry.
    pub(crate) best_rank: u32,
    /// Items that were left out because they span most of the children of a node.
    pub(crate) spanning: Vec<u32>,
}

/// How to build a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) family: Family,
    /// Most lines.
    pub(crate) lines: usize,
    /// Whether entries that span most children of a node are left out.
    pub(crate) leave_spanning: bool,
}

/// A node that is still to be built.
struct Pending {
    members: Vec<u32>,
    region: Region,
    /// Its line.
    at: usize,
    /// Steps that lead to it.
    depth: u32,
}

/// A way to cut a node.
struct Cut {
    dimension: usize,
    thresholds: Vec<u32>,
    /// Members of the children, squared and summed: what is left to do after it.
    cost: u64,
    /// Members of all children: more than before where some were copied.
    members: u64,
}

impl Tree {
    /// Builds a tree of `members`, which come in the order of their rank; `None` if that takes too many lines.
    pub(crate) fn build(items: &[Item], members: Vec<u32>, plan: Plan) -> Option<Self> {
        let best_rank = members
            .first()
            .map_or(NO_RANK, |index| items[*index as usize].entry.rank);
        let mut tree = Self {
            lines: vec![Line::EMPTY],
            best_rank,
            ..Self::default()
        };
        let mut pending = vec![Pending {
            members,
            region: Region::WHOLE,
            at: 0,
            depth: 0,
        }];
        while let Some(node) = pending.pop() {
            tree.node(items, node, plan, &mut pending);
            if tree.lines.len() > plan.lines {
                return None;
            }
        }
        tree.spanning.sort_unstable();
        tree.spanning.dedup();
        Some(tree)
    }

    /// A tree that is only a leaf.
    pub(crate) fn list(items: &[Item], members: &[u32], family: Family) -> Self {
        let mut tree = Self {
            lines: vec![Line::EMPTY],
            best_rank: members
                .first()
                .map_or(NO_RANK, |index| items[*index as usize].entry.rank),
            ..Self::default()
        };
        tree.leaf(items, members, 0, 0, family);
        tree
    }

    fn node(&mut self, items: &[Item], mut node: Pending, plan: Plan, pending: &mut Vec<Pending>) {
        let dimensions = dimensions(plan.family);
        let covering = node
            .members
            .iter()
            .position(|index| items[*index as usize].region.covers(&node.region, dimensions));
        if let Some(position) = covering {
            // Nothing behind an entry that matches every packet that gets here can win.
            node.members.truncate(position + 1);
        }
        let count = node.members.len();
        if count <= LEAF_LINES * entries_per_line(plan.family) {
            return self.leaf(items, &node.members, node.at, node.depth, plan.family);
        }
        let cut = dimensions
            .iter()
            .filter_map(|dimension| Cut::choose(items, &node.members, &node.region, *dimension))
            .min_by_key(|cut| cut.cost);
        let Some(cut) = cut else {
            return self.leaf(items, &node.members, node.at, node.depth, plan.family);
        };
        if count <= STUBBORN_LEAF && cut.members > 3 * count as u64 {
            return self.leaf(items, &node.members, node.at, node.depth, plan.family);
        }
        self.cut(items, &node, &cut, plan, pending);
    }

    fn cut(&mut self, items: &[Item], node: &Pending, cut: &Cut, plan: Plan, pending: &mut Vec<Pending>) {
        let children = cut.thresholds.len() + 1;
        let give_up = plan.leave_spanning && node.members.len() > TOO_FEW_TO_SPAN && children > 2;
        let mut members = vec![Vec::new(); children];
        for index in &node.members {
            let span = cut.span(&items[*index as usize].region);
            if give_up && (span.1 - span.0 + 1) * 2 > children {
                self.spanning.push(*index);
                continue;
            }
            for child in &mut members[span.0..=span.1] {
                child.push(*index);
            }
        }
        let first_child = self.lines.len();
        self.lines.resize(first_child + children, Line::EMPTY);
        let mut thresholds = [u32::MAX; THRESHOLDS];
        thresholds[..cut.thresholds.len()].copy_from_slice(&cut.thresholds);
        self.lines[node.at] = Line::cut(cut.dimension, to_index(first_child), thresholds);
        for (child, members) in members.into_iter().enumerate() {
            let mut region = node.region;
            if let Some(below) = child.checked_sub(1) {
                region.low[cut.dimension] = cut.thresholds[below] + 1;
            }
            if let Some(end) = cut.thresholds.get(child) {
                region.high[cut.dimension] = *end;
            }
            pending.push(Pending {
                members,
                region,
                at: first_child + child,
                depth: node.depth + 1,
            });
        }
    }

    fn leaf(&mut self, items: &[Item], members: &[u32], at: usize, depth: u32, family: Family) {
        let mut chunks = members.chunks(entries_per_line(family)).peekable();
        let mut at = at;
        let mut depth = depth;
        loop {
            let entries: Vec<Entry> = chunks
                .next()
                .unwrap_or_default()
                .iter()
                .map(|index| items[*index as usize].entry)
                .collect();
            let next = if chunks.peek().is_some() {
                self.lines.push(Line::EMPTY);
                self.lines.len() - 1
            } else {
                0
            };
            self.lines[at] = match family {
                Family::V4 => Line::leaf_v4(&entries, to_index(next)),
                Family::V6 => Line::leaf_v6(&entries, to_index(next)),
            };
            depth += 1;
            if next == 0 {
                break;
            }
            at = next;
        }
        self.steps = self.steps.max(depth);
    }

    /// Moves the tree to where it is going to stand, and links its leaves to the tree that follows.
    pub(crate) fn settle(&mut self, base: u32, next_root: u32, next_best: u32) {
        for line in &mut self.lines {
            if line.is_leaf() {
                if line.0[1] != 0 {
                    line.0[1] += base;
                }
                line.set_next_tree(next_root, next_best);
            } else {
                line.0[0] += base << 6;
            }
        }
    }
}

const _: () = assert!(line_kind::BITS == 2);

impl Cut {
    /// The best cut in one dimension; `None` if no member ends inside the region there.
    fn choose(items: &[Item], members: &[u32], region: &Region, dimension: usize) -> Option<Self> {
        let (low, high) = (region.low[dimension], region.high[dimension]);
        if low == high {
            return None;
        }
        let stride = members.len().div_ceil(SAMPLE);
        let mut ends: Vec<u32> = Vec::with_capacity(2 * members.len() / stride + 2);
        for index in members.iter().step_by(stride) {
            let item = &items[*index as usize].region;
            if item.low[dimension] > low {
                ends.push(item.low[dimension] - 1);
            }
            if item.high[dimension] < high {
                ends.push(item.high[dimension]);
            }
        }
        if ends.is_empty() {
            return None;
        }
        ends.sort_unstable();
        let wanted = THRESHOLDS.min(members.len());
        let mut cut = Self {
            dimension,
            thresholds: quantiles(&ends, wanted),
            cost: 0,
            members: 0,
        };
        let mut change = [0i64; MAX_CHILDREN + 1];
        for index in members {
            let (first, last) = cut.span(&items[*index as usize].region);
            change[first] += 1;
            change[last + 1] -= 1;
        }
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
    fn span(&self, item: &Region) -> (usize, usize) {
        let child = |value: u32| self.thresholds.partition_point(|threshold| *threshold < value);
        (child(item.low[self.dimension]), child(item.high[self.dimension]))
    }
}

/// At most `wanted` different values of the sorted `ends`, with about as many ends between each two.
fn quantiles(ends: &[u32], wanted: usize) -> Vec<u32> {
    let mut chosen = Vec::with_capacity(wanted);
    let mut since = 0;
    let mut rest = ends.len();
    let mut previous = None;
    for group in ends.chunk_by(|a, b| a == b) {
        // What is left is shared by the thresholds that are left.
        let is_share = |count: usize, slots: usize| count * (slots + 1) >= rest;
        // A frequent value gets a child of its own, apart from the rare ones below it.
        if let Some(value) = previous
            && since > 0
            && is_share(group.len(), wanted - chosen.len())
            && chosen.len() + 1 < wanted
        {
            chosen.push(value);
            rest -= since;
            since = 0;
        }
        since += group.len();
        if since * (wanted - chosen.len() + 1) >= rest {
            chosen.push(group[0]);
            rest -= since;
            since = 0;
            if chosen.len() == wanted {
                break;
            }
        }
        previous = Some(group[0]);
    }
    chosen
}

const fn entries_per_line(family: Family) -> usize {
    match family {
        Family::V4 => ENTRIES_V4,
        Family::V6 => ENTRIES_V6,
    }
}

fn to_index(index: usize) -> u32 {
    u32::try_from(index).expect("a tree has at most LINE_SLOTS lines")
}

#[cfg(test)]
mod tests {
    use super::quantiles;

    #[test]
    fn quantiles_share_the_ends_evenly() {
        assert_eq!(quantiles(&[1, 2, 3], 15), [1, 2, 3]);
        assert_eq!(quantiles(&[5], 15), [5]);
        let many: Vec<u32> = (0..1600).collect();
        let chosen = quantiles(&many, 15);
        assert_eq!(chosen.len(), 15);
        assert!(
            chosen
                .windows(2)
                .all(|pair| (80..120).contains(&(pair[1] - pair[0])))
        );
        let skewed: Vec<u32> = (0..30).chain(std::iter::repeat_n(80, 1000)).collect();
        let chosen = quantiles(&skewed, 15);
        assert_eq!(chosen, [29, 80]);
    }
}
