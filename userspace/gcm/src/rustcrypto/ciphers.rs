//! AES-CBC and AES-CTR, which never stand without a MAC.

use aes::cipher::array::Array;
use aes::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, InnerIvInit as _, StreamCipherCore as _};
use ctr::CtrCore;
use ctr::flavors::Ctr32BE;

use super::Aes;
use crate::encrypt_then_mac::{self, Cipher};
use crate::{AeadError, KeyMaterial, Nonce};

/// AES in CBC mode (RFC 3602).
pub(super) struct Cbc<A> {
    aes: A,
}

impl<A: Aes> Cbc<A> {
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        let aes = A::new_from_slice(key.encryption()).ok()?;
        Some(Self { aes })
    }
}

impl<A: Aes> Cipher for Cbc<A> {
    fn iv(&self, sequence: u64, iv: &mut [u8]) {
        let mut block = encrypt_then_mac::cbc_iv_input(sequence).into();
        self.aes.encrypt_block(&mut block);
        for (byte, made) in iv.iter_mut().zip(block) {
            *byte = made;
        }
    }

    fn encrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError> {
        let (blocks, rest) = Array::slice_as_chunks_mut(data);
        if !rest.is_empty() {
            return Err(AeadError::Length);
        }
        cbc::Encryptor::inner_iv_init(&self.aes, nonce.into()).encrypt_blocks(blocks);
        Ok(())
    }

    fn decrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError> {
        let (blocks, rest) = Array::slice_as_chunks_mut(data);
        if !rest.is_empty() {
            return Err(AeadError::Length);
        }
        cbc::Decryptor::inner_iv_init(&self.aes, nonce.into()).decrypt_blocks(blocks);
        Ok(())
    }
}

/// AES in counter mode (RFC 3686).
pub(super) struct Ctr<A> {
    aes: A,
}

impl<A: Aes> Ctr<A> {
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        let aes = A::new_from_slice(key.encryption()).ok()?;
        Some(Self { aes })
    }
}

impl<A: Aes> Cipher for Ctr<A> {
    fn encrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError> {
        let block = encrypt_then_mac::first_counter_block(nonce, data.len())?;
        let counter = CtrCore::<&A, Ctr32BE>::inner_iv_init(&self.aes, &block.into());
        counter.apply_keystream_partial(data.into());
        Ok(())
    }

    fn decrypt(&self, nonce: &Nonce, data: &mut [u8]) -> Result<(), AeadError> {
        self.encrypt(nonce, data)
    }
}
