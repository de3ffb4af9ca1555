//! Sizes of an ESP packet (RFC 4303 section 2, RFC 4106 section 3).
//!
//! ```text
//! outer IP [UDP] | SPI 4 | sequence 4 | IV 8 | payload, padding, pad length 1, next header 1 | ICV 16
//!                '------ HEADER_LEN -------' '------------- ciphertext: 4 n --------------'
//! ```

use ravelin_gcm::TAG_LEN;

use crate::ip::{IPV6_HEADER_LEN, UDP_HEADER_LEN};

/// SPI, low half of the sequence number, explicit IV.
pub(crate) const HEADER_LEN: usize = 4 + 4 + IV_LEN;
/// The explicit IV (RFC 4106 section 3.1).
pub(crate) const IV_LEN: usize = 8;
/// Pad length and next header, without the padding.
pub(crate) const TRAILER_LEN: usize = 2;
/// The integrity check value.
pub(crate) const ICV_LEN: usize = TAG_LEN;
/// The shortest ESP packet: no payload, two bytes of padding.
pub(crate) const MIN_ESP_LEN: usize = HEADER_LEN + 4 + ICV_LEN;

/// Packets that are done at once; longer slices are split.
pub const MAX_BATCH: usize = 64;

/// Bytes that sealing may need in front of a packet.
pub const MAX_HEADROOM: usize = IPV6_HEADER_LEN + UDP_HEADER_LEN + HEADER_LEN;

/// Bytes that sealing may need behind a packet.
pub const MAX_TAILROOM: usize = 3 + TRAILER_LEN + ICV_LEN;

/// Bytes of ciphertext for `payload_len` bytes of payload.
///
/// RFC 4303 section 2.4: "Padding also may be required, irrespective of encryption algorithm requirements, to ensure
/// that the resulting ciphertext terminates on a 4-byte boundary."
pub(crate) const fn ciphertext_len(payload_len: usize) -> usize {
    (payload_len + TRAILER_LEN).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::ciphertext_len;

    #[test]
    fn ciphertext_is_the_next_multiple_of_four() {
        assert_eq!([0, 1, 2, 3, 6, 7].map(ciphertext_len), [4, 4, 4, 8, 8, 12]);
    }
}
