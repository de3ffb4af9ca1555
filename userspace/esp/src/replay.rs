//! The anti-replay window (RFC 4303 section 3.4.3 and appendix A).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ravelin_gcm::prefetch;
use ravelin_xdp_common::DropReason;

const WORD_BITS: u64 = u64::BITS as u64;

/// Which sequence numbers have been received.
///
/// A ring of bits with at least one word more than the window (RFC 6479), so that moving the window clears words
/// instead of shifting them.
///
/// Numbers are recorded by one thread at a time. Whoever only asks need not wait for that: what is read in the midst of it can let
/// a number pass that is recorded as one of the past right then, and whoever records it finds out. It can refuse no number that would
/// still be taken: a word is used again only when the window is beyond all numbers that it stood for.
#[derive(Debug)]
pub struct ReplayWindow {
    /// Numbers that the window spans, W in the RFC.
    size: u64,
    /// The highest number received and authenticated, T in the RFC.
    highest: AtomicU64,
    extended: bool,
    /// Bit `sequence % 64` of word `sequence / 64 % words.len()`; the length is a power of two.
    words: Box<[AtomicU64]>,
    recording: Mutex<()>,
}

/// The right to record numbers in a window that threads share.
#[derive(Debug)]
pub(crate) struct Recorder<'w> {
    window: &'w ReplayWindow,
    _alone: MutexGuard<'w, ()>,
}

impl Recorder<'_> {
    /// As [`ReplayWindow::accept`].
    pub(crate) fn accept(&mut self, sequence: u64) -> Result<(), DropReason> {
        self.window.record(sequence)
    }
}

impl ReplayWindow {
    /// A window of `size` numbers that takes only numbers above `highest_seen` (0 for a new SA).
    #[must_use]
    pub fn new(size: u32, extended: bool, highest_seen: u64) -> Self {
        let words = (size as usize / 64 + 1).next_power_of_two();
        let bits = if highest_seen == 0 { 0 } else { u64::MAX };
        let window = Self {
            size: u64::from(size),
            highest: AtomicU64::new(highest_seen),
            extended,
            words: (0..words).map(|_| AtomicU64::new(bits)).collect(),
            recording: Mutex::new(()),
        };
        let bits = bits >> (WORD_BITS - 1 - highest_seen % WORD_BITS);
        window.word(highest_seen).store(bits, Ordering::Relaxed);
        window
    }

    /// The highest number received and authenticated.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }

