//! Sequence numbers that can be used only once.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers reserved at a time in a [`Reservation`]: what a crash of the process costs at most.
pub const RESERVATION: u64 = 1 << 16;

/// Memory that outlives the process, though perhaps not the machine: which numbers may have been given out.
pub trait Reservation: Debug + Send + Sync {
    /// Remembers that numbers up to and including `highest` may be used. Never lowers what was remembered. It is called by
    /// whoever seals, so it makes no system call and takes no lock.
    fn reserve(&self, highest: u64);
}

/// Where a counter begins, and what it tells about its progress. From a number alone: nothing is told.
#[derive(Clone, Debug)]
pub struct SequenceStart {
    /// The highest number that may have been used; 0 for a new key.
    pub last_used: u64,
    /// What remembers, next to what [`SequenceCounter::raise_ceiling`] stands for, which numbers may have been used.
    pub reservation: Option<Arc<dyn Reservation>>,
}

impl From<u64> for SequenceStart {
    fn from(last_used: u64) -> Self {
        Self {
            last_used,
            reservation: None,
        }
    }
}

/// One reserved sequence number. Not `Clone`: whoever holds it is the only one to use it.
#[derive(Debug, PartialEq, Eq)]
pub struct SequenceNumber(u64);

impl SequenceNumber {
    /// Uses the number up.
    #[must_use]
    pub fn into_value(self) -> u64 {
        self.0
    }
}

/// A run of reserved sequence numbers, given out one by one. Numbers left over are lost, never used again.
#[derive(Debug)]
#[must_use = "dropping reserved numbers wastes them"]
pub struct SequenceNumbers {
    // Both inclusive of what is left: the next number is last - left + 1.
    last: u64,
    left: u32,
}

impl SequenceNumbers {
    /// How many are left.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.left
    }
}

impl Iterator for SequenceNumbers {
    type Item = SequenceNumber;

    fn next(&mut self) -> Option<SequenceNumber> {
        let value = self.last - u64::from(self.left.checked_sub(1)?);
        self.left -= 1;
        Some(SequenceNumber(value))
    }
}

/// Where an outbound SA's sequence numbers come from.
///
/// Each number is also the AES-GCM nonce's variable part, so using one twice under a key breaks the cipher. Therefore:
/// - numbers only go up, for any number of callers at once, and stop at the end of the space (RFC 4303 section 3.3.3:
///   "the sender MUST NOT send a packet on an SA if doing so would cause the sequence number to cycle");
/// - none may be used beyond the *ceiling*, the highest number recorded durably as used. After a crash the SA is built
///   again with that mark as `last_used`, so what was sent in between cannot be sent again. A new counter's ceiling is
///   `last_used` itself: nothing can be sent before somebody has recorded a mark and raised it;
/// - with a [`Reservation`], none may be used either before it remembers so: [`RESERVATION`] numbers at a time, by whoever
///   needs them. It costs nothing to ask, so the next process can go on closer to where the last one ended.
#[derive(Debug)]
pub struct SequenceCounter {
    /// The highest number given out. Invariant: last <= ceiling <= limit.
    last: AtomicU64,
    /// The highest number that may be given out.
    ceiling: AtomicU64,
    /// What is not looked at as long as there are numbers, and so is not to take room beside what is written all the time.
    bounds: Box<Bounds>,
}

/// What holds the ceiling down.
#[derive(Debug)]
struct Bounds {
    /// The highest number there is: 2^32 - 1, or 2^64 - 1 with extended sequence numbers, or less.
    limit: u64,
    /// With a reservation: the highest number that is recorded durably. Invariant: ceiling <= durable.
    durable: AtomicU64,
    reservation: Option<Arc<dyn Reservation>>,
}

impl SequenceCounter {
    /// A counter that goes on after what was used (0 for a new SA); a mark beyond the number space exhausts it at once.
    #[must_use]
    pub fn new(extended: bool, start: impl Into<SequenceStart>) -> Self {
        Self::limited(extended, start.into(), u64::MAX)
    }

    /// The same, but `most` is the highest number, if it is not beyond the space.
    pub(crate) fn limited(extended: bool, start: SequenceStart, most: u64) -> Self {
        let SequenceStart {
            last_used,
            reservation,
        } = start;
        let space = Self::limit_of(extended);
        let last = last_used.min(space);
        // What was used before was used: the counter stands there and gives nothing out.
        let limit = most.min(space).max(last);
        Self {
            last: AtomicU64::new(last),
            ceiling: AtomicU64::new(last),
            bounds: Box::new(Bounds {
                limit,
                durable: AtomicU64::new(last),
                reservation,
            }),
        }
    }

    /// The highest number of an SA with or without extended sequence numbers (RFC 4303 section 2.2.1).
    #[must_use]
    pub const fn limit_of(extended: bool) -> u64 {
        if extended { u64::MAX } else { u32::MAX as u64 }
    }

