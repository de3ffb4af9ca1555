//! AES-GCM by the pure-Rust `aes-gcm` crate.

use std::fmt;

use aes_gcm::aead::AeadInOut as _;
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit as _};

use crate::{Aead, AeadError, Algorithm, KeyMaterial, Nonce, Provider};

const MAX_DATA_LEN: u64 = aes_gcm::P_MAX;

/// A key expanded by `aes-gcm`, which erases it when dropped (feature `zeroize`).
pub(crate) enum AesGcmKey {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl AesGcmKey {
    pub(crate) const fn has(algorithm: Algorithm) -> bool {
        matches!(algorithm, Algorithm::AES_128_GCM | Algorithm::AES_256_GCM)
    }

    pub(crate) fn new(key: &KeyMaterial) -> Option<Self> {
        match key.algorithm() {
            Algorithm::AES_128_GCM => Aes128Gcm::new_from_slice(key.expose())
                .ok()
                .map(Box::new)
                .map(Self::Aes128),
            Algorithm::AES_256_GCM => Aes256Gcm::new_from_slice(key.expose())
                .ok()
                .map(Box::new)
                .map(Self::Aes256),
            _ => None,
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
        Provider::RustCrypto
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Aes128(_) => Algorithm::AES_128_GCM,
            Self::Aes256(_) => Algorithm::AES_256_GCM,
        }
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), AeadError> {
        let nonce = first_twelve(nonce);
        let sealed = match self {
            Self::Aes128(key) => key.encrypt_inout_detached(nonce.into(), aad, data.into()),
            Self::Aes256(key) => key.encrypt_inout_detached(nonce.into(), aad, data.into()),
        };
        let sealed = sealed.map_err(|_| AeadError::Length)?;
        if tag.len() != sealed.len() {
            return Err(AeadError::Length);
        }
        tag.copy_from_slice(&sealed);
        Ok(())
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), AeadError> {
        if data.len() as u64 > MAX_DATA_LEN {
            return Err(AeadError::Length);
        }
        let nonce = first_twelve(nonce);
        let tag: &[u8; 16] = tag.try_into().map_err(|_| AeadError::NotAuthentic)?;
        let opened = match self {
            Self::Aes128(key) => key.decrypt_inout_detached(nonce.into(), aad, data.into(), tag.into()),
            Self::Aes256(key) => key.decrypt_inout_detached(nonce.into(), aad, data.into(), tag.into()),
        };
        opened.map_err(|_| AeadError::NotAuthentic)
    }
}

fn first_twelve(nonce: &Nonce) -> &[u8; 12] {
    nonce.first_chunk().unwrap_or(&[0; 12])
}
