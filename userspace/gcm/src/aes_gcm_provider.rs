//! AES-GCM by the pure-Rust `aes-gcm` crate.

use std::fmt;

use aes_gcm::aead::AeadInOut as _;
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit as _};

use crate::{Aead, AeadError, Algorithm, KeyMaterial, Nonce, Provider, Tag};

const MAX_DATA_LEN: u64 = aes_gcm::P_MAX;

/// A key expanded by `aes-gcm`, which erases it when dropped (feature `zeroize`).
pub(crate) enum AesGcmKey {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl AesGcmKey {
    pub(crate) fn new(key: &KeyMaterial) -> Option<Self> {
        match key.algorithm() {
            Algorithm::Aes128Gcm => Aes128Gcm::new_from_slice(key.expose())
                .ok()
                .map(Box::new)
                .map(Self::Aes128),
            Algorithm::Aes256Gcm => Aes256Gcm::new_from_slice(key.expose())
                .ok()
                .map(Box::new)
                .map(Self::Aes256),
        }
    }
}

impl fmt::Debug for AesGcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AesGcmKey")
            .field("algorithm", &self.algorithm())
            .finish_non_exhaustive()
    }
}

impl Aead for AesGcmKey {
    fn provider(&self) -> Provider {
        Provider::AesGcm
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Aes128(_) => Algorithm::Aes128Gcm,
            Self::Aes256(_) => Algorithm::Aes256Gcm,
        }
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8]) -> Result<Tag, AeadError> {
        let nonce = nonce.into();
        let tag = match self {
            Self::Aes128(key) => key.encrypt_inout_detached(nonce, aad, data.into()),
            Self::Aes256(key) => key.encrypt_inout_detached(nonce, aad, data.into()),
        };
        tag.map(Into::into).map_err(|_| AeadError::TooLong)
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        if data.len() as u64 > MAX_DATA_LEN {
            return Err(AeadError::TooLong);
        }
        let nonce = nonce.into();
        let tag = tag.into();
        let opened = match self {
            Self::Aes128(key) => key.decrypt_inout_detached(nonce, aad, data.into(), tag),
            Self::Aes256(key) => key.decrypt_inout_detached(nonce, aad, data.into(), tag),
        };
        opened.map_err(|_| AeadError::NotAuthentic)
    }
}
