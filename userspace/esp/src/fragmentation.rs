//! Cutting packets into fragments (RFC 791 section 3.2, RFC 8200 section 4.5): clear ones before they are sealed, sealed ones that a
//! host itself sends, and opened ones for a device whose MTU they exceed.

use arrayvec::ArrayVec;
use ravelin_xdp_common::DropReason;

use crate::checksum;
use crate::fragment::{FRAGMENT_HEADER_LEN, MAX_HEADER_LEN};
use crate::ip::{Family, HeaderChain, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpHeader, PROTOCOL_FRAGMENT};

/// The longest headers of a fragment: what [`Reassembly`](crate::Reassembly) takes.
const MAX_FRONT_LEN: usize = MAX_HEADER_LEN + FRAGMENT_HEADER_LEN;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

type HeaderBytes = ArrayVec<u8, MAX_FRONT_LEN>;

/// One fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece<'p> {
    header: HeaderBytes,
    payload: &'p [u8],
}

impl Piece<'_> {
    /// Bytes of the fragment, from its IP header on.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has a header")]
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    /// Writes the fragment to `bytes`, which has as many.
    pub fn write(&self, bytes: &mut [u8]) {
        let (header, payload) = bytes.split_at_mut(self.header.len());
        header.copy_from_slice(&self.header);
        payload.copy_from_slice(self.payload);
    }
}

/// The fragments of a packet, in order.
#[derive(Clone, Debug)]
pub struct Fragmentation<'p> {
    family: Family,
    /// The first fragment's header, with all options or with its fragment header; then that of the others.
    header: HeaderBytes,
    later: HeaderBytes,
    /// What has not been cut off yet.
    rest: &'p [u8],
    /// Where that stands in the datagram, in units of eight bytes.
    offset: u16,
    /// Whether others follow the packet itself, if it is a fragment.
    more: bool,
    mtu: usize,
}

impl<'p> Fragmentation<'p> {
    /// Cuts `packet` into fragments of at most `mtu` bytes.
    ///
    /// # Errors
    /// `PacketTooBig` where that is not allowed (DF, IPv6) or not possible, `IpBadChecksum`, and the reasons for a malformed
    /// header.
    pub fn new(packet: &'p [u8], mtu: usize) -> Result<Self, DropReason> {
        let ip = IpHeader::parse(packet)?;
        // RFC 791: "If the Don't Fragment flag (DF) bit is set, then internet fragmentation of this datagram is NOT permitted";
        // RFC 8200 section 4.5: "fragmentation in IPv6 is performed only by source nodes".
        if ip.family == Family::V6 || ip.dont_fragment {
            return Err(DropReason::PacketTooBig);
        }
        let (header, rest) = packet[..ip.total_len].split_at(ip.header_len);
        // The fragments get checksums of their own, which must not hide that this one was wrong.
        if checksum::ipv4_header(header) != 0 {
            return Err(DropReason::IpBadChecksum);
        }
        let field = u16::from_be_bytes([header[6], header[7]]);
        let header: HeaderBytes = header.iter().copied().collect();
        if mtu < header.len() + 8 {
            return Err(DropReason::PacketTooBig);
        }
        // The last byte's place must have an offset.
        if usize::from(field & OFFSET) * 8 + rest.len() > usize::from(u16::MAX) {
            return Err(DropReason::IpBadTotalLength);
        }
        Ok(Self {
            family: Family::V4,
            later: without_first_options(&header),
            header,
            rest,
            offset: field & OFFSET,
            more: field & MORE_FRAGMENTS != 0,
            mtu,
        })
    }

