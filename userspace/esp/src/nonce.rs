//! Nonce and associated data of AES-GCM in ESP (RFC 4106 sections 4 and 5).

use std::fmt;

use ravelin_gcm::{AssociatedData, NONCE_LEN, Nonce};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::layout::IV_LEN;
use crate::parameters::SALT_LEN;

/// The secret first part of every nonce of an SA.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Salt([u8; SALT_LEN]);

impl Salt {
    pub(crate) fn new(salt: [u8; SALT_LEN]) -> Self {
        Self(salt)
    }

    /// RFC 4106 section 4: the salt, then the IV that travels in the packet.
    pub(crate) fn nonce(&self, iv: [u8; IV_LEN]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..SALT_LEN].copy_from_slice(&self.0);
        nonce[SALT_LEN..].copy_from_slice(&iv);
        nonce
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

/// The IV of an outbound packet: its 64-bit sequence number.
///
/// RFC 4106 section 3.1: "For a given key, the IV MUST NOT repeat. The most natural way to implement this is with a
/// counter". The sequence number is one that is already unique under the key, monotone, and recorded durably; without
/// extended sequence numbers its high half is zero.
pub(crate) fn iv(sequence: u64) -> [u8; IV_LEN] {
    sequence.to_be_bytes()
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
    use super::{Salt, associated_data, iv};

    #[test]
    fn layout_of_nonce_and_associated_data() {
        let sequence = 0x0102_0304_0506_0708;
        assert_eq!(
            Salt::new([9, 8, 7, 6]).nonce(iv(sequence)),
            [9, 8, 7, 6, 1, 2, 3, 4, 5, 6, 7, 8]
        );
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
