//! Keys for an algorithm.

use crate::{Algorithm, Provider, Secret};

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
    /// The provider does not implement the algorithm.
    #[error("provider {provider} has no {algorithm}; use {}", Provider::RustCrypto)]
    Unsupported {
        /// The provider asked for.
        provider: Provider,
        /// The algorithm asked for.
        algorithm: Algorithm,
    },
    /// The provider refused the key, for lack of memory or of a self-test.
    #[error("provider {provider} did not accept the key for {algorithm}")]
    Refused {
        /// The provider.
        provider: Provider,
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

    /// The encryption key, for providers.
    pub(crate) fn encryption(&self) -> &[u8] {
        &self.key.expose()[..self.algorithm.encryption_key_len()]
    }

    /// The MAC's key, for providers; empty for AEADs.
    pub(crate) fn integrity(&self) -> &[u8] {
        &self.key.expose()[self.algorithm.encryption_key_len()..]
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, KeyError, KeyMaterial};
    use crate::Secret;

    #[test]
    fn only_the_exact_key_length_is_taken() {
        for algorithm in Algorithm::ALL.iter().copied() {
            for actual in 0..128 {
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
