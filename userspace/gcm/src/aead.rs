//! The trait that every implementation stands behind.

use std::any::Any;
use std::fmt::Debug;

use crate::{Algorithm, OpenJob, Provider, SealJob};

/// Bytes of the longest nonce, that of CBC: its block.
pub const MAX_NONCE_LEN: usize = 16;

/// Bytes of the longest tag, that of HMAC-SHA-512-256.
pub const MAX_TAG_LEN: usize = 32;

/// A nonce: the first [`Algorithm::nonce_len`] bytes of it, salt and then IV; the others do not matter. Two messages
/// sealed with one key and one nonce give away the plaintext's difference, and with GCM the authentication key.
pub type Nonce = [u8; MAX_NONCE_LEN];

/// Why a message was not sealed or not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AeadError {
    /// More than one nonce can protect, for AES-GCM 2^36 - 32 bytes (NIST SP 800-38D section 5.2.1.1); or no multiple of
    /// the cipher's block; or a tag buffer of another length than the tag.
    #[error("the message's length is none that the algorithm can protect")]
    Length,
    /// The tag does not fit the nonce, associated data and ciphertext.
    #[error("the message is not authentic")]
    NotAuthentic,
}

/// One key, ready to use from any thread.
///
/// Associated data is ESP's: empty, or SPI and sequence number, in 8 bytes, or in 12 with all 64 bits of the number, high
/// half first (RFC 4106 section 5). Algorithms that are a cipher with a MAC authenticate it as ESP's ICV covers it: SPI,
/// low half of the number, IV, data, and last the high half (RFC 4303 sections 2.2.1 and 3.3.2.1). Data that is not
/// encrypted is authenticated all the same.
pub trait Aead: Any + Send + Sync + Debug {
    /// The implementation behind this key.
    fn provider(&self) -> Provider;

    /// The algorithm, hence all lengths.
    fn algorithm(&self) -> Algorithm;

    /// Has the cache fetch what a short packet needs of the key, and goes on at once. Where packets are of many keys, whoever asks for
    /// all keys of a batch before the first is used waits for memory about once.
    fn prefetch(&self) {}

    /// Writes the IV of the packet with this sequence number into `iv`, of [`Algorithm::iv_len`] bytes.
    ///
    /// RFC 4106 section 3.1: "For a given key, the IV MUST NOT repeat. The most natural way to implement this is with a
    /// counter". CBC overrides this: its IVs must not be foreseen.
    fn iv(&self, sequence: u64, iv: &mut [u8]) {
        if let Some(iv) = iv.first_chunk_mut() {
            *iv = sequence.to_be_bytes();
        }
    }

    /// Encrypts `data` in place and writes its tag, of [`Algorithm::tag_len`] bytes.
    ///
    /// The caller guarantees that `nonce` was never used to seal with this key.
    ///
    /// # Errors
    /// [`AeadError::Length`]; `data` is then unspecified and must not be sent.
    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), AeadError>;

    /// Decrypts `data` in place if `tag` verifies.
    ///
    /// # Errors
    /// [`AeadError::NotAuthentic`] or [`AeadError::Length`]; `data` then never holds the plaintext.
    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), AeadError>;

    /// Seals every job. Afterwards [`SealJob::is_sealed`] tells which succeeded; one failure affects no other job.
    fn seal_batch(&self, jobs: &mut [SealJob<'_>]) {
        for job in jobs {
            let sealed = self
                .seal(&job.nonce, job.aad.as_slice(), job.data, job.tag)
                .is_ok();
            job.finish(sealed);
        }
    }

    /// Opens every job. Afterwards [`OpenJob::is_verified`] tells which succeeded; one failure affects no other job.
    fn open_batch(&self, jobs: &mut [OpenJob<'_>]) {
        for job in jobs {
            let verified = self
                .open(&job.nonce, job.aad.as_slice(), job.data, job.tag)
                .is_ok();
            job.finish(verified);
        }
    }
}
