//! Who owns each chunk, and the list of the free ones.
//!
//! Every chunk has exactly one owner: the free list, a [`Frame`](crate::Frame), or one direction of one port's rings.
//! Each move is checked against the recorded owner, so that a descriptor which the kernel returns twice, or never
//! had, cannot become a second `Frame` for the same bytes. One byte per chunk: 4096 chunks are one page.

use std::cell::Cell;

/// Ports that can share one UMEM at a time.
pub(crate) const MAX_PORTS: usize = 8;

/// The owner of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u8);

impl Owner {
    const FREE: Self = Self(0);
    /// A `Frame` exists (or has been leaked).
    const HELD: Self = Self(1);
    /// Was in the rings of a port that is gone, and the kernel may still use it.
    const LOST: Self = Self(2);

    /// Given to the kernel for receiving through the port in `slot`.
    pub(crate) const fn fill(slot: u8) -> Self {
        Self(4 + 2 * slot)
    }

    /// Given to the kernel for sending through the port in `slot`.
    pub(crate) const fn tx(slot: u8) -> Self {
        Self(5 + 2 * slot)
    }
}

/// Where the chunks of a UMEM are; the fields add up to the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// In the free list.
    pub free: u32,
    /// In a [`Frame`](crate::Frame); a leaked frame counts here for ever.
    pub held: u32,
    /// With the kernel for receiving: in a fill ring, in a receive ring, or in the driver.
    pub receiving: u32,
    /// With the kernel for sending: in a transmit ring, in the driver, or in a completion ring.
    pub sending: u32,
    /// Were with the kernel when their port was closed, and cannot be used again until the UMEM is rebuilt.
    pub lost: u32,
}

impl FrameCounts {
    /// All chunks.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.free + self.held + self.receiving + self.sending + self.lost
    }
}

#[derive(Debug)]
pub(crate) struct Ledger {
    owner: Box<[Cell<Owner>]>,
    /// A stack: the chunk that was freed last is warm in the cache and goes first.
    free: Box<[Cell<u32>]>,
    free_len: Cell<usize>,
}

