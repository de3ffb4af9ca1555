//! The trees of a rule set, one behind the other, and how the entries are shared out between them.

use std::collections::HashMap;

use ravelin_xdp_common::line::{MAX_STEPS, NO_RANK};
use ravelin_xdp_common::{Entry, Family, Line};

use crate::region::Region;
use crate::tree::{Copies, Item, Plan, Tree};

/// Lines that each entry may take in a tree before those that would be copied most are left to further trees. More lines
/// mean fewer steps, so the largest that fits is taken.
const LINES_PER_ENTRY: [usize; 3] = [4, 2, 1];

/// Lines that a small set of entries may take anyway.
const SMALL_TREE: usize = 256;

/// Most entries of a tree that is only a list.
const LONGEST_LIST: usize = 4096;

/// Most trees behind each other that are more than a list.
const MOST_TREES: usize = 24;

/// Ways to share more entries than this out are compared on a sample of so many.
const SAMPLE: usize = 12_000;

/// Packets with which ways to share entries out are compared.
const PROBES: usize = 2048;

/// Bounds between classes of prefix lengths, of IPv4 and of IPv6.
type Widths = (&'static [u8], &'static [u8]);

/// Ways to share entries out: prefix lengths, of IPv4 and IPv6, that part wide prefixes from narrow ones. Entries whose
/// source or destination lie in different classes get different trees, because a wide prefix would be copied into all
/// the leaves of the narrow ones under it.
const WAYS: [Widths; 5] = [
    (&[], &[]),
    (&[8], &[24]),
    (&[16], &[32]),
    (&[24], &[48]),
    (&[8, 25], &[24, 65]),
];

/// Decision trees in one array of lines; line 0 is left to the header.
#[derive(Debug)]
pub(crate) struct Forest {
    pub(crate) lines: Vec<Line>,
    /// The first tree of each set of entries, 0 for an empty set.
    pub(crate) roots: Vec<u32>,
    /// Steps of the longest walk from any root.
    pub(crate) steps: u32,
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
    /// Trees for several sets of entries, in at most `limit` lines.
    pub(crate) fn plant(sets: &[(&[Entry], Family)], limit: usize) -> Result<Self, ForestError> {
        let sets: Vec<(Vec<Item>, Family)> = sets
            .iter()
            .map(|(entries, family)| (items(entries, *family), *family))
            .collect();
        let mut refused = None;
        for lines_per_entry in LINES_PER_ENTRY {
            match Self::plant_with(&sets, lines_per_entry, limit) {
                Ok(forest) => return Ok(forest),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.expect("LINES_PER_ENTRY is not empty"))
    }

    fn plant_with(
        sets: &[(Vec<Item>, Family)],
        lines_per_entry: usize,
        limit: usize,
    ) -> Result<Self, ForestError> {
        // Each set by itself: a rule set of both families, and its fragments, is built on several cores.
        let grown: Vec<Result<Vec<Tree>, ForestError>> = std::thread::scope(|scope| {
            let growing: Vec<_> = sets
                .iter()
                .map(|(items, family)| {
                    let room = Room {
                        lines_per_entry,
                        lines: limit,
                    };
                    scope.spawn(move || best_trees(items, *family, room))
                })
                .collect();
            growing
                .into_iter()
                .map(|one| {
                    one.join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let mut forest = Self {
            lines: vec![Line::EMPTY],
            roots: Vec::new(),
            steps: 0,
        };
        for (trees, (items, _)) in grown.into_iter().zip(sets) {
            let trees = trees?;
            if trees.is_empty() {
                forest.roots.push(0);
                continue;
            }
            let ranks = || items.iter().map(|item| item.entry.rank).collect();
            let steps = trees.iter().map(|tree| tree.steps).sum();
            if steps > MAX_STEPS {
                return Err(ForestError::Steps {
                    steps,
                    ranks: ranks(),
                });
            }
            let root = forest.lines.len();
            let lines: usize = trees.iter().map(|tree| tree.lines.len()).sum();
            if root + lines > limit {
                return Err(ForestError::Lines { ranks: ranks() });
            }
            let root = u32::try_from(root).expect("the limit of lines is far below");
            forest.steps = forest.steps.max(steps);
            forest.roots.push(root);
            forest.lines.extend(settled(trees, root));
        }
        Ok(forest)
    }
}

/// How many lines trees may take.
#[derive(Clone, Copy, Debug)]
struct Room {
    lines_per_entry: usize,
    lines: usize,
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
fn best_trees(items: &[Item], family: Family, room: Room) -> Result<Vec<Tree>, ForestError> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    if items.len() <= SAMPLE {
        let (mut found, refused) = compare(items, family, room);
        found.sort_by_key(|way| way.cost);
        return match found.into_iter().next() {
            Some(way) => Ok(way.trees),
            None => Err(refused.expect("there is at least one way")),
        };
    }
    let stride = items.len().div_ceil(SAMPLE);
    let sample: Vec<Item> = items.iter().step_by(stride).cloned().collect();
    let (mut found, _) = compare(&sample, family, room);
    found.sort_by_key(|way| way.cost);
    let best = found.first().map(|way| way.width);
    let mut refused = None;
    for width in best.into_iter().chain(WAYS) {
        match grow(items, by_width(items, width, family), family, room) {
            Ok(trees) => return Ok(trees),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.expect("there is at least one way"))
}

/// One way to share entries out, and what came of it.
struct Way {
    width: Widths,
    trees: Vec<Tree>,
    cost: u64,
}

/// Tries every way.
fn compare(items: &[Item], family: Family, room: Room) -> (Vec<Way>, Option<ForestError>) {
    let mut found = Vec::new();
    let mut refused = None;
    for width in WAYS {
        let groups = by_width(items, width, family);
        if !width.0.is_empty() && groups.len() < 2 {
            continue;
        }
        match grow(items, groups, family, room) {
            Ok(trees) => {
                let cost = cost(items, &trees);
                found.push(Way { width, trees, cost });
            }
            Err(error) => refused = Some(error),
        }
    }
    (found, refused)
}

/// Entries by whether their source and their destination prefix are narrow, which may all be.
fn by_width(items: &[Item], width: Widths, family: Family) -> Vec<Vec<u32>> {
    let bounds = match family {
        Family::V4 => width.0,
        Family::V6 => width.1,
    };
    let class = |length: u8| bounds.iter().filter(|bound| length < **bound).count();
    let mut groups = vec![Vec::new(); (bounds.len() + 1).pow(2)];
    for (index, item) in (0..).zip(items) {
        let source = class(item.entry.source_length);
        groups[source * (bounds.len() + 1) + class(item.entry.destination_length)].push(index);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Builds the groups' trees; what spans too much goes to further trees, and in the end to a list.
fn grow(
    items: &[Item],
    mut groups: Vec<Vec<u32>>,
    family: Family,
    room: Room,
) -> Result<Vec<Tree>, ForestError> {
    let mut trees = Vec::new();
    let mut used = 0;
    groups.reverse();
    while let Some(group) = groups.pop() {
        let count = group.len();
        let lines = (room.lines_per_entry * count + SMALL_TREE).min(room.lines.saturating_sub(used));
        let tree = Copies::ALL.into_iter().find_map(|copies| {
            if copies != Copies::All && trees.len() >= MOST_TREES {
                return None;
            }
            let plan = Plan {
                family,
                lines,
                copies,
            };
            Tree::build(items, group.clone(), plan).filter(|tree| tree.spanning.len() < count)
        });
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