    /// The highest number of this counter.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.bounds.limit
    }

    /// Permits numbers up to and including `ceiling`, which the caller has recorded durably. Never lowers it, and never
    /// passes the end of the number space.
    pub fn raise_ceiling(&self, ceiling: u64) {
        // Release pairs with the Acquire below: whoever sees the ceiling also sees that the mark was recorded.
        let held = match self.bounds.reservation {
            Some(_) => &self.bounds.durable,
            None => &self.ceiling,
        };
        held.fetch_max(ceiling.min(self.bounds.limit), Ordering::Release);
    }

    /// Reserves exactly `count` numbers, or none.
    #[must_use]
    pub fn reserve(&self, count: u32) -> Option<SequenceNumbers> {
        self.take(count, count)
    }

    /// Reserves as many of `count` numbers as there are, perhaps none.
    pub fn reserve_up_to(&self, count: u32) -> SequenceNumbers {
        self.take(0, count)
            .unwrap_or(SequenceNumbers { last: 0, left: 0 })
    }

    /// Takes `most` numbers, or what is free if that is at least `least`.
    fn take(&self, least: u32, most: u32) -> Option<SequenceNumbers> {
        // The ceiling only rises, so an old one is at worst too careful. The exchange succeeds only if nobody has
        // taken numbers since `last` was read, which makes the taken range this caller's alone; a failed attempt
        // changes nothing.
        let mut ceiling = self.ceiling.load(Ordering::Acquire);
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            if ceiling.saturating_sub(last) < u64::from(most) {
                ceiling = self.reserve_up_to_number(last.saturating_add(u64::from(most)));
            }
            let free = u32::try_from(ceiling.saturating_sub(last)).unwrap_or(u32::MAX);
            if free < least {
                return None;
            }
            let count = free.min(most);
            let taken = last + u64::from(count);
            match self
                .last
                .compare_exchange_weak(last, taken, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    return Some(SequenceNumbers {
                        last: taken,
                        left: count,
                    });
                }
                Err(seen) => last = seen,
            }
        }
    }

    /// Has the reservation remember that numbers up to `wanted` and some more may be used, if they are durable; returns the
    /// ceiling.
    #[cold]
    fn reserve_up_to_number(&self, wanted: u64) -> u64 {
        let Bounds {
            durable, reservation, ..
        } = &*self.bounds;
        if let Some(reservation) = reservation {
            let highest = wanted
                .saturating_add(RESERVATION)
                .min(durable.load(Ordering::Acquire));
            if highest > self.ceiling.load(Ordering::Relaxed) {
                // Before the ceiling, and with it before any of the numbers.
                reservation.reserve(highest);
                self.ceiling.fetch_max(highest, Ordering::Release);
            }
        }
        self.ceiling.load(Ordering::Acquire)
    }

    /// The highest number given out so far; 0 if none.
    #[must_use]
    pub fn last_used(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// The highest number that may be given out before the next reservation.
    #[must_use]
    pub fn ceiling(&self) -> u64 {
        self.ceiling.load(Ordering::Relaxed)
    }

    /// Whether the numbers are used up for good. The SA must be replaced; raising the ceiling does not help.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.last_used() == self.bounds.limit
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{RESERVATION, Reservation, SequenceCounter, SequenceStart};

    #[derive(Debug, Default)]
    struct Memory(AtomicU64);

    impl Reservation for Memory {
        fn reserve(&self, highest: u64) {
            self.0.fetch_max(highest, Ordering::Release);
        }
    }

    fn remembering(last_used: u64) -> (SequenceCounter, Arc<Memory>) {
        let memory = Arc::new(Memory::default());
        let start = SequenceStart {
            last_used,
            reservation: Some(Arc::clone(&memory) as _),
        };
        (SequenceCounter::new(true, start), memory)
    }

    fn values(numbers: impl Iterator<Item = super::SequenceNumber>) -> Vec<u64> {
        numbers.map(super::SequenceNumber::into_value).collect()
    }

    #[test]
    fn nothing_before_the_ceiling_is_raised() {
        let counter = SequenceCounter::new(false, 0);
        assert!(counter.reserve(1).is_none());
        counter.raise_ceiling(2);
        assert_eq!(counter.reserve(2).map(values), Some(vec![1, 2]));
        assert!(counter.reserve(1).is_none());
    }

    #[test]
    fn a_failed_reservation_takes_nothing() {
        let counter = SequenceCounter::new(false, 0);
        counter.raise_ceiling(10);
        assert!(counter.reserve(11).is_none());
        assert_eq!(counter.last_used(), 0);
        assert_eq!(values(counter.reserve_up_to(11)), (1..=10).collect::<Vec<_>>());
        assert_eq!(counter.reserve_up_to(11).remaining(), 0);
    }

    #[test]
    fn the_ceiling_never_falls() {
        let counter = SequenceCounter::new(true, 5);
        counter.raise_ceiling(9);
        counter.raise_ceiling(7);
        assert_eq!(counter.ceiling(), 9);
        assert_eq!(counter.reserve(1).map(values), Some(vec![6]));
    }

    #[test]
    fn stops_at_the_end_of_the_space() {
        for (extended, limit) in [(false, u64::from(u32::MAX)), (true, u64::MAX)] {
            let counter = SequenceCounter::new(extended, limit - 3);
            counter.raise_ceiling(u64::MAX);
            assert_eq!(counter.reserve(2).map(values), Some(vec![limit - 2, limit - 1]));
            assert!(counter.reserve(2).is_none());
            assert!(!counter.is_exhausted());
            assert_eq!(counter.reserve(1).map(values), Some(vec![limit]));
            assert!(counter.is_exhausted());
            counter.raise_ceiling(u64::MAX);
            assert!(counter.reserve(1).is_none());
            assert_eq!(counter.last_used(), limit);
        }
    }

    #[test]
    fn a_limited_counter_stops_early_and_never_goes_back() {
        let counter = SequenceCounter::limited(true, 5.into(), 8);
        counter.raise_ceiling(u64::MAX);
        assert_eq!((counter.limit(), counter.ceiling()), (8, 8));
        assert_eq!(values(counter.reserve_up_to(10)), [6, 7, 8]);
        assert!(counter.is_exhausted());
        let counter = SequenceCounter::limited(true, 9.into(), 8);
        counter.raise_ceiling(u64::MAX);
        assert_eq!((counter.last_used(), counter.is_exhausted()), (9, true));
        assert!(counter.reserve(1).is_none());
        assert_eq!(
            SequenceCounter::limited(false, 0.into(), 1 << 40).limit(),
            u64::from(u32::MAX)
        );
    }

    #[test]
    fn a_mark_beyond_the_space_exhausts_the_counter() {
        let counter = SequenceCounter::new(false, 1 << 40);
        counter.raise_ceiling(u64::MAX);
        assert!(counter.is_exhausted());
        assert!(counter.reserve(1).is_none());
    }

    #[test]
    fn what_is_given_out_is_remembered_before() {
        let (counter, memory) = remembering(7);
        assert!(counter.reserve(1).is_none(), "nothing is durable");
        counter.raise_ceiling(7 + 3 * RESERVATION);
        let mut last = 7;
        for size in [1, 64, 1, 60_000, 40_000, 3].into_iter().cycle().take(60) {
            let numbers = values(counter.reserve_up_to(size));
            assert!(numbers.first().is_none_or(|first| *first == last + 1));
            last = numbers.last().copied().unwrap_or(last);
            let remembered = memory.0.load(Ordering::Acquire);
            assert!(
                last <= remembered,
                "{last} was given out, {remembered} remembered"
            );
            assert!(
                remembered <= last + u64::from(size) + RESERVATION,
                "too many at a time"
            );
        }
        assert_eq!(last, 7 + 3 * RESERVATION, "all that is durable, and no more");
    }

    #[test]
    fn concurrent_callers_never_share_a_number() {
        for (counter, memory) in [(SequenceCounter::new(false, 0), None), {
            let (counter, memory) = remembering(0);
            (counter, Some(memory))
        }] {
            share_out(&counter, memory.as_deref());
        }
    }

    fn share_out(counter: &SequenceCounter, memory: Option<&Memory>) {
        const END: u64 = 200_000;
        let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let taker = |size: u32| {
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    while !(counter.ceiling() == END && counter.last_used() == END) {
                        let before = mine.last().copied().unwrap_or(0);
                        let numbers = values(counter.reserve_up_to(size));
                        assert!(
                            numbers.first().is_none_or(|first| *first > before),
                            "numbers only go up"
                        );
                        assert!(numbers.last().is_none_or(|last| *last <= counter.ceiling()));
                        let remembered = memory.map_or(u64::MAX, |memory| memory.0.load(Ordering::Acquire));
                        assert!(numbers.last().is_none_or(|last| *last <= remembered));
                        mine.extend(numbers);
                    }
                    mine
                })
            };
            let takers = [1, 3, 32, 64].map(taker);
            for ceiling in (0..=END).step_by(1000) {
                counter.raise_ceiling(ceiling);
            }
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        let all: HashSet<u64> = taken.iter().flatten().copied().collect();
        assert_eq!(
            all.len(),
            taken.iter().map(Vec::len).sum::<usize>(),
            "a number was given out twice"
        );
        assert_eq!(all, (1..=END).collect());
    }
}
