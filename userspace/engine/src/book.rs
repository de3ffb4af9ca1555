//! The book of an instance's counters: which counter is whose, and what was counted in maps that are gone.
//!
//! Reasons, outcomes and rules are in it by their names, so that a build with others, or with room for another number of rules,
//! can go on with what this one has counted.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ravelin_xdp_common::{DropReason, Pass, RuleCounter};

use crate::pinned_words::PinnedWords;

/// Its name, with a version: builds that would not understand each other's begin at zero.
pub(crate) const BOOK: &str = "book-1";

/// Room for drop reasons.
pub(crate) const REASONS: usize = 128;

/// Room for reasons to pass.
pub(crate) const PASSES: usize = 32;

const _: () = assert!(DropReason::COUNT <= REASONS && Pass::ALL.len() <= PASSES);

/// Where things are, in words.
mod at {
    use super::{PASSES, REASONS};

    pub(super) const GENERATION: usize = 0;
    /// Packets, and then bytes.
    pub(super) const REMOVED: usize = 1;
    pub(super) const REASON_NAMES: usize = 16;
    pub(super) const DROPS: usize = REASON_NAMES + REASONS;
    pub(super) const AUDITED: usize = DROPS + REASONS;
    pub(super) const SEEN: usize = AUDITED + REASONS;
    pub(super) const UNSERVED: usize = SEEN + REASONS;
    pub(super) const PASS_NAMES: usize = UNSERVED + REASONS;
    pub(super) const PASSED: usize = PASS_NAMES + PASSES;
    /// Of each slot: its rule's name in two words, packets, bytes.
    pub(super) const SLOTS: usize = PASSED + PASSES;
}

/// Words of a slot.
const SLOT: usize = 4;

/// A name of any length, told apart from others: FNV-1a of 128 bits. Names come from the policy's author, so nobody looks for
/// two that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity(u128);

impl Identity {
    pub(crate) fn of(name: &str) -> Self {
        const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        let hash = name
            .bytes()
            .fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
        // Half of zeros is what a free slot begins with.
        Self(if hash as u64 == 0 { hash | 1 } else { hash })
    }

    /// Half of it, for the few names that Ravelin gives itself.
    pub(crate) const fn half(self) -> u64 {
        self.0 as u64
    }
}

/// A number for each drop reason.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Table {
    /// Dropped, in maps that are gone, or where neither programs nor workers could see it.
    Drops,
    /// Spared by an audit, in maps that are gone.
    Audited,
    /// What the driver had dropped when an engine looked last.
    Seen,
    /// Dropped while no engine served.
    Unserved,
}

#[derive(Debug)]
pub(crate) struct Book(PinnedWords);

