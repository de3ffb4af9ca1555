//! What AWS-LC does faster: AES-GCM, ChaCha20-Poly1305, and ciphers with HMAC.
//!
//! With HMAC that depends on the CPU: without SHA extensions AWS-LC's SHA-256 and SHA-1 take about three quarters of
//! RustCrypto's time; with them RustCrypto is ahead by a tenth of a microsecond per packet, for which AWS-LC copies its state.

mod aead_key;
mod ciphers;
mod hmac_key;

use crate::encrypt_then_mac::{Cipher, EncryptThenMac, Null};
use crate::{Aead, Algorithm, IcvLen, KeyMaterial, Provider};
use aead_key::AeadKey;
use ciphers::{Cbc, Ctr};
use hmac_key::HmacKey;

/// Whether [`expand`] takes keys for `algorithm`. Short ICVs of GCM and CCM, and GMAC over more than one piece, are not
/// to be had from it.
pub(crate) const fn has(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::AesGcm(_, IcvLen::Icv16)
            | Algorithm::ChaCha20Poly1305
            | Algorithm::AesCbcHmac(..)
            | Algorithm::AesCtrHmac(..)
            | Algorithm::NullHmac(_)
    )
}

/// Expands `key`; `None` if AWS-LC refuses it.
pub(crate) fn expand(key: &KeyMaterial) -> Option<Box<dyn Aead>> {
    match key.algorithm() {
        Algorithm::AesCbcHmac(..) => with_hmac(key, Cbc::new(key)?),
        Algorithm::AesCtrHmac(..) => with_hmac(key, Ctr::new(key)?),
        Algorithm::NullHmac(_) => with_hmac(key, Null),
        _ => Some(Box::new(AeadKey::new(key)?)),
    }
}

fn with_hmac<C: Cipher + 'static>(key: &KeyMaterial, cipher: C) -> Option<Box<dyn Aead>> {
    let mac = HmacKey::new(key)?;
    let (provider, algorithm) = (Provider::AwsLc, key.algorithm());
    Some(Box::new(EncryptThenMac::new(provider, algorithm, cipher, mac)))
}