    /// The same for the node that sends the packet, which may cut IPv6 packets as well; those get this `identification`.
    ///
    /// RFC 8200 section 4.5: "the Identification must be different than that of any other fragmented packet sent recently with
    /// the same Source Address and Destination Address".
    ///
    /// # Errors
    /// As [`Fragmentation::new`]; `PacketTooBig` for a packet that is a fragment of IPv6 already.
    pub fn at_source(packet: &'p [u8], mtu: usize, identification: u32) -> Result<Self, DropReason> {
        let ip = IpHeader::parse(packet)?;
        if ip.family == Family::V4 {
            return Self::new(packet, mtu);
        }
        let chain = HeaderChain::walk(packet, &ip)?;
        // RFC 8200 section 4.5: "The Per-Fragment headers must consist of the IPv6 header plus any extension headers that must
        // be processed by nodes en route to the destination, that is, all headers up to and including the Routing header if
        // present, else the Hop-by-Hop Options header if present". ESP stands behind the same ones.
        let (front, rest) = packet[..ip.total_len].split_at(chain.esp.offset);
        if chain.fragment || front.len() > MAX_HEADER_LEN || mtu < front.len() + FRAGMENT_HEADER_LEN + 8 {
            return Err(DropReason::PacketTooBig);
        }
        let mut header: HeaderBytes = front.iter().copied().collect();
        header[chain.esp.next_header_at] = PROTOCOL_FRAGMENT;
        header.extend([chain.esp.next_header, 0, 0, 0]);
        header.extend(identification.to_be_bytes());
        Ok(Self {
            family: Family::V6,
            later: header.clone(),
            header,
            rest,
            offset: 0,
            more: false,
            mtu,
        })
    }
}

impl<'p> Iterator for Fragmentation<'p> {
    type Item = Piece<'p>;