    /// Waits until nobody else records.
    pub(crate) fn recorder(&self) -> Recorder<'_> {
        Recorder {
            window: self,
            // Nothing panics while it holds the lock, and the window is consistent between any two steps.
            _alone: self.recording.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Has the cache fetch the bits of the numbers that will come next.
    pub(crate) fn prefetch(&self) {
        prefetch(self.word(self.highest().wrapping_add(1)), 8);
    }

    /// The full sequence number of a packet that carries `low`, if that number may still be accepted. Changes
    /// nothing: the packet is not authenticated yet.
    ///
    /// # Errors
    /// `SequenceZero`, `ReplayOld`, `ReplayDuplicate`.
    pub fn check(&self, low: u32) -> Result<u64, DropReason> {
        let sequence = self.full_number(low).ok_or(DropReason::ReplayOld)?;
        self.test(sequence)?;
        Ok(sequence)
    }

    /// Records `sequence`, whose packet is authentic. Checks again, because another worker may have recorded the same
    /// number since.
    ///
    /// # Errors
    /// `SequenceZero`, `ReplayOld`, `ReplayDuplicate`; nothing is recorded.
    pub fn accept(&mut self, sequence: u64) -> Result<(), DropReason> {
        self.record(sequence)
    }

    /// One thread at a time, so what is written need not be exchanged.
    fn record(&self, sequence: u64) -> Result<(), DropReason> {
        self.test(sequence)?;
        let highest = self.highest();
        if sequence > highest {
            let (old, new) = (highest / WORD_BITS, sequence / WORD_BITS);
            // Words between the old top and the new one hold numbers of an earlier round of the ring.
            for word in old + 1..=new.min(old + self.words.len() as u64) {
                self.word(word * WORD_BITS).store(0, Ordering::Relaxed);
            }
            self.highest.store(sequence, Ordering::Relaxed);
        }
        let word = self.word(sequence);
        let bits = word.load(Ordering::Relaxed) | 1 << (sequence % WORD_BITS);
        word.store(bits, Ordering::Relaxed);
        Ok(())
    }

    /// The number that `low` stands for: the only one with these low bits in the 2^32 numbers that begin at the
    /// window's bottom. Both cases of RFC 4303 appendix A2.2 are this one rule. `None` past the end of the space.
    fn full_number(&self, low: u32) -> Option<u64> {
        let low = u64::from(low);
        if !self.extended {
            return Some(low);
        }
        // T - W + 1; at the start of the space the bottom is 0, there being no numbers below.
        let bottom = self.highest().saturating_sub(self.size.saturating_sub(1));
        let candidate = bottom & !u64::from(u32::MAX) | low;
        if candidate >= bottom {
            Some(candidate)
        } else {
            candidate.checked_add(1 << 32)
        }
    }

    fn test(&self, sequence: u64) -> Result<(), DropReason> {
        // RFC 4303 section 3.3.3: the counter is "initialized to 0", and the first packet has 1.
        if sequence == 0 {
            return Err(DropReason::SequenceZero);
        }
        let highest = self.highest();
        if sequence > highest {
            return Ok(());
        }
        if highest - sequence >= self.size {
            return Err(DropReason::ReplayOld);
        }
        let word = self.word(sequence).load(Ordering::Relaxed);
        if word >> (sequence % WORD_BITS) & 1 == 1 {
            Err(DropReason::ReplayDuplicate)
        } else {
            Ok(())
        }
    }

    fn word(&self, sequence: u64) -> &AtomicU64 {
        &self.words[(sequence / WORD_BITS) as usize & (self.words.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::{DropReason, ReplayWindow};

    /// The slow model: a set of every number received, and the text of RFC 4303 appendix A2 word by word.
    struct Model {
        window: u64,
        extended: bool,
        seen: HashSet<u64>,
        t: u64,
    }

    impl Model {
        fn new(window: u32, extended: bool) -> Self {
            Self {
                window: u64::from(window),
                extended,
                seen: HashSet::new(),
                t: 0,
            }
        }

        fn sequence(&self, seql: u32) -> Option<u64> {
            if !self.extended {
                return Some(u64::from(seql));
            }
            let (th, tl) = ((self.t >> 32) as u32, self.t as u32);
            let w = u32::try_from(self.window).unwrap();
            let bl = tl.wrapping_sub(w).wrapping_add(1);
            let seqh = if tl >= w - 1 {
                if seql >= bl { th } else { th.checked_add(1)? }
            } else if seql >= bl {
                // "Th - 1"; where there is no earlier subspace, the number can only be a new one.
                th.saturating_sub(1)
            } else {
                th
            };
            Some(u64::from(seqh) << 32 | u64::from(seql))
        }

        fn receive(&mut self, seql: u32) -> Result<u64, DropReason> {
            let sequence = self.sequence(seql).ok_or(DropReason::ReplayOld)?;
            if sequence == 0 {
                return Err(DropReason::SequenceZero);
            }
            if self.t >= self.window && sequence <= self.t - self.window {
                return Err(DropReason::ReplayOld);
            }
            if !self.seen.insert(sequence) {
                return Err(DropReason::ReplayDuplicate);
            }
            self.t = self.t.max(sequence);
            Ok(sequence)
        }
    }

    fn receive(window: &mut ReplayWindow, low: u32) -> Result<u64, DropReason> {
        let sequence = window.check(low)?;
        window.accept(sequence)?;
        Ok(sequence)
    }

    fn sizes() -> impl Strategy<Value = u32> {
        prop_oneof![
            Just(64_u32),
            Just(128),
            Just(192),
            Just(1024),
            Just(65536),
            (1_u32..=40).prop_map(|n| n * 64)
        ]
    }

    /// Steps relative to the highest number, weighted to the edges.
    fn steps(size: u32) -> impl Strategy<Value = i64> {
        let size = i64::from(size);
        prop_oneof![
            4 => prop::sample::select(vec![0, 1, -1, 2, 63, 64, 65, -63, -64, -65]),
            4 => prop::sample::select(vec![size - 1, size, size + 1, 1 - size, -size, -size - 1, 2 * size + 130]),
            4 => -size * 2..size * 2,
            1 => prop::sample::select(vec![1 << 31, (1 << 31) - 1, (1 << 32) - 2 * size, (1 << 32) - size]),
        ]
    }

    fn size_and_steps() -> impl Strategy<Value = (u32, Vec<i64>)> {
        sizes().prop_flat_map(|size| (Just(size), prop::collection::vec(steps(size), 1..400)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn equals_the_model((size, steps) in size_and_steps(), extended: bool) {
            let mut window = ReplayWindow::new(size, extended, 0);
            let mut model = Model::new(size, extended);
            for step in steps {
                let low = model.t.wrapping_add_signed(step) as u32;
                prop_assert_eq!(receive(&mut window, low), model.receive(low), "low {} after {}", low, model.t);
                prop_assert_eq!(window.highest(), model.t);
            }
        }
    }

    #[test]
    fn extended_numbers_cross_the_low_half() {
        for size in [64, 1024, 65536] {
            let mut window = ReplayWindow::new(size, true, (1 << 32) - 1000);
            assert_eq!(receive(&mut window, u32::MAX), Ok((1 << 32) - 1));
            assert_eq!(
                receive(&mut window, 0),
                Ok(1 << 32),
                "low half 0 is a number like others after the first"
            );
            assert_eq!(receive(&mut window, 5), Ok((1 << 32) + 5));
            assert_eq!(
                receive(&mut window, u32::MAX - 1),
                Ok((1 << 32) - 2),
                "still in the window"
            );
            assert_eq!(receive(&mut window, u32::MAX), Err(DropReason::ReplayDuplicate));
            assert_eq!(window.highest(), (1 << 32) + 5);
        }
    }

    #[test]
    fn the_number_space_has_an_end() {
        let mut window = ReplayWindow::new(64, true, u64::MAX - 10);
        assert_eq!(receive(&mut window, u32::MAX), Ok(u64::MAX));
        assert_eq!(window.check(0), Err(DropReason::ReplayOld));
        assert_eq!(receive(&mut window, u32::MAX), Err(DropReason::ReplayDuplicate));
        assert_eq!(receive(&mut window, u32::MAX - 1), Ok(u64::MAX - 1));
    }

    #[test]
    fn without_extension_the_window_does_not_wrap() {
        let mut window = ReplayWindow::new(64, false, 0);
        assert_eq!(receive(&mut window, u32::MAX), Ok(u64::from(u32::MAX)));
        assert_eq!(receive(&mut window, 1), Err(DropReason::ReplayOld));
        assert_eq!(receive(&mut window, 0), Err(DropReason::SequenceZero));
    }

    #[test]
    fn a_resumed_window_takes_only_newer_numbers() {
        for highest in [1_u32, 63, 64, 65, 100, 127, 128, 5000] {
            let mut window = ReplayWindow::new(128, false, u64::from(highest));
            for low in 1..=highest {
                assert!(window.check(low).is_err(), "{low} of {highest}");
            }
            assert_eq!(receive(&mut window, highest + 3), Ok(u64::from(highest) + 3));
            assert_eq!(receive(&mut window, highest + 1), Ok(u64::from(highest) + 1));
            assert_eq!(receive(&mut window, highest + 2), Ok(u64::from(highest) + 2));
            assert_eq!(
                receive(&mut window, highest + 1),
                Err(DropReason::ReplayDuplicate)
            );
        }
    }

    #[test]
    fn checking_records_nothing() {
        let window = ReplayWindow::new(64, false, 0);
        assert_eq!(window.check(7), Ok(7));
        assert_eq!(window.check(7), Ok(7));
        assert_eq!(window.highest(), 0);
    }
}
