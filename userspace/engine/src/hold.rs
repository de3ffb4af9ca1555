//! Packets that wait for a link-layer address.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ravelin_xdp_common::DropReason;
use ravelin_xsk::Frame;

use crate::adjacency::{Ends, Hop, Snapshot};
use crate::counters::WorkerCounters;
use crate::device::Mac;
use crate::filter::Side;

/// Packets that one worker keeps waiting, all destinations together.
const MOST: usize = 256;

/// How long a packet waits: the kernel's own three solicitations, one second apart, are done by then.
const PATIENCE: Duration = Duration::from_secs(3);

/// A packet, from its IP header on, that knows where to go but not to which link-layer address.
#[derive(Debug)]
pub(crate) struct Waiting<'u> {
    pub(crate) frame: Frame<'u>,
    pub(crate) side: Side,
    pub(crate) ends: Ends,
}

/// The packets that wait, oldest first.
#[derive(Debug)]
pub(crate) struct Hold<'u> {
    queue: VecDeque<(Instant, Waiting<'u>)>,
}

impl<'u> Hold<'u> {
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(MOST),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Lets a packet wait; when too many do, it is dropped and counted.
    pub(crate) fn push(&mut self, waiting: Waiting<'u>, now: Instant, counters: &WorkerCounters) {
        if self.queue.len() == MOST {
            counters.dropped(DropReason::NoNeighbour);
            return;
        }
        counters.waited.add(1);
        self.queue.push_back((now + PATIENCE, waiting));
    }

    /// Takes the oldest packet: it comes out if its destination has been answered, is dropped if it waited too long,
    /// and else joins the queue again. One call per packet in the queue is a round.
    pub(crate) fn release(
        &mut self,
        snapshot: &Snapshot,
        now: Instant,
        counters: &WorkerCounters,
    ) -> Option<(Waiting<'u>, Mac)> {
        let (deadline, waiting) = self.queue.pop_front()?;
        match snapshot.hop(waiting.side, &waiting.ends) {
            Some(Hop::Ready(mac)) => return Some((waiting, mac)),
            Some(Hop::Closed(reason)) => counters.dropped(reason),
            Some(Hop::Resolving) | None if deadline <= now => counters.dropped(DropReason::NoNeighbour),
            Some(Hop::Resolving) | None => self.queue.push_back((deadline, waiting)),
        }
        None
    }
}
