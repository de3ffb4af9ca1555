//! Nonce and associated data in ESP (RFC 4106 sections 4 and 5, and the like for other algorithms).

use std::fmt;

use ravelin_gcm::{AssociatedData, MAX_NONCE_LEN, Nonce};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of the longest salt.
const MAX_SALT_LEN: usize = 4;

/// The secret first part of every nonce of an SA: a nonce without the rest, its first byte the lowest.
///
/// Numbers, since a nonce put together byte by byte would have to be read back in words before the stores are through.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Salt {
    first: u128,
    bits: u32,
}

impl Salt {
    /// `None` if it is longer than any algorithm's.
    pub(crate) fn new(salt: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_SALT_LEN];
        bytes.get_mut(..salt.len())?.copy_from_slice(salt);
        let salt = Self {
            first: u32::from_le_bytes(bytes).into(),
            bits: salt.len() as u32 * u8::BITS,
        };
        bytes.zeroize();
        Some(salt)
    }

    /// RFC 4106 section 4: the salt, then the IV that travels in the packet. `iv` has at most 16 bytes with the salt.
    #[inline]
    pub(crate) fn nonce(&self, iv: &[u8]) -> Nonce {
        let rest = match <[u8; 8]>::try_from(iv) {
            Ok(iv) => u64::from_le_bytes(iv).into(),
            Err(_) => long(iv),
        };
        (self.first | rest << self.bits).to_le_bytes()
    }
}

/// An IV of another length than most have.
#[cold]
fn long(iv: &[u8]) -> u128 {
    let mut bytes = [0; MAX_NONCE_LEN];
    for (byte, iv) in bytes.iter_mut().zip(iv) {
        *byte = *iv;
    }
    u128::from_le_bytes(bytes)
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

/// RFC 4106 section 5: SPI and sequence number, which is 64 bits long with extended sequence numbers although only its
/// low half is sent.
#[inline]
pub(crate) fn associated_data(spi: u32, sequence: u64, extended: bool) -> AssociatedData {
    let spi = spi.to_be_bytes();
    let number = sequence.to_be_bytes();
    if extended {
        let mut aad = [0; 12];
        aad[..4].copy_from_slice(&spi);
        aad[4..].copy_from_slice(&number);
        aad.into()
    } else {
        let mut aad = [0; 8];
        aad[..4].copy_from_slice(&spi);
        aad[4..].copy_from_slice(&number[4..]);
        aad.into()
    }
}

#[cfg(test)]
mod tests {
    use super::{Salt, associated_data};

    #[test]
    fn layout_of_nonce_and_associated_data() {
        let sequence = 0x0102_0304_0506_0708;
        let nonce = Salt::new(&[9, 8, 7, 6]).unwrap().nonce(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(nonce, [9, 8, 7, 6, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]);
        let nonce = Salt::new(&[9, 8, 7]).unwrap().nonce(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(nonce, [9, 8, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0]);
        assert_eq!(Salt::new(&[]).unwrap().nonce(&[5; 16]), [5; 16]);
        assert!(Salt::new(&[0; 5]).is_none());
        assert_eq!(
            associated_data(0x0a0b_0c0d, sequence, true).as_slice(),
            [10, 11, 12, 13, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(
            associated_data(0x0a0b_0c0d, sequence, false).as_slice(),
            [10, 11, 12, 13, 5, 6, 7, 8]
        );
    }
}
