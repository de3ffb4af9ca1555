//! The algorithms of ESP and AH, and the lengths that follow from them.

use std::fmt;
use std::str::FromStr;

/// Key length of AES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AesKey {
    /// 16 bytes.
    Aes128,
    /// 24 bytes.
    Aes192,
    /// 32 bytes.
    Aes256,
}

impl AesKey {
    /// Length in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }

    /// Never: an AES key has bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// Length of the ICV of GCM and CCM (RFC 4106 section 6, RFC 4309 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcvLen {
    /// 8 bytes.
    Icv8,
    /// 12 bytes.
    Icv12,
    /// 16 bytes.
    Icv16,
}

impl IcvLen {
    /// Length in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::Icv8 => 8,
            Self::Icv12 => 12,
            Self::Icv16 => 16,
        }
    }

    /// Never: ESP without an ICV is refused.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// HMAC with the truncation that IPsec gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hmac {
    /// HMAC-SHA1-96 (RFC 2404), for old peers.
    Sha1_96,
    /// HMAC-SHA-256-128 (RFC 4868).
    Sha2_256_128,
    /// HMAC-SHA-384-192 (RFC 4868).
    Sha2_384_192,
    /// HMAC-SHA-512-256 (RFC 4868).
    Sha2_512_256,
}

impl Hmac {
    /// Length of the key in bytes, which is the hash's whole output (RFC 2404 section 3, RFC 4868 section 2.1.1).
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Sha1_96 => 20,
            Self::Sha2_256_128 => 32,
            Self::Sha2_384_192 => 48,
            Self::Sha2_512_256 => 64,
        }
    }

    /// Length of the truncated output in bytes.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Self::Sha1_96 => 12,
            Self::Sha2_256_128 => 16,
            Self::Sha2_384_192 => 24,
            Self::Sha2_512_256 => 32,
        }
    }
}

/// Declares the algorithms together with their names, so that lists and texts cannot disagree.
macro_rules! algorithms {
    ($($kind:ident $(($($part:expr),+))? = $name:literal;)*) => {
        impl Algorithm {
            /// Every algorithm.
            pub const ALL: &'static [Self] = &[$(Self::$kind $(($($part),+))?),*];

            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),*];
        }
    };
}

/// What encrypts and authenticates: an AEAD, or a cipher with a MAC over the ciphertext (RFC 4303 section 3.3.2.1).
///
/// Encryption without authentication cannot be named, nor can neither of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-GCM (RFC 4106).
    AesGcm(AesKey, IcvLen),
    /// AES-CCM (RFC 4309).
    AesCcm(AesKey, IcvLen),
    /// AES-GMAC (RFC 4543): authentication only.
    AesGmac(AesKey),
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// AES-CBC (RFC 3602) with HMAC.
    AesCbcHmac(AesKey, Hmac),
    /// AES-CTR (RFC 3686) with HMAC.
    AesCtrHmac(AesKey, Hmac),
    /// No encryption (RFC 2410), with HMAC.
    NullHmac(Hmac),
}

use AesKey::{Aes128, Aes192, Aes256};
use Hmac::{Sha1_96, Sha2_256_128, Sha2_384_192, Sha2_512_256};
use IcvLen::{Icv8, Icv12, Icv16};

