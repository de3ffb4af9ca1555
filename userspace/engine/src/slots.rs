//! Which counter belongs to which rule: a rule keeps its slot as long as its name stands in a policy.

use std::collections::{HashMap, HashSet};

/// The slots of the per-rule counters.
#[derive(Debug)]
pub(crate) struct Slots {
    capacity: u32,
    by_name: HashMap<String, u32>,
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
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            capacity,
            by_name: HashMap::new(),
            free: Vec::new(),
            fresh: 0,
        }
    }

    /// Whether there is room for rules with these names.
    ///
    /// # Errors
    ///
    /// [`Full`].
    pub(crate) fn check<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<(), Full> {
        let new = names.filter(|name| !self.by_name.contains_key(*name)).count();
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
                if let Some(slot) = self.by_name.get(name) {
                    return *slot;
                }
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.fresh += 1;
                    self.fresh - 1
                });
                self.by_name.insert(name.to_owned(), slot);
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
    use super::{Full, Slots};

    #[test]
    fn a_name_keeps_its_slot_and_a_freed_one_is_used_again() {
        let mut slots = Slots::new(3);
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
}
