//! HMAC (RFC 2104).

use hmac::KeyInit;

use crate::encrypt_then_mac::Mac;
use crate::{KeyMaterial, MAX_TAG_LEN};

/// The state of `H` after its key, which it erases when dropped.
pub(super) struct HmacKey<H> {
    keyed: H,
}

impl<H: hmac::Mac + KeyInit> HmacKey<H> {
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        let keyed = <H as KeyInit>::new_from_slice(key.integrity()).ok()?;
        Some(Self { keyed })
    }
}

impl<H: hmac::Mac + KeyInit + Clone + Send + Sync> Mac for HmacKey<H> {
    fn tag(&self, parts: [&[u8]; 5]) -> [u8; MAX_TAG_LEN] {
        let mut mac = self.keyed.clone();
        for part in parts {
            mac.update(part);
        }
        let mut tag = [0; MAX_TAG_LEN];
        for (byte, made) in tag.iter_mut().zip(mac.finalize().into_bytes()) {
            *byte = made;
        }
        tag
    }
}
