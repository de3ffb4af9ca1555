//! All filters of a policy in their order, and where they lie.

use std::collections::HashMap;
use std::hash::Hash;

use ravelin_xdp_common::Direction;

use super::region::{Interval, Point, Region};
use super::shape::Shape;
use super::tree::{Tree, Wanted};
use super::{Budget, Exhausted, Plane};
use crate::address::Family;
use crate::explain::active_rules;
use crate::filter::{Filter, Selector};
use crate::order::{Definition, Rank};
use crate::policy::Policy;
use crate::rule::{Action, Rule};

/// A policy's filters, best first, and an index of the space that they take.
#[derive(Debug)]
pub(crate) struct Arrangement<'p> {
    placed: Vec<Placed<'p>>,
    v4: Tree<'p>,
    v6: Tree<'p>,
}

/// A filter with its place in the order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed<'p> {
    pub(crate) rule: &'p Rule,
    pub(crate) filter: &'p Filter,
    pub(crate) rank: Rank,
    /// Equal for filters with the same consequences.
    pub(crate) effect: u32,
    /// What it would drop is only counted.
    audit: bool,
}

/// One side of a filter.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'p> {
    pub(crate) shape: Shape<'p>,
    /// Index of the filter in the order.
    pub(crate) order: u32,
    pub(crate) effect: u32,
    limits_ports: bool,
    limits_protocol: bool,
    pub(crate) permits: bool,
    /// What it would drop is only counted.
    pub(crate) audit: bool,
    outbound: bool,
    inbound: bool,
}

impl<'p> Arrangement<'p> {
    /// Arranges the filters of the policy's active rules; `effect` says what of a rule makes its consequences differ.
    pub(crate) fn new<E: Eq + Hash>(
        policy: &'p Policy,
        effects: &mut HashMap<E, u32>,
        effect: impl Fn(&Rule) -> E,
    ) -> Self {
        let mut placed = Vec::new();
        for (rule_index, rule) in active_rules(policy) {
            let next = u32::try_from(effects.len()).unwrap_or(u32::MAX);
            let effect = *effects.entry(effect(rule)).or_insert(next);
            for (filter_index, filter) in policy.filters(rule).iter().enumerate() {
                let definition = Definition {
                    rule: rule_index,
                    filter: filter_index,
                };
                placed.push(Placed {
                    rule,
                    filter,
                    rank: Rank::of(rule, filter, definition),
                    effect,
                    audit: rule.audit || policy.audit(),
                });
            }
        }
        placed.sort_unstable_by_key(|placed| placed.rank);
        let tree = |family| {
            let entries = placed
                .iter()
                .zip(0..)
                .flat_map(|(placed, order)| placed.entries(order, family));
            Tree::new(entries.collect(), family)
        };
        let (v4, v6) = (tree(Family::V4), tree(Family::V6));
        Self { placed, v4, v6 }
    }

    /// The filters, best first.
    pub(crate) fn placed(&self) -> &[Placed<'p>] {
        &self.placed
    }

    /// The filter at this place in the order.
    pub(crate) fn at(&self, order: u32) -> Option<&Placed<'p>> {
        self.placed.get(order as usize)
    }

    pub(crate) fn tree(&self, family: Family) -> &Tree<'p> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The best filter that takes the packet, among those before `before` in the order.
    pub(crate) fn best(
        &self,
        point: &Point,
        plane: Plane,
        before: u32,
        budget: &mut Budget,
    ) -> Result<Option<&Entry<'p>>, Exhausted> {
        self.tree(plane.family)
            .best(point, &Wanted::before(plane, before), budget)
    }

    /// A packet of the region that no filter before `before` takes, or `None` if they take it all; with `taken` told of
    /// each that takes something.
    pub(crate) fn uncovered(
        &self,
        region: Region,
        plane: Plane,
        before: u32,
        budget: &mut Budget,
        mut taken: impl FnMut(u32),
    ) -> Result<Option<Point>, Exhausted> {
        let mut open = vec![region];
        while let Some(region) = open.pop() {
            let Some(point) = region.example(plane, 0) else {
                continue;
            };
            let Some(entry) = self.best(&point, plane, before, budget)? else {
                return Ok(Some(point));
            };
            taken(entry.order);
            let rest = region.outside(&entry.shape_in(plane));
            budget.spend_more(rest.len())?;
            open.extend(rest);
        }
        Ok(None)
    }

    /// A part of the region around the point in which `winner`, the best filter at the point, decides every packet; what
    /// is not in that part is put to `rest`.
    pub(crate) fn settle(
        &self,
        region: Region,
        point: &Point,
        plane: Plane,
        winner: Option<&Entry<'p>>,
        budget: &mut Budget,
        rest: &mut Vec<Region>,
    ) -> Result<Region, Exhausted> {
        let mut kept = region;
        if let Some(winner) = winner {
            let shape = winner.shape_in(plane);
            rest.extend(region.outside(&shape));
            for part in region.inside(&shape) {
                if part.contains(point) {
                    kept = part;
                } else {
                    rest.push(part);
                }
            }
        }
        let wanted = Wanted::before(plane, winner.map_or(u32::MAX, |winner| winner.order));
        while let Some(better) = self.tree(plane.family).touching(&kept, &wanted, budget)? {
            let (nearer, off) = kept.away_from(&better.shape_in(plane), point);
            budget.spend_more(off.len())?;
            rest.extend(off);
            kept = nearer;
        }
        Ok(kept)
    }
}

