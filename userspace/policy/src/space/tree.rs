//! Looking up shapes by points and regions.
//!
//! Bounding boxes in a binary tree, one tree for each pair of address widths: a filter for any address would spoil the
//! box around narrow ones. Each node knows the best order below it, so that a search for the best stops early.

use std::collections::BTreeMap;

use super::arrangement::Entry;
use super::region::{Interval, Point, Region};
use super::{Budget, Exhausted, Plane};
use crate::address::Family;

/// Most entries in a leaf.
const LEAF: usize = 4;

/// All sides of a policy's filters in one family.
#[derive(Debug)]
pub(crate) struct Tree<'p> {
    entries: Vec<Entry<'p>>,
    nodes: Vec<Node>,
    /// The root of each pair of widths, those with the best order first.
    roots: Vec<u32>,
}

#[derive(Debug)]
struct Node {
    bounds: Region,
    /// Smallest and largest order below.
    orders: [u32; 2],
    /// The effect of everything below, if it is one.
    effect: Option<u32>,
    /// Entries below.
    entries: [u32; 2],
    /// Second child; the first follows its parent. 0 for a leaf.
    second: u32,
}

/// Which entries a search is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) plane: Plane,
    /// First and one behind the last order.
    pub(crate) orders: [u32; 2],
    /// Not with this effect.
    pub(crate) not_effect: Option<u32>,
}

impl<'p> Tree<'p> {
    pub(crate) fn new(entries: Vec<Entry<'p>>, family: Family) -> Self {
        let step = match family {
            Family::V4 => 8,
            Family::V6 => 32,
        };
        let width = |interval: Interval| (interval.last - interval.first).checked_ilog2().unwrap_or(0) / step;
        let mut groups: BTreeMap<(u32, u32), Vec<Entry<'p>>> = BTreeMap::new();
        for entry in entries {
            let key = (width(entry.shape.source), width(entry.shape.destination));
            groups.entry(key).or_default().push(entry);
        }
        let mut tree = Self {
            entries: Vec::new(),
            nodes: Vec::new(),
            roots: Vec::new(),
        };
        for mut group in groups.into_values() {
            tree.roots.push(tree.next_node());
            let start = tree.entries.len();
            tree.build(&mut group, start);
            tree.entries.append(&mut group);
        }
        let nodes = &tree.nodes;
        tree.roots.sort_by_key(|root| nodes[*root as usize].orders[0]);
        tree
    }

