//! AES-GCM, AES-CCM and ChaCha20-Poly1305: what RustCrypto has as a whole.

use std::fmt;

use aes_gcm::aead::{self, AeadInOut, KeyInit};

use crate::{Aead, AeadError, Algorithm, KeyMaterial, Nonce, Provider};

/// A key of the AEAD `A`, which erases it when dropped.
pub(super) struct AeadKey<A> {
    algorithm: Algorithm,
    key: A,
}

impl<A: AeadInOut + KeyInit + Send + Sync + 'static> AeadKey<A> {
    pub(super) fn boxed(key: &KeyMaterial) -> Option<Box<dyn Aead>> {
        Some(Box::new(Self {
            algorithm: key.algorithm(),
            key: A::new_from_slice(key.encryption()).ok()?,
        }))
    }

    /// The first bytes of `nonce`, as many as the AEAD takes.
    fn nonce(nonce: &Nonce) -> Result<aead::Nonce<A>, AeadError> {
        let len = aead::Nonce::<A>::default().len();
        aead::Nonce::<A>::try_from(&nonce[..len]).map_err(|_| AeadError::Length)
    }
}

impl<A> AeadKey<A> {
    /// The crates check lengths themselves but do not say so in their errors, and CCM decrypts before it does.
    fn check_len(&self, len: usize) -> Result<(), AeadError> {
        let max = match self.algorithm {
            // RFC 4309 section 4: a length field of 4 bytes.
            Algorithm::AesCcm(..) => u32::MAX.into(),
            // RFC 8439 section 2.8: 2^32 - 1 blocks of 64 bytes.
            Algorithm::ChaCha20Poly1305 => ((1 << 32) - 1) * 64,
            _ => aes_gcm::P_MAX,
        };
        if len as u64 > max {
            return Err(AeadError::Length);
        }
        Ok(())
    }
}

impl<A> fmt::Debug for AeadKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AeadKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl<A: AeadInOut + KeyInit + Send + Sync + 'static> Aead for AeadKey<A> {
    fn provider(&self) -> Provider {
        Provider::RustCrypto
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), AeadError> {
        self.check_len(data.len())?;
        let nonce = Self::nonce(nonce)?;
        let sealed = self.key.encrypt_inout_detached(&nonce, aad, data.into());
        let sealed = sealed.map_err(|_| AeadError::Length)?;
        if tag.len() != sealed.len() {
            return Err(AeadError::Length);
        }
        tag.copy_from_slice(&sealed);
        Ok(())
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), AeadError> {
        self.check_len(data.len())?;
        let nonce = Self::nonce(nonce)?;
        let tag = aead::Tag::<A>::try_from(tag).map_err(|_| AeadError::NotAuthentic)?;
        // GCM and ChaCha20-Poly1305 verify before they decrypt; CCM must decrypt first, and erases what does not verify.
        // All three compare in constant time.
        let opened = self.key.decrypt_inout_detached(&nonce, aad, data.into(), &tag);
        opened.map_err(|_| AeadError::NotAuthentic)
    }
}
