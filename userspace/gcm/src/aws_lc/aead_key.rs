//! AES-GCM and ChaCha20-Poly1305.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce as AwsNonce, UnboundKey,
};

use crate::{Aead, AeadError, AesKey, Algorithm, IcvLen, KeyMaterial, Nonce, Provider};

/// AWS-LC checks the length itself but does not say so in its error; only a message past this is too long.
const MAX_DATA_LEN: u64 = (1 << 36) - 32;

/// A key expanded by AWS-LC, which erases it when dropped.
#[derive(Debug)]
pub(super) struct AeadKey {
    algorithm: Algorithm,
    /// "Less safe" because the nonce is ours to choose. ESP derives it from a sequence number that is reserved once.
    key: LessSafeKey,
}

impl AeadKey {
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        let algorithm = match key.algorithm() {
            Algorithm::AesGcm(AesKey::Aes128, IcvLen::Icv16) => &AES_128_GCM,
            Algorithm::AesGcm(AesKey::Aes192, IcvLen::Icv16) => &AES_192_GCM,
            Algorithm::AesGcm(AesKey::Aes256, IcvLen::Icv16) => &AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            _ => return None,
        };
        let unbound = UnboundKey::new(algorithm, key.encryption()).ok()?;
        Some(Self {
            algorithm: key.algorithm(),
            key: LessSafeKey::new(unbound),
        })
    }
}

impl Aead for AeadKey {
    fn provider(&self) -> Provider {
        Provider::AwsLc
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), AeadError> {
        let sealed = self
            .key
            .seal_in_place_separate_tag(first_twelve(nonce), Aad::from(aad), data)
            .map_err(|_| AeadError::Length)?;
        if tag.len() != sealed.as_ref().len() {
            return Err(AeadError::Length);
        }
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), AeadError> {
        if data.len() as u64 > MAX_DATA_LEN {
            return Err(AeadError::Length);
        }
        if self
            .key
            .open_in_place_separate_tag(first_twelve(nonce), Aad::from(aad), tag, data)
            .is_ok()
        {
            return Ok(());
        }
        // AWS-LC leaves the buffer unspecified. Unverified plaintext must not survive in a frame that is used again.
        data.fill(0);
        Err(AeadError::NotAuthentic)
    }
}

fn first_twelve(nonce: &Nonce) -> AwsNonce {
    let [nonce @ .., _, _, _, _] = *nonce;
    AwsNonce::assume_unique_for_key(nonce)
}
