//! What a worker counts. One writer, the worker; readers see each number whole.
//!
//! What is counted by reason and by rule goes on when the next process has its turn; the rest is of this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ravelin_xdp_common::{DropReason, RuleCounter};

use crate::pinned_words::PinnedWords;
use crate::regime::TakenUp;

/// A counter with one writer: a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, from the one thread that writes.
    #[inline]
    pub fn add(&self, amount: u64) {
        add(&self.0, amount);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A load and a store, for the one writer.
#[inline]
fn add(word: &AtomicU64, amount: u64) {
    word.store(
        word.load(Ordering::Relaxed).wrapping_add(amount),
        Ordering::Relaxed,
    );
}

/// Where things are among the words that outlive the process: for each drop reason one, then for each slot packets and bytes.
pub(crate) mod words {
    use std::sync::atomic::{AtomicU64, Ordering};

    use ravelin_xdp_common::RuleCounter;

    use crate::book::REASONS;

    /// How many there are with room for so many rules.
    pub(crate) const fn count(rules: u32) -> usize {
        (REASONS + rules as usize * 2).next_multiple_of(4)
    }

    pub(crate) fn drops(words: &[AtomicU64], index: usize) -> u64 {
        words[..REASONS].get(index).map_or(0, value)
    }

    pub(crate) fn rule(words: &[AtomicU64], slot: u32) -> RuleCounter {
        match words.get(slot_at(slot)..) {
            Some([packets, bytes, ..]) => RuleCounter {
                packets: value(packets),
                bytes: value(bytes),
            },
            _ => RuleCounter::default(),
        }
    }

    /// Lets the next rule in a slot count from zero. Not while the worker may still count for the old one.
    pub(crate) fn reset_rule(words: &[AtomicU64], slot: u32) {
        for word in words.iter().skip(slot_at(slot)).take(2) {
            word.store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) const fn slot_at(slot: u32) -> usize {
        REASONS + slot as usize * 2
    }

    fn value(word: &AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }
}

/// Where a worker's words are.
#[derive(Debug)]
enum Memory {
    /// In this process.
    Own(Box<[AtomicU64]>),
    /// In the kernel, pinned.
    Pinned(Arc<PinnedWords>),
}

/// The counters of one worker, apart from those of others by cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    memory: Memory,
    /// The edition of the regime that the worker works with.
    pub taken_up: TakenUp,
    /// Clear packets sealed and handed to the outer device.
    pub sealed: Counter,
    /// ESP packets opened and handed to the inner device.
    pub opened: Counter,
    /// Clear packets cut into fragments, before they were sealed or after they were opened.
    pub fragmented: Counter,
    /// ESP packets put together of fragments.
    pub reassembled: Counter,
    /// TCP packets whose maximum segment size was lowered.
    pub mss_clamped: Counter,
    /// ICMP errors of routers that made a path MTU smaller.
    pub path_mtus: Counter,
    /// ICMP errors sent to hosts of the clear side.
    pub icmp_errors: Counter,
    /// NAT keepalives made. They count as sealed, too, when they are handed to the outer device.
    pub keepalives: Counter,
    /// Dummies made. They count as sealed as well.
    pub dummies: Counter,
    /// Packets that waited for a neighbour.
    pub waited: Counter,
    /// Times the worker went to sleep.
    pub sleeps: Counter,
    /// Turns of its loop: while it is alive it takes one a second at least.
    pub turns: Counter,
    /// Packets that went to the crypto threads and came back, or were done here in their turn.
    pub shared: Counter,
}

impl WorkerCounters {
    /// With room for this many rules, gone with the process.
    #[must_use]
    pub fn new(rules: u32) -> Self {
        let zeros = std::iter::repeat_with(AtomicU64::default);
        Self::of(Memory::Own(zeros.take(words::count(rules)).collect()))
    }

    /// In words that outlive the process, which are as many as they should be.
    pub(crate) fn pinned(words: Arc<PinnedWords>) -> Self {
        Self::of(Memory::Pinned(words))
    }

    fn of(memory: Memory) -> Self {
        Self {
            memory,
            taken_up: TakenUp::default(),
            sealed: Counter::default(),
            opened: Counter::default(),
            fragmented: Counter::default(),
            reassembled: Counter::default(),
            mss_clamped: Counter::default(),
            path_mtus: Counter::default(),
            icmp_errors: Counter::default(),
            keepalives: Counter::default(),
            dummies: Counter::default(),
            waited: Counter::default(),
            sleeps: Counter::default(),
            turns: Counter::default(),
            shared: Counter::default(),
        }
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        match &self.memory {
            Memory::Own(words) => words,
            Memory::Pinned(words) => words.words(),
        }
    }

    /// Counts a dropped packet.
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.lost(reason, 1);
    }

    /// Counts packets that were dropped where the worker could not see it.
    #[inline]
    pub fn lost(&self, reason: DropReason, packets: u64) {
        add(&self.words()[reason.index()], packets);
    }

    /// Counts a packet of `bytes` for the rule that let it in.
    #[inline]
    pub fn matched(&self, rule_id: u32, bytes: usize) {
        if let Some([packets, total, ..]) = self.words().get(words::slot_at(rule_id)..) {
            add(packets, 1);
            add(total, bytes as u64);
        }
    }

    /// Packets dropped for a reason.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        words::drops(self.words(), reason.index())
    }

    /// What the rule in a slot has let in.
    #[must_use]
    pub fn rule(&self, slot: u32) -> RuleCounter {
        words::rule(self.words(), slot)
    }
}