impl Ledger {
    pub(crate) fn new(chunks: u32) -> Self {
        Self {
            owner: (0..chunks).map(|_| Cell::new(Owner::FREE)).collect(),
            free: (0..chunks).rev().map(Cell::new).collect(),
            free_len: Cell::new(chunks as usize),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owner.is_empty()
    }

    pub(crate) fn free(&self) -> usize {
        self.free_len.get()
    }

    /// Free → held.
    pub(crate) fn take(&self) -> Option<u32> {
        self.take_as(Owner::HELD)
    }

    /// Free → a port.
    pub(crate) fn take_as(&self, owner: Owner) -> Option<u32> {
        let top = self.free_len.get().checked_sub(1)?;
        let chunk = self.free.get(top)?.get();
        self.owner.get(chunk as usize)?.set(owner);
        self.free_len.set(top);
        Some(chunk)
    }

    /// Held → free.
    pub(crate) fn release(&self, chunk: u32) {
        let released = self.reclaim(chunk, Owner::HELD);
        debug_assert!(released, "a frame's chunk is held");
    }

    /// A port → free; false if the chunk does not exist or was not the port's.
    #[must_use]
    pub(crate) fn reclaim(&self, chunk: u32, from: Owner) -> bool {
        if !self.pass(chunk, from, Owner::FREE) {
            return false;
        }
        let top = self.free_len.get();
        let Some(slot) = self.free.get(top) else {
            debug_assert!(false, "more free chunks than chunks");
            return false;
        };
        slot.set(chunk);
        self.free_len.set(top + 1);
        true
    }

    /// A port → held; false if the chunk does not exist or was not the port's.
    #[must_use]
    pub(crate) fn claim(&self, chunk: u32, from: Owner) -> bool {
        self.pass(chunk, from, Owner::HELD)
    }

    /// Held → a port.
    pub(crate) fn give(&self, chunk: u32, to: Owner) {
        let given = self.pass(chunk, Owner::HELD, to);
        debug_assert!(given, "a frame's chunk is held");
    }

    /// Everything a closed port still had: to the free list, or out of use for ever.
    pub(crate) fn settle(&self, from: Owner, safe_to_reuse: bool) {
        for (chunk, owner) in self.owner.iter().enumerate() {
            if owner.get() == from {
                if safe_to_reuse {
                    // The index came from a table of at most 2^32 entries.
                    let reclaimed = self.reclaim(chunk as u32, from);
                    debug_assert!(reclaimed);
                } else {
                    owner.set(Owner::LOST);
                }
            }
        }
    }

    pub(crate) fn counts(&self) -> FrameCounts {
        let mut counts = FrameCounts::default();
        for owner in &self.owner {
            match owner.get() {
                Owner::FREE => counts.free += 1,
                Owner::HELD => counts.held += 1,
                Owner::LOST => counts.lost += 1,
                Owner(port) if port % 2 == 0 => counts.receiving += 1,
                Owner(_) => counts.sending += 1,
            }
        }
        counts
    }

    fn pass(&self, chunk: u32, from: Owner, to: Owner) -> bool {
        match self.owner.get(chunk as usize) {
            Some(owner) if owner.get() == from => {
                owner.set(to);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chunk_comes_back_only_from_its_owner_and_only_once() {
        let ledger = Ledger::new(2);
        let chunk = ledger.take_as(Owner::fill(0)).unwrap();
        assert!(!ledger.claim(chunk, Owner::fill(1)), "another port's");
        assert!(!ledger.claim(chunk, Owner::tx(0)), "another direction");
        assert!(!ledger.claim(2, Owner::fill(0)), "beyond the end");
        assert!(ledger.claim(chunk, Owner::fill(0)));
        assert!(!ledger.claim(chunk, Owner::fill(0)), "twice");
        ledger.give(chunk, Owner::tx(1));
        assert!(ledger.reclaim(chunk, Owner::tx(1)));
        assert!(!ledger.reclaim(chunk, Owner::tx(1)), "twice");
        assert_eq!(
            ledger.counts(),
            FrameCounts {
                free: 2,
                ..FrameCounts::default()
            }
        );
    }

    #[test]
    fn a_closed_port_loses_what_the_kernel_may_still_use() {
        let ledger = Ledger::new(4);
        for _ in 0..2 {
            ledger.take_as(Owner::fill(0)).unwrap();
        }
        ledger.take_as(Owner::tx(0)).unwrap();
        ledger.settle(Owner::fill(0), true);
        ledger.settle(Owner::tx(0), false);
        assert_eq!(
            ledger.counts(),
            FrameCounts {
                free: 3,
                lost: 1,
                ..FrameCounts::default()
            }
        );
        assert_eq!(ledger.free(), 3);
    }

    proptest! {
        /// Against a plain model: whatever moves are tried, each chunk is in one place, and free chunks are distinct.
        #[test]
        fn every_chunk_is_in_one_place(moves in prop::collection::vec((0..5u8, 0..10u32, 0..3u8), 0..200)) {
            let ledger = Ledger::new(8);
            let mut model = [Owner::FREE; 8];
            for (what, chunk, slot) in moves {
                let owner = if what % 2 == 0 { Owner::fill(slot) } else { Owner::tx(slot) };
                let at = model.get(chunk as usize).copied();
                match what {
                    0 | 1 => if let Some(taken) = ledger.take_as(owner) {
                        prop_assert_eq!(model[taken as usize], Owner::FREE);
                        model[taken as usize] = owner;
                    } else {
                        prop_assert!(!model.contains(&Owner::FREE));
                    },
                    2 => {
                        prop_assert_eq!(ledger.claim(chunk, owner), at == Some(owner));
                        if at == Some(owner) { model[chunk as usize] = Owner::HELD; }
                    }
                    3 => {
                        prop_assert_eq!(ledger.reclaim(chunk, owner), at == Some(owner));
                        if at == Some(owner) { model[chunk as usize] = Owner::FREE; }
                    }
                    _ => if at == Some(Owner::HELD) {
                        ledger.give(chunk, owner);
                        model[chunk as usize] = owner;
                    },
                }
                let count = |wanted: fn(u8) -> bool| model.iter().filter(|owner| wanted(owner.0)).count() as u32;
                prop_assert_eq!(ledger.counts(), FrameCounts {
                    free: count(|owner| owner == 0), held: count(|owner| owner == 1), lost: 0,
                    receiving: count(|owner| owner >= 4 && owner % 2 == 0),
                    sending: count(|owner| owner >= 4 && owner % 2 == 1),
                });
            }
        }
    }
}
