//! A cipher with a MAC over the ciphertext, as ESP joins them (RFC 4303 section 3.3.2.1).

use std::fmt;

use crate::{Aead, AeadError, Algorithm, MAX_TAG_LEN, Nonce, Provider, constant_time};

/// Encryption without authentication: only for use in [`EncryptThenMac`].
pub(crate) trait Cipher: Send + Sync {
    /// As [`Aead::iv`].
    fn iv(&self, sequence: u64, iv: &mut [u8]) {
        if let Some(iv) = iv.first_chunk_mut() {
            *iv = sequence.to_be_bytes();
        }
    }

    /// Encrypts in place.
    ///
    /// # Errors
    /// [`AeadError::Length`].
    fn encrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError>;

    /// Decrypts in place what was verified before.
    ///
    /// # Errors
    /// [`AeadError::Length`].
    fn decrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError>;
}

/// Authentication.
pub(crate) trait Mac: Send + Sync {
    /// The first bytes of the MAC of all parts, one after the other.
    fn tag(&self, parts: [&[u8]; 5]) -> [u8; MAX_TAG_LEN];
}

/// The NULL cipher (RFC 2410).
pub(crate) struct Null;

impl Cipher for Null {
    fn encrypt(&self, _: &Nonce, _: &mut [u8]) -> Result<(), AeadError> {
        Ok(())
    }

    fn decrypt(&self, _: &Nonce, _: &mut [u8]) -> Result<(), AeadError> {
        Ok(())
    }
}

/// The block that a CBC cipher encrypts to make the IV of a packet.
///
/// NIST SP 800-38A appendix C: "The first method is to apply the forward cipher function, under the same key that is used
/// for the encryption of the plaintext, to a nonce. The nonce must be a data block that is unique to each execution of
/// the encryption operation. For example, the nonce may be a counter". RFC 3602 section 3: "it MUST NOT be predictable".
pub(crate) fn cbc_iv_input(sequence: u64) -> Nonce {
    u128::from(sequence).to_be_bytes()
}

/// RFC 3686 section 4: nonce, IV, and a counter that "is set to one for the first block".
///
/// # Errors
/// [`AeadError::Length`] if `data_len` bytes would make the counter overflow.
pub(crate) fn first_counter_block(nonce: &Nonce, data_len: usize) -> Result<[u8; 16], AeadError> {
    if data_len.div_ceil(16) as u64 > u64::from(u32::MAX) {
        return Err(AeadError::Length);
    }
    let mut block = *nonce;
    block[12..].copy_from_slice(&[0, 0, 0, 1]);
    Ok(block)
}

/// A cipher's key and a MAC's.
pub(crate) struct EncryptThenMac<C, M> {
    provider: Provider,
    algorithm: Algorithm,
    cipher: C,
    mac: M,
}

impl<C: Cipher, M: Mac> EncryptThenMac<C, M> {
    pub(crate) fn new(provider: Provider, algorithm: Algorithm, cipher: C, mac: M) -> Self {
        Self {
            provider,
            algorithm,
            cipher,
            mac,
        }
    }

    /// RFC 4303 section 2.2.1: "if a separate integrity algorithm is employed, then the high-order 32 bits are included in
    /// the implicit ESP trailer", behind all that is sent.
    fn tag(&self, nonce: &Nonce, aad: &[u8], data: &[u8]) -> [u8; MAX_TAG_LEN] {
        let iv = &nonce[self.algorithm.salt_len()..self.algorithm.nonce_len()];
        // SPI, high half, low half, as an AEAD takes them.
        match aad.as_chunks::<4>() {
            ([spi, high, low], []) => self.mac.tag([spi, low, iv, data, high]),
            _ => self.mac.tag([aad, &[], iv, data, &[]]),
        }
    }
}

impl<C, M> fmt::Debug for EncryptThenMac<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptThenMac")
            .field("provider", &self.provider)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl<C: Cipher + 'static, M: Mac + 'static> Aead for EncryptThenMac<C, M> {
    fn provider(&self) -> Provider {
        self.provider
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn iv(&self, sequence: u64, iv: &mut [u8]) {
        self.cipher.iv(sequence, iv);
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), AeadError> {
        if tag.len() != self.algorithm.tag_len() {
            return Err(AeadError::Length);
        }
        self.cipher.encrypt(nonce, data)?;
        let made = self.tag(nonce, aad, data);
        tag.copy_from_slice(&made[..tag.len()]);
        Ok(())
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), AeadError> {
        let expected = self.tag(nonce, aad, data);
        if !constant_time::are_equal(&expected[..self.algorithm.tag_len()], tag) {
            // For NULL, whose data is plaintext already.
            data.fill(0);
            return Err(AeadError::NotAuthentic);
        }
        self.cipher.decrypt(nonce, data)
    }
}
