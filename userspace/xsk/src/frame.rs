//! The right to read and write one chunk, or one large frame.

use std::fmt;
use std::mem::ManuallyDrop;

use crate::Umem;

/// One packet in one chunk of a [`Umem`], or in a large frame: a token that can only be moved.
///
/// The packet's bytes are `start..end` of the chunk; the bytes in front are headroom, those behind are tailroom, and
/// either is taken by [`prepend`](Self::prepend) and [`append`](Self::append) without a copy. Bytes that become part
/// of the packet hold whatever was there before: the caller writes them.
///
/// Sending a frame ([`Port::tx`](crate::Port::tx)) gives it away; dropping it returns the chunk to the free list. It
/// cannot outlive its UMEM and cannot leave the thread:
///
/// ```compile_fail,E0597
/// let frame = {
///     let umem = ravelin_xsk::Umem::new(&Default::default()).unwrap();
///     umem.frame()
/// };
/// drop(frame);
/// ```
///
/// ```compile_fail,E0277
/// # let umem = ravelin_xsk::Umem::new(&Default::default()).unwrap();
/// let frame = umem.frame().unwrap();
/// std::thread::scope(|scope| { scope.spawn(move || drop(frame)); });
/// ```
///
/// ```compile_fail,E0382
/// # let umem = ravelin_xsk::Umem::new(&Default::default()).unwrap();
/// let mut batch = ravelin_xsk::Batch::new();
/// let mut frame = umem.frame().unwrap();
/// batch.push(frame).unwrap();
/// frame.data_mut();
/// ```
pub struct Frame<'u> {
    umem: &'u Umem,
    chunk: u32,
    // Frames have at most 16384 bytes.
    start: u16,
    end: u16,
}

