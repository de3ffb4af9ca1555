//! Padding, pad length and next header (RFC 4303 sections 2.4 to 2.6).

use ravelin_xdp_common::DropReason;

use crate::layout::TRAILER_LEN;

/// Fills `trailer`: the padding 1, 2, 3, …, its length and the next header. `trailer` holds at most 255 + 2 bytes.
pub(crate) fn write(trailer: &mut [u8], next_header: u8) {
    let Some((padding, [pad_len, next])) = trailer.split_last_chunk_mut::<TRAILER_LEN>() else {
        return;
    };
    let mut last = 0;
    for byte in padding {
        last += 1;
        *byte = last;
    }
    *pad_len = last;
    *next = next_header;
}

/// A decrypted trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Bytes of the payload in front of the padding.
    pub(crate) payload_len: usize,
    pub(crate) next_header: u8,
}

impl Trailer {
    /// Parses the end of `plaintext`.
    ///
    /// RFC 4303 section 2.4: "When this padding scheme is employed, the receiver SHOULD inspect the Padding field."
    ///
    /// # Errors
    /// `PadLength`, `PadContent`.
    pub(crate) fn parse(plaintext: &[u8]) -> Result<Self, DropReason> {
        let (rest, &[pad_len, next_header]) = plaintext.split_last_chunk().ok_or(DropReason::EspTruncated)?;
        let payload_len = rest
            .len()
            .checked_sub(usize::from(pad_len))
            .ok_or(DropReason::PadLength)?;
        if !rest[payload_len..]
            .iter()
            .zip(1..=u8::MAX)
            .all(|(byte, expected)| *byte == expected)
        {
            return Err(DropReason::PadContent);
        }
        Ok(Self {
            payload_len,
            next_header,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{DropReason, Trailer, write};

    #[test]
    fn what_is_written_is_parsed() {
        for pad_len in 0..=255_u8 {
            let mut plaintext = vec![0; 10 + usize::from(pad_len) + 2];
            write(&mut plaintext[10..], 41);
            assert_eq!(
                Trailer::parse(&plaintext),
                Ok(Trailer {
                    payload_len: 10,
                    next_header: 41
                })
            );
        }
    }

    #[test]
    fn wrong_padding_is_refused() {
        assert_eq!(Trailer::parse(&[4]), Err(DropReason::EspTruncated));
        assert_eq!(Trailer::parse(&[1, 2, 3, 4]), Err(DropReason::PadLength));
        assert_eq!(Trailer::parse(&[1, 3, 2, 4]), Err(DropReason::PadContent));
        assert_eq!(Trailer::parse(&[0, 0, 2, 4]), Err(DropReason::PadContent));
        assert_eq!(
            Trailer::parse(&[1, 2, 2, 4]),
            Ok(Trailer {
                payload_len: 0,
                next_header: 4
            })
        );
    }
}
