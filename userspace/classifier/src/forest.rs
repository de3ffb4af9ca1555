//! The trees of a rule set, one behind the other, and how the entries are shared out between them.

use std::collections::HashMap;

use ravelin_xdp_common::line::{MAX_STEPS, NO_RANK};
use ravelin_xdp_common::{Entry, Family, Line};

use crate::region::Region;
use crate::tree::{Item, Plan, Tree};

/// Lines that each entry may take in a tree, before those that span most of a node get a tree of their own.
const LINES_PER_ENTRY: usize = 4;

/// Lines that a small set of entries may take anyway.
const SMALL_TREE: usize = 256;

/// Most entries of a tree that is only a list.
const LONGEST_LIST: usize = 2048;

/// Most trees behind each other.
const MOST_TREES: usize = 12;

/// Packets with which ways to share entries out are compared.
const PROBES: usize = 4096;

/// Decision trees in one array of lines; line 0 is left to the header.
#[derive(Debug)]
pub(crate) struct Forest {
    lines: Vec<Line>,
    limit: usize,
    steps: u32,
}

/// Why entries do not fit. `ranks` are those of the entries that could not be placed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ForestError {
    /// Too many lines.
    Lines { ranks: Vec<u32> },
    /// Too long a walk.
    Steps { steps: u32, ranks: Vec<u32> },
}

impl Forest {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            lines: vec![Line::EMPTY],
            limit,
            steps: 0,
        }
    }

    /// Keeps lines free for something else.
    pub(crate) fn reserve(&mut self, lines: usize) {
        self.limit = self.limit.saturating_sub(lines);
    }

    /// Steps of the longest walk through any of its roots.
    pub(crate) fn steps(&self) -> u32 {
        self.steps
    }

    pub(crate) fn into_lines(self) -> Vec<Line> {
        self.lines
    }

    /// Adds trees for IPv4 entries and gives the first one's line, or 0 when there is no entry.
    pub(crate) fn plant_v4(&mut self, entries: &[Entry]) -> Result<u32, ForestError> {
        self.plant(entries, Family::V4)
    }

    /// As [`Forest::plant_v4`], for IPv6.
    pub(crate) fn plant_v6(&mut self, entries: &[Entry]) -> Result<u32, ForestError> {
        self.plant(entries, Family::V6)
    }

    fn plant(&mut self, entries: &[Entry], family: Family) -> Result<u32, ForestError> {
        let items = items(entries, family);
        if items.is_empty() {
            return Ok(0);
        }
        let room = self.limit.saturating_sub(self.lines.len());
        let trees = best_trees(&items, family, room)?;
        let ranks = || trees.last().map_or(Vec::new(), |_| all_ranks(&items));
        let steps = trees.iter().map(|tree| tree.steps).sum();
        if steps > MAX_STEPS {
            return Err(ForestError::Steps {
                steps,
                ranks: ranks(),
            });
        }
        let lines: usize = trees.iter().map(|tree| tree.lines.len()).sum();
        if lines > room {
            return Err(ForestError::Lines { ranks: ranks() });
        }
        self.steps = self.steps.max(steps);
        let root = u32::try_from(self.lines.len()).expect("the limit of lines is far below");
        self.lines.extend(settled(trees, root));
        Ok(root)
    }
}

fn all_ranks(items: &[Item]) -> Vec<u32> {
    items.iter().map(|item| item.entry.rank).collect()
}

/// One array of trees that starts at line `base`.
fn settled(mut trees: Vec<Tree>, base: u32) -> Vec<Line> {
    trees.sort_by_key(|tree| tree.best_rank);
    let mut starts = Vec::with_capacity(trees.len());
    let mut start = base;
    for tree in &trees {
        starts.push((start, tree.best_rank));
        start += tree.lines.len() as u32;
    }
    let mut lines = Vec::with_capacity((start - base) as usize);
    for (index, tree) in trees.iter_mut().enumerate() {
        let (next_root, next_best) = starts.get(index + 1).copied().unwrap_or((0, NO_RANK));
        tree.settle(starts[index].0, next_root, next_best);
        lines.append(&mut tree.lines);
    }
    lines
}

/// Entries in the order of their rank; of those that match the same packets only the best.
fn items(entries: &[Entry], family: Family) -> Vec<Item> {
    let mut items: Vec<Item> = entries
        .iter()
        .map(|entry| Item {
            entry: *entry,
            region: Region::of(entry, family),
        })
        .collect();
    items.sort_by_key(|item| item.entry.rank);
    let mut seen = HashMap::with_capacity(items.len());
    items.retain(|item| seen.insert(item.region, ()).is_none());
    items
}

