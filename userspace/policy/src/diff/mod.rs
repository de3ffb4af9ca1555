//! Which traffic gets another verdict from one policy than from another.
//!
//! A packet's verdict can only change where a filter that is not in both policies decides it in one of them, or the
//! default does and is another. So only the regions of those filters are looked at: from each, packet by packet, a part is
//! taken in which one filter decides in either policy, until nothing is left or the work that was allowed is done.

mod changed;
mod effect;

use std::collections::{BTreeMap, HashMap, HashSet};

use ravelin_xdp_common::Direction;

pub use effect::Consequence;
use effect::Effects;

use crate::address::Family;
use crate::packet::Packet;
use crate::policy::Policy;
use crate::space::{Arrangement, Budget, Entry, Exhausted, Plane, Point, Region, Shown};

/// Steps for the whole comparison.
const STEPS: u64 = 50_000_000;

/// Most regions that are remembered; beyond these only the number of them is.
const REGIONS: usize = 50_000;

/// What differs between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Traffic that gets another verdict, the largest changes first.
    pub changes: Vec<Change>,
    /// What the policies say as a whole: name, old and new value.
    pub settings: Vec<(&'static str, String, String)>,
    /// Whether every packet was accounted for.
    pub complete: bool,
}

/// Traffic that one rule decides in the old policy and another in the new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What decides in the old policy.
    pub old: Decider,
    /// What decides in the new policy.
    pub new: Decider,
    /// Where, the largest regions first.
    pub regions: Vec<Changed>,
    /// How many more regions there are.
    pub more: usize,
}

/// What decides, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decider {
    /// The rule's name; none when it is the policy's default.
    pub rule: Option<String>,
    /// What becomes of the packet.
    pub consequence: Consequence,
}

/// A region whose packets all get the same new verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Addresses, protocol and ports, in words.
    pub region: String,
    /// Later fragments only, which show no ports and over IPv6 prove no protocol.
    pub fragments: bool,
    /// The directions it holds in.
    pub directions: Vec<Direction>,
    /// A packet of it, in the first of the directions.
    pub example: Packet,
    /// The filters that decide it in the old and in the new policy; none where the default does.
    pub filters: [Option<String>; 2],
}

/// Compares two policies; at most `limit` regions are listed of each change.
#[must_use]
pub fn diff(old: &Policy, new: &Policy, limit: usize) -> Difference {
    let mut effects = Effects::default();
    let arrangements = [old, new].map(|policy| effects.arrange(policy));
    let defaults = [old, new].map(|policy| effects.of_default(policy));
    let changed = changed::changed(&arrangements);
    let mut search = Search {
        arrangements: &arrangements,
        defaults,
        changed: &changed,
        budget: Budget::new(STEPS),
        found: HashMap::new(),
        forgotten: 0,
    };
    let complete = search.run().is_ok();
    let (found, forgotten) = (search.found, search.forgotten);
    Difference {
        changes: group(found, &arrangements, &effects, limit),
        settings: settings(old, new),
        complete: complete && forgotten == 0,
    }
}

/// The filter that decides in each policy, by its place in the order; none is the default.
type Deciders = [Option<u32>; 2];

/// A region of one family, later fragments or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    region: Region,
    family: Family,
    fragment: bool,
    deciders: Deciders,
    consequences: [u32; 2],
}

/// In which directions it was found, and the packet that found it.
struct Found {
    directions: Vec<Direction>,
    example: Packet,
}

struct Search<'a, 'p> {
    arrangements: &'a [Arrangement<'p>; 2],
    defaults: [u32; 2],
    changed: &'a [HashSet<u32>; 2],
    budget: Budget,
    found: HashMap<Place, Found>,
    forgotten: usize,
}

impl<'a, 'p> Search<'a, 'p> {
    fn run(&mut self) -> Result<(), Exhausted> {
        for side in [0, 1] {
            let mut orders: Vec<u32> = self.changed[side].iter().copied().collect();
            orders.sort_unstable();
            for order in orders {
                let Some(placed) = self.arrangements[side].at(order) else {
                    continue;
                };
                for (plane, region) in placed.regions() {
                    self.look(side, Some(order), plane, region)?;
                }
            }
        }
        if self.defaults[0] != self.defaults[1] {
            for plane in Plane::ALL {
                self.look(0, None, plane, Region::all(plane.family))?;
            }
        }
        Ok(())
    }

