//! What a worker counts. One writer, the worker; readers see each number whole.

use std::sync::atomic::{AtomicU64, Ordering};

use ravelin_xdp_common::{DropReason, RuleCounter};

use crate::regime::TakenUp;

/// A counter with one writer: a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, from the one thread that writes.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one worker, apart from those of others by cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    drops: [Counter; DropReason::COUNT],
    rules: Vec<[Counter; 2]>,
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
}

impl WorkerCounters {
    /// With room for this many rules.
    #[must_use]
    pub fn new(rules: usize) -> Self {
        Self {
            drops: std::array::from_fn(|_| Counter::default()),
            rules: std::iter::repeat_with(Default::default).take(rules).collect(),
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
        }
    }

    /// Counts a dropped packet.
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.drops[reason.index()].add(1);
    }

    /// Counts packets that were dropped where the worker could not see it.
    pub fn lost(&self, reason: DropReason, packets: u64) {
        self.drops[reason.index()].add(packets);
    }

    /// Counts a packet of `bytes` for the rule that let it in.
    #[inline]
    pub fn matched(&self, rule_id: u32, bytes: usize) {
        if let Some([packets, total]) = self.rules.get(rule_id as usize) {
            packets.add(1);
            total.add(bytes as u64);
        }
    }

    /// Packets dropped for a reason.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()].value()
    }

    /// What the rule in a slot has let in.
    #[must_use]
    pub fn rule(&self, slot: u32) -> RuleCounter {
        self.rules
            .get(slot as usize)
            .map_or_else(RuleCounter::default, |[packets, bytes]| RuleCounter {
                packets: packets.value(),
                bytes: bytes.value(),
            })
    }

    /// Lets the next rule in a slot count from zero. Not while the worker may still count for the old one.
    pub(crate) fn reset_rule(&self, slot: u32) {
        for counter in self.rules.get(slot as usize).into_iter().flatten() {
            counter.0.store(0, Ordering::Relaxed);
        }
    }
}
