//! Rings: single producer, single consumer, one side ours and the other the kernel's (`net/xdp/xsk_queue.h`).
//!
//! A batch of entries is two plain slices, the second after the wrap-around (often empty), so nothing is called per
//! entry. Indices run freely through 32 bits; an index modulo the ring's size is the entry's place.

use std::io;
use std::mem::size_of;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::if_xdp::XDP_RING_NEED_WAKEUP;
use crate::syscall::{self, Mapping};

/// A ring that we fill: fill (chunk addresses) and transmit (descriptors).
#[derive(Debug)]
pub(crate) struct ProducerRing<T> {
    ring: Ring<T>,
    /// Next entry to write; ours, the shared copy follows on `submit`.
    producer: u32,
    /// What the kernel's index was when last looked at.
    consumer: u32,
}

/// A ring that the kernel fills: receive (descriptors) and completion (chunk addresses).
#[derive(Debug)]
pub(crate) struct ConsumerRing<T> {
    ring: Ring<T>,
    /// What the kernel's index was when last looked at.
    producer: u32,
    /// Next entry to read; ours, the shared copy follows on `release`.
    consumer: u32,
}

impl<T: Entry> ProducerRing<T> {
    /// Maps the ring of `size` entries of a socket that has not been bound.
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        place: libc::off_t,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Ok(Self {
            ring: Ring::map(socket, place, offsets, size)?,
            producer: 0,
            consumer: 0,
        })
    }

    /// Up to `wanted` entries that may be written, in order: the first slice, then the second.
    #[inline]
    pub(crate) fn reserve(&mut self, wanted: u32) -> (&mut [T], &mut [T]) {
        let mut free = self.free();
        if free < wanted {
            // Acquire: the kernel has read the entries that it hands back.
            self.consumer = self.ring.consumer().load(Ordering::Acquire);
            free = self.free();
        }
        let (start, first, second) = self.ring.split(self.producer, wanted.min(free));
        // SAFETY: places start..start + first and 0..second are within the entries and do not overlap (`split`); the
        // kernel reads none of them before `submit`; `&mut self` keeps us from handing them out twice.
        unsafe {
            (
                std::slice::from_raw_parts_mut(self.ring.entries.add(start).as_ptr(), first),
                std::slice::from_raw_parts_mut(self.ring.entries.as_ptr(), second),
            )
        }
    }

    /// Hands the first `count` reserved entries, all of them written, to the kernel.
    #[inline]
    pub(crate) fn submit(&mut self, count: u32) {
        debug_assert!(count <= self.free());
        self.producer = self.producer.wrapping_add(count);
        // Release: the entries are written before the kernel sees the index.
        self.ring.producer().store(self.producer, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet.
    #[inline]
    pub(crate) fn pending(&self) -> u32 {
        self.producer
            .wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
            .min(self.ring.size())
    }

    /// The entries that the kernel has not taken; for a ring whose socket is dead.
    pub(crate) fn abandoned(&self) -> impl Iterator<Item = T> {
        let pending = self.pending();
        let (start, first, second) = self.ring.split(self.producer.wrapping_sub(pending), pending);
        (start..start + first).chain(0..second).map(|place| {
            // SAFETY: the place is within the entries (`split`); we wrote it, and nobody writes it now.
            unsafe { self.ring.entries.add(place).read() }
        })
    }

    /// Whether the kernel wants a system call to go on.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & XDP_RING_NEED_WAKEUP != 0
    }

    fn free(&self) -> u32 {
        // A kernel index that runs ahead of ours gives a huge difference: no room.
        self.ring
            .size()
            .saturating_sub(self.producer.wrapping_sub(self.consumer))
    }
}

impl<T: Entry> ConsumerRing<T> {
    /// Maps the ring of `size` entries of a socket that has not been bound.
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        place: libc::off_t,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        Ok(Self {
            ring: Ring::map(socket, place, offsets, size)?,
            producer: 0,
            consumer: 0,
        })
    }

    /// Up to `wanted` entries that have arrived, in order: the first slice, then the second.
    #[inline]
    pub(crate) fn peek(&mut self, wanted: u32) -> (&[T], &[T]) {
        let mut available = self.available();
        if available < wanted {
            // Acquire: the kernel wrote the entries before it moved the index.
            self.producer = self.ring.producer().load(Ordering::Acquire);
            available = self.available();
        }
        let (start, first, second) = self.ring.split(self.consumer, wanted.min(available));
        // SAFETY: places start..start + first and 0..second are within the entries (`split`); the kernel writes none of
        // them before `release`, which needs `&mut self`.
        unsafe {
            (
                std::slice::from_raw_parts(self.ring.entries.add(start).as_ptr(), first),
                std::slice::from_raw_parts(self.ring.entries.as_ptr(), second),
            )
        }
    }

    /// Returns the first `count` entries seen by `peek` to the kernel.
    #[inline]
    pub(crate) fn release(&mut self, count: u32) {
        debug_assert!(count <= self.available());
        self.consumer = self.consumer.wrapping_add(count);
        // Release: the entries are read before the kernel may write them again.
        self.ring.consumer().store(self.consumer, Ordering::Release);
    }

    fn available(&self) -> u32 {
        // The kernel never runs more than the ring's size ahead; if it did, the bound still holds.
        self.producer.wrapping_sub(self.consumer).min(self.ring.size())
    }
}

