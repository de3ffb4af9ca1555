//! The trait that every AES-GCM implementation stands behind.

use std::fmt::Debug;

use crate::{Algorithm, OpenJob, Provider, SealJob};

/// Bytes of a nonce (RFC 5116 section 5.1).
pub const NONCE_LEN: usize = 12;

/// Bytes of a tag. Shorter tags are not supported: RFC 4106 section 6 requires 16 and merely allows 8 and 12.
pub const TAG_LEN: usize = 16;

/// A nonce. Two messages sealed with one key and one nonce give away the authentication key.
pub type Nonce = [u8; NONCE_LEN];

/// An authentication tag; in ESP, the integrity check value.
pub type Tag = [u8; TAG_LEN];

/// Why a message was not sealed or not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AeadError {
    /// More than 2^36 - 32 bytes (NIST SP 800-38D section 5.2.1.1).
    #[error("the message is longer than one AES-GCM nonce can protect")]
    TooLong,
    /// The tag does not fit the nonce, associated data and ciphertext.
    #[error("the message is not authentic")]
    NotAuthentic,
}

/// One AES-GCM key, ready to use from any thread.
pub trait Aead: Send + Sync + Debug {
    /// The implementation behind this key.
    fn provider(&self) -> Provider;

    /// The algorithm, hence the length of the key.
    fn algorithm(&self) -> Algorithm;

    /// Encrypts `data` in place and returns its tag.
    ///
    /// The caller guarantees that `nonce` was never used to seal with this key.
    ///
    /// # Errors
    /// [`AeadError::TooLong`]; `data` is then unspecified and must not be sent.
    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8]) -> Result<Tag, AeadError>;

    /// Decrypts `data` in place if `tag` verifies.
    ///
    /// # Errors
    /// [`AeadError::NotAuthentic`] or [`AeadError::TooLong`]; `data` then never holds the plaintext.
    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &Tag) -> Result<(), AeadError>;

    /// Seals every job. Afterwards [`SealJob::is_sealed`] tells which succeeded; one failure affects no other job.
    fn seal_batch(&self, jobs: &mut [SealJob<'_>]) {
        for job in jobs {
            let sealed = match self.seal(&job.nonce, job.aad.as_slice(), job.data) {
                Ok(tag) => {
                    *job.tag = tag;
                    true
                }
                Err(_) => false,
            };
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
