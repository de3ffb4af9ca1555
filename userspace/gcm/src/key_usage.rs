//! How much one key may carry.

use crate::{Algorithm, IcvLen};

/// How far an algorithm may be used under one key, by sender and receiver alike; `u64::MAX` for no limit.
///
/// | Algorithm | packets | bytes | ICVs checked | why |
/// |---|---|---|---|---|
/// | AES-GCM, CTR and CBC | 2^46 | 2^52 | | PRP |
/// | AES-CCM, two AES calls per block | 2^45 | 2^51 | | PRP; far below the 2^61 calls of SP 800-38C section 5.3 |
/// | AES-GMAC, one AES call per packet | 2^48 | | | PRP |
/// | AES-GCM with an ICV of 8 bytes | 2^29 | 2^52 | 2^29 | SP 800-38D appendix C, table 2: packets up to 2^17 bytes |
/// | AES-CCM with an ICV of 8 bytes | 2^32 | 2^51 | 2^32 | SP 800-38C appendix B.2: MaxErrs at a risk of 2^-32 |
/// | ChaCha20-Poly1305, NULL with HMAC | | | | |
///
/// PRP: after q calls of a cipher with blocks of 128 bits the chance to tell it from a random function, which for CBC is
/// that of two equal blocks, is at most q^2 / 2^129. The limits keep it at 2^-32, the risk that SP 800-38D section 8 takes
/// for repeated nonces. Its limit of 2^32 packets (section 8.3) is for nonces drawn at random; those of ESP count.
/// RFC 8221 names no amounts; it warns of ciphers with blocks of 64 bits, where the same sum ends after some gigabytes,
/// and there is none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUsage {
    /// Packets sealed.
    pub packets: u64,
    /// Bytes encrypted, with padding.
    pub bytes: u64,
    /// ICVs checked, right and wrong ones.
    pub icvs: u64,
}

impl KeyUsage {
    /// The most.
    #[must_use]
    pub const fn most(algorithm: Algorithm) -> Self {
        const NONE: u64 = u64::MAX;
        let (packets, bytes, icvs) = match algorithm {
            Algorithm::AesGcm(_, IcvLen::Icv8) => (1 << 29, 1 << 52, 1 << 29),
            Algorithm::AesCcm(_, IcvLen::Icv8) => (1 << 32, 1 << 51, 1 << 32),
            Algorithm::AesGcm(..) | Algorithm::AesCtrHmac(..) | Algorithm::AesCbcHmac(..) => {
                (1 << 46, 1 << 52, NONE)
            }
            Algorithm::AesCcm(..) => (1 << 45, 1 << 51, NONE),
            Algorithm::AesGmac(_) => (1 << 48, NONE, NONE),
            Algorithm::ChaCha20Poly1305 | Algorithm::NullHmac(_) => (NONE, NONE, NONE),
        };
        Self { packets, bytes, icvs }
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, KeyUsage};

    /// q^2 / 2^129 <= 2^-32, counting what the modes do: a call per block, two with CCM, and a few per packet.
    #[test]
    fn no_cipher_is_used_beyond_the_risk_that_was_taken() {
        for algorithm in Algorithm::ALL {
            let (per_block, per_packet) = match algorithm {
                Algorithm::AesGcm(..) | Algorithm::AesCtrHmac(..) | Algorithm::AesGmac(_) => (1, 1),
                Algorithm::AesCbcHmac(..) => (1, 0),
                // B_0 and the associated data in front, S_0 behind.
                Algorithm::AesCcm(..) => (2, 3),
                Algorithm::ChaCha20Poly1305 | Algorithm::NullHmac(_) => continue,
            };
            let most = KeyUsage::most(*algorithm);
            let blocks = if matches!(algorithm, Algorithm::AesGmac(_)) {
                0
            } else {
                most.bytes / 16
            };
            let calls = (blocks * per_block + most.packets * per_packet) as f64;
            assert!(
                calls.log2() * 2.0 - 129.0 <= -32.0,
                "{algorithm}: {}",
                calls.log2()
            );
        }
    }
}
