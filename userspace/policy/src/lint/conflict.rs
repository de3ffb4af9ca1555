//! Equally specific filters with different actions that share packets.

use std::collections::HashSet;

use ravelin_xdp_common::Direction;

use super::{Notes, shadow};
use crate::address::Family;
use crate::explain;
use crate::order::{Definition, Priority, RankField};
use crate::packet::Packet;
use crate::policy::Policy;
use crate::space::{Arrangement, Budget, Exhausted, Placed, Point, Tree, Wanted};

/// Steps for all filters and for each.
const STEPS: u64 = 100_000_000;
const STEPS_EACH: u64 = 3_000;

/// Two equally specific filters with different actions, and a packet that both take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The filter that decides the packet.
    pub winner: Definition,
    /// The other.
    pub loser: Definition,
    /// A packet that no other filter decides.
    pub packet: Packet,
    /// Its direction.
    pub direction: Direction,
}

/// For each filter of the policy's active rules at most one conflict that it wins.
#[must_use]
pub fn conflicts(policy: &Policy) -> Vec<Conflict> {
    let arrangement = super::arrange(policy);
    let mut conflicts = Vec::new();
    let shadowed = shadow::orders(&arrangement);
    examine(&arrangement, &shadowed, |winner, found| {
        if let Ok((loser, packet, direction)) = found {
            conflicts.push(Conflict {
                winner: winner.rank.definition,
                loser: loser.rank.definition,
                packet,
                direction,
            });
        }
    });
    conflicts
}

/// Those that never decide are not mentioned again.
pub(super) fn check(arrangement: &Arrangement<'_>, shadowed: &HashSet<u32>, notes: &mut Notes<'_>) {
    let mut told = HashSet::new();
    examine(arrangement, shadowed, |winner, found| match found {
        Err(Exhausted) => notes.unexamined += 1,
        Ok((loser, packet, _)) => {
            // One pair of written filters can stand for many.
            if told.insert((winner.filter.position, loser.filter.position)) {
                let policy = notes.policy;
                notes.add(loser.filter.position, || message(winner, loser, &packet, policy));
            }
        }
    });
}

type Found<'a, 'p> = Result<(&'a Placed<'p>, Packet, Direction), Exhausted>;

/// Tells of each filter that wins a conflict, and of each that could not be examined.
fn examine<'a, 'p>(
    arrangement: &'a Arrangement<'p>,
    shadowed: &HashSet<u32>,
    mut tell: impl FnMut(&'a Placed<'p>, Found<'a, 'p>),
) {
    let mut left = STEPS;
    let mut start = 0;
    for class in arrangement
        .placed()
        .chunk_by(|a, b| a.rank.weight == b.rank.weight)
    {
        let first = start;
        start += class.len();
        if class.iter().all(|placed| placed.effect == class[0].effect) {
            continue;
        }
        let trees = Trees::of(class, order(first));
        for (placed, index) in class.iter().zip(first..) {
            // What decides nothing wins no conflict.
            if shadowed.contains(&order(index)) {
                continue;
            }
            let mut budget = Budget::new(STEPS_EACH.min(left));
            let before = budget.left();
            let found = conflict(arrangement, &trees, placed, order(index), shadowed, &mut budget);
            left -= before - budget.left();
            if let Some(found) = found.transpose() {
                tell(placed, found);
            }
        }
    }
}

/// An index of one class of equally specific filters only: most others that share packets are of another class.
struct Trees<'p> {
    v4: Tree<'p>,
    v6: Tree<'p>,
}

impl<'p> Trees<'p> {
    /// The class starts at `first` in the order.
    fn of(class: &[Placed<'p>], first: u32) -> Self {
        let tree = |family| {
            let entries = class
                .iter()
                .zip(first..)
                .flat_map(|(placed, order)| placed.entries(order, family));
            Tree::new(entries.collect(), family)
        };
        Self {
            v4: tree(Family::V4),
            v6: tree(Family::V6),
        }
    }

    fn tree(&self, family: Family) -> &Tree<'p> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// A filter of the class behind the one at `index` with another effect, and a packet of both that this one decides.
fn conflict<'a, 'p>(
    arrangement: &'a Arrangement<'p>,
    class: &Trees<'p>,
    placed: &Placed<'p>,
    index: u32,
    shadowed: &HashSet<u32>,
    budget: &mut Budget,
) -> Result<Option<(&'a Placed<'p>, Packet, Direction)>, Exhausted> {
    for (plane, region) in placed.regions() {
        // Where the ports are not seen both drop; what is left is in the other planes as well.
        if plane.fragment {
            continue;
        }
        let wanted = Wanted {
            plane,
            orders: [index + 1, u32::MAX],
            not_effect: Some(placed.effect),
        };
        let mut open = vec![region];
        while let Some(region) = open.pop() {
            let Some(entry) = class.tree(plane.family).touching(&region, &wanted, budget)? else {
                continue;
            };
            let shape = entry.shape_in(plane);
            let shared = if shadowed.contains(&entry.order) {
                Vec::new()
            } else {
                region.inside(&shape)
            };
            for shared in shared {
                let point: Option<Point> = arrangement.uncovered(shared, plane, index, budget, |_| {})?;
                if let (Some(point), Some(other)) = (point, arrangement.at(entry.order)) {
                    return Ok(Some((other, point.packet(plane), plane.direction)));
                }
            }
            open.extend(region.outside(&shape));
        }
    }
    Ok(None)
}

fn message(winner: &Placed<'_>, loser: &Placed<'_>, packet: &Packet, policy: &Policy) -> String {
    let decides = match winner.rank.deciding_field(&loser.rank) {
        Some(RankField::Action) => format!(
            "only because {} comes before {}",
            winner.rank.strictness, loser.rank.strictness
        ),
        _ => "only because it stands first".to_owned(),
    };
    format!(
        "filter {} of rule `{}` ({}) and filter {} of rule `{}` ({}, {}:{}) are equally specific ({}), and both take {packet}: \
         there `{}` wins, {decides}; make one of them more specific, or give its rule {} priority",
        loser.filter,
        loser.rule.name,
        loser.rule.action,
        winner.filter,
        winner.rule.name,
        winner.rule.action,
        policy.file(winner.filter.position),
        winner.filter.position,
        explain::weight_in_words(&winner.rank.weight, winner.filter),
        winner.rule.name,
        // Equally specific rules have the same.
        if winner.rule.priority != Priority::None {
            "another"
        } else {
            "a"
        },
    )
}

fn order(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
