//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Public because whoever forwards what ESP
//! yields needs the same sums; values are in host order.

/// A sum of 16-bit words, not yet folded.
///
/// It is kept in the machine's order of bytes: RFC 1071 section 1 (B), "the sum of 16-bit integers can be computed in either byte
/// order".
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds `bytes` as big-endian words, an odd last byte padded with zero.
    #[must_use]
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "a sum of bytes is no `Add` of two equals"
    )]
    pub fn add(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let sum = words
            .iter()
            .fold(self.0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
        let last = match *rest {
            [a] => [a, 0, 0, 0],
            [a, b] => [a, b, 0, 0],
            [a, b, c] => [a, b, c, 0],
            _ => return Self(sum),
        };
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds one word.
    #[must_use]
    #[inline]
    pub fn add_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// The sum in one word.
    #[must_use]
    #[inline]
    pub fn fold(self) -> u16 {
        // At most 33 bits, 18, 17, and then 16: the last carry cannot make another.
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(sum as u16)
    }

    /// The one's complement of the folded sum: the value of the checksum field.
    #[must_use]
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The checksum of an IPv4 header whose checksum field is zero; zero for a valid header with its checksum.
#[must_use]
#[inline]
pub fn ipv4_header(header: &[u8]) -> u16 {
    Sum::default().add(header).checksum()
}

/// The checksum after one 16-bit word changed from `old` to `new`; a wrong checksum stays wrong (RFC 1624 equation 3).
#[must_use]
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::default()
        .add_word(!checksum)
        .add_word(!old)
        .add_word(new)
        .checksum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Sum, ipv4_header, update};

    /// The header and checksum of the worked example in Wikipedia's "Internet checksum".
    #[test]
    fn known_header() {
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
        ];
        assert_eq!(ipv4_header(&header), 0xb861);
    }

    proptest! {
        #[test]
        fn equals_the_plain_sum(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut plain = 0_u32;
            for pair in bytes.chunks(2) {
                plain += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
                plain = (plain & 0xffff) + (plain >> 16);
            }
            prop_assert_eq!(Sum::default().add(&bytes).checksum(), !(plain as u16));
        }

        #[test]
        fn update_equals_a_new_sum(mut header in any::<[u8; 18]>(), word in 0_usize..9, new in any::<[u8; 2]>()) {
            // A sum of zero words only is the one case where RFC 1624 differs in the sign of zero.
            header[0] |= 1;
            let word = if word == 0 { 2 } else { word * 2 };
            let old = [header[word], header[word + 1]];
            let before = ipv4_header(&header);
            header[word..word + 2].copy_from_slice(&new);
            prop_assert_eq!(
                update(before, u16::from_be_bytes(old), u16::from_be_bytes(new)),
                ipv4_header(&header)
            );
        }
    }
}
