//! Sizes of an ESP packet (RFC 4303 section 2).
//!
//! ```text
//! outer IP [UDP] | SPI 4 | sequence 4 | IV 0, 8, 16 | payload, padding, pad length 1, next header 1 | ICV 8 to 32
//!                '---------- header_len ----------' '-------- ciphertext: align * n --------'
//! ```

use std::ops::Range;

use ravelin_gcm::{Algorithm, MAX_TAG_LEN};

use crate::ip::IPV6_HEADER_LEN;

/// SPI and low half of the sequence number.
pub(crate) const FIXED_LEN: usize = 4 + 4;
/// Pad length and next header, without the padding.
pub(crate) const TRAILER_LEN: usize = 2;
/// The longest block that padding fills up, that of CBC.
const MAX_ALIGN: usize = 16;

/// Packets that are done at once; longer slices are split.
pub const MAX_BATCH: usize = 64;

/// Where the packets of each run are, of `len` that are taken in all: `runs` has SAs with how many packets follow each other for each.
pub(crate) fn ranges<S: Copy>(runs: &[(S, usize)], len: usize) -> impl Iterator<Item = (S, Range<usize>)> {
    let mut start = 0;
    runs.iter().map(move |(sa, count)| {
        let range = start..(start + count).min(len);
        start = range.end;
        (*sa, range)
    })
}

/// The longest authentication header, that of HMAC-SHA-512-256 over IPv6.
pub(crate) const MAX_AH_LEN: usize = (12 + MAX_TAG_LEN).next_multiple_of(8);

/// Bytes that sealing may need in front of a packet: an IPv6 header, and AH, which is longer than UDP and ESP together.
pub const MAX_HEADROOM: usize = IPV6_HEADER_LEN + MAX_AH_LEN;

/// Bytes that sealing may need behind a packet, without padding that hides its length.
pub const MAX_TAILROOM: usize = MAX_ALIGN - 1 + TRAILER_LEN + MAX_TAG_LEN;

/// The sizes that follow from an SA's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    iv_len: u8,
    icv_len: u8,
    align: u8,
}

impl Layout {
    /// RFC 8750 section 4: with an implicit IV, "the IV is not sent".
    pub(crate) fn new(algorithm: Algorithm, implicit_iv: bool) -> Self {
        let iv_len = if implicit_iv { 0 } else { algorithm.iv_len() };
        // RFC 4303 section 2.4: "Padding also may be required, irrespective of encryption algorithm requirements, to
        // ensure that the resulting ciphertext terminates on a 4-byte boundary."
        let align = algorithm.block_len().max(4);
        Self {
            iv_len: iv_len as u8,
            icv_len: algorithm.tag_len() as u8,
            align: align as u8,
        }
    }

    /// Bytes of the explicit IV.
    pub(crate) fn iv_len(self) -> usize {
        self.iv_len.into()
    }

    /// SPI, low half of the sequence number, explicit IV.
    pub(crate) fn header_len(self) -> usize {
        FIXED_LEN + self.iv_len()
    }

    /// The integrity check value.
    pub(crate) fn icv_len(self) -> usize {
        self.icv_len.into()
    }

    /// What the ciphertext's length is a multiple of.
    pub(crate) fn align(self) -> usize {
        self.align.into()
    }

    /// The shortest ESP packet: no payload, only padding.
    pub(crate) fn min_len(self) -> usize {
        self.header_len() + self.align() + self.icv_len()
    }

    /// Bytes of ciphertext for `payload_len` bytes of payload.
    pub(crate) fn ciphertext_len(self, payload_len: usize) -> usize {
        // The alignments are powers of two, which the compiler cannot see.
        let mask = self.align() - 1;
        (payload_len + TRAILER_LEN + mask) & !mask
    }

    /// The longest payload whose ciphertext has at most `ciphertext_len` bytes.
    pub(crate) fn payload_len(self, ciphertext_len: usize) -> usize {
        (ciphertext_len & !(self.align() - 1)).saturating_sub(TRAILER_LEN)
    }
}

#[cfg(test)]
mod tests {
    use crate::ah::Ah;
    use crate::ip::{Family, UDP_HEADER_LEN};

    use super::{Algorithm, FIXED_LEN, IPV6_HEADER_LEN, Layout, MAX_HEADROOM, MAX_TAILROOM};

    #[test]
    fn ciphertext_is_the_next_multiple_of_the_block() {
        let gcm = Layout::new(Algorithm::AES_128_GCM, false);
        assert_eq!(
            [0, 1, 2, 3, 6, 7].map(|len| gcm.ciphertext_len(len)),
            [4, 4, 4, 8, 8, 12]
        );
        assert_eq!([3, 4, 7, 8].map(|len| gcm.payload_len(len)), [0, 2, 2, 6]);
        let cbc = Layout::new("aes-128-cbc-hmac-sha1".parse().unwrap(), false);
        assert_eq!([0, 14, 15].map(|len| cbc.ciphertext_len(len)), [16, 16, 32]);
        assert_eq!([15, 16, 31, 32].map(|len| cbc.payload_len(len)), [0, 14, 14, 30]);
        assert_eq!((cbc.header_len(), cbc.icv_len(), cbc.min_len()), (24, 12, 52));
    }

    #[test]
    fn every_algorithm_fits_the_room() {
        for algorithm in Algorithm::ALL {
            let layout = Layout::new(*algorithm, false);
            assert!(IPV6_HEADER_LEN + UDP_HEADER_LEN + layout.header_len() <= MAX_HEADROOM);
            let trailers = (0..100).map(|len| layout.ciphertext_len(len) - len);
            assert!(trailers.max().unwrap() + layout.icv_len() <= MAX_TAILROOM);
            assert!(layout.align().is_power_of_two() && layout.align() <= 16);
            if !algorithm.encrypts() {
                assert!(IPV6_HEADER_LEN + Ah::new(*algorithm).header_len(Family::V6) <= MAX_HEADROOM);
            }
        }
    }

    #[test]
    fn an_implicit_iv_takes_no_room() {
        let layout = Layout::new(Algorithm::AES_256_GCM, true);
        assert_eq!((layout.header_len(), layout.iv_len()), (FIXED_LEN, 0));
    }
}
