//! Threads that encrypt and decrypt for one worker, so that one SA has more than one core.
//!
//! Only the middle step is theirs: what has to be done in order (sequence numbers, the anti-replay window, sending) stays with the
//! worker. Batches go away in turn with a ticket each, come back as they are done, and are finished in turn again. The worker does its
//! share of the batches itself whenever more are waiting than the threads will take at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError, Sender, TryRecvError, bounded};
use ravelin_esp::{OpeningBatch, Packet, SealingBatch};
use ravelin_xsk::{BATCH, Loan};

use crate::adjacency::Ends;
use crate::counters::Counter;

/// How long a thread without work looks for some before it sleeps: longer than a worker takes to its next batch.
const SPIN: Duration = Duration::from_micros(50);

/// How long a thread sleeps at most: whoever looks whether it goes on sees it take a turn.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The way that packets go through a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
}

/// Packets of one SA that are away.
#[derive(Debug)]
pub(crate) struct Away<'u> {
    pub(crate) way: Way,
    /// Its turn among the batches that go the same way.
    ticket: u64,
    /// Of the connection outbound, of the pair inbound.
    pub(crate) slot: u32,
    /// Where sealed packets go.
    pub(crate) ends: Option<Ends>,
    pub(crate) loans: ArrayVec<Loan<'u>, BATCH>,
    pub(crate) work: Work,
}

/// What is to be done with them.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "either is large, and there are a few of them, boxed with their packets"
)]
pub(crate) enum Work {
    Seal(SealingBatch),
    Open(OpeningBatch),
}

impl Away<'_> {
    fn new(way: Way) -> Self {
        Self {
            way,
            ticket: 0,
            slot: 0,
            ends: None,
            loans: ArrayVec::new(),
            work: match way {
                Way::Out => Work::Seal(SealingBatch::default()),
                Way::In => Work::Open(OpeningBatch::default()),
            },
        }
    }

    /// The step that any thread can do.
    fn crypt(&mut self) {
        let Self { loans, work, .. } = self;
        with_packets(loans, |packets| match work {
            Work::Seal(batch) => batch.encrypt(packets),
            Work::Open(batch) => batch.decrypt(packets),
        });
    }
}

/// Has the packets of loans changed in place.
pub(crate) fn with_packets<T>(loans: &mut [Loan<'_>], change: impl FnOnce(&mut [Packet<'_>]) -> T) -> T {
    let mut packets: ArrayVec<Packet<'_>, BATCH> = ArrayVec::new();
    for loan in loans.iter_mut() {
        let (buffer, start, end) = loan.chunk_mut();
        // A loan's range lies within its chunk, so there is a packet.
        packets.extend(Packet::new(buffer, start..end));
    }
    let result = change(&mut packets);
    let ranges: ArrayVec<Range<usize>, BATCH> = packets.iter().map(Packet::range).collect();
    drop(packets);
    for (loan, range) in loans.iter_mut().zip(ranges) {
        let within = loan.set_range(range.start, range.end);
        debug_assert!(within, "a packet lies within its buffer");
    }
    result
}

/// On a cache line of its own, since it changes all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Beat(Counter);

/// What the threads of a worker and the worker have in common.
#[derive(Debug, Default)]
pub(crate) struct CryptoState {
    /// How often each thread has looked for work.
    turns: Vec<Beat>,
    panicked: AtomicBool,
}

impl CryptoState {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            turns: std::iter::repeat_with(Beat::default).take(threads).collect(),
            panicked: AtomicBool::new(false),
        }
    }

    /// The turns of each thread.
    pub(crate) fn turns(&self) -> impl Iterator<Item = u64> {
        self.turns.iter().map(|beat| beat.0.value())
    }
}

/// A worker's end of the pool.
#[derive(Debug)]
pub struct CryptoPool<'u> {
    jobs: Sender<Box<Away<'u>>>,
    /// The other end of `jobs`, from which the worker helps itself too.
    waiting: Receiver<Box<Away<'u>>>,
    done: Receiver<Box<Away<'u>>>,
    lanes: [Lane<'u>; 2],
    state: Arc<CryptoState>,
}