/// What a ring may hold: plain data of which any bytes are a value.
///
/// # Safety
/// Any bytes are a valid value, and there is no padding.
pub(crate) unsafe trait Entry: Copy {}

// SAFETY: an integer.
unsafe impl Entry for u64 {}

// SAFETY: integers, without padding (asserted to be as large as their sum in `if_xdp`).
unsafe impl Entry for crate::if_xdp::Descriptor {}

/// The shared memory of one ring.
#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    _memory: Memory,
}

/// Keeps the memory alive that a ring points into.
#[derive(Debug)]
enum Memory {
    Mapped(#[expect(dead_code, reason = "held for its Drop")] Mapping),
    #[cfg(test)]
    Heap(#[expect(dead_code, reason = "held for its Drop")] std::rc::Rc<tests::HeapRing>),
}

impl<T: Entry> Ring<T> {
    fn map(
        socket: BorrowedFd<'_>,
        place: libc::off_t,
        offsets: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        assert!(
            size.is_power_of_two(),
            "ring sizes are checked when a port is opened"
        );
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let entries = usize::try_from(offsets.desc).map_err(|_| invalid())?;
        let bytes = (size as usize)
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(entries))
            .filter(|_| entries % align_of::<T>() == 0)
            .ok_or_else(invalid)?;
        let memory = syscall::map_ring(socket, bytes, place)?;
        let start = memory.start();
        let word = |offset: u64| -> io::Result<NonNull<AtomicU32>> {
            let offset = usize::try_from(offset)
                .ok()
                .filter(|offset| *offset <= memory.len() - 4 && offset % align_of::<AtomicU32>() == 0)
                .ok_or_else(invalid)?;
            // SAFETY: within the mapping and aligned, as just checked (a mapping starts at a page).
            Ok(unsafe { start.add(offset) }.cast())
        };
        let (producer, consumer, flags) = (
            word(offsets.producer)?,
            word(offsets.consumer)?,
            word(offsets.flags)?,
        );
        // SAFETY: `entries` bytes into a mapping of `entries` + the entries.
        let entries = unsafe { start.add(entries) }.cast();
        Ok(Self {
            producer,
            consumer,
            flags,
            entries,
            mask: size - 1,
            _memory: Memory::Mapped(memory),
        })
    }

    fn size(&self) -> u32 {
        self.mask + 1
    }

    /// Places of `count` entries (at most the ring's size) from index `from` on: (start, length) and, from 0, (length).
    fn split(&self, from: u32, count: u32) -> (usize, usize, usize) {
        let start = from & self.mask;
        let first = count.min(self.size() - start);
        (start as usize, first as usize, (count - first) as usize)
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: valid as long as `_memory`; the kernel accesses it atomically as well.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;

    /// A ring on the heap, both ends of which are ours.
    #[derive(Debug)]
    pub(super) struct HeapRing {
        producer: AtomicU32,
        consumer: AtomicU32,
        flags: AtomicU32,
        entries: Box<[UnsafeCell<u64>]>,
    }

    /// Both ends, with indices that start at `from`.
    fn pair(size: u32, from: u32) -> (ProducerRing<u64>, ConsumerRing<u64>, Rc<HeapRing>) {
        let heap = Rc::new(HeapRing {
            producer: AtomicU32::new(from),
            consumer: AtomicU32::new(from),
            flags: AtomicU32::new(0),
            entries: (0..size).map(|_| UnsafeCell::new(u64::MAX)).collect(),
        });
        let ring = || Ring {
            producer: NonNull::from(&heap.producer),
            consumer: NonNull::from(&heap.consumer),
            flags: NonNull::from(&heap.flags),
            // UnsafeCell<u64> has the layout of u64.
            entries: NonNull::from(&*heap.entries).cast(),
            mask: size - 1,
            _memory: Memory::Heap(Rc::clone(&heap)),
        };
        let producer = ProducerRing {
            ring: ring(),
            producer: from,
            consumer: from,
        };
        let consumer = ConsumerRing {
            ring: ring(),
            producer: from,
            consumer: from,
        };
        (producer, consumer, heap)
    }

    fn put(ring: &mut ProducerRing<u64>, values: &[u64]) -> usize {
        let (first, second) = ring.reserve(values.len() as u32);
        let mut count = 0;
        for (slot, value) in first.iter_mut().chain(second).zip(values) {
            *slot = *value;
            count += 1;
        }
        ring.submit(count);
        count as usize
    }

    fn take(ring: &mut ConsumerRing<u64>, wanted: u32) -> Vec<u64> {
        let (first, second) = ring.peek(wanted);
        let values = [first, second].concat();
        ring.release(values.len() as u32);
        values
    }

    #[test]
    fn full_and_empty() {
        let (mut producer, mut consumer, _) = pair(4, 0);
        assert!(take(&mut consumer, 4).is_empty());
        assert_eq!(put(&mut producer, &[1, 2, 3, 4, 5]), 4);
        assert_eq!(put(&mut producer, &[6]), 0);
        assert_eq!(producer.pending(), 4);
        assert_eq!(take(&mut consumer, 3), [1, 2, 3]);
        assert_eq!(put(&mut producer, &[6, 7, 8, 9]), 3);
        assert_eq!(take(&mut consumer, 9), [4, 6, 7, 8]);
        assert_eq!(producer.pending(), 0);
    }

    #[test]
    fn wrap_around_gives_two_slices() {
        let (mut producer, mut consumer, _) = pair(4, 3);
        put(&mut producer, &[1, 2, 3]);
        let (first, second) = consumer.peek(4);
        assert_eq!((first, second), (&[1][..], &[2, 3][..]));
        assert_eq!(producer.abandoned().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn peeking_does_not_consume() {
        let (mut producer, mut consumer, _) = pair(4, 0);
        put(&mut producer, &[1, 2]);
        assert_eq!(consumer.peek(4).0, [1, 2]);
        assert_eq!(consumer.peek(1).0, [1]);
        consumer.release(1);
        assert_eq!(consumer.peek(4).0, [2]);
        assert_eq!(producer.pending(), 1);
    }

    #[test]
    fn nothing_is_seen_before_submit() {
        let (mut producer, mut consumer, _) = pair(4, 0);
        producer.reserve(2).0.fill(9);
        assert!(consumer.peek(4).0.is_empty());
    }

    #[test]
    fn lying_indices_stay_within_the_ring() {
        let (mut producer, mut consumer, heap) = pair(4, 0);
        heap.producer.store(1 << 31, Ordering::Relaxed);
        let (first, second) = consumer.peek(100);
        assert_eq!(first.len() + second.len(), 4);
        heap.consumer.store(7, Ordering::Relaxed);
        assert_eq!(
            producer.reserve(4).0.len(),
            4,
            "enough room was known before the lie"
        );
        producer.submit(4);
        heap.consumer.store(9, Ordering::Relaxed);
        let (first, second) = producer.reserve(4);
        assert_eq!(first.len() + second.len(), 0);
        assert!(producer.pending() <= 4);
        assert!(producer.abandoned().count() <= 4);
    }

    #[test]
    fn wakeup_flag() {
        let (producer, _, heap) = pair(4, 0);
        assert!(!producer.needs_wakeup());
        heap.flags.store(XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }

    proptest! {
        /// Against a bounded `VecDeque`, also across the wrap-around of the 32-bit indices.
        #[test]
        fn ring_is_a_bounded_queue(
            shift in 0..6u32,
            from in prop_oneof![Just(0), Just(u32::MAX - 5), any::<u32>()],
            moves in prop::collection::vec((any::<bool>(), 0..20u32), 0..100),
        ) {
            let size = 1 << shift;
            let (mut producer, mut consumer, _) = pair(size, from);
            let mut model = VecDeque::new();
            let mut next = 0..;
            for (put_some, count) in moves {
                if put_some {
                    let values: Vec<u64> = next.by_ref().take(count as usize).collect();
                    let stored = put(&mut producer, &values);
                    prop_assert_eq!(stored, (count as usize).min(size as usize - model.len()));
                    model.extend(&values[..stored]);
                } else {
                    let count = (count as usize).min(model.len());
                    prop_assert_eq!(take(&mut consumer, count as u32), model.drain(..count).collect::<Vec<_>>());
                }
                prop_assert_eq!(producer.pending() as usize, model.len());
                prop_assert_eq!(producer.abandoned().collect::<Vec<_>>(), Vec::from(model.clone()));
            }
        }
    }
}