algorithms! {
    AesGcm(Aes256, Icv16) = "aes-256-gcm";
    AesGcm(Aes192, Icv16) = "aes-192-gcm";
    AesGcm(Aes128, Icv16) = "aes-128-gcm";
    AesGcm(Aes256, Icv12) = "aes-256-gcm-12";
    AesGcm(Aes192, Icv12) = "aes-192-gcm-12";
    AesGcm(Aes128, Icv12) = "aes-128-gcm-12";
    AesGcm(Aes256, Icv8) = "aes-256-gcm-8";
    AesGcm(Aes192, Icv8) = "aes-192-gcm-8";
    AesGcm(Aes128, Icv8) = "aes-128-gcm-8";
    ChaCha20Poly1305 = "chacha20-poly1305";
    AesCcm(Aes256, Icv16) = "aes-256-ccm";
    AesCcm(Aes192, Icv16) = "aes-192-ccm";
    AesCcm(Aes128, Icv16) = "aes-128-ccm";
    AesCcm(Aes256, Icv12) = "aes-256-ccm-12";
    AesCcm(Aes192, Icv12) = "aes-192-ccm-12";
    AesCcm(Aes128, Icv12) = "aes-128-ccm-12";
    AesCcm(Aes256, Icv8) = "aes-256-ccm-8";
    AesCcm(Aes192, Icv8) = "aes-192-ccm-8";
    AesCcm(Aes128, Icv8) = "aes-128-ccm-8";
    AesGmac(Aes256) = "aes-256-gmac";
    AesGmac(Aes192) = "aes-192-gmac";
    AesGmac(Aes128) = "aes-128-gmac";
    AesCbcHmac(Aes256, Sha2_256_128) = "aes-256-cbc-hmac-sha2-256";
    AesCbcHmac(Aes256, Sha2_384_192) = "aes-256-cbc-hmac-sha2-384";
    AesCbcHmac(Aes256, Sha2_512_256) = "aes-256-cbc-hmac-sha2-512";
    AesCbcHmac(Aes256, Sha1_96) = "aes-256-cbc-hmac-sha1";
    AesCbcHmac(Aes192, Sha2_256_128) = "aes-192-cbc-hmac-sha2-256";
    AesCbcHmac(Aes192, Sha2_384_192) = "aes-192-cbc-hmac-sha2-384";
    AesCbcHmac(Aes192, Sha2_512_256) = "aes-192-cbc-hmac-sha2-512";
    AesCbcHmac(Aes192, Sha1_96) = "aes-192-cbc-hmac-sha1";
    AesCbcHmac(Aes128, Sha2_256_128) = "aes-128-cbc-hmac-sha2-256";
    AesCbcHmac(Aes128, Sha2_384_192) = "aes-128-cbc-hmac-sha2-384";
    AesCbcHmac(Aes128, Sha2_512_256) = "aes-128-cbc-hmac-sha2-512";
    AesCbcHmac(Aes128, Sha1_96) = "aes-128-cbc-hmac-sha1";
    AesCtrHmac(Aes256, Sha2_256_128) = "aes-256-ctr-hmac-sha2-256";
    AesCtrHmac(Aes256, Sha2_384_192) = "aes-256-ctr-hmac-sha2-384";
    AesCtrHmac(Aes256, Sha2_512_256) = "aes-256-ctr-hmac-sha2-512";
    AesCtrHmac(Aes256, Sha1_96) = "aes-256-ctr-hmac-sha1";
    AesCtrHmac(Aes192, Sha2_256_128) = "aes-192-ctr-hmac-sha2-256";
    AesCtrHmac(Aes192, Sha2_384_192) = "aes-192-ctr-hmac-sha2-384";
    AesCtrHmac(Aes192, Sha2_512_256) = "aes-192-ctr-hmac-sha2-512";
    AesCtrHmac(Aes192, Sha1_96) = "aes-192-ctr-hmac-sha1";
    AesCtrHmac(Aes128, Sha2_256_128) = "aes-128-ctr-hmac-sha2-256";
    AesCtrHmac(Aes128, Sha2_384_192) = "aes-128-ctr-hmac-sha2-384";
    AesCtrHmac(Aes128, Sha2_512_256) = "aes-128-ctr-hmac-sha2-512";
    AesCtrHmac(Aes128, Sha1_96) = "aes-128-ctr-hmac-sha1";
    NullHmac(Sha2_256_128) = "null-hmac-sha2-256";
    NullHmac(Sha2_384_192) = "null-hmac-sha2-384";
    NullHmac(Sha2_512_256) = "null-hmac-sha2-512";
    NullHmac(Sha1_96) = "null-hmac-sha1";
}

impl Algorithm {
    /// AES-GCM with a key of 16 bytes and an ICV of 16.
    pub const AES_128_GCM: Self = Self::AesGcm(Aes128, Icv16);
    /// AES-GCM with a key of 32 bytes and an ICV of 16.
    pub const AES_256_GCM: Self = Self::AesGcm(Aes256, Icv16);

