//! What one fragment of an IP packet says of its datagram (RFC 791 section 3.2, RFC 8200 section 4.5).

use ravelin_xdp_common::DropReason;

use crate::ip::{
    Family, IPV6_HEADER_LEN, IpHeader, PROTOCOL_DESTINATION_OPTIONS, PROTOCOL_FRAGMENT, PROTOCOL_HOP_BY_HOP,
    PROTOCOL_ROUTING,
};

/// IPv6 fragment header, in bytes.
pub(crate) const FRAGMENT_HEADER_LEN: usize = 8;

/// The longest headers in front of the fragments' bytes: what a tunnel endpoint sends has one IP header, with options or a
/// few extension headers at most.
pub(crate) const MAX_HEADER_LEN: usize = 128;

/// The most bytes that a datagram has behind its headers: offset and length are 16 bits.
pub(crate) const MAX_PAYLOAD_LEN: usize = u16::MAX as usize;

/// What the fragments of one datagram have in common.
///
/// RFC 8200 section 4.5: "an original packet is reassembled only from fragment packets that have the same Source Address,
/// Destination Address, and Fragment Identification"; in IPv4 the protocol belongs to it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatagramId {
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    id: u32,
    /// 0 in IPv6.
    protocol: u8,
    family: Family,
}

/// One fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment<'p> {
    pub(crate) datagram: DatagramId,
    /// The IP header with options, or with the extension headers in front of the fragment header.
    pub(crate) headers: &'p [u8],
    /// What follows the headers once the datagram is whole, and which byte of them says so.
    pub(crate) next_header: u8,
    pub(crate) next_header_at: usize,
    /// Of the first byte, in the datagram.
    pub(crate) offset: usize,
    /// Whether others follow.
    pub(crate) more: bool,
    /// The congestion codepoint, 0 to 3.
    pub(crate) ecn: u8,
    /// At least one byte; a multiple of eight if others follow.
    pub(crate) payload: &'p [u8],
}

impl<'p> Fragment<'p> {
    /// Reads the fragment that the IP packet `packet` is.
    ///
    /// # Errors
    /// `ReassemblyMalformed` for what is no fragment or can be part of no datagram, and the reasons for a malformed header.
    pub(crate) fn parse(packet: &'p [u8]) -> Result<Self, DropReason> {
        let header = IpHeader::parse(packet)?;
        let packet = &packet[..header.total_len];
        let fragment = match header.family {
            Family::V4 => Self::parse_ipv4(packet, &header),
            Family::V6 => Self::parse_ipv6(packet, &header),
        };
        fragment.ok_or(DropReason::ReassemblyMalformed)?.checked()
    }

    fn parse_ipv4(packet: &'p [u8], header: &IpHeader) -> Option<Self> {
        let (headers, payload) = packet.split_at_checked(header.header_len)?;
        let field = u16::from_be_bytes([headers[6], headers[7]]);
        Some(Self {
            datagram: DatagramId {
                source: address(&headers[12..16]),
                destination: address(&headers[16..20]),
                id: u16::from_be_bytes([headers[4], headers[5]]).into(),
                protocol: headers[9],
                family: Family::V4,
            },
            headers,
            next_header: headers[9],
            next_header_at: 9,
            offset: usize::from(field & 0x1fff) * 8,
            more: field & 0x2000 != 0,
            ecn: header.traffic_class & 3,
            payload,
        })
    }

    fn parse_ipv6(packet: &'p [u8], header: &IpHeader) -> Option<Self> {
        let mut next_header_at = 6;
        let mut at = IPV6_HEADER_LEN;
        // Extension headers of eight bytes at least, within bounds that are checked below.
        while at < MAX_HEADER_LEN && *packet.get(next_header_at)? != PROTOCOL_FRAGMENT {
            let (PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING | PROTOCOL_DESTINATION_OPTIONS) =
                packet[next_header_at]
            else {
                return None;
            };
            next_header_at = at;
            at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
        }
        if *packet.get(next_header_at)? != PROTOCOL_FRAGMENT {
            return None;
        }
        let (headers, rest) = packet.split_at_checked(at)?;
        let (fragment, payload) = rest.split_first_chunk::<FRAGMENT_HEADER_LEN>()?;
        let field = u16::from_be_bytes([fragment[2], fragment[3]]);
        Some(Self {
            datagram: DatagramId {
                source: address(&headers[8..24]),
                destination: address(&headers[24..40]),
                id: u32::from_be_bytes([fragment[4], fragment[5], fragment[6], fragment[7]]),
                protocol: 0,
                family: Family::V6,
            },
            headers,
            next_header: fragment[0],
            next_header_at,
            // Three low bits: two reserved, one for "more".
            offset: usize::from(field & !7),
            more: field & 1 != 0,
            ecn: header.traffic_class & 3,
            payload,
        })
    }

