//! The implementations to choose from.

use std::fmt;
use std::str::FromStr;

use crate::{Aead, Algorithm, KeyError, KeyMaterial, aws_lc, rustcrypto};

/// An implementation of the algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// AWS-LC: assembly for AES-NI and VAES, one packet at a time.
    AwsLc,
    /// The RustCrypto crates: pure Rust, run anywhere, have every algorithm, and are the oracle for the others.
    RustCrypto,
}

impl Provider {
    /// Every provider of this build.
    pub const ALL: &'static [Self] = &[Self::AwsLc, Self::RustCrypto];

    /// The fastest provider on this CPU.
    #[must_use]
    pub fn preferred() -> Self {
        Self::AwsLc
    }

    /// The name in configuration, benches and `ravelin doctor`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::RustCrypto => "rustcrypto",
        }
    }

    /// Whether this provider implements `algorithm`.
    #[must_use]
    pub const fn has(self, algorithm: Algorithm) -> bool {
        match self {
            Self::AwsLc => aws_lc::has(algorithm),
            Self::RustCrypto => true,
        }
    }

    /// This provider, or the one that has every algorithm.
    #[must_use]
    pub const fn or_any_with(self, algorithm: Algorithm) -> Self {
        if self.has(algorithm) {
            self
        } else {
            Self::RustCrypto
        }
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
#[error("unknown provider {0:?}; use aws-lc or rustcrypto")]
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
