//! Opening in steps, of which the middle one can be another thread's.

use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_gcm::open_mixed;
use ravelin_xdp_common::DropReason;

use super::opening::{From, Located};
use super::{InboundSa, Opened};
use crate::Packet;
use crate::layout::MAX_BATCH;

/// Packets of one SA on their way to be opened. The steps together do what [`InboundSa::open_batch`] does:
///
/// 1. [`begin`](Self::begin) finds the ESP headers and drops what the anti-replay window has seen already.
/// 2. [`decrypt`](Self::decrypt) verifies and decrypts, on whatever thread, in whatever order of batches.
/// 3. [`finish`](Self::finish) moves the window and decapsulates: batches are finished in the order in which they came, since a packet
///    that comes to the window behind later ones may be too old for it.
///
/// Empty it holds no SA; it is large, and made to be used again.
#[derive(Debug, Default)]
pub struct OpeningBatch {
    sa: Option<Arc<InboundSa>>,
    states: ArrayVec<Result<Located, DropReason>, MAX_BATCH>,
    decrypted: bool,
    outcomes: ArrayVec<Result<Opened, DropReason>, MAX_BATCH>,
}

impl OpeningBatch {
    /// Looks at the packets, at most [`MAX_BATCH`]. What was begun before is forgotten.
    pub fn begin(&mut self, sa: &Arc<InboundSa>, packets: &mut [Packet<'_>], now: Instant) {
        debug_assert!(packets.len() <= MAX_BATCH);
        self.states.clear();
        let packets = packets.iter_mut().take(MAX_BATCH);
        self.states
            .extend(packets.map(|packet| sa.locate(packet, From::Peer)));
        sa.admit(&mut self.states, now.into());
        self.decrypted = false;
        self.sa = Some(Arc::clone(sa));
    }

    /// Whether it was begun with this SA, and not finished.
    #[must_use]
    pub fn is_of(&self, sa: &Arc<InboundSa>) -> bool {
        self.sa.as_ref().is_some_and(|own| Arc::ptr_eq(own, sa))
    }

    /// Verifies and decrypts the packets in place: those that were begun, which nobody has changed since. Only the first call does
    /// anything.
    pub fn decrypt(&mut self, packets: &mut [Packet<'_>]) {
        let Some(sa) = self.sa.as_deref().filter(|_| !self.decrypted) else {
            return;
        };
        let mut jobs = ArrayVec::new();
        sa.make_jobs(packets, &mut self.states, &mut jobs);
        open_mixed(&mut jobs);
        sa.end(&mut jobs.iter(), &mut self.states);
        self.decrypted = true;
    }

    /// Moves the window, decapsulates the same packets, counts them, and says how each went, in their order.
    ///
    /// # Errors
    /// As the outcome of a packet: as [`InboundSa::open_batch`], and `SaMissing` for all where they were not decrypted.
    pub fn finish(&mut self, packets: &mut [Packet<'_>], now: Instant) -> &[Result<Opened, DropReason>] {
        self.outcomes.clear();
        self.outcomes
            .extend(self.states.iter().map(|_| Err(DropReason::SaMissing)));
        if let Some(sa) = self.sa.take().filter(|_| self.decrypted) {
            let states = &mut self.states;
            sa.finish(packets, states, &mut self.outcomes, now.into());
        }
        &self.outcomes
    }
}
