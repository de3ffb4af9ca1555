//! Filters that are not the same in both policies.

use std::collections::{HashMap, HashSet};

use crate::address::Address;
use crate::filter::Selector;
use crate::order::{Strictness, Weight};
use crate::protocol::Protocol;
use crate::space::{Arrangement, Placed};

/// What of a filter says which packets it decides, and how.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'p> {
    weight: Weight,
    effect: u32,
    source: Address,
    destination: Address,
    protocol: Option<Protocol>,
    selector: &'p Selector,
    mirrored: bool,
}

impl<'p> Key<'p> {
    fn of(placed: &Placed<'p>) -> Self {
        let filter = placed.filter;
        Self {
            weight: placed.rank.weight,
            effect: placed.effect,
            source: filter.source,
            destination: filter.destination,
            protocol: filter.protocol,
            selector: &filter.selector,
            // A connection always yields both directions.
            mirrored: filter.mirrored || placed.rank.strictness == Strictness::Protect,
        }
    }
}

/// The orders of the filters in each policy that the other lacks, or that stand otherwise among their equals.
pub(super) fn changed(arrangements: &[Arrangement<'_>; 2]) -> [HashSet<u32>; 2] {
    let keys = arrangements
        .each_ref()
        .map(|it| it.placed().iter().map(Key::of).collect::<HashSet<_>>());
    let reordered = reordered(arrangements, &keys);
    let changed = |side: usize| {
        let placed = arrangements[side].placed().iter().zip(0..);
        placed
            .filter(|(placed, _)| {
                !keys[1 - side].contains(&Key::of(placed))
                    || reordered.contains(&(placed.rank.weight, placed.rank.strictness))
            })
            .map(|(_, order)| order)
            .collect()
    };
    [changed(0), changed(1)]
}

/// Classes of filters among which the place in the file decides, and does so otherwise than before.
fn reordered<'p>(
    arrangements: &[Arrangement<'p>; 2],
    keys: &[HashSet<Key<'p>>; 2],
) -> HashSet<(Weight, Strictness)> {
    let classes = [0, 1].map(|side: usize| {
        let mut classes: HashMap<(Weight, Strictness), Vec<Key<'p>>> = HashMap::new();
        let mut seen = HashSet::new();
        for placed in arrangements[side].placed() {
            let key = Key::of(placed);
            if keys[1 - side].contains(&key) && seen.insert(key) {
                let class = (placed.rank.weight, placed.rank.strictness);
                classes.entry(class).or_default().push(key);
            }
        }
        classes
    });
    let differs = |keys: &[Key<'_>], others: Option<&Vec<Key<'_>>>| {
        keys.iter().any(|key| key.effect != keys[0].effect) && others.is_none_or(|others| others != keys)
    };
    classes[0]
        .iter()
        .filter(|(class, keys)| differs(keys, classes[1].get(class)))
        .map(|(class, _)| *class)
        .collect()
}
