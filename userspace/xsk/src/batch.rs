//! A batch of frames on its way through the engine.

use arrayvec::ArrayVec;

use crate::Frame;

/// Frames that a [`Batch`] holds at most.
pub const BATCH: usize = 64;

/// Up to [`BATCH`] frames, in order, without allocation.
///
/// It is a slice of frames (`Deref`), so `iter`, `iter_mut`, `len`, `split_at_mut`, … are there. Frames left in a batch
/// that is dropped return to the free list.
#[derive(Debug, Default)]
pub struct Batch<'u> {
    frames: ArrayVec<Frame<'u>, BATCH>,
}

/// The batch was full; here is the frame back.
#[derive(Debug, thiserror::Error)]
#[error("the batch holds {BATCH} frames already")]
pub struct BatchFull<'u>(pub Frame<'u>);

impl<'u> Batch<'u> {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            frames: ArrayVec::new(),
        }
    }

    /// Frames that can still be pushed.
    #[must_use]
    pub fn room(&self) -> usize {
        self.frames.remaining_capacity()
    }

    /// Whether no frame can be pushed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.frames.is_full()
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`BatchFull`], which hands the frame back.
    pub fn push(&mut self, frame: Frame<'u>) -> Result<(), BatchFull<'u>> {
        self.frames
            .try_push(frame)
            .map_err(|full| BatchFull(full.element()))
    }

    /// Takes the last frame.
    pub fn pop(&mut self) -> Option<Frame<'u>> {
        self.frames.pop()
    }

    /// Takes the frame at `index`, or nothing if there is none; the last frame takes its place, so the order changes.
    pub fn swap_remove(&mut self, index: usize) -> Option<Frame<'u>> {
        self.frames.swap_pop(index)
    }

    /// Takes the first `count` frames (all if there are fewer), in order; those not consumed are dropped.
    pub fn drain_front(&mut self, count: usize) -> impl ExactSizeIterator<Item = Frame<'u>> {
        let count = count.min(self.frames.len());
        self.frames.drain(..count)
    }

    /// Takes all frames, in order; those not consumed are dropped.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = Frame<'u>> {
        self.frames.drain(..)
    }

    /// Keeps the frames for which `keep` says so and drops the others; the order stays.
    pub fn retain(&mut self, keep: impl FnMut(&mut Frame<'u>) -> bool) {
        self.frames.retain(keep);
    }

    /// Moves frames from the front of `other` to the end of this batch until one of the two is exhausted; returns how
    /// many.
    pub fn append_from(&mut self, other: &mut Self) -> usize {
        let count = self.room().min(other.len());
        self.frames.extend(other.frames.drain(..count));
        count
    }

    /// Drops all frames: their chunks return to the free list.
    pub fn clear(&mut self) {
        self.frames.clear();
    }
}

impl<'u> std::ops::Deref for Batch<'u> {
    type Target = [Frame<'u>];

    fn deref(&self) -> &Self::Target {
        &self.frames
    }
}

impl std::ops::DerefMut for Batch<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.frames
    }
}

impl<'u> IntoIterator for Batch<'u> {
    type Item = Frame<'u>;
    type IntoIter = arrayvec::IntoIter<Frame<'u>, BATCH>;

    fn into_iter(self) -> Self::IntoIter {
        self.frames.into_iter()
    }
}

impl<'b, 'u> IntoIterator for &'b Batch<'u> {
    type Item = &'b Frame<'u>;
    type IntoIter = std::slice::Iter<'b, Frame<'u>>;

    fn into_iter(self) -> Self::IntoIter {
        self.frames.iter()
    }
}

impl<'b, 'u> IntoIterator for &'b mut Batch<'u> {
    type Item = &'b mut Frame<'u>;
    type IntoIter = std::slice::IterMut<'b, Frame<'u>>;

    fn into_iter(self) -> Self::IntoIter {
        self.frames.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Umem, UmemOptions};

    fn umem() -> Umem {
        Umem::new(&UmemOptions {
            frame_count: 80,
            ..UmemOptions::default()
        })
        .unwrap()
    }

    fn numbered<'u>(umem: &'u Umem, numbers: std::ops::Range<u8>) -> Batch<'u> {
        let mut batch = Batch::new();
        for number in numbers {
            let mut frame = umem.frame().unwrap();
            frame.append(1).unwrap()[0] = number;
            batch.push(frame).unwrap();
        }
        batch
    }

    fn numbers(batch: &Batch<'_>) -> Vec<u8> {
        batch.iter().map(|frame| frame.data()[0]).collect()
    }

    #[test]
    fn full_batch_hands_the_frame_back() {
        let umem = umem();
        let mut batch = numbered(&umem, 0..64);
        assert!(batch.is_full());
        let BatchFull(frame) = batch.push(umem.frame().unwrap()).unwrap_err();
        drop(frame);
        assert_eq!(umem.counts().held, 64);
        drop(batch);
        assert_eq!(umem.counts().free, 80);
    }

    #[test]
    fn moves_keep_the_order() {
        let umem = umem();
        let mut first = numbered(&umem, 0..60);
        let mut second = numbered(&umem, 60..70);
        assert_eq!(first.append_from(&mut second), 4);
        assert_eq!(numbers(&first), (0..64).collect::<Vec<_>>());
        assert_eq!(numbers(&second), (64..70).collect::<Vec<_>>());
        first.drain_front(60).for_each(drop);
        assert_eq!(numbers(&first), [60, 61, 62, 63]);
        first.retain(|frame| frame.data()[0] % 2 == 0);
        assert_eq!(numbers(&first), [60, 62]);
        assert!(first.swap_remove(2).is_none());
        assert_eq!(umem.counts().held, 8);
    }
}