    fn next(&mut self) -> Option<Piece<'p>> {
        if self.rest.is_empty() {
            return None;
        }
        let mut header = std::mem::replace(&mut self.header, self.later.clone());
        let room = self.mtu - header.len();
        let len = if self.rest.len() <= room {
            self.rest.len()
        } else {
            room & !7
        };
        let (payload, rest) = self.rest.split_at(len);
        let more = self.more || !rest.is_empty();
        let total_len = header.len() + len;
        match self.family {
            Family::V4 => {
                let field = self.offset | if more { MORE_FRAGMENTS } else { 0 };
                debug_assert_eq!(field & DONT_FRAGMENT, 0);
                header[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
                header[6..8].copy_from_slice(&field.to_be_bytes());
                header[10..12].fill(0);
                let sum = checksum::ipv4_header(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Family::V6 => {
                let field = self.offset << 3 | u16::from(more);
                header[4..6].copy_from_slice(&((total_len - IPV6_HEADER_LEN) as u16).to_be_bytes());
                let at = header.len() - FRAGMENT_HEADER_LEN + 2;
                header[at..at + 2].copy_from_slice(&field.to_be_bytes());
            }
        }
        self.rest = rest;
        self.offset += (len / 8) as u16;
        Some(Piece { header, payload })
    }
}

/// The header of all fragments but the first.
///
/// RFC 791 section 3.1: of an option's type "the copied flag indicates that this option is copied into all fragments on
/// fragmentation". Behind an option whose length lies nothing is copied.
fn without_first_options(header: &HeaderBytes) -> HeaderBytes {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let (fixed, mut options) = header.split_at(IPV4_HEADER_LEN);
    let mut later: HeaderBytes = fixed.iter().copied().collect();
    while let [kind, rest @ ..] = options {
        options = match *kind {
            END => break,
            NO_OPERATION => rest,
            kind => {
                let len = rest.first().copied().map_or(0, usize::from);
                let Some((option, behind)) = options.split_at_checked(len).filter(|_| len >= 2) else {
                    break;
                };
                if kind & COPIED != 0 {
                    // As long as the header it comes from, at most.
                    later.extend(option.iter().copied());
                }
                behind
            }
        };
    }
    while !later.len().is_multiple_of(4) {
        later.push(END);
    }
    later[0] = 0x40 | (later.len() / 4) as u8;
    later
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(options: &[u8], field: u16, payload: &[u8]) -> Vec<u8> {
        let header_len = IPV4_HEADER_LEN + options.len();
        let mut packet = vec![0; IPV4_HEADER_LEN];
        packet[0] = 0x40 | (header_len / 4) as u8;
        packet[1] = 0xb8;
        packet[2..4].copy_from_slice(&((header_len + payload.len()) as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&[0xab, 0xcd]);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet[8..10].copy_from_slice(&[63, 17]);
        packet[12..].copy_from_slice(&[10, 1, 0, 2, 10, 2, 0, 2]);
        packet.extend(options);
        let sum = checksum::ipv4_header(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn pieces(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        Fragmentation::new(packet, mtu)
            .unwrap()
            .map(|piece| {
                let mut bytes = vec![0; piece.len()];
                piece.write(&mut bytes);
                bytes
            })
            .collect()
    }

    /// The example of RFC 791, "An Example Fragmentation Procedure": a datagram of 472 bytes over a link of 280.
    #[test]
    fn the_example_of_the_rfc() {
        let cut = pieces(&packet(&[], 0, &[7; 452]), 280);
        let fields: Vec<_> = cut
            .iter()
            .map(|piece| {
                (
                    u16::from_be_bytes([piece[2], piece[3]]),
                    u16::from_be_bytes([piece[6], piece[7]]),
                )
            })
            .collect();
        assert_eq!(fields, [(276, 0x2000), (216, 32)]);
    }

    #[test]
    fn options_are_copied_if_they_say_so() {
        // Loose source route (copied), record route (not), no-operations, router alert (copied).
        let options = [
            0x83, 7, 4, 1, 2, 3, 4, 1, 7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0, 0, 0, 0, 0,
        ];
        let cut = pieces(&packet(&options, 0, &[7; 100]), 80);
        assert_eq!(cut.len(), 3);
        assert_eq!(cut[0][20..44], options);
        for later in &cut[1..] {
            assert_eq!(later[0], 0x48);
            assert_eq!(later[20..32], [0x83, 7, 4, 1, 2, 3, 4, 0x94, 4, 0, 0, 0]);
        }
        // Lengths that lie, at the end and in the middle.
        for options in [[0x83, 9, 1, 1], [0x83, 0, 1, 1], [0x83, 1, 1, 1], [1, 1, 1, 0x83]] {
            let cut = pieces(&packet(&options, 0, &[7; 100]), 80);
            assert_eq!(cut[1][0], 0x45);
        }
    }

    #[test]
    fn what_may_not_be_cut_is_refused() {
        let refused = |packet: &[u8], mtu| Fragmentation::new(packet, mtu).unwrap_err();
        assert_eq!(
            refused(&packet(&[], DONT_FRAGMENT, &[7; 100]), 68),
            DropReason::PacketTooBig
        );
        let mut v6 = vec![0; 100];
        v6[0] = 0x60;
        v6[5] = 60;
        assert_eq!(refused(&v6, 68), DropReason::PacketTooBig);
        assert_eq!(refused(&packet(&[], 0, &[7; 100]), 27), DropReason::PacketTooBig);
        assert_eq!(pieces(&packet(&[], 0, &[7; 100]), 28).len(), 13);
        let mut damaged = packet(&[], 0, &[7; 100]);
        damaged[15] ^= 1;
        assert_eq!(refused(&damaged, 68), DropReason::IpBadChecksum);
        assert_eq!(
            refused(&packet(&[], 0x1fff, &[7; 16]), 28),
            DropReason::IpBadTotalLength
        );
    }

    /// An IPv6 packet, with hop-by-hop options in front or without, and its payload.
    fn ipv6(options: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0x30, 0, 0, 0, 0, 50, 64];
        packet.extend(1..33);
        if options {
            packet[6] = 0;
            packet.extend([50, 0, 1, 4, 0, 0, 0, 0]);
        }
        packet.extend(payload);
        let len = (packet.len() - IPV6_HEADER_LEN) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    }

    #[test]
    fn only_their_source_cuts_packets_of_ipv6() {
        let whole = ipv6(true, &[7; 100]);
        assert!(Fragmentation::new(&whole, 96).is_err());
        let cut: Vec<_> = Fragmentation::at_source(&whole, 96, 0xabcd_ef01)
            .unwrap()
            .collect();
        // 40 bytes of fixed header, 8 of options, 8 of fragment header: 40 are left for each.
        let written: Vec<Vec<u8>> = cut
            .iter()
            .map(|piece| {
                let mut bytes = vec![0; piece.len()];
                piece.write(&mut bytes);
                bytes
            })
            .collect();
        assert_eq!(written.iter().map(Vec::len).collect::<Vec<_>>(), [96, 96, 76]);
        for (number, piece) in written.iter().enumerate() {
            let more = u8::from(number < 2);
            assert_eq!(piece[40], PROTOCOL_FRAGMENT, "what follows the options");
            let offset = [0, 40, 80][number] | more;
            assert_eq!(piece[48..56], [50, 0, 0, offset, 0xab, 0xcd, 0xef, 0x01]);
        }
        assert!(
            Fragmentation::at_source(&written[0], 76, 1).is_err(),
            "a fragment"
        );
        assert!(Fragmentation::at_source(&whole, 63, 1).is_err());
    }

    proptest! {
        /// What puts fragments together again gives the packet back.
        #[test]
        fn pieces_of_ipv6_make_up_the_packet(
            payload in prop::collection::vec(any::<u8>(), 200..4000),
            options: bool,
            mtu in 120..200_usize,
        ) {
            let whole = ipv6(options, &payload);
            let mut pool = crate::Reassembly::new();
            let now = std::time::Instant::now();
            let mut found = None;
            for piece in Fragmentation::at_source(&whole, mtu, 7).unwrap() {
                prop_assert!(piece.len() <= mtu && found.is_none());
                let mut bytes = vec![0; piece.len()];
                piece.write(&mut bytes);
                let lost = |reason, _| panic!("{reason:?}");
                found = pool.offer(&bytes, 3, now, lost).map(|whole| whole.packet.bytes().to_vec());
            }
            prop_assert_eq!(found, Some(whole));
        }

        /// Of any packet, which may be a fragment itself: the pieces fit, are valid, and make up the packet.
        #[test]
        fn pieces_make_up_the_packet(
            payload in prop::collection::vec(any::<u8>(), 1..4000),
            offset in 0..4000_u16,
            more: bool,
            mtu in 68..1600_usize,
        ) {
            let field = offset | if more { MORE_FRAGMENTS } else { 0 };
            let whole = packet(&[0x94, 4, 0, 0], field, &payload);
            let mut next = usize::from(offset) * 8;
            let mut joined: Vec<u8> = Vec::new();
            let cut = pieces(&whole, mtu);
            for (index, piece) in cut.iter().enumerate() {
                let last = index + 1 == cut.len();
                let header = IpHeader::parse(piece).unwrap();
                prop_assert!(piece.len() <= mtu && header.total_len == piece.len());
                prop_assert_eq!(checksum::ipv4_header(&piece[..24]), 0);
                let field = u16::from_be_bytes([piece[6], piece[7]]);
                prop_assert_eq!(usize::from(field & OFFSET) * 8, next);
                prop_assert_eq!(field & MORE_FRAGMENTS != 0, more || !last);
                prop_assert!(last || piece.len() + 8 > mtu);
                // All else as it was.
                for at in [1, 4, 5, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23] {
                    prop_assert_eq!(piece[at], whole[at]);
                }
                joined.extend(&piece[24..]);
                next += piece.len() - 24;
            }
            prop_assert_eq!(joined, payload);
        }
    }
}
