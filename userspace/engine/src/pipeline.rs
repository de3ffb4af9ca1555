//! Batches of a worker that are away, with the threads of its pool: when they go, and what is left to do when they are back.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use ravelin_gcm::prefetch;
use ravelin_xdp_common::{DropReason, Kind};
use ravelin_xsk::{BATCH, Frame, Loan, Port};

use crate::adjacency::Snapshot;
use crate::crypto_pool::{Away, CryptoPool, Way, Work, with_packets};
use crate::forwarder::{Admitted, Forwarder};
use crate::regime::Regime;

/// A batch for more SAs does not go away: there would be few packets for each, and each is a batch of its own there.
const MOST_SAS: usize = 4;

/// How long the worker waits for a batch that has to be finished first. Longer only takes what hangs, or has no CPU to run on.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// Bytes of a packet, and in front of it, that are looked at when it is back.
const HEADERS: usize = 64;

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Shares the work of busy times with the threads of a pool.
    #[must_use]
    pub fn with_pool(mut self, pool: CryptoPool<'u>) -> Self {
        self.pool = Some(Box::new(pool));
        self
    }

    /// Whether a thread of the pool has panicked; then nothing more can come of this worker.
    pub(crate) fn is_broken(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.has_panicked())
    }

    /// Whether more packets can be taken that go that way.
    #[inline]
    pub(crate) fn has_room(&self, way: Way) -> bool {
        self.pool.as_ref().is_none_or(|pool| pool.has_room(way))
    }

    /// Finishes what is back.
    pub(crate) fn take_back(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        for way in [Way::Out, Way::In] {
            self.finish_due(way, regime, snapshot, now);
        }
    }

    /// Does a batch that waits, if the threads have enough to do. Whether batches are away that will come back soon.
    pub(crate) fn help(&mut self, idle: bool) -> bool {
        let Some(pool) = &mut self.pool else { return false };
        pool.help(idle);
        pool.is_moving() && (pool.is_away(Way::Out) || pool.is_away(Way::In))
    }

    /// Finishes all that is away; false if it does not come back.
    #[inline]
    pub(crate) fn settle_all(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) -> bool {
        self.settle(Way::Out, regime, snapshot, now) && self.settle(Way::In, regime, snapshot, now)
    }

    /// Finishes all that is away and goes this way, so that what follows overtakes nothing; false if it does not come back.
    #[inline]
    pub(crate) fn settle(&mut self, way: Way, regime: &Regime, snapshot: &Snapshot, now: Instant) -> bool {
        self.pool.is_none() || self.wait_until(way, |pool| !pool.is_away(way), regime, snapshot, now)
    }

    /// Sends packets away, if it is time for that. Then there are none left; else they are to be done here, and none is away any more.
    pub(crate) fn send_away(
        &mut self,
        way: Way,
        admitted: &mut ArrayVec<Admitted<'u>, BATCH>,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let Some(pool) = &self.pool else { return };
        // Few packets are done sooner here. But none overtakes those that are away.
        let away = pool.is_away(way);
        if !away && !admitted.is_full() || admitted.is_empty() {
            return;
        }
        if !are_alike(admitted) {
            if !self.settle(way, regime, snapshot, now) {
                self.give_up(admitted.drain(..).len());
            }
            return;
        }
        while let Some(first) = admitted.first() {
            let slot = first.metadata.slot;
            let mut rest = ArrayVec::<_, BATCH>::new();
            let room = self.wait_until(way, |pool| pool.has_room(way), regime, snapshot, now);
            let batch = self
                .pool
                .as_mut()
                .filter(|_| room)
                .and_then(|pool| pool.take(way));
            let Some(mut batch) = batch else {
                return self.give_up(admitted.drain(..).len());
            };
            for one in admitted.drain(..) {
                if one.metadata.slot == slot {
                    batch.loans.push(one.frame.lend());
                } else {
                    rest.push(one);
                }
            }
            batch.slot = slot;
            self.begin(batch, regime, now);
            admitted.extend(rest);
        }
    }

    /// Has a batch go, if there is an SA for it.
    fn begin(&mut self, mut batch: Box<Away<'u>>, regime: &Regime, now: Instant) {
        let Away {
            slot,
            ends,
            loans,
            work,
            ..
        } = &mut *batch;
        let begun = match work {
            Work::Seal(sealing) => {
                let connection = regime.connection(*slot);
                let found = connection.and_then(|one| Some((one, one.outbound.as_ref()?)));
                found.map(|(connection, outbound)| {
                    self.shared.sealed.set(outbound.pair);
                    *ends = Some(connection.ends);
                    with_packets(loans, |packets| sealing.begin(&outbound.sa, packets, now));
                })
            }
            Work::Open(opening) => regime.inbound(*slot).map(|inbound| {
                self.shared.opened.set(inbound.pair);
                with_packets(loans, |packets| opening.begin(&inbound.sa, packets, now));
            }),
        };
        if begun.is_none() {
            let frames = batch.loans.drain(..);
            let count = frames.filter_map(|loan| frame(&self.outer, loan)).count();
            self.counters.lost(DropReason::SaMissing, count as u64);
        }
        let Some(pool) = &mut self.pool else { return };
        match begun {
            Some(()) => {
                self.counters.shared.add(batch.loans.len() as u64);
                pool.send(batch);
            }
            None => pool.put(batch),
        }
    }

    /// Goes on with what is away until something is so; false if it does not become so.
    fn wait_until(
        &mut self,
        way: Way,
        is_so: impl Fn(&CryptoPool<'u>) -> bool,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) -> bool {
        let mut began = None;
        loop {
            let Some(pool) = &mut self.pool else { return true };
            if is_so(pool) {
                return true;
            }
            let helped = pool.help(true);
            self.finish_due(way, regime, snapshot, now);
            let Some(pool) = &mut self.pool else { return true };
            if helped || is_so(pool) {
                continue;
            }
            // Whoever hangs is waited for once.
            if pool.is_stalled(way) || pool.has_panicked() {
                return false;
            }
            if began.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                pool.stall(way);
                return false;
            }
            std::hint::spin_loop();
        }
    }

    fn finish_due(&mut self, way: Way, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        if let Some(pool) = &mut self.pool {
            pool.gather();
        }
        while let Some(mut batch) = self.pool.as_mut().and_then(|pool| pool.take_due(way)) {
            match way {
                Way::Out => self.finish_sealing(&mut batch, regime, snapshot, now),
                Way::In => self.finish_opening(&mut batch, regime, snapshot, now),
            }
            if let Some(pool) = &mut self.pool {
                pool.put(batch);
            }
        }
    }

    fn finish_sealing(&mut self, batch: &mut Away<'u>, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        fetch_headers(&mut batch.loans);
        let Work::Seal(sealing) = &mut batch.work else {
            return;
        };
        // Should the slot have changed hands since, these packets are not for who has it now.
        let connection = regime.connection(batch.slot);
        let connection = connection.filter(|connection| Some(connection.ends) == batch.ends);
        let outcomes = sealing.finish(now);
        for (loan, outcome) in batch.loans.drain(..).zip(outcomes) {
            let Some(frame) = frame(&self.outer, loan) else {
                continue;
            };
            match (outcome, connection) {
                (Ok(_), Some(connection)) => self.forward_to_peer(frame, connection, snapshot, now),
                (Ok(_), None) => self.counters.dropped(DropReason::SaMissing),
                (Err(reason), _) => self.counters.dropped(*reason),
            }
        }
    }

    fn finish_opening(&mut self, batch: &mut Away<'u>, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        fetch_headers(&mut batch.loans);
        let Away {
            slot, loans, work, ..
        } = batch;
        let Work::Open(opening) = work else { return };
        // Should the pair have changed hands since, policy knows nothing of what these packets came through.
        let inbound = regime.inbound(*slot);
        let current = inbound.is_some_and(|inbound| opening.is_of(&inbound.sa));
        let outcomes = with_packets(loans, |packets| opening.finish(packets, now));
        for (loan, outcome) in batch.loans.drain(..).zip(outcomes) {
            let Some(frame) = frame(&self.outer, loan) else {
                continue;
            };
            match outcome {
                Ok(_) if current => self.arrive(frame, *slot, (regime, snapshot), now),
                Ok(_) => self.counters.dropped(DropReason::SaMissing),
                Err(reason) => self.counters.dropped(*reason),
            }
        }
    }

    /// Counts packets that cannot be done in order, since those before them do not come back.
    fn give_up(&self, count: usize) {
        self.counters.lost(DropReason::ReceiveOverrun, count as u64);
    }
}

/// The frame that was lent.
#[inline]
fn frame<'u>(port: &impl Port<'u>, loan: Loan<'u>) -> Option<Frame<'u>> {
    let frame = loan.take_back(port.umem()).ok();
    debug_assert!(frame.is_some(), "both ports and all frames are of one memory");
    frame
}

/// Whether packets can go away: for few SAs, and nothing is to be done with any by itself.
fn are_alike(admitted: &[Admitted<'_>]) -> bool {
    let mut slots = ArrayVec::<u32, MOST_SAS>::new();
    admitted.iter().all(|one| {
        let slot = one.metadata.slot;
        let known = slots.contains(&slot) || slots.try_push(slot).is_ok();
        // There are not as many large frames as go away at once.
        known && one.metadata.kind != Kind::Moved && !one.frame.is_large()
    })
}

/// Has the cache fetch what another core has written and is read here.
fn fetch_headers(loans: &mut [Loan<'_>]) {
    for loan in loans {
        let (chunk, start, _) = loan.chunk_mut();
        if let Some(headers) = chunk.get(start.saturating_sub(HEADERS)..start + HEADERS) {
            prefetch(&headers[0], headers.len());
        }
    }
}
