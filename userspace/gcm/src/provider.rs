//! The implementations to choose from.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use crate::{Aead, Algorithm, KeyError, KeyMaterial, aws_lc, rustcrypto, trial, vector};

/// An implementation of the algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// AWS-LC: assembly for AES-NI and VAES, one packet at a time.
    AwsLc,
    /// AES-GCM of our own, packets of a batch together, with VAES and VPCLMULQDQ on 512-bit registers.
    VaesAvx512,
    /// The same on 256-bit registers.
    VaesAvx2,
    /// The same with AES-NI and PCLMULQDQ.
    AesNi,
    /// The RustCrypto crates: pure Rust, run anywhere, have every algorithm, and are the oracle for the others.
    RustCrypto,
}

impl Provider {
    /// Every provider of this build.
    pub const ALL: &'static [Self] = &[
        Self::AwsLc,
        Self::VaesAvx512,
        Self::VaesAvx2,
        Self::AesNi,
        Self::RustCrypto,
    ];

    /// The fastest provider on this CPU, by AES-256-GCM. Tried once, which takes some milliseconds: AWS-LC, unless one of ours
    /// is clearly faster. Never RustCrypto, which is the oracle.
    #[must_use]
    pub fn preferred() -> Self {
        static FASTEST: LazyLock<Provider> = LazyLock::new(|| {
            let candidates = [
                Provider::AwsLc,
                Provider::VaesAvx512,
                Provider::VaesAvx2,
                Provider::AesNi,
            ];
            trial::fastest(&candidates, Algorithm::AES_256_GCM).unwrap_or(Provider::AwsLc)
        });
        *FASTEST
    }

    /// The name in configuration, benches and `ravelin doctor`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::VaesAvx512 => "vaes-avx512",
            Self::VaesAvx2 => "vaes-avx2",
            Self::AesNi => "aes-ni",
            Self::RustCrypto => "rustcrypto",
        }
    }

    /// Whether this provider implements `algorithm`, and this CPU has what it needs.
    #[must_use]
    pub fn has(self, algorithm: Algorithm) -> bool {
        let is_gcm = matches!(algorithm, Algorithm::AesGcm(..));
        match self {
            Self::AwsLc => aws_lc::has(algorithm),
            Self::VaesAvx512 => is_gcm && vector::has_vaes_avx512(),
            Self::VaesAvx2 => is_gcm && vector::has_vaes_avx2(),
            Self::AesNi => is_gcm && vector::has_aes_ni(),
            Self::RustCrypto => true,
        }
    }

    /// This provider, or else the fastest of those that have every algorithm between them.
    #[must_use]
    pub fn or_any_with(self, algorithm: Algorithm) -> Self {
        let any = [self, Self::AwsLc].into_iter().find(|one| one.has(algorithm));
        any.unwrap_or(Self::RustCrypto)
    }

    /// Expands `key`. Allocates; not for the fast path.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`], [`KeyError::Refused`].
    pub fn key(self, key: &KeyMaterial) -> Result<Box<dyn Aead>, KeyError> {
        let (provider, algorithm) = (self, key.algorithm());
        if !self.has(algorithm) {
            return Err(KeyError::Unsupported { provider, algorithm });
        }
        let expanded = match self {
            Self::AwsLc => aws_lc::expand(key),
            Self::VaesAvx512 => vector::expand_vaes_avx512(key),
            Self::VaesAvx2 => vector::expand_vaes_avx2(key),
            Self::AesNi => vector::expand_aes_ni(key),
            Self::RustCrypto => rustcrypto::expand(key),
        };
        expanded.ok_or(KeyError::Refused { provider, algorithm })
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No such provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown provider {0:?}; use one of {names}", names = Provider::ALL.iter().map(|one| one.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownProvider(pub String);

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter().copied().find(|provider| provider.name() == name);
        known.ok_or_else(|| UnknownProvider(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::Provider;

    #[test]
    fn names_round_trip() {
        for provider in Provider::ALL {
            assert_eq!(provider.name().parse(), Ok(*provider));
        }
        assert!("openssl".parse::<Provider>().is_err());
    }
}
