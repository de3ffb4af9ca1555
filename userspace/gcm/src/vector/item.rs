//! A job and its key.

use super::across::MAX_BLOCKS;
use super::cpu::BLOCK;
use super::key::Key;
use crate::{AeadError, AssociatedData, Nonce, OpenJob, SealJob, constant_time};

/// NIST SP 800-38D section 5.2.1.1: "len(P) ≤ 2^39 - 256" bits.
const MAX_DATA_LEN: u64 = (1 << 36) - 32;

/// A job, and the key for it.
pub(super) struct Item<'a, J> {
    pub(super) key: &'a Key,
    pub(super) job: &'a mut J,
}

impl<J: Job> Item<'_, J> {
    /// The blocks of data, if [`Across`](super::across::Across) can do them.
    #[inline(always)]
    pub(super) fn blocks(&mut self) -> Option<usize> {
        let blocks = self.job.data().len().div_ceil(BLOCK);
        ((1..=MAX_BLOCKS).contains(&blocks) && self.job.aad().len() <= BLOCK).then_some(blocks)
    }
}

/// What a batch must know of a job.
pub(super) type Parts<'a> = (&'a Nonce, &'a AssociatedData, &'a mut [u8]);

pub(super) trait Job {
    /// With all its data.
    fn whole(&mut self) -> Parts<'_>;

    #[inline(always)]
    fn nonce(&mut self) -> &Nonce {
        self.whole().0
    }

    #[inline(always)]
    fn aad(&mut self) -> &AssociatedData {
        self.whole().1
    }

    #[inline(always)]
    fn data(&mut self) -> &mut [u8] {
        self.whole().2
    }

    /// Without data if that is too long: the counter would begin again.
    #[inline(always)]
    fn parts(&mut self) -> Parts<'_> {
        let (nonce, aad, data) = self.whole();
        (nonce, aad, protected(data))
    }

    /// Ends a job whose tag this is, before it is cut to its length.
    fn finish(&mut self, made: &[u8; BLOCK], tag_len: usize);
}

impl Job for SealJob<'_> {
    #[inline(always)]
    fn whole(&mut self) -> Parts<'_> {
        (&self.nonce, &self.aad, self.data)
    }

    /// Writes the tag, if the message was sealed.
    #[inline(always)]
    fn finish(&mut self, made: &[u8; BLOCK], tag_len: usize) {
        let sealed = give(made, tag_len, self.tag) && check_len(self.data.len()).is_ok();
        self.finish(sealed);
    }
}

impl Job for OpenJob<'_> {
    #[inline(always)]
    fn whole(&mut self) -> Parts<'_> {
        (&self.nonce, &self.aad, self.data)
    }

    /// Erases what does not fit its tag.
    #[inline(always)]
    fn finish(&mut self, made: &[u8; BLOCK], tag_len: usize) {
        let verified = verify(made, tag_len, self.tag) && check_len(self.data.len()).is_ok();
        if !verified {
            // Decrypted while it was hashed. Unverified plaintext must not survive in a frame that is used again.
            self.data.fill(0);
        }
        self.finish(verified);
    }
}

#[inline(always)]
fn protected(data: &mut [u8]) -> &mut [u8] {
    if check_len(data.len()).is_ok() {
        data
    } else {
        &mut []
    }
}

#[inline(always)]
pub(super) fn check_len(len: usize) -> Result<(), AeadError> {
    if len as u64 > MAX_DATA_LEN {
        return Err(AeadError::Length);
    }
    Ok(())
}

/// Writes as much of the tag as the algorithm has, if there is room for exactly that.
#[inline(always)]
pub(super) fn give(made: &[u8; BLOCK], tag_len: usize, tag: &mut [u8]) -> bool {
    if tag.len() != tag_len {
        return false;
    }
    match tag.first_chunk_mut() {
        // A move instead of a call.
        Some(tag) => *tag = *made,
        None => tag.copy_from_slice(&made[..tag.len()]),
    }
    true
}

/// Whether the tag is as much of the one made as the algorithm has. The bytes are compared all at once.
#[inline(always)]
pub(super) fn verify(made: &[u8; BLOCK], tag_len: usize, tag: &[u8]) -> bool {
    if tag.len() != tag_len {
        return false;
    }
    match tag.first_chunk() {
        Some(tag) => u128::from_ne_bytes(*made) ^ u128::from_ne_bytes(*tag) == 0,
        None => constant_time::are_equal(&made[..tag.len()], tag),
    }
}
