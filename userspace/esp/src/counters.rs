//! What an SA has carried.

use std::sync::atomic::{AtomicU64, Ordering};

/// Packets and bytes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets sealed or opened with success.
    pub packets: u64,
    /// Bytes of those packets on the clear side, from their IP header on.
    pub bytes: u64,
}

/// The shared counters of an SA, added to once per batch.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn add(&self, counts: Counts) {
        if counts.packets != 0 {
            self.packets.fetch_add(counts.packets, Ordering::Relaxed);
            self.bytes.fetch_add(counts.bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
