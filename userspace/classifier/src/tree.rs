//! One decision tree over some entries.

use ravelin_xdp_common::line::{ENTRIES_V4, ENTRIES_V6, MAX_CHILDREN, NO_RANK, THRESHOLDS};
use ravelin_xdp_common::{Entry, Family, Line};

use crate::cut::Cut;
use crate::region::{Region, dimensions};

/// Leaves of at most this many lines are not cut any further.
const LEAF_LINES: usize = 4;

/// A leaf of up to this many entries is kept where a cut would copy most of them into most children.
const STUBBORN_LEAF: usize = 8;

/// Entries that would go into too many children stand in up to this many lines in front of the cut.
const KEPT_LINES: usize = 2;

/// Nodes with at most this many members keep those that span their children, unless nothing may be copied.
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
    /// Which entries are left out.
    pub(crate) copies: Copies,
}

/// How often an entry may be copied when a node is cut. What would need more copies is left out of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    /// Into all children.
    All,
    /// Into half of them.
    Half,
    /// Into a quarter of them.
    Quarter,
    /// An entry is in one child only.
    One,
}

impl Copies {
    /// From the fewest steps to the fewest lines.
    pub(crate) const ALL: [Self; 4] = [Self::All, Self::Half, Self::Quarter, Self::One];

    /// The most children that an entry may be in, where a node of `members` is cut into `children`.
    pub(crate) fn limit(self, members: usize, children: usize) -> usize {
        match self {
            Self::One => 1,
            Self::All => children,
            _ if members <= TOO_FEW_TO_SPAN => children,
            Self::Half => (children / 2).max(1),
            Self::Quarter => (children / 4).max(1),
        }
    }
}

/// A node that is still to be built.
pub(crate) struct Pending {
    pub(crate) members: Vec<u32>,
    pub(crate) region: Region,
    /// Its line.
    at: usize,
    /// Steps that lead to it.
    depth: u32,
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
            .filter_map(|dimension| Cut::choose(items, &node, *dimension, plan))
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
        let limit = plan.copies.limit(node.members.len(), children);
        let most_kept = KEPT_LINES * entries_per_line(plan.family);
        let mut members = vec![Vec::new(); children];
        let mut kept = Vec::new();
        let mut best = NO_RANK;
        for index in &node.members {
            let item = &items[*index as usize];
            let span = cut.span(&item.region);
            if span.1 - span.0 + 1 > limit {
                if kept.len() < most_kept {
                    kept.push(*index);
                } else {
                    self.spanning.push(*index);
                }
                continue;
            }
            best = best.min(item.entry.rank);
            for child in &mut members[span.0..=span.1] {
                child.push(*index);
            }
        }
        let (mut at, mut depth) = (node.at, node.depth);
        if !kept.is_empty() {
            self.lines.push(Line::EMPTY);
            at = self.lines.len() - 1;
            depth += self.chain(items, &kept, node.at, plan.family, (to_index(at), best));
        }
        let first_child = self.lines.len();
        self.lines.resize(first_child + children, Line::EMPTY);
        let mut thresholds = [u32::MAX; THRESHOLDS];
        thresholds[..cut.thresholds.len()].copy_from_slice(&cut.thresholds);
        self.lines[at] = Line::cut(cut.dimension, to_index(first_child), thresholds);
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
                depth: depth + 1,
            });
        }
    }

    /// Writes `members` as a chain of leaf lines that starts at line `at`, and leads on to `next`. Gives the steps that
    /// lead to its end.
    fn chain(&mut self, items: &[Item], members: &[u32], at: usize, family: Family, next: (u32, u32)) -> u32 {
        let mut at = at;
        let mut chunks = members.chunks(entries_per_line(family)).peekable();
        let mut steps = 0;
        loop {
            let entries: Vec<Entry> = chunks
                .next()
                .unwrap_or_default()
                .iter()
                .map(|index| items[*index as usize].entry)
                .collect();
            let mut line = match family {
                Family::V4 => Line::leaf_v4(&entries),
                Family::V6 => Line::leaf_v6(&entries),
            };
            steps += 1;
            let Some(following) = chunks.peek() else {
                line.set_next(next.0, next.1);
                self.lines[at] = line;
                return steps;
            };
            let best = items[following[0] as usize].entry.rank;
            self.lines.push(Line::EMPTY);
            line.set_next(to_index(self.lines.len() - 1), best.min(next.1));
            self.lines[at] = line;
            at = self.lines.len() - 1;
        }
    }

    fn leaf(&mut self, items: &[Item], members: &[u32], at: usize, depth: u32, family: Family) {
        let steps = self.chain(items, members, at, family, (0, NO_RANK));
        self.steps = self.steps.max(depth + steps);
    }

    /// Moves the tree to where it is going to stand, and links its leaves to the tree that follows.
    pub(crate) fn settle(&mut self, base: u32, next_root: u32, next_best: u32) {
        for line in &mut self.lines {
            if !line.is_leaf() {
                line.move_children(base);
                continue;
            }
            match line.next() {
                (0, _) => line.set_next(next_root, next_best),
                (next, best) => line.set_next(next + base, best.min(next_best)),
            }
        }
    }
}

pub(crate) const fn entries_per_line(family: Family) -> usize {
    match family {
        Family::V4 => ENTRIES_V4,
        Family::V6 => ENTRIES_V6,
    }
}

fn to_index(index: usize) -> u32 {
    u32::try_from(index).expect("a tree has at most LINE_SLOTS lines")
}
