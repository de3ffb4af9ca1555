//! Keys and the algorithms they belong to.

use std::fmt;
use std::str::FromStr;

use crate::Secret;

/// AES-GCM with a 16-byte tag, by key length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-128 (RFC 4106 section 8.1).
    Aes128Gcm,
    /// AES-256.
    Aes256Gcm,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: &'static [Self] = &[Self::Aes128Gcm, Self::Aes256Gcm];

    /// Length of the AES key in bytes, without RFC 4106's salt.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
        }
    }

    /// The name in policies and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No such algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown algorithm {0:?}; use aes-128-gcm or aes-256-gcm")]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL
            .iter()
            .copied()
            .find(|algorithm| algorithm.name() == name);
        known.ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key's length is not the algorithm's.
    #[error("key of {actual} bytes; {algorithm} takes {} bytes", algorithm.key_len())]
    Length {
        /// The algorithm asked for.
        algorithm: Algorithm,
        /// Bytes given.
        actual: usize,
    },
    /// The provider refused the key, for lack of memory or of a self-test.
    #[error("provider {provider} did not accept the key for {algorithm}")]
    Refused {
        /// Name of the provider.
        provider: &'static str,
        /// The algorithm asked for.
        algorithm: Algorithm,
    },
}

/// A key whose length is right for its algorithm.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyMaterial {
    algorithm: Algorithm,
    key: Secret,
}

impl KeyMaterial {
    /// Pairs `key` with `algorithm`.
    ///
    /// # Errors
    /// [`KeyError::Length`].
    pub fn new(algorithm: Algorithm, key: Secret) -> Result<Self, KeyError> {
        if key.len() != algorithm.key_len() {
            return Err(KeyError::Length {
                algorithm,
                actual: key.len(),
            });
        }
        Ok(Self { algorithm, key })
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The AES key, for providers.
    pub(crate) fn expose(&self) -> &[u8] {
        self.key.expose()
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, KeyError, KeyMaterial};
    use crate::Secret;

    #[test]
    fn names_round_trip() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(*algorithm));
        }
        assert!("aes-192-gcm".parse::<Algorithm>().is_err());
    }

    #[test]
    fn only_the_exact_key_length_is_taken() {
        for algorithm in Algorithm::ALL.iter().copied() {
            for actual in 0..64 {
                let made = KeyMaterial::new(algorithm, Secret::copy_from(&vec![0; actual]));
                if actual == algorithm.key_len() {
                    assert!(made.is_ok());
                } else {
                    assert_eq!(made, Err(KeyError::Length { algorithm, actual }));
                }
            }
        }
    }
}