/// Shares the entries out in several ways and takes the one whose walks are shortest.
fn best_trees(items: &[Item], family: Family, room: usize) -> Result<Vec<Tree>, ForestError> {
    let mut best: Option<(u64, Vec<Tree>)> = None;
    let mut refused = None;
    for wide in [None, Some((8, 24)), Some((16, 32)), Some((24, 48))] {
        let groups = match wide {
            None => vec![(0..items.len() as u32).collect()],
            Some((v4, v6)) => {
                let length = match family {
                    Family::V4 => v4,
                    Family::V6 => v6,
                };
                let groups = by_width(items, length);
                if groups.len() < 2 {
                    continue;
                }
                groups
            }
        };
        match grow(items, groups, family, room) {
            Ok(trees) => {
                let cost = cost(items, &trees);
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, trees));
                }
            }
            Err(error) => refused = Some(error),
        }
    }
    match (best, refused) {
        (Some((_, trees)), _) => Ok(trees),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(Vec::new()),
    }
}

/// Entries by whether their source and their destination prefix are shorter than `length`.
fn by_width(items: &[Item], length: u8) -> Vec<Vec<u32>> {
    let mut groups = vec![Vec::new(); 4];
    for (index, item) in (0..).zip(items) {
        let wide = |prefix: u8| usize::from(prefix < length);
        let group = wide(item.entry.source_length) * 2 + wide(item.entry.destination_length);
        groups[group].push(index);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Builds the groups' trees; what spans too much goes to further trees, and in the end to a list.
fn grow(
    items: &[Item],
    mut groups: Vec<Vec<u32>>,
    family: Family,
    room: usize,
) -> Result<Vec<Tree>, ForestError> {
    let mut trees = Vec::new();
    let mut used = 0;
    groups.reverse();
    while let Some(group) = groups.pop() {
        let count = group.len();
        let lines = (LINES_PER_ENTRY * count + SMALL_TREE).min(room.saturating_sub(used));
        let mut plan = Plan {
            family,
            lines,
            leave_spanning: false,
        };
        let mut tree = Tree::build(items, group.clone(), plan);
        if tree.is_none() && trees.len() < MOST_TREES {
            plan.leave_spanning = true;
            tree = Tree::build(items, group.clone(), plan).filter(|tree| tree.spanning.len() < count);
        }
        let mut tree = match tree {
            Some(tree) => tree,
            None if count <= LONGEST_LIST => Tree::list(items, &group, family),
            None => {
                let ranks = group
                    .iter()
                    .map(|index| items[*index as usize].entry.rank)
                    .collect();
                return Err(ForestError::Lines { ranks });
            }
        };
        let spanning = std::mem::take(&mut tree.spanning);
        if !spanning.is_empty() {
            groups.push(spanning);
        }
        used += tree.lines.len();
        trees.push(tree);
    }
    Ok(trees)
}

/// Steps of walks for packets in and around the entries, and of the longest walk.
fn cost(items: &[Item], trees: &[Tree]) -> u64 {
    let lines = settled(trees.to_vec(), 1);
    let stride = items.len().div_ceil(PROBES);
    let mut steps = 0u64;
    let mut probes = 0u64;
    for (index, item) in items.iter().enumerate().step_by(stride.max(1)) {
        for other in [index, (index * 7 + 3) % items.len()] {
            // The second packet mixes two entries: it matches none in particular.
            let mut key = [0; 16];
            for (dimension, value) in key.iter_mut().enumerate().take(item.region.low.len()) {
                let region = if dimension % 2 == 0 {
                    &item.region
                } else {
                    &items[other].region
                };
                *value = region.low[dimension];
            }
            steps += u64::from(walk_length(&lines, key));
            probes += 1;
        }
    }
    let longest: u32 = trees.iter().map(|tree| tree.steps).sum();
    // In hundredths of a step.
    steps * 100 / probes.max(1) + u64::from(longest) * 10
}

fn walk_length(lines: &[Line], key: [u32; 16]) -> u32 {
    let mut walk = ravelin_xdp_common::Walk::from_key(key, 1);
    let mut steps = 0;
    while let Some(cursor) = walk.cursor() {
        let Some(line) = lines.get(cursor as usize - 1) else {
            break;
        };
        if !walk.step(line) {
            break;
        }
        steps += 1;
    }
    steps
}
