//! The Authentication Header (RFC 4302): its place in the packet and its ICV.
//!
//! ```text
//! IP headers | next header 1 | length 1 | 0 2 | SPI 4 | sequence 4 | [IV 8] ICV 12 to 32, padding | payload
//! ```

use ravelin_gcm::{Aead, Algorithm, IcvLen, MAX_TAG_LEN};
use ravelin_xdp_common::DropReason;

use crate::ip::Family;
use crate::nonce::Salt;
use crate::{NoRoom, Packet};

mod mutable;

use mutable::End;

/// Next header, length, reserved, SPI, sequence number.
pub(crate) const FIXED_LEN: usize = 12;

/// Bytes of IP headers in front of AH that are taken; what they hold is kept aside while the ICV is computed.
const MAX_HEADERS: usize = 512;

/// The authentication header of an SA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ah {
    /// The ICV is GMAC's: the tag of GCM over associated data only, behind its IV.
    gmac: bool,
    icv_len: u8,
}

/// The SA's key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'k> {
    /// HMAC over data, or for GMAC the GCM of the same key.
    pub(crate) aead: &'k dyn Aead,
    pub(crate) salt: &'k Salt,
}

/// Where AH stands and what goes into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Of the packet as it is on the wire.
    pub(crate) family: Family,
    /// Offset of AH.
    pub(crate) at: usize,
    /// The sequence number, all of it.
    pub(crate) sequence: u64,
    /// Whether its high half is authenticated too.
    pub(crate) extended: bool,
}

/// The field that RFC 4302 calls the ICV. With GMAC an IV stands in front of the tag (RFC 4543 section 4), and as the whole
/// field counts as zero for the computation, so does the IV, which is authenticated as the nonce.
#[derive(Debug, Default)]
struct Field([u8; MAX_TAG_LEN]);

impl Field {
    fn whole(&mut self, ah: Ah) -> &mut [u8] {
        &mut self.0[..ah.iv_len() + ah.icv_len()]
    }

    /// IV and tag.
    fn split(&mut self, ah: Ah) -> (&mut [u8], &mut [u8]) {
        self.whole(ah).split_at_mut(ah.iv_len())
    }
}