/// The batches that go one way.
#[derive(Debug)]
struct Lane<'u> {
    idle: Vec<Box<Away<'u>>>,
    /// Those that are done, each at the place of its ticket.
    arrived: Box<[Option<Box<Away<'u>>>]>,
    /// The next ticket to be given out, and the next to be finished.
    next: u64,
    due: u64,
    /// The batch that is due has not come for long.
    stalled: bool,
}

/// A thread's end of the pool.
#[derive(Debug)]
pub struct CryptoThread<'u> {
    jobs: Receiver<Box<Away<'u>>>,
    done: Sender<Box<Away<'u>>>,
    state: Arc<CryptoState>,
    index: usize,
}

/// Tells the worker of a panic.
struct Guard<'s>(&'s CryptoState);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Release);
        }
    }
}

impl<'u> CryptoPool<'u> {
    /// A pool of `threads`, with their ends, each to be [run](CryptoThread::run) by a thread of its own.
    #[must_use]
    pub fn new(threads: usize) -> (Self, Vec<CryptoThread<'u>>) {
        Self::with_state(Arc::new(CryptoState::new(threads)))
    }

    pub(crate) fn with_state(state: Arc<CryptoState>) -> (Self, Vec<CryptoThread<'u>>) {
        let threads = state.turns.len();
        let depth = Self::depth(threads);
        // Every batch that there is finds room.
        let (jobs, waiting) = bounded(2 * depth);
        let (returned, done) = bounded(2 * depth);
        let ends = (0..threads).map(|index| CryptoThread {
            jobs: waiting.clone(),
            done: returned.clone(),
            state: Arc::clone(&state),
            index,
        });
        let ends = ends.collect();
        let pool = Self {
            jobs,
            waiting,
            done,
            lanes: [Way::Out, Way::In].map(|way| Lane::new(way, depth)),
            state,
        };
        (pool, ends)
    }

    /// Batches of each way that can be away.
    const fn depth(threads: usize) -> usize {
        4 + 2 * threads
    }

    /// Frames that can be away.
    pub(crate) const fn frames(threads: usize) -> usize {
        if threads == 0 {
            0
        } else {
            2 * Self::depth(threads) * BATCH
        }
    }

    /// Whether another batch can go that way.
    #[inline]
    pub(crate) fn has_room(&self, way: Way) -> bool {
        !self.lane(way).idle.is_empty()
    }

    /// Whether batches are away.
    #[inline]
    pub(crate) fn is_away(&self, way: Way) -> bool {
        let lane = self.lane(way);
        lane.next != lane.due
    }

    /// Whether nobody has come to wait for a batch in vain.
    pub(crate) fn is_moving(&self) -> bool {
        self.lanes.iter().all(|lane| !lane.stalled)
    }

    pub(crate) fn is_stalled(&self, way: Way) -> bool {
        self.lane(way).stalled
    }

    pub(crate) fn stall(&mut self, way: Way) {
        self.lane_mut(way).stalled = true;
    }

    /// Whether a thread has panicked, with whatever it had in its hands.
    #[inline]
    pub(crate) fn has_panicked(&self) -> bool {
        self.state.panicked.load(Ordering::Acquire)
    }

