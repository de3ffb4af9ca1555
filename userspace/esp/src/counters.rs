//! What an SA has done so far: packets, bytes, failures by reason, last use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ravelin_xdp_common::DropReason;

use crate::moment::Moment;

/// An SA's counters at one moment. Each number is whole; a batch may be in some of them and not yet in others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Packets sealed or opened with success.
    pub packets: u64,
    /// Bytes of those packets on the clear side, from their IP header on.
    pub bytes: u64,
    /// When the last of them was, to the millisecond; `None` if there was none.
    pub last_used: Option<Instant>,
    drops: [u64; DropReason::COUNT],
}

impl Counts {
    /// Packets that failed for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// The reasons for which packets failed, with how many did.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL
            .iter()
            .copied()
            .zip(self.drops)
            .filter(|(_, packets)| *packets != 0)
    }
}

/// The shared counters of an SA, added to once per batch.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Counters {
    // In this order: what every batch writes lies together.
    packets: AtomicU64,
    bytes: AtomicU64,
    /// 1 + milliseconds from the SA's start to the last success, 0 before the first.
    last_used: AtomicU64,
    drops: [AtomicU64; DropReason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_used: AtomicU64::new(0),
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT],
        }
    }
}

impl Counters {
    /// Bytes from the start of what every batch writes.
    pub(crate) const WRITTEN_BY_EVERY_BATCH: usize = std::mem::offset_of!(Self, drops);

    /// Adds a batch that came out as `outcomes` when the SA was `age` milliseconds old; `lengths` has the clear bytes of
    /// each packet, those of failed ones do not matter.
    pub(crate) fn add<T>(
        &self,
        outcomes: &[Result<T, DropReason>],
        lengths: impl Iterator<Item = u64>,
        age: u64,
    ) {
        let (mut packets, mut bytes) = (0, 0);
        for (_, length) in outcomes
            .iter()
            .zip(lengths)
            .filter(|(outcome, _)| outcome.is_ok())
        {
            packets += 1;
            bytes += length;
        }
        if packets != 0 {
            self.packets.fetch_add(packets, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            // Another worker's clock may have been read later, or this SA's last batch be as recent.
            if self.last_used.load(Ordering::Relaxed) <= age {
                self.last_used.store(age + 1, Ordering::Relaxed);
            }
        }
        if packets as usize != outcomes.len() {
            self.add_drops(outcomes);
        }
    }

    /// Apart, because batches without failures are the rule.
    #[cold]
    fn add_drops<T>(&self, outcomes: &[Result<T, DropReason>]) {
        let mut drops = [0_u32; DropReason::COUNT];
        for reason in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            drops[reason.index()] += 1;
        }
        for (total, drops) in self.drops.iter().zip(drops).filter(|(_, drops)| *drops != 0) {
            total.fetch_add(drops.into(), Ordering::Relaxed);
        }
    }

    /// Counts one packet that failed.
    pub(crate) fn drop_one(&self, reason: DropReason) {
        self.drops[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// The last success of an SA that started at `since`.
    pub(crate) fn last_used(&self, since: Moment) -> Option<Instant> {
        let age = self.last_used.load(Ordering::Relaxed).checked_sub(1)?;
        Some(since.after(age))
    }

    /// The counters of an SA that started at `since`.
    pub(crate) fn counts(&self, since: Moment) -> Counts {
        Counts {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            last_used: self.last_used(since),
            drops: std::array::from_fn(|index| self.drops[index].load(Ordering::Relaxed)),
        }
    }
}
