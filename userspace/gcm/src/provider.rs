//! The implementations to choose from.

use std::fmt;
use std::str::FromStr;

use crate::aes_gcm_provider::AesGcmKey;
use crate::aws_lc_provider::AwsLcKey;
use crate::{Aead, KeyError, KeyMaterial};

/// An implementation of AES-GCM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// AWS-LC: assembly for AES-NI and VAES, one packet at a time.
    AwsLc,
    /// The `aes-gcm` crate: pure Rust, runs anywhere, and is the oracle for the others.
    AesGcm,
}

impl Provider {
    /// Every provider of this build.
    pub const ALL: &'static [Self] = &[Self::AwsLc, Self::AesGcm];

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
            Self::AesGcm => "aes-gcm",
        }
    }

    /// Expands `key`. Allocates; not for the fast path.
    ///
    /// # Errors
    /// [`KeyError::Refused`].
    pub fn key(self, key: &KeyMaterial) -> Result<Box<dyn Aead>, KeyError> {
        let refused = || KeyError::Refused {
            provider: self.name(),
            algorithm: key.algorithm(),
        };
        match self {
            Self::AwsLc => Ok(Box::new(AwsLcKey::new(key).ok_or_else(refused)?)),
            Self::AesGcm => Ok(Box::new(AesGcmKey::new(key).ok_or_else(refused)?)),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No such provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown AES-GCM provider {0:?}; use aws-lc or aes-gcm")]
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