const _: () = assert!(size_of::<Frame<'_>>() == 16);
const _: () = assert!(size_of::<Option<Frame<'_>>>() == 16);

/// The chunk has no room for what was asked, or the packet is shorter than that. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Less room in front of the packet than asked for.
    #[error("{wanted} bytes wanted in front of the packet, {available} available")]
    NoHeadroom {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes in front of the packet.
        available: usize,
    },
    /// Less room behind the packet than asked for.
    #[error("{wanted} bytes wanted behind the packet, {available} available")]
    NoTailroom {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes behind the packet.
        available: usize,
    },
    /// The packet is shorter than what was to be cut.
    #[error("{wanted} bytes wanted of a packet of {available}")]
    TooShort {
        /// Bytes asked for.
        wanted: usize,
        /// Length of the packet.
        available: usize,
    },
    /// Not a range within the chunk.
    #[error("range {start}..{end} is not within the chunk")]
    BadRange {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
    },
}

impl<'u> Frame<'u> {
    /// # Safety
    /// The ledger of `umem` has just recorded `chunk` as held, and no other `Frame` for it exists;
    /// `start <= end <= umem.size_from(chunk)`.
    pub(crate) unsafe fn new(umem: &'u Umem, chunk: u32, start: u16, end: u16) -> Self {
        debug_assert!(start <= end && usize::from(end) <= umem.size_from(chunk));
        Self {
            umem,
            chunk,
            start,
            end,
        }
    }

    /// Gives up the frame without returning its chunk; the caller records the new owner. (chunk, start, end)
    pub(crate) fn into_parts(self) -> (u32, u16, u16) {
        let frame = ManuallyDrop::new(self);
        (frame.chunk, frame.start, frame.end)
    }

    /// The memory that it is of.
    pub(crate) fn umem(&self) -> &'u Umem {
        self.umem
    }

    /// Whether the frame is a chunk of `umem`.
    #[must_use]
    pub fn belongs_to(&self, umem: &Umem) -> bool {
        std::ptr::eq(self.umem, umem)
    }

    /// Length of the packet in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.end - self.start)
    }

    /// Whether the packet has no bytes, as in a frame fresh from [`Umem::frame`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes in front of the packet; at least 256 in a received frame.
    #[must_use]
    pub fn headroom(&self) -> usize {
        usize::from(self.start)
    }

    /// Bytes behind the packet.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.size() - usize::from(self.end)
    }

    /// Whether it is one for packets of several chunks.
    #[must_use]
    #[inline]
    pub fn is_large(&self) -> bool {
        self.umem.is_large(self.chunk)
    }

    /// Chunks that the packet takes on its way through the kernel, if it stands in each from `start` on.
    #[inline]
    pub(crate) fn pieces(&self, start: usize) -> usize {
        self.len()
            .div_ceil(self.umem.frame_size().saturating_sub(start).max(1))
            .max(1)
    }

    /// The packet.
    #[must_use]
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.chunk()[usize::from(self.start)..usize::from(self.end)]
    }

    /// The packet, to be changed.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (start, end) = (usize::from(self.start), usize::from(self.end));
        &mut self.chunk_slice()[start..end]
    }

    /// The `len` bytes directly in front of the packet, if there are as many.
    ///
    /// In a received frame the kernel puts there what the XDP program wrote to `data_meta` (`xsk_copy_xdp` in
    /// `net/xdp/xsk.c`). It does not say how much that was: without metadata these are bytes of an earlier packet, so
    /// the caller must know that the program always writes it.
    #[must_use]
    #[inline]
    pub fn metadata(&self, len: usize) -> Option<&[u8]> {
        let start = usize::from(self.start);
        self.chunk().get(start.checked_sub(len)?..start)
    }

    /// Extends the packet by `len` bytes in front; returns them, to be written.
    ///
    /// # Errors
    /// [`FrameError::NoHeadroom`]; the frame is unchanged.
    #[inline]
    pub fn prepend(&mut self, len: usize) -> Result<&mut [u8], FrameError> {
        let available = self.headroom();
        let Some(start) = available.checked_sub(len) else {
            return Err(FrameError::NoHeadroom {
                wanted: len,
                available,
            });
        };
        // Below the old start, hence below 2^16.
        self.start = start as u16;
        Ok(&mut self.chunk_slice()[start..start + len])
    }

    /// Cuts `len` bytes off the front of the packet.
    ///
    /// # Errors
    /// [`FrameError::TooShort`]; the frame is unchanged.
    #[inline]
    pub fn trim_front(&mut self, len: usize) -> Result<(), FrameError> {
        if len > self.len() {
            return Err(FrameError::TooShort {
                wanted: len,
                available: self.len(),
            });
        }
        // At most `end`, hence below 2^16.
        self.start += len as u16;
        Ok(())
    }

    /// Extends the packet by `len` bytes behind; returns them, to be written.
    ///
    /// # Errors
    /// [`FrameError::NoTailroom`]; the frame is unchanged.
    #[inline]
    pub fn append(&mut self, len: usize) -> Result<&mut [u8], FrameError> {
        let available = self.tailroom();
        if len > available {
            return Err(FrameError::NoTailroom {
                wanted: len,
                available,
            });
        }
        let end = usize::from(self.end);
        // At most the frame's size, hence below 2^16.
        self.end = (end + len) as u16;
        Ok(&mut self.chunk_slice()[end..end + len])
    }

    /// Cuts the packet's tail so that `len` bytes remain.
    ///
    /// # Errors
    /// [`FrameError::TooShort`] if it has fewer; the frame is unchanged.
    #[inline]
    pub fn truncate(&mut self, len: usize) -> Result<(), FrameError> {
        if len > self.len() {
            return Err(FrameError::TooShort {
                wanted: len,
                available: self.len(),
            });
        }
        // At most the old end, hence below 2^16.
        self.end = self.start + len as u16;
        Ok(())
    }

    /// The whole chunk and the packet's range in it, for code that moves both ends itself: (chunk, start, end). Tell the
    /// result to [`set_range`](Self::set_range).
    #[inline]
    pub fn chunk_mut(&mut self) -> (&mut [u8], usize, usize) {
        let (start, end) = (usize::from(self.start), usize::from(self.end));
        (self.chunk_slice(), start, end)
    }

    /// Sets which bytes of the chunk are the packet.
    ///
    /// # Errors
    /// [`FrameError::BadRange`] unless `start <= end <= chunk size`; the frame is unchanged.
    #[inline]
    pub fn set_range(&mut self, start: usize, end: usize) -> Result<(), FrameError> {
        if start > end || end > self.size() {
            return Err(FrameError::BadRange { start, end });
        }
        // The frame's size is below 2^16.
        (self.start, self.end) = (start as u16, end as u16);
        Ok(())
    }

    /// Bytes of the chunk or large frame.
    #[inline]
    fn size(&self) -> usize {
        self.umem.size_from(self.chunk)
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        // SAFETY: the chunk or large frame lies within the mapping, which lives as long as the borrow 'u of the UMEM; its bytes are
        // initialised (anonymous memory starts as zeros). By `new`, no other `Frame` for it exists, the kernel does not
        // have it, and `&self` keeps `chunk_slice` away.
        unsafe { std::slice::from_raw_parts(self.umem.chunk_start(self.chunk).as_ptr(), self.size()) }
    }

    #[inline]
    fn chunk_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `chunk`; `&mut self` makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(self.umem.chunk_start(self.chunk).as_ptr(), self.size()) }
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        self.umem.release(self.chunk);
    }
}