impl Book {
    /// The book in a folder, with room for `rules` rules; it is made if it is not there, and then this is true.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn open_or_make(folder: &Path, rules: u32) -> io::Result<(Self, bool)> {
        let words = (at::SLOTS + rules as usize * SLOT).next_multiple_of(4);
        let book = Self(PinnedWords::open_or_make(&folder.join(BOOK), words)?);
        let fresh = book.word(at::REASON_NAMES).load(Ordering::SeqCst) == 0;
        // Those at the beginning last.
        for (index, pass) in Pass::ALL.iter().enumerate() {
            book.set(at::PASS_NAMES + index, Identity::of(pass.name()).half());
        }
        for (index, reason) in DropReason::ALL.iter().enumerate().rev() {
            book.set(at::REASON_NAMES + index, Identity::of(reason.name()).half());
        }
        Ok((book, fresh))
    }

    /// The book in a folder, if there is one.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn open(folder: &Path) -> io::Result<Option<Self>> {
        let book = PinnedWords::open(&folder.join(BOOK))?.map(Self);
        Ok(book.filter(|book| book.0.words().len() >= at::SLOTS))
    }

    /// The generation that was in force last; 0 before any was.
    pub(crate) fn generation(&self) -> u32 {
        self.word(at::GENERATION).load(Ordering::SeqCst) as u32
    }

    pub(crate) fn set_generation(&self, generation: u32) {
        self.set(at::GENERATION, generation.into());
    }

    /// What rules have counted that are gone.
    pub(crate) fn removed(&self) -> RuleCounter {
        self.counter(at::REMOVED)
    }

    pub(crate) fn add_removed(&self, count: RuleCounter) {
        self.add_counter(at::REMOVED, count);
    }

    /// A reason's number; 0 beyond all reasons.
    pub(crate) fn reason(&self, table: Table, index: usize) -> u64 {
        self.reason_word(table, index)
            .map_or(0, |word| word.load(Ordering::SeqCst))
    }

    pub(crate) fn set_reason(&self, table: Table, index: usize, count: u64) {
        if let Some(word) = self.reason_word(table, index) {
            word.store(count, Ordering::SeqCst);
        }
    }

    pub(crate) fn add_reason(&self, table: Table, index: usize, count: u64) {
        if let Some(word) = self.reason_word(table, index) {
            word.fetch_add(count, Ordering::SeqCst);
        }
    }

    fn reason_word(&self, table: Table, index: usize) -> Option<&AtomicU64> {
        let start = match table {
            Table::Drops => at::DROPS,
            Table::Audited => at::AUDITED,
            Table::Seen => at::SEEN,
            Table::Unserved => at::UNSERVED,
        };
        (index < REASONS).then(|| self.word(start + index))
    }

    /// Which reason of this build stands at an index of that book, which another build may have written.
    pub(crate) fn own_reason(&self, index: usize) -> Option<usize> {
        let name = self.word(at::REASON_NAMES + index).load(Ordering::SeqCst);
        let mut own = DropReason::ALL.iter();
        own.position(|reason| Identity::of(reason.name()).half() == name)
    }

    /// The same of a reason to pass.
    pub(crate) fn own_pass(&self, index: usize) -> Option<usize> {
        let name = self.word(at::PASS_NAMES + index).load(Ordering::SeqCst);
        let mut own = Pass::ALL.iter();
        own.position(|pass| Identity::of(pass.name()).half() == name)
    }

    /// Packets that passed, in maps that are gone.
    pub(crate) fn passed(&self, index: usize) -> u64 {
        self.word(at::PASSED + index).load(Ordering::SeqCst)
    }

    pub(crate) fn add_passed(&self, index: usize, count: u64) {
        self.word(at::PASSED + index).fetch_add(count, Ordering::SeqCst);
    }

    /// Room for so many rules.
    pub(crate) fn slots(&self) -> u32 {
        ((self.0.words().len() - at::SLOTS) / SLOT) as u32
    }

    /// Whose a slot is.
    pub(crate) fn rule(&self, slot: u32) -> Option<Identity> {
        let at = Self::slot(slot);
        let [low, high] = [at, at + 1].map(|word| self.word(word).load(Ordering::SeqCst));
        (low != 0).then(|| Identity(u128::from(high) << 64 | u128::from(low)))
    }

    /// Gives a slot to a rule. What the rule before has counted there was read out.
    pub(crate) fn set_rule(&self, slot: u32, rule: Option<Identity>) {
        let at = Self::slot(slot);
        self.set(at, 0);
        if let Some(Identity(name)) = rule {
            self.set(at + 1, (name >> 64) as u64);
            self.set(at, name as u64);
        }
    }

    /// What a slot's rule has counted in maps that are gone.
    pub(crate) fn carried(&self, slot: u32) -> RuleCounter {
        self.counter(Self::slot(slot) + 2)
    }

    pub(crate) fn carry(&self, slot: u32, count: RuleCounter) {
        self.add_counter(Self::slot(slot) + 2, count);
    }

    pub(crate) fn reset_carried(&self, slot: u32) {
        let at = Self::slot(slot);
        [2, 3].iter().for_each(|word| self.set(at + word, 0));
    }

    /// # Errors
    ///
    /// The system's.
    pub(crate) fn pin_again(&self) -> io::Result<()> {
        self.0.pin_again().map(drop)
    }

    const fn slot(slot: u32) -> usize {
        at::SLOTS + slot as usize * SLOT
    }

    fn counter(&self, at: usize) -> RuleCounter {
        let [packets, bytes] = [at, at + 1].map(|word| self.word(word).load(Ordering::SeqCst));
        RuleCounter { packets, bytes }
    }

    fn add_counter(&self, at: usize, count: RuleCounter) {
        for (word, count) in [(at, count.packets), (at + 1, count.bytes)] {
            self.word(word).fetch_add(count, Ordering::SeqCst);
        }
    }

    fn set(&self, word: usize, value: u64) {
        self.word(word).store(value, Ordering::SeqCst);
    }

    fn word(&self, word: usize) -> &AtomicU64 {
        &self.0.words()[word]
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    /// The vectors of draft-eastlake-fnv, which any tool computes.
    #[test]
    fn names_are_told_apart_by_fnv() {
        assert_eq!(
            Identity::of(""),
            Identity(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
        );
        assert_eq!(
            Identity::of("a"),
            Identity(0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964)
        );
        assert_eq!(
            Identity::of("foobar"),
            Identity(0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18)
        );
    }
}
