//! Every algorithm, by the RustCrypto crates.

mod aead_key;
mod ciphers;
mod gmac;
mod hmac_key;

use aes::cipher::consts::{U8, U11, U12, U16};
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes_gcm::AesGcm;
use ccm::Ccm;
use chacha20poly1305::ChaCha20Poly1305;
use hmac::Hmac as HmacOf;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::ZeroizeOnDrop;

use crate::encrypt_then_mac::{Cipher, EncryptThenMac, Mac, Null};
use crate::{Aead, AesKey, Algorithm, Hmac, IcvLen, KeyMaterial, Provider};
use aead_key::AeadKey;
use ciphers::{Cbc, Ctr};
use gmac::GmacKey;
use hmac_key::HmacKey;

/// AES with a key of one of the three lengths, which is erased when it is dropped.
trait Aes:
    BlockSizeUser<BlockSize = U16>
    + BlockCipherEncrypt
    + BlockCipherDecrypt
    + KeyInit
    + ZeroizeOnDrop
    + Send
    + Sync
    + 'static
{
}

impl Aes for aes::Aes128 {}
impl Aes for aes::Aes192 {}
impl Aes for aes::Aes256 {}

/// Expands `key`; `None` if a crate refuses it.
pub(crate) fn expand(key: &KeyMaterial) -> Option<Box<dyn Aead>> {
    match key.algorithm() {
        Algorithm::ChaCha20Poly1305 => AeadKey::<ChaCha20Poly1305>::boxed(key),
        Algorithm::NullHmac(hmac) => with_hmac(key, Null, hmac),
        Algorithm::AesGcm(aes, _)
        | Algorithm::AesCcm(aes, _)
        | Algorithm::AesGmac(aes)
        | Algorithm::AesCbcHmac(aes, _)
        | Algorithm::AesCtrHmac(aes, _) => match aes {
            AesKey::Aes128 => with_aes::<aes::Aes128>(key),
            AesKey::Aes192 => with_aes::<aes::Aes192>(key),
            AesKey::Aes256 => with_aes::<aes::Aes256>(key),
        },
    }
}

fn with_aes<A: Aes>(key: &KeyMaterial) -> Option<Box<dyn Aead>> {
    match key.algorithm() {
        Algorithm::AesGcm(_, IcvLen::Icv8) => AeadKey::<AesGcm<A, U12, U8>>::boxed(key),
        Algorithm::AesGcm(_, IcvLen::Icv12) => AeadKey::<AesGcm<A, U12, U12>>::boxed(key),
        Algorithm::AesGcm(_, IcvLen::Icv16) => AeadKey::<AesGcm<A, U12, U16>>::boxed(key),
        // RFC 4309 section 4: "The nonce … is always 11 octets", which leaves 4 bytes for the length.
        Algorithm::AesCcm(_, IcvLen::Icv8) => AeadKey::<Ccm<A, U8, U11>>::boxed(key),
        Algorithm::AesCcm(_, IcvLen::Icv12) => AeadKey::<Ccm<A, U12, U11>>::boxed(key),
        Algorithm::AesCcm(_, IcvLen::Icv16) => AeadKey::<Ccm<A, U16, U11>>::boxed(key),
        Algorithm::AesGmac(_) => Some(Box::new(GmacKey::<A>::new(key)?)),
        Algorithm::AesCbcHmac(_, hmac) => with_hmac(key, Cbc::<A>::new(key)?, hmac),
        Algorithm::AesCtrHmac(_, hmac) => with_hmac(key, Ctr::<A>::new(key)?, hmac),
        Algorithm::ChaCha20Poly1305 | Algorithm::NullHmac(_) => None,
    }
}

fn with_hmac<C: Cipher + 'static>(key: &KeyMaterial, cipher: C, hmac: Hmac) -> Option<Box<dyn Aead>> {
    match hmac {
        Hmac::Sha1_96 => with_mac(key, cipher, HmacKey::<HmacOf<Sha1>>::new(key)?),
        Hmac::Sha2_256_128 => with_mac(key, cipher, HmacKey::<HmacOf<Sha256>>::new(key)?),
        Hmac::Sha2_384_192 => with_mac(key, cipher, HmacKey::<HmacOf<Sha384>>::new(key)?),
        Hmac::Sha2_512_256 => with_mac(key, cipher, HmacKey::<HmacOf<Sha512>>::new(key)?),
    }
}

fn with_mac<C: Cipher + 'static, M: Mac + 'static>(
    key: &KeyMaterial,
    cipher: C,
    mac: M,
) -> Option<Box<dyn Aead>> {
    let (provider, algorithm) = (Provider::RustCrypto, key.algorithm());
    Some(Box::new(EncryptThenMac::new(provider, algorithm, cipher, mac)))
}

#[cfg(test)]
mod tests {
    use hmac::EagerHash;

    use super::*;

    /// Erasing is a feature of each of these crates, which a change of Cargo.toml could lose without a word.
    #[test]
    fn what_holds_a_key_is_erased() {
        const fn is_erased<T: ZeroizeOnDrop>() {}
        is_erased::<AesGcm<aes::Aes256, U12, U16>>();
        is_erased::<ChaCha20Poly1305>();
        // What HMAC keeps of its key are states of the hash.
        is_erased::<<Sha1 as EagerHash>::Core>();
        is_erased::<<Sha256 as EagerHash>::Core>();
        is_erased::<<Sha512 as EagerHash>::Core>();
    }
}
