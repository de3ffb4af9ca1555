//! AES-GCM by AWS-LC.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce as AwsNonce, UnboundKey};

use crate::{Aead, AeadError, Algorithm, KeyMaterial, Nonce, Provider, Tag};

/// AWS-LC checks the length itself but does not say so in its error; only a message past this is too long.
const MAX_DATA_LEN: u64 = (1 << 36) - 32;

/// A key expanded by AWS-LC, which erases it when dropped.
#[derive(Debug)]
pub(crate) struct AwsLcKey {
    algorithm: Algorithm,
    /// "Less safe" because the nonce is ours to choose. ESP derives it from a sequence number that is reserved once.
    key: LessSafeKey,
}

impl AwsLcKey {
    pub(crate) fn new(key: &KeyMaterial) -> Option<Self> {
        let algorithm = match key.algorithm() {
            Algorithm::Aes128Gcm => &AES_128_GCM,
            Algorithm::Aes256Gcm => &AES_256_GCM,
        };
        let unbound = UnboundKey::new(algorithm, key.expose()).ok()?;
        Some(Self {
            algorithm: key.algorithm(),
            key: LessSafeKey::new(unbound),
        })
    }
}

impl Aead for AwsLcKey {
    fn provider(&self) -> Provider {
        Provider::AwsLc
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8]) -> Result<Tag, AeadError> {
        let nonce = AwsNonce::assume_unique_for_key(*nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), data);
        let tag = tag.map_err(|_| AeadError::TooLong)?;
        Tag::try_from(tag.as_ref()).map_err(|_| AeadError::TooLong)
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        if data.len() as u64 > MAX_DATA_LEN {
            return Err(AeadError::TooLong);
        }
        let nonce = AwsNonce::assume_unique_for_key(*nonce);
        if self
            .key
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, data)
            .is_ok()
        {
            return Ok(());
        }
        // AWS-LC leaves the buffer unspecified. Unverified plaintext must not survive in a frame that is used again.
        data.fill(0);
        Err(AeadError::NotAuthentic)
    }
}
