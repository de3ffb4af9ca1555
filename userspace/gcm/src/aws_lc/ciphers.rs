//! AES-CBC and AES-CTR, which never stand without a MAC.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use crate::encrypt_then_mac::{self, Cipher};
use crate::{AeadError, KeyMaterial, Nonce};

/// The key to give away; `None` if its length is none of AES.
fn unbound(key: &KeyMaterial) -> Option<UnboundCipherKey> {
    let key = key.encryption();
    let aes = [&AES_128, &AES_192, &AES_256].into_iter();
    // Each takes keys of its own length only.
    aes.filter_map(|aes| UnboundCipherKey::new(aes, key).ok()).next()
}

/// AES in CBC mode (RFC 3602).
pub(super) struct Cbc {
    encrypting: EncryptingKey,
    decrypting: DecryptingKey,
}

impl Cbc {
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        Some(Self {
            encrypting: EncryptingKey::cbc(unbound(key)?).ok()?,
            decrypting: DecryptingKey::cbc(unbound(key)?).ok()?,
        })
    }
}

impl Cipher for Cbc {
    fn iv(&self, sequence: u64, iv: &mut [u8]) {
        let mut block = encrypt_then_mac::cbc_iv_input(sequence);
        // CBC of one block with an IV of zeros is the cipher alone. On an error, which a whole block cannot cause, the IV
        // must not be the counter.
        if self.encrypt(&[0; 16], &mut block).is_err() {
            block.fill(0);
        }
        for (byte, made) in iv.iter_mut().zip(block) {
            *byte = made;
        }
    }

    fn encrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError> {
        let context = EncryptionContext::Iv128(FixedLength::from(nonce));
        let encrypted = self.encrypting.less_safe_encrypt(data, context);
        encrypted.map(drop).map_err(|_| AeadError::Length)
    }

    fn decrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError> {
        let context = DecryptionContext::Iv128(FixedLength::from(nonce));
        let decrypted = self.decrypting.decrypt(data, context);
        decrypted.map(drop).map_err(|_| AeadError::Length)
    }
}

/// AES in counter mode (RFC 3686).
pub(super) struct Ctr {
    key: EncryptingKey,
}

impl Ctr {
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        let key = EncryptingKey::ctr(unbound(key)?).ok()?;
        Some(Self { key })
    }
}

impl Cipher for Ctr {
    fn encrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError> {
        let block = encrypt_then_mac::first_counter_block(nonce, data.len())?;
        let context = EncryptionContext::Iv128(FixedLength::from(&block));
        let encrypted = self.key.less_safe_encrypt(data, context);
        encrypted.map(drop).map_err(|_| AeadError::Length)
    }

    fn decrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError> {
        self.encrypt(nonce, data)
    }
}