impl Ah {
    /// `algorithm` only authenticates.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self {
            gmac: matches!(algorithm, Algorithm::AesGmac(_)),
            icv_len: algorithm.tag_len() as u8,
        }
    }

    /// The algorithm that computes the ICV.
    pub(crate) fn computed_by(algorithm: Algorithm) -> Algorithm {
        match algorithm {
            Algorithm::AesGmac(key) => Algorithm::AesGcm(key, IcvLen::Icv16),
            other => other,
        }
    }

    fn iv_len(self) -> usize {
        if self.gmac { 8 } else { 0 }
    }

    fn icv_len(self) -> usize {
        self.icv_len.into()
    }

    /// Bytes of AH without padding.
    fn bare_len(self) -> usize {
        FIXED_LEN + self.iv_len() + self.icv_len()
    }

    /// Bytes of AH in a packet of this family.
    ///
    /// RFC 4302 section 2.6: "the Authentication Data field … MUST be … a multiple of 32 bits (IPv4) or 64 bits (IPv6)", and
    /// "if padding is needed" it follows the ICV. For GMAC in IPv6 see also erratum 3643 of RFC 4543.
    pub(crate) fn header_len(self, family: Family) -> usize {
        match family {
            Family::V4 => self.bare_len().next_multiple_of(4),
            Family::V6 => self.bare_len().next_multiple_of(8),
        }
    }

    /// Writes the header and its ICV. The packet is whole but for AH, whose room is there.
    pub(crate) fn seal(
        self,
        key: Key<'_>,
        packet: &mut Packet<'_>,
        place: Place,
        spi: u32,
        next_header: u8,
    ) -> Result<(), DropReason> {
        let len = self.header_len(place.family);
        let ah = packet
            .bytes_mut()
            .get_mut(place.at..place.at + len)
            .ok_or(DropReason::FrameShort)?;
        ah.fill(0);
        ah[0] = next_header;
        // Section 2.2: "in 32-bit words (4-byte units), minus '2'".
        ah[1] = (len / 4 - 2) as u8;
        ah[4..8].copy_from_slice(&spi.to_be_bytes());
        ah[8..12].copy_from_slice(&(place.sequence as u32).to_be_bytes());
        let mut field = Field::default();
        let (iv, icv) = field.split(self);
        if self.gmac {
            iv.copy_from_slice(&place.sequence.to_be_bytes());
        }
        let nonce = key.salt.nonce(iv);
        self.over_covered(packet, place, End::Sender, |aad, data| {
            let sealed = key.aead.seal(&nonce, aad, data, icv);
            sealed.map_err(|_| DropReason::PacketTooBig)
        })?;
        let field_at = place.at + FIXED_LEN;
        let field = field.whole(self);
        packet.bytes_mut()[field_at..field_at + field.len()].copy_from_slice(field);
        Ok(())
    }

    /// The length of the AH at `at` if it is one that this SA's sender may use, padded for either family: some senders
    /// align to 8 bytes over IPv4 too.
    pub(crate) fn received_len(self, packet: &[u8], at: usize, family: Family) -> Result<usize, DropReason> {
        let ah = packet.get(at..).unwrap_or_default();
        let words = *ah.get(1).ok_or(DropReason::AhTruncated)?;
        let len = (usize::from(words) + 2) * 4;
        let expected = [self.header_len(family), self.header_len(Family::V6)];
        if !expected.contains(&len) {
            return Err(DropReason::AhLength);
        }
        if len > ah.len() {
            return Err(DropReason::AhTruncated);
        }
        Ok(len)
    }

    /// Verifies the ICV of a received packet. [`Ah::received_len`] was asked before. The packet is left as it
    /// was, but for the ICV.
    pub(crate) fn verify(
        self,
        key: Key<'_>,
        packet: &mut Packet<'_>,
        place: Place,
    ) -> Result<(), DropReason> {
        let mut field = Field::default();
        let field_at = place.at + FIXED_LEN;
        let received = packet
            .bytes_mut()
            .get_mut(field_at..field_at + field.whole(self).len())
            .ok_or(DropReason::AhTruncated)?;
        field.whole(self).copy_from_slice(received);
        received.fill(0);
        let (iv, icv) = field.split(self);
        let nonce = key.salt.nonce(iv);
        self.over_covered(packet, place, End::Receiver, |aad, data| {
            let opened = key.aead.open(&nonce, aad, data, icv);
            opened.map_err(|_| DropReason::IcvMismatch)
        })
    }

    /// Calls `compute` with what the ICV covers, as associated data for GMAC and as data for HMAC: the packet with its
    /// mutable fields cleared, then the high half of an extended sequence number (RFC 4302 section 3.3.3.2).
    fn over_covered(
        self,
        packet: &mut Packet<'_>,
        place: Place,
        end: End,
        compute: impl FnOnce(&[u8], &mut [u8]) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let whole = packet.len();
        let mut kept = [0; MAX_HEADERS];
        let kept = kept.get_mut(..place.at).ok_or(DropReason::AhHeaders)?;
        kept.copy_from_slice(packet.bytes().get(..place.at).ok_or(DropReason::AhTruncated)?);
        if place.extended {
            packet.append(4).map_err(|NoRoom| DropReason::FrameShort)?;
            let high = (place.sequence >> 32) as u32;
            packet.bytes_mut()[whole..].copy_from_slice(&high.to_be_bytes());
        }
        let bytes = packet.bytes_mut();
        let computed = mutable::clear(&mut bytes[..place.at], place.family, end).and_then(|()| {
            if self.gmac {
                compute(bytes, &mut [])
            } else {
                compute(&[], bytes)
            }
        });
        packet.truncate(whole);
        packet.bytes_mut()[..place.at].copy_from_slice(kept);
        computed
    }
}
