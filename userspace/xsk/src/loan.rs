//! A frame that is away from its thread for a time.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::{Frame, Umem};

/// The right to one frame's bytes, on whatever thread: a [`Frame`] that was lent ([`Frame::lend`]), to be
/// [taken back](Self::take_back) where its UMEM is. The ledger knows it as held all the time.
///
/// Memory only, of which one owner at a time may read and write: it knows nothing of the free list, which belongs to the UMEM's thread.
/// So a loan that is dropped takes its chunk out of use for as long as the UMEM lives. It cannot outlive that:
///
/// ```compile_fail,E0597
/// let loan = {
///     let umem = ravelin_xsk::Umem::new(&Default::default()).unwrap();
///     umem.frame().unwrap().lend()
/// };
/// drop(loan);
/// ```
#[must_use = "a loan that is dropped takes its chunk out of use"]
pub struct Loan<'u> {
    /// The first byte of the chunk or large frame.
    memory: NonNull<u8>,
    chunk: u32,
    // Frames have at most 16384 bytes.
    size: u16,
    start: u16,
    end: u16,
    /// Only compared, never followed here: a UMEM is of one thread.
    umem: NonNull<Umem>,
    lifetime: PhantomData<&'u Umem>,
}

// SAFETY: a loan is the only owner of its chunk's bytes, as a `&mut [u8]` is, which may be sent; by `Frame::new` there is no other
// frame of the chunk, the kernel does not have it, and `lend` has consumed the frame. The bytes stay mapped for 'u. The pointer to the
// UMEM, which must not be used on other threads, is only compared.
unsafe impl Send for Loan<'_> {}

impl<'u> Frame<'u> {
    /// Lends the frame, so that another thread can work on it.
    #[inline]
    pub fn lend(mut self) -> Loan<'u> {
        let (memory, ..) = self.chunk_mut();
        let size = memory.len() as u16;
        let memory = NonNull::from(memory).cast();
        let umem = NonNull::from(self.umem());
        let (chunk, start, end) = self.into_parts();
        Loan {
            memory,
            chunk,
            size,
            start,
            end,
            umem,
            lifetime: PhantomData,
        }
    }
}

impl<'u> Loan<'u> {
    /// The whole chunk and the packet's range in it: (chunk, start, end). Tell what becomes of the range to
    /// [`set_range`](Self::set_range).
    #[inline]
    pub fn chunk_mut(&mut self) -> (&mut [u8], usize, usize) {
        // SAFETY: `memory` and `size` are those of the slice that the frame had, whose bytes are initialised and mapped for 'u; the
        // loan is their only owner, and `&mut self` makes the slice unique.
        let chunk = unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.size.into()) };
        (chunk, self.start.into(), self.end.into())
    }

    /// Sets which bytes of the chunk are the packet; false if they are not within it, and nothing changes.
    #[inline]
    #[must_use]
    pub fn set_range(&mut self, start: usize, end: usize) -> bool {
        if start > end || end > usize::from(self.size) {
            return false;
        }
        // At most the size.
        (self.start, self.end) = (start as u16, end as u16);
        true
    }

    /// The frame again, on the thread of its UMEM.
    ///
    /// # Errors
    /// The loan, if it is of another UMEM.
    #[inline]
    pub fn take_back(self, umem: &'u Umem) -> Result<Frame<'u>, Self> {
        if NonNull::from(umem) != self.umem {
            return Err(self);
        }
        // SAFETY: the chunk has been held since `lend` gave up the only frame of it, and the loan is consumed; the range was the frame's,
        // or checked by `set_range`. Who has `&Umem`, which is not `Sync`, is on its thread.
        Ok(unsafe { Frame::new(umem, self.chunk, self.start, self.end) })
    }
}

impl fmt::Debug for Loan<'_> {
    // Without the bytes: they may be someone's clear text.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Loan {{ chunk: {}, range: {}..{} }}",
            self.chunk, self.start, self.end
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::{Umem, UmemOptions};

    fn umem() -> Umem {
        Umem::new(&UmemOptions {
            frame_count: 4,
            large_frames: 1,
            ..UmemOptions::default()
        })
        .unwrap()
    }

    #[test]
    fn what_another_thread_wrote_is_in_the_frame_again() {
        let umem = umem();
        for bytes in [1500, 9000] {
            let mut frame = umem.frame_for(bytes).unwrap();
            frame.append(bytes).unwrap().fill(1);
            let mut loan = frame.lend();
            let held = umem.counts().held + umem.large_counts().held;
            assert_eq!(held, 1, "lent is held");
            let loan = std::thread::scope(|scope| {
                let away = scope.spawn(move || {
                    let (chunk, start, end) = loan.chunk_mut();
                    assert_eq!(chunk[start..end], vec![1; bytes]);
                    chunk[start - 8..end].fill(2);
                    let size = chunk.len();
                    assert!(!loan.set_range(0, size + 1) && !loan.set_range(2, 1));
                    assert!(loan.set_range(start - 8, end));
                    loan
                });
                away.join().unwrap()
            });
            let frame = loan.take_back(&umem).unwrap();
            assert_eq!(frame.data(), vec![2; bytes + 8]);
            drop(frame);
            assert_eq!((umem.counts().free, umem.large_counts().free), (4, 1));
        }
    }

    #[test]
    fn a_loan_goes_back_to_its_own_memory_only() {
        let (umem, other) = (umem(), umem());
        let loan = umem.frame().unwrap().lend();
        let loan = loan.take_back(&other).unwrap_err();
        assert_eq!((umem.counts().held, other.counts().free), (1, 4));
        drop(loan.take_back(&umem).unwrap());
        assert_eq!(umem.counts().free, 4);
        // One that nobody takes back stays out of use, rather than in two hands.
        drop(umem.frame().unwrap().lend());
        assert_eq!((umem.counts().held, umem.counts().free), (1, 3));
    }
}
