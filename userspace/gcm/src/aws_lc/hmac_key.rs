//! HMAC (RFC 2104).

use aws_lc_rs::hmac::{self, Context, Key};

use crate::encrypt_then_mac::Mac;
use crate::{Algorithm, Hmac, KeyMaterial, MAX_TAG_LEN};

/// The state of HMAC after its key, which AWS-LC erases when it is dropped.
pub(super) struct HmacKey {
    keyed: Key,
}

impl HmacKey {
    /// `None` for an algorithm without HMAC.
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        let (Algorithm::AesCbcHmac(_, hmac) | Algorithm::AesCtrHmac(_, hmac) | Algorithm::NullHmac(hmac)) =
            key.algorithm()
        else {
            return None;
        };
        let hash = match hmac {
            Hmac::Sha1_96 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Hmac::Sha2_256_128 => hmac::HMAC_SHA256,
            Hmac::Sha2_384_192 => hmac::HMAC_SHA384,
            Hmac::Sha2_512_256 => hmac::HMAC_SHA512,
        };
        let keyed = Key::new(hash, key.integrity());
        Some(Self { keyed })
    }
}

impl Mac for HmacKey {
    fn tag(&self, parts: [&[u8]; 5]) -> [u8; MAX_TAG_LEN] {
        let mut context = Context::with_key(&self.keyed);
        for part in parts {
            context.update(part);
        }
        let mut tag = [0; MAX_TAG_LEN];
        for (byte, made) in tag.iter_mut().zip(context.sign().as_ref()) {
            *byte = *made;
        }
        tag
    }
}