impl<'p> Placed<'p> {
    /// The regions that the filter takes, in every plane.
    pub(crate) fn regions(&self) -> Vec<(Plane, Region)> {
        let mut regions = Vec::new();
        for plane in Plane::ALL {
            for entry in self.entries(0, plane.family) {
                if entry.is(&Wanted::before(plane, u32::MAX)) {
                    let parts = Region::all(plane.family).inside(&entry.shape_in(plane));
                    regions.extend(parts.into_iter().map(|part| (plane, part)));
                }
            }
        }
        regions
    }

    /// Whether packets of a plane do not show all that the filter asks for.
    pub(crate) fn is_in_doubt(&self, plane: Plane) -> bool {
        plane.hides(
            self.filter.protocol.is_some(),
            self.filter.selector != Selector::Any,
        )
    }

    /// The sides of the filter in one family.
    pub(crate) fn entries(&self, order: u32, family: Family) -> Vec<Entry<'p>> {
        let protects = matches!(self.rule.action, Action::Protect { .. });
        let entry = |reversed, outbound, inbound| {
            Some(Entry {
                shape: Shape::of(self.filter, reversed, family)?,
                order,
                effect: self.effect,
                limits_ports: self.filter.selector != Selector::Any,
                limits_protocol: self.filter.protocol.is_some(),
                permits: self.rule.action == Action::Permit,
                audit: self.audit,
                outbound,
                inbound,
            })
        };
        let reverse_differs = !self.filter.is_its_reverse();
        let sides = match (protects, reverse_differs) {
            (_, false) => [entry(false, true, true), None],
            // A protect rule's filter describes outbound packets, its reverse inbound ones.
            (true, true) => [entry(false, true, false), entry(true, false, true)],
            (false, true) if self.filter.mirrored => [entry(false, true, true), entry(true, true, true)],
            (false, true) => [entry(false, true, true), None],
        };
        sides.into_iter().flatten().collect()
    }
}

impl<'p> Entry<'p> {
    /// Whether it counts in the search.
    pub(crate) fn is(&self, wanted: &Wanted) -> bool {
        let plane = wanted.plane;
        let direction = match plane.direction {
            Direction::Outbound => self.outbound,
            Direction::Inbound => self.inbound,
        };
        // A permit that cannot be seen to match lets nothing through, and stops nothing.
        direction
            && !(self.permits && self.is_in_doubt(plane))
            && (wanted.orders[0]..wanted.orders[1]).contains(&self.order)
            && wanted.not_effect != Some(self.effect)
    }

    /// Whether packets of a plane do not show all that it asks for.
    pub(crate) fn is_in_doubt(&self, plane: Plane) -> bool {
        plane.hides(self.limits_protocol, self.limits_ports)
    }

    /// What it takes of a plane.
    pub(crate) fn shape_in(&self, plane: Plane) -> Shape<'p> {
        if plane.fragment {
            self.shape.of_fragments(plane)
        } else {
            self.shape
        }
    }
}

impl Wanted {
    /// Everything before a place in the order.
    pub(crate) fn before(plane: Plane, before: u32) -> Self {
        Self {
            plane,
            orders: [0, before],
            not_effect: None,
        }
    }
}

impl Interval {
    /// The smallest that covers both.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self::new(self.first.min(other.first), self.last.max(other.last))
    }
}