    fn checked(self) -> Result<Self, DropReason> {
        let len = self.payload.len();
        // RFC 8200 section 4.5: "If the length of a fragment … is not a multiple of 8 octets and the M flag of that fragment
        // is 1, then that fragment must be discarded", and so must one that would make the packet longer than 65,535 octets.
        let fits = len > 0
            && self.offset + len <= MAX_PAYLOAD_LEN
            && (!self.more || len.is_multiple_of(8))
            && self.headers.len() <= MAX_HEADER_LEN
            // An atomic fragment (RFC 6946) is a whole datagram in one; nobody gives those here.
            && (self.more || self.offset != 0);
        if fits {
            Ok(self)
        } else {
            Err(DropReason::ReassemblyMalformed)
        }
    }
}

/// An address of four or sixteen bytes.
fn address(bytes: &[u8]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..bytes.len()].copy_from_slice(bytes);
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(field: u16, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; 24 + payload];
        packet[0] = 0x46;
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[4..6].copy_from_slice(&[0x12, 0x34]);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet[9] = 50;
        packet
    }

    fn ipv6(field: u16, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; 40 + 16 + 8 + payload];
        packet[0] = 0x60;
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet[6] = PROTOCOL_HOP_BY_HOP;
        packet[40..42].copy_from_slice(&[PROTOCOL_FRAGMENT, 1]);
        packet[56] = 50;
        packet[58..60].copy_from_slice(&field.to_be_bytes());
        packet[60..64].copy_from_slice(&[1, 2, 3, 4]);
        packet
    }

    #[test]
    fn both_families_say_where_their_bytes_belong() {
        let packet = ipv4(0x2003, 16);
        let fragment = Fragment::parse(&packet).unwrap();
        assert_eq!(
            (fragment.offset, fragment.more, fragment.payload.len()),
            (24, true, 16)
        );
        assert_eq!((fragment.headers.len(), fragment.next_header_at), (24, 9));
        assert_eq!((fragment.datagram.id, fragment.datagram.protocol), (0x1234, 50));
        let packet = ipv6(24 | 6, 15);
        let fragment = Fragment::parse(&packet).unwrap();
        assert_eq!(
            (fragment.offset, fragment.more, fragment.payload.len()),
            (24, false, 15)
        );
        assert_eq!((fragment.headers.len(), fragment.next_header_at), (56, 40));
        assert_eq!(
            (fragment.datagram.id, fragment.datagram.protocol),
            (0x0102_0304, 0)
        );
        assert_eq!(fragment.next_header, 50);
    }

    #[test]
    fn what_belongs_to_no_datagram_is_refused() {
        let malformed = Err(DropReason::ReassemblyMalformed);
        // No fragment, an odd length in the middle, nothing at all, beyond the end.
        for (field, payload) in [(0, 8), (0x2000, 15), (0x2001, 0), (0x1fff, 9)] {
            assert_eq!(Fragment::parse(&ipv4(field, payload)).map(drop), malformed);
        }
        assert!(Fragment::parse(&ipv4(0x1fff, 7)).is_ok());
        for (field, payload) in [(0, 8), (1, 15), (8, 0), (0xfff8, 8)] {
            assert_eq!(Fragment::parse(&ipv6(field, payload)).map(drop), malformed);
        }
        // Headers beyond what is kept, a chain that ends elsewhere, and one that ends early.
        let mut long = ipv6(8, 100);
        long[41] = 12;
        assert_eq!(Fragment::parse(&long).map(drop), malformed);
        let mut other = ipv6(8, 8);
        other[40] = 17;
        assert_eq!(Fragment::parse(&other).map(drop), malformed);
        let mut short = ipv6(8, 8);
        short[41] = 9;
        assert_eq!(Fragment::parse(&short).map(drop), malformed);
    }
}