    /// A batch to be filled, if there is one.
    pub(crate) fn take(&mut self, way: Way) -> Option<Box<Away<'u>>> {
        self.lane_mut(way).idle.pop()
    }

    /// Takes a batch that was finished, or was never sent away.
    pub(crate) fn put(&mut self, batch: Box<Away<'u>>) {
        debug_assert!(batch.loans.is_empty());
        self.lane_mut(batch.way).idle.push(batch);
    }

    /// Sends a batch away.
    pub(crate) fn send(&mut self, mut batch: Box<Away<'u>>) {
        let lane = self.lane_mut(batch.way);
        batch.ticket = lane.next;
        lane.next += 1;
        if let Err(error) = self.jobs.try_send(batch) {
            // Not reached: there is room for all, and the other end is here.
            let mut batch = error.into_inner();
            batch.crypt();
            self.arrive(batch);
        }
    }

    /// Does a batch that waits: when there are more than the threads will take at once, or when there is nothing else to do.
    #[inline]
    pub(crate) fn help(&mut self, idle: bool) -> bool {
        let spared = if idle { 0 } else { self.state.turns.len() };
        if self.waiting.len() <= spared {
            return false;
        }
        let Ok(mut batch) = self.waiting.try_recv() else {
            return false;
        };
        batch.crypt();
        self.arrive(batch);
        true
    }

    /// Takes back what the threads have done.
    #[inline]
    pub(crate) fn gather(&mut self) {
        while let Ok(batch) = self.done.try_recv() {
            self.arrive(batch);
        }
    }

    /// The batch whose turn it is, if it is done.
    #[inline]
    pub(crate) fn take_due(&mut self, way: Way) -> Option<Box<Away<'u>>> {
        let lane = self.lane_mut(way);
        let place = lane.place(lane.due);
        let batch = lane.arrived[place].take()?;
        lane.due += 1;
        lane.stalled = false;
        Some(batch)
    }

    fn arrive(&mut self, batch: Box<Away<'u>>) {
        let lane = self.lane_mut(batch.way);
        let place = lane.place(batch.ticket);
        lane.arrived[place] = Some(batch);
    }

    #[inline]
    const fn lane(&self, way: Way) -> &Lane<'u> {
        &self.lanes[way as usize]
    }

    #[inline]
    const fn lane_mut(&mut self, way: Way) -> &mut Lane<'u> {
        &mut self.lanes[way as usize]
    }
}

impl Lane<'_> {
    fn new(way: Way, depth: usize) -> Self {
        Self {
            idle: (0..depth).map(|_| Box::new(Away::new(way))).collect(),
            arrived: (0..depth).map(|_| None).collect(),
            next: 0,
            due: 0,
            stalled: false,
        }
    }

    /// No two batches that are away have the same, since there are no more of them than places.
    fn place(&self, ticket: u64) -> usize {
        (ticket % self.arrived.len() as u64) as usize
    }
}

impl<'u> CryptoThread<'u> {
    /// Its number among the worker's.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Does batch after batch, until the pool is dropped.
    pub fn run(self) {
        let _guard = Guard(&self.state);
        while let Ok(batch) = self.next() {
            let Some(mut batch) = batch else { continue };
            batch.crypt();
            if self.done.send(batch).is_err() {
                return;
            }
        }
    }

    /// A batch that waits, as the thread has it while it works.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Option<Box<Away<'u>>> {
        self.jobs.try_recv().ok()
    }

    /// Does a batch and returns it.
    #[cfg(test)]
    pub(crate) fn hand_in(&self, mut batch: Box<Away<'u>>) {
        batch.crypt();
        self.done.send(batch).unwrap();
    }

    /// The next batch as soon as there is one, or nothing for once. A function of its own, so that tests find it in the program.
    ///
    /// # Errors
    /// The pool was dropped.
    #[inline(never)]
    fn next(&self) -> Result<Option<Box<Away<'u>>>, RecvError> {
        let start = Instant::now();
        loop {
            self.state.turns[self.index].0.add(1);
            match self.jobs.try_recv() {
                Ok(batch) => return Ok(Some(batch)),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) if start.elapsed() < SPIN => std::hint::spin_loop(),
                Err(TryRecvError::Empty) => break,
            }
        }
        match self.jobs.recv_timeout(LONGEST_SLEEP) {
            Ok(batch) => Ok(Some(batch)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RecvError),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{CryptoPool, CryptoState, Guard};

    #[test]
    fn the_worker_hears_of_a_panic_and_not_of_an_end() {
        let (pool, threads) = CryptoPool::new(2);
        for (thread, panics) in threads.into_iter().zip([false, true]) {
            let state: Arc<CryptoState> = Arc::clone(&thread.state);
            let ended = std::thread::spawn(move || {
                let _guard = Guard(&state);
                assert!(!panics, "on purpose");
            });
            assert_eq!(ended.join().is_err(), panics);
            assert_eq!(pool.has_panicked(), panics);
        }
    }

    #[test]
    fn a_thread_takes_turns_without_work_and_ends_with_the_pool() {
        let (pool, mut threads) = CryptoPool::new(1);
        let state = Arc::clone(&pool.state);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || threads.remove(0).run());
            while state.turns().sum::<u64>() < 2 {
                std::thread::yield_now();
            }
            assert!(!thread.is_finished());
            drop(pool);
            thread.join().unwrap();
        });
    }
}
