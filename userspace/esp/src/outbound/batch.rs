//! Sealing in steps, of which the middle one can be another thread's.

use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_gcm::seal_mixed;
use ravelin_xdp_common::DropReason;

use super::sealing::{Numbers, drop_unsealed, longest};
use super::{OutboundSa, Sealed};
use crate::Packet;
use crate::layout::MAX_BATCH;
use crate::plan::Plan;

/// Packets of one SA on their way to be sealed. The steps together do what [`OutboundSa::seal_batch`] does:
///
/// 1. [`begin`](Self::begin) draws the packets' sequence numbers: batches are begun in the order in which they are sent.
/// 2. [`encrypt`](Self::encrypt) does the work, on whatever thread, in whatever order of batches.
/// 3. [`finish`](Self::finish) counts, and says how it went.
///
/// Empty it holds no SA; it is large, and made to be used again.
#[derive(Debug, Default)]
pub struct SealingBatch {
    sa: Option<Arc<OutboundSa>>,
    plans: ArrayVec<Result<Plan, DropReason>, MAX_BATCH>,
    /// Until they are used: none can be used twice.
    numbers: Option<Numbers>,
    outcomes: ArrayVec<Result<Sealed, DropReason>, MAX_BATCH>,
}

impl SealingBatch {
    /// Plans the packets, at most [`MAX_BATCH`], and draws their numbers. What was begun before is forgotten.
    pub fn begin(&mut self, sa: &Arc<OutboundSa>, packets: &mut [Packet<'_>], now: Instant) {
        debug_assert!(packets.len() <= MAX_BATCH);
        let path_mtu = sa.path_mtu();
        let (longest, padded) = (longest(path_mtu), sa.tfc_padding.length(path_mtu));
        let plans = packets.iter_mut().take(MAX_BATCH);
        self.plans.clear();
        self.plans
            .extend(plans.map(|packet| sa.plan(packet, longest, padded)));
        let drawn = sa.draw(&self.plans, now.into());
        // Those that never come to be encrypted must not go out.
        let unsealed = Err(*drawn.as_ref().err().unwrap_or(&DropReason::SaMissing));
        self.outcomes.clear();
        self.outcomes.extend(self.plans.iter().map(|_| unsealed));
        self.numbers = drawn.ok();
        self.sa = Some(Arc::clone(sa));
    }

    /// Encrypts and encapsulates the packets in place: those that were begun, which nobody has changed since. Only the first call does
    /// anything.
    pub fn encrypt(&mut self, packets: &mut [Packet<'_>]) {
        let (Some(sa), Some(numbers)) = (self.sa.as_deref(), self.numbers.take()) else {
            return;
        };
        let mut jobs = ArrayVec::new();
        sa.lay_out_all(packets, &self.plans, numbers, &mut self.outcomes, &mut jobs);
        seal_mixed(&mut jobs);
        if sa.ah.is_none() {
            drop_unsealed(&mut jobs.iter(), &mut self.outcomes);
        }
        drop(jobs);
        sa.complete_checksums(packets, &self.plans, &self.outcomes);
    }

    /// Counts the packets, and says how each went, in their order.
    ///
    /// # Errors
    /// As the outcome of a packet: as [`OutboundSa::seal_batch`], and `SaMissing` for all where they were not encrypted.
    pub fn finish(&mut self, now: Instant) -> &[Result<Sealed, DropReason>] {
        if let Some(sa) = self.sa.take() {
            sa.count(&self.plans, &self.outcomes, now.into());
        }
        self.numbers = None;
        &self.outcomes
    }
}
