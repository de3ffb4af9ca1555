//! Which counter belongs to which rule: a rule keeps its slot as long as its name stands in a policy.

use std::collections::{HashMap, HashSet};

use crate::book::Identity;

/// The slots of the per-rule counters.
#[derive(Debug)]
pub(crate) struct Slots {
    capacity: u32,
    by_name: HashMap<Identity, u32>,
    free: Vec<u32>,
    /// Slots from here on were never used.
    fresh: u32,
}

/// More rules than there are slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// Slots that would be needed.
    pub(crate) needed: usize,
    /// Slots that there are.
    pub(crate) capacity: u32,
}

impl Slots {
    /// So many slots, of which some are taken.
    pub(crate) fn new(capacity: u32, taken: impl IntoIterator<Item = (Identity, u32)>) -> Self {
        let by_name: HashMap<Identity, u32> = taken.into_iter().collect();
        let used: HashSet<u32> = by_name.values().copied().collect();
        let fresh = used.iter().max().map_or(0, |last| last + 1);
        Self {
            capacity,
            free: (0..fresh).filter(|slot| !used.contains(slot)).collect(),
            by_name,
            fresh,
        }
    }

    /// Whether there is room for rules with these names.
    ///
    /// # Errors
    ///
    /// [`Full`].
    pub(crate) fn check<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<(), Full> {
        let new = names
            .filter(|name| !self.by_name.contains_key(&Identity::of(name)))
            .count();
        let room = self.free.len() + (self.capacity - self.fresh) as usize;
        if new <= room {
            return Ok(());
        }
        Err(Full {
            needed: self.by_name.len() + new,
            capacity: self.capacity,
        })
    }

    /// Slots for rules, by name: those they have, or new ones. On an error nothing has changed.
    ///
    /// # Errors
    ///
    /// [`Full`].
    pub(crate) fn assign<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<Vec<u32>, Full> {
        self.check(names.clone())?;
        Ok(names
            .map(|name| {
                let rule = Identity::of(name);
                if let Some(slot) = self.by_name.get(&rule) {
                    return *slot;
                }
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.fresh += 1;
                    self.fresh - 1
                });
                self.by_name.insert(rule, slot);
                slot
            })
            .collect())
    }

    /// Takes the slots of all rules but those in `used`; `freed` is told of each before it can be assigned again, and
    /// may keep it for another time.
    pub(crate) fn release(&mut self, used: &HashSet<u32>, mut freed: impl FnMut(u32) -> bool) {
        let free = &mut self.free;
        self.by_name.retain(|_, slot| {
            let keep = used.contains(slot) || !freed(*slot);
            if !keep {
                free.push(*slot);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Full, Identity, Slots};

    #[test]
    fn a_name_keeps_its_slot_and_a_freed_one_is_used_again() {
        let mut slots = Slots::new(3, []);
        let first = slots.assign(["a", "b"].into_iter()).unwrap();
        let second = slots.assign(["b", "c"].into_iter()).unwrap();
        assert_eq!(first[1], second[0]);
        let full = slots.assign(["b", "d"].into_iter()).unwrap_err();
        assert_eq!(
            full,
            Full {
                needed: 4,
                capacity: 3
            }
        );
        let mut freed = Vec::new();
        slots.release(&second.iter().copied().collect(), |slot| {
            freed.push(slot);
            true
        });
        assert_eq!(freed, [first[0]]);
        assert_eq!(
            slots.assign(["b", "d"].into_iter()).unwrap(),
            [second[0], first[0]]
        );
        // Not given back, so not given out.
        slots.release(&[second[0]].into_iter().collect(), |_| false);
        assert!(slots.assign(["e"].into_iter()).is_err());
    }

    #[test]
    fn slots_that_an_earlier_process_gave_out_are_taken() {
        let taken = [("a", 2), ("b", 0)].map(|(name, slot)| (Identity::of(name), slot));
        let mut slots = Slots::new(4, taken);
        assert_eq!(
            slots.assign(["a", "b", "c", "d"].into_iter()).unwrap(),
            [2, 0, 1, 3]
        );
        assert!(slots.assign(["e"].into_iter()).is_err());
    }
}