    /// The name in policies and output.
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut named = Self::ALL.iter().zip(Self::NAMES);
        // Every value that can be made is in the list; a test makes them all.
        named
            .find(|(algorithm, _)| **algorithm == self)
            .map_or("unknown", |(_, name)| name)
    }

    /// Length in bytes of the encryption key, without salt.
    #[must_use]
    pub const fn encryption_key_len(self) -> usize {
        match self {
            Self::AesGcm(key, _)
            | Self::AesCcm(key, _)
            | Self::AesGmac(key)
            | Self::AesCbcHmac(key, _)
            | Self::AesCtrHmac(key, _) => key.len(),
            Self::ChaCha20Poly1305 => 32,
            Self::NullHmac(_) => 0,
        }
    }

    /// Length in bytes of a MAC's own key; 0 for AEADs.
    #[must_use]
    pub const fn integrity_key_len(self) -> usize {
        match self {
            Self::AesGcm(..) | Self::AesCcm(..) | Self::AesGmac(_) | Self::ChaCha20Poly1305 => 0,
            Self::AesCbcHmac(_, hmac) | Self::AesCtrHmac(_, hmac) | Self::NullHmac(hmac) => hmac.key_len(),
        }
    }

    /// Length in bytes of what [`KeyMaterial`](crate::KeyMaterial) holds: encryption key, then integrity key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        self.encryption_key_len() + self.integrity_key_len()
    }

    /// Length in bytes of the secret first part of the nonce, which comes with the keys: the salt of AEADs, the nonce of
    /// RFC 3686.
    #[must_use]
    pub const fn salt_len(self) -> usize {
        match self {
            Self::AesGcm(..) | Self::AesGmac(_) | Self::ChaCha20Poly1305 | Self::AesCtrHmac(..) => 4,
            Self::AesCcm(..) => 3,
            Self::AesCbcHmac(..) | Self::NullHmac(_) => 0,
        }
    }

    /// Length in bytes of the KEYMAT: encryption key, salt, integrity key, in this order (RFC 7296 section 2.17, RFC 4106
    /// section 8.1, RFC 3686 section 5.1).
    #[must_use]
    pub const fn keymat_len(self) -> usize {
        self.key_len() + self.salt_len()
    }

    /// Length in bytes of the IV that travels in each packet.
    #[must_use]
    pub const fn iv_len(self) -> usize {
        match self {
            Self::AesGcm(..)
            | Self::AesCcm(..)
            | Self::AesGmac(_)
            | Self::ChaCha20Poly1305
            | Self::AesCtrHmac(..) => 8,
            Self::AesCbcHmac(..) => 16,
            Self::NullHmac(_) => 0,
        }
    }

    /// Length in bytes of the nonce: salt, then IV.
    #[must_use]
    pub const fn nonce_len(self) -> usize {
        self.salt_len() + self.iv_len()
    }

    /// Length in bytes of the tag, in ESP the integrity check value.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Self::AesGcm(_, icv) | Self::AesCcm(_, icv) => icv.len(),
            Self::AesGmac(_) | Self::ChaCha20Poly1305 => 16,
            Self::AesCbcHmac(_, hmac) | Self::AesCtrHmac(_, hmac) | Self::NullHmac(hmac) => hmac.tag_len(),
        }
    }

    /// What the length of the data must be a multiple of, in bytes.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::AesCbcHmac(..) => 16,
            _ => 1,
        }
    }

    /// Whether data is encrypted, not only authenticated.
    #[must_use]
    pub const fn encrypts(self) -> bool {
        !matches!(self, Self::AesGmac(_) | Self::NullHmac(_))
    }

    /// Whether the IV may be left out of packets, the sequence number being known (RFC 8750 section 4).
    #[must_use]
    pub const fn takes_implicit_iv(self) -> bool {
        matches!(
            self,
            Self::AesGcm(_, Icv16) | Self::AesCcm(_, Icv8) | Self::ChaCha20Poly1305
        )
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No such algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown algorithm {0:?}; use one of {names}", names = Algorithm::NAMES.join(", "))]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut named = Self::ALL.iter().zip(Self::NAMES);
        named
            .find(|(_, known)| **known == name)
            .map(|(algorithm, _)| *algorithm)
            .ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_value_has_a_name_of_its_own() {
        let keys = [Aes128, Aes192, Aes256];
        let icvs = [Icv8, Icv12, Icv16];
        let hmacs = [Sha1_96, Sha2_256_128, Sha2_384_192, Sha2_512_256];
        let mut made = vec![Algorithm::ChaCha20Poly1305];
        for key in keys {
            made.push(Algorithm::AesGmac(key));
            made.extend(icvs.map(|icv| Algorithm::AesGcm(key, icv)));
            made.extend(icvs.map(|icv| Algorithm::AesCcm(key, icv)));
            made.extend(hmacs.map(|hmac| Algorithm::AesCbcHmac(key, hmac)));
            made.extend(hmacs.map(|hmac| Algorithm::AesCtrHmac(key, hmac)));
        }
        made.extend(hmacs.map(Algorithm::NullHmac));
        for algorithm in &made {
            assert_eq!(algorithm.name().parse(), Ok(*algorithm));
        }
        assert_eq!(made.len(), Algorithm::ALL.len());
        let names: HashSet<_> = Algorithm::NAMES.iter().collect();
        assert_eq!(names.len(), Algorithm::ALL.len());
        assert!("aes-512-gcm".parse::<Algorithm>().is_err());
        assert!("unknown".parse::<Algorithm>().is_err());
    }

    #[test]
    fn nothing_goes_without_authentication() {
        assert!(Algorithm::ALL.iter().all(|algorithm| algorithm.tag_len() >= 8));
    }
}
