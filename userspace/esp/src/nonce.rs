//! Nonce and associated data in ESP (RFC 4106 sections 4 and 5, and the like for other algorithms).

use std::fmt;

use ravelin_gcm::{AssociatedData, MAX_NONCE_LEN, Nonce};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of the longest salt.
const MAX_SALT_LEN: usize = 4;

/// The secret first part of every nonce of an SA.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Salt {
    bytes: [u8; MAX_SALT_LEN],
    len: u8,
}

impl Salt {
    /// `None` if it is longer than any algorithm's.
    pub(crate) fn new(salt: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_SALT_LEN];
        bytes.get_mut(..salt.len())?.copy_from_slice(salt);
        Some(Self {
            bytes,
            len: salt.len() as u8,
        })
    }

    /// RFC 4106 section 4: the salt, then the IV that travels in the packet. `iv` has at most 16 bytes with the salt.
    pub(crate) fn nonce(&self, iv: &[u8]) -> Nonce {
        let mut nonce = [0; MAX_NONCE_LEN];
        let (salt, rest) = nonce.split_at_mut(self.len.into());
        salt.copy_from_slice(&self.bytes[..salt.len()]);
        for (byte, iv) in rest.iter_mut().zip(iv) {
            *byte = *iv;
        }
        nonce
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

/// RFC 4106 section 5: SPI and sequence number, which is 64 bits long with extended sequence numbers although only its
/// low half is sent.
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