impl fmt::Debug for Frame<'_> {
    // Without the bytes: they may be someone's clear text.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Frame {{ chunk: {}, range: {}..{} }}",
            self.chunk, self.start, self.end
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::UmemOptions;

    fn umem() -> Umem {
        Umem::new(&UmemOptions {
            frame_count: 4,
            ..UmemOptions::default()
        })
        .unwrap()
    }

    #[test]
    fn room_is_bounded_on_both_sides() {
        let umem = umem();
        let mut frame = umem.frame().unwrap();
        assert_eq!((frame.headroom(), frame.len(), frame.tailroom()), (256, 0, 1792));
        assert_eq!(
            frame.append(1793),
            Err(FrameError::NoTailroom {
                wanted: 1793,
                available: 1792
            })
        );
        frame.append(1792).unwrap().fill(7);
        assert_eq!(
            frame.prepend(257),
            Err(FrameError::NoHeadroom {
                wanted: 257,
                available: 256
            })
        );
        frame.prepend(256).unwrap().fill(8);
        assert_eq!(frame.len(), 2048);
        assert_eq!(
            frame.trim_front(2049),
            Err(FrameError::TooShort {
                wanted: 2049,
                available: 2048
            })
        );
        assert_eq!(
            frame.truncate(2049),
            Err(FrameError::TooShort {
                wanted: 2049,
                available: 2048
            })
        );
        frame.trim_front(255).unwrap();
        frame.truncate(2).unwrap();
        assert_eq!(frame.data(), [8, 7]);
        assert_eq!(frame.metadata(255).unwrap(), [8; 255]);
        assert_eq!(frame.metadata(256), None);
        for (start, end) in [(1, 0), (0, 2049), (usize::MAX, usize::MAX), (65536, 65537)] {
            assert_eq!(
                frame.set_range(start, end),
                Err(FrameError::BadRange { start, end })
            );
        }
        assert_eq!(frame.data(), [8, 7], "refused requests change nothing");
    }

    #[test]
    fn dropping_returns_the_chunk_and_leaking_is_counted() {
        let umem = umem();
        let frames: Vec<_> = std::iter::from_fn(|| umem.frame()).collect();
        assert_eq!((frames.len(), umem.counts().held), (4, 4));
        assert!(umem.frame().is_none());
        drop(frames);
        assert_eq!(umem.counts().free, 4);
        let _ = ManuallyDrop::new(umem.frame().unwrap());
        assert_eq!((umem.counts().held, umem.counts().free), (1, 3));
    }

    #[test]
    fn chunks_do_not_overlap() {
        let umem = umem();
        let mut frames: Vec<_> = std::iter::from_fn(|| umem.frame()).collect();
        for (number, frame) in frames.iter_mut().enumerate() {
            frame.chunk_mut().0.fill(number as u8);
        }
        for (number, frame) in frames.iter_mut().enumerate() {
            assert!(frame.chunk_mut().0.iter().all(|byte| *byte == number as u8));
        }
    }

    proptest! {
        /// Against a plain model, a window over a vector.
        #[test]
        fn moves_of_the_ends_agree_with_a_window(moves in prop::collection::vec((0..5u8, 0..2100usize), 0..60)) {
            let umem = umem();
            let mut frame = umem.frame().unwrap();
            let mut model: Vec<u8> = frame.chunk_mut().0.to_vec();
            let (mut start, mut end) = (256, 256);
            for (number, (what, len)) in moves.into_iter().enumerate() {
                let mark = number as u8;
                match what {
                    0 => if let Ok(bytes) = frame.prepend(len) {
                        bytes.fill(mark);
                        model[start - len..start].fill(mark);
                        start -= len;
                    } else { prop_assert!(len > start); },
                    1 => if let Ok(bytes) = frame.append(len) {
                        bytes.fill(mark);
                        model[end..end + len].fill(mark);
                        end += len;
                    } else { prop_assert!(end + len > 2048); },
                    2 => if frame.trim_front(len).is_ok() { start += len; } else { prop_assert!(len > end - start); },
                    3 => if frame.truncate(len).is_ok() { end = start + len; } else { prop_assert!(len > end - start); },
                    _ => {
                        let (wanted_start, wanted_end) = (len, len + mark as usize);
                        let valid = frame.set_range(wanted_start, wanted_end).is_ok();
                        prop_assert_eq!(valid, wanted_end <= 2048);
                        if valid { (start, end) = (wanted_start, wanted_end); }
                    }
                }
                prop_assert_eq!(frame.data(), &model[start..end]);
                prop_assert_eq!(frame.metadata(start.min(32)), Some(&model[start - start.min(32)..start]));
            }
        }
    }
}