    fn next_node(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// Adds the node of these entries, which will stand from `start` on. Halves get shorter, so this ends soon.
    fn build(&mut self, entries: &mut [Entry<'p>], start: usize) {
        let index = self.nodes.len();
        self.nodes.push(Node::of(entries, start));
        if entries.len() <= LEAF {
            return;
        }
        let middle = entries.len() / 2;
        let field = most_diverse(entries);
        entries.select_nth_unstable_by_key(middle, |entry| center(entry, field));
        let (first, second) = entries.split_at_mut(middle);
        self.build(first, start);
        self.nodes[index].second = self.next_node();
        self.build(second, start + middle);
    }

    /// The entry with the smallest wanted order that holds the point.
    pub(crate) fn best(
        &self,
        point: &Point,
        wanted: &Wanted,
        budget: &mut Budget,
    ) -> Result<Option<&Entry<'p>>, Exhausted> {
        let mut best: Option<&Entry<'p>> = None;
        let mut limit = wanted.orders[1];
        let mut stack = Vec::new();
        for root in &self.roots {
            stack.push(*root);
            while let Some(index) = stack.pop() {
                budget.spend()?;
                let node = &self.nodes[index as usize];
                if node.orders[0] >= limit
                    || !node.may_hold(wanted)
                    || !node.bounds_in(wanted.plane).contains(point)
                {
                    continue;
                }
                if node.second != 0 {
                    // The child with the better order is looked at first.
                    let children = [index + 1, node.second];
                    let orders = children.map(|child| self.nodes[child as usize].orders[0]);
                    let swap = usize::from(orders[1] < orders[0]);
                    stack.extend([children[1 - swap], children[swap]]);
                    continue;
                }
                for entry in &self.entries[node.entries[0] as usize..node.entries[1] as usize] {
                    if entry.order < limit && entry.is(wanted) && entry.shape_in(wanted.plane).contains(point)
                    {
                        limit = entry.order;
                        best = Some(entry);
                    }
                }
            }
        }
        Ok(best)
    }

    /// Any wanted entry that has a point in common with the region.
    pub(crate) fn touching(
        &self,
        region: &Region,
        wanted: &Wanted,
        budget: &mut Budget,
    ) -> Result<Option<&Entry<'p>>, Exhausted> {
        for root in &self.roots {
            let mut stack = vec![*root];
            while let Some(index) = stack.pop() {
                budget.spend()?;
                let node = &self.nodes[index as usize];
                if !node.may_hold(wanted) || !node.bounds_in(wanted.plane).touches_region(region) {
                    continue;
                }
                if node.second != 0 {
                    stack.extend([node.second, index + 1]);
                    continue;
                }
                let entries = &self.entries[node.entries[0] as usize..node.entries[1] as usize];
                let found = entries
                    .iter()
                    .find(|entry| entry.is(wanted) && region.touches(&entry.shape_in(wanted.plane)));
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}

impl Node {
    fn of(entries: &[Entry<'_>], start: usize) -> Self {
        let position = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        let mut node = Self {
            bounds: bounds(&entries[0]),
            orders: [entries[0].order; 2],
            effect: Some(entries[0].effect),
            entries: [position(start), position(start + entries.len())],
            second: 0,
        };
        for entry in &entries[1..] {
            node.bounds = node.bounds.hull(&bounds(entry));
            node.orders = [node.orders[0].min(entry.order), node.orders[1].max(entry.order)];
            node.effect = node.effect.filter(|effect| *effect == entry.effect);
        }
        node
    }

    /// Later fragments show no ports, so every port counts as inside; and every protocol where they do not prove theirs.
    fn bounds_in(&self, plane: Plane) -> Region {
        if plane.fragment {
            Region {
                protocol: if plane.hides_protocol() {
                    Interval::PROTOCOLS
                } else {
                    self.bounds.protocol
                },
                first: Interval::PORTS,
                second: Interval::PORTS,
                ..self.bounds
            }
        } else {
            self.bounds
        }
    }

    fn may_hold(&self, wanted: &Wanted) -> bool {
        self.orders[0] < wanted.orders[1]
            && self.orders[1] >= wanted.orders[0]
            && (wanted.not_effect.is_none() || self.effect != wanted.not_effect)
    }
}

fn bounds(entry: &Entry<'_>) -> Region {
    let shape = &entry.shape;
    Region {
        source: shape.source,
        destination: shape.destination,
        protocol: shape.protocol_interval(),
        first: shape.first.bounds(),
        second: shape.second.bounds(),
    }
}

/// The middle of an entry in one of its five fields.
fn center(entry: &Entry<'_>, field: usize) -> u128 {
    let shape = &entry.shape;
    let interval = match field {
        0 => shape.source,
        1 => shape.destination,
        2 => shape.second.bounds(),
        3 => shape.first.bounds(),
        _ => shape.protocol_interval(),
    };
    interval.first + (interval.last - interval.first) / 2
}

/// The field with most different middles among some of the entries.
fn most_diverse(entries: &[Entry<'_>]) -> usize {
    let step = entries.len().div_ceil(64);
    let mut best = (0, 0);
    for field in 0..5 {
        let mut centers: Vec<u128> = entries
            .iter()
            .step_by(step)
            .map(|entry| center(entry, field))
            .collect();
        centers.sort_unstable();
        centers.dedup();
        if centers.len() > best.0 {
            best = (centers.len(), field);
        }
    }
    best.1
}
