//! Bytes that must not leak.

use std::fmt;

use zeroize::Zeroizing;

use crate::constant_time;

/// Secret bytes: erased when dropped, redacted when printed, compared in constant time.
///
/// On the heap, so that moving the value leaves no copy behind. Deliberately neither `Clone` nor serialisable.
pub struct Secret {
    bytes: Zeroizing<Box<[u8]>>,
}

impl Secret {
    /// Copies `bytes`; erasing the source is the caller's part.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self {
            bytes: Zeroizing::new(bytes.into()),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes themselves. Named so that each use stands out in review.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<u8>> for Secret {
    /// Takes the bytes over. A vector with spare capacity is copied and the original erased.
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() == bytes.capacity() {
            return Self {
                bytes: Zeroizing::new(bytes.into_boxed_slice()),
            };
        }
        let bytes = Zeroizing::new(bytes);
        Self::copy_from(&bytes)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::are_equal(&self.bytes, &other.bytes)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn printing_shows_only_the_length() {
        let secret = Secret::copy_from(&[0xab; 16]);
        assert_eq!(format!("{secret:?}"), "Secret(16 bytes)");
    }

    #[test]
    fn equality_needs_every_byte_and_the_length() {
        let secret = Secret::copy_from(&[1, 2, 3]);
        assert_eq!(secret, Secret::from(vec![1, 2, 3]));
        assert_ne!(secret, Secret::copy_from(&[1, 2, 4]));
        assert_ne!(secret, Secret::copy_from(&[1, 2]));
    }

    #[test]
    fn a_vector_with_spare_capacity_is_taken_whole() {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&[5; 20]);
        assert_eq!(Secret::from(bytes).expose(), [5; 20]);
    }
}