    /// Looks at all packets of a region that `decider` decides in the policy of this side.
    fn look(
        &mut self,
        side: usize,
        decider: Option<u32>,
        plane: Plane,
        region: Region,
    ) -> Result<(), Exhausted> {
        let (own, other) = (&self.arrangements[side], &self.arrangements[1 - side]);
        let mut open = vec![region];
        while let Some(region) = open.pop() {
            let Some(point) = region.example(plane, 0) else {
                continue;
            };
            let winner = own.best(&point, plane, u32::MAX, &mut self.budget)?;
            if let Some(better) = winner.filter(|winner| Some(winner.order) != decider) {
                let rest = region.outside(&better.shape_in(plane));
                self.budget.spend_more(rest.len())?;
                open.extend(rest);
                continue;
            }
            let counterpart = other.best(&point, plane, u32::MAX, &mut self.budget)?;
            let kept = own.settle(region, &point, plane, winner, &mut self.budget, &mut open)?;
            let kept = other.settle(kept, &point, plane, counterpart, &mut self.budget, &mut open)?;
            let winners = if side == 0 {
                [winner, counterpart]
            } else {
                [counterpart, winner]
            };
            self.note(side, winners, plane, kept, &point);
        }
        Ok(())
    }

    fn note(
        &mut self,
        side: usize,
        winners: [Option<&Entry<'p>>; 2],
        plane: Plane,
        region: Region,
        point: &Point,
    ) {
        let consequences = [0, 1].map(|side: usize| {
            winners[side].map_or(self.defaults[side], |winner| effect::in_plane(winner, plane))
        });
        if consequences[0] == consequences[1] {
            return;
        }
        let deciders = winners.map(|winner| winner.map(|winner| winner.order));
        // What has been looked at from the other side already.
        let told = match (side, deciders) {
            (1, [Some(old), _]) => self.changed[0].contains(&old),
            (0, [None, Some(new)]) => self.changed[1].contains(&new),
            _ => false,
        };
        if told {
            return;
        }
        let place = Place {
            region,
            family: plane.family,
            fragment: plane.fragment,
            deciders,
            consequences,
        };
        if self.found.len() >= REGIONS && !self.found.contains_key(&place) {
            self.forgotten += 1;
            return;
        }
        let found = self.found.entry(place).or_insert_with(|| Found {
            directions: Vec::new(),
            example: point.packet(plane),
        });
        if !found.directions.contains(&plane.direction) {
            found.directions.push(plane.direction);
        }
    }
}

/// Puts together what the same two rules decide.
fn group(
    found: HashMap<Place, Found>,
    arrangements: &[Arrangement<'_>; 2],
    effects: &Effects,
    limit: usize,
) -> Vec<Change> {
    let mut groups: BTreeMap<(Decider, Decider), Vec<(Place, Found)>> = BTreeMap::new();
    for (place, found) in found {
        let [old, new] = [0, 1].map(|side: usize| Decider {
            rule: place.deciders[side]
                .and_then(|order| arrangements[side].at(order))
                .map(|placed| placed.rule.name.clone()),
            consequence: effects.consequence(place.consequences[side]),
        });
        groups.entry((old, new)).or_default().push((place, found));
    }
    let mut changes: Vec<(u32, Change)> = groups
        .into_iter()
        .map(|((old, new), mut found)| {
            // Whole packets before fragments, large before small; the rest only makes it the same every time.
            found.sort_by_key(|(place, found)| {
                let size = std::cmp::Reverse(place.region.size());
                (place.fragment, size, place.family, found.example.to_string())
            });
            let size = found.first().map_or(0, |(place, _)| place.region.size());
            let more = found.len().saturating_sub(limit);
            let regions = found.into_iter().take(limit).map(|(place, found)| Changed {
                region: Shown(place.region, place.family).to_string(),
                fragments: place.fragment,
                directions: found.directions,
                example: found.example,
                filters: [0, 1].map(|side: usize| {
                    let placed = arrangements[side].at(place.deciders[side]?)?;
                    Some(placed.filter.to_string())
                }),
            });
            let regions = regions.collect();
            (
                size,
                Change {
                    old,
                    new,
                    regions,
                    more,
                },
            )
        })
        .collect();
    changes.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    changes.into_iter().map(|(_, change)| change).collect()
}

/// What the policies say outside their rules, where they differ. The default shows in the traffic as well.
fn settings(old: &Policy, new: &Policy) -> Vec<(&'static str, String, String)> {
    let of = |policy: &Policy| {
        [
            ("default", format!("{:?}", policy.default_action()).to_lowercase()),
            ("non-ip", format!("{:?}", policy.non_ip()).to_lowercase()),
            ("audit", policy.audit().to_string()),
            ("exemptions", policy.exemptions().level().to_string()),
            ("boot", format!("{:?}", policy.boot()).to_lowercase()),
        ]
    };
    let pairs = of(old).into_iter().zip(of(new));
    pairs
        .filter(|((_, old), (_, new))| old != new)
        .map(|((name, old), (_, new))| (name, old, new))
        .collect()
}
