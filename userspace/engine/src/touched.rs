//! Which SAs were used: workers set bits, the engine takes them. So nobody looks through all SAs to find the busy ones.

use std::sync::atomic::{AtomicU64, Ordering};

use ravelin_xdp_common::INBOUND_SAS;

/// Pairs of SAs that there can be, those included that stay for a while after a rekey.
pub(crate) const MOST_PAIRS: u32 = INBOUND_SAS;

const WORDS: usize = MOST_PAIRS as usize / 64;

/// A bit for each pair of SAs.
#[derive(Debug)]
pub(crate) struct Touched(Box<[AtomicU64]>);

impl Default for Touched {
    fn default() -> Self {
        Self(std::iter::repeat_with(AtomicU64::default).take(WORDS).collect())
    }
}

impl Touched {
    /// Sets the bit of a pair whose SA was just used. Once a batch, and a write only if the engine took it since.
    #[inline]
    pub(crate) fn set(&self, pair: u32) {
        let bit = 1 << (pair % 64);
        if let Some(word) = self.0.get(pair as usize / 64)
            && word.load(Ordering::Relaxed) & bit == 0
        {
            // Release: whoever takes the bit sees what was done before.
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// Takes all bits that are set.
    pub(crate) fn take(&self) -> impl Iterator<Item = u32> {
        self.0
            .iter()
            .zip((0..).step_by(64))
            .filter(|(word, _)| word.load(Ordering::Relaxed) != 0)
            .flat_map(|(word, first)| {
                let mut bits = word.swap(0, Ordering::Acquire);
                std::iter::from_fn(move || {
                    let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                    bits &= bits - 1;
                    Some(first + bit)
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_PAIRS, Touched};

    #[test]
    fn what_was_set_is_taken_once() {
        let touched = Touched::default();
        let pairs = [0, 1, 63, 64, 1000, MOST_PAIRS - 1];
        for pair in pairs.iter().rev().chain(&pairs) {
            touched.set(*pair);
        }
        // Out of range: there is no such pair, and nothing to keep for it.
        touched.set(MOST_PAIRS);
        assert_eq!(touched.take().collect::<Vec<_>>(), pairs);
        assert_eq!(touched.take().count(), 0);
        touched.set(63);
        assert_eq!(touched.take().collect::<Vec<_>>(), [63]);
    }
}
