//! Checksums of transport mode behind a NAT (RFC 3948 section 3.1.2).

use std::net::IpAddr;

use ravelin_xdp_common::DropReason;

use crate::checksum::{self, Sum};
use crate::ip::{Family, HeaderChain, IpHeader, PROTOCOL_UDP};

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_DCCP: u8 = 33;
const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_UDP_LITE: u8 = 136;

/// The addresses that the peer's packets had before a NAT changed them: what IKE calls NAT-OA (RFC 7296 section 2.23.1).
/// Where the NAT changes only one of them, the other is the one that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatOriginal {
    /// The peer's own address.
    pub source: IpAddr,
    /// The address that the peer sends to, of the same family.
    pub destination: IpAddr,
}

/// Makes checksums over a pseudo-header right again after the NAT has changed the addresses, which are part of it. They are
/// inside ESP, where the NAT could not.
#[derive(Debug)]
pub(crate) struct ChecksumFixUp {
    family: Family,
    /// The folded sum over the original addresses.
    original: u16,
}

impl ChecksumFixUp {
    /// `original` are of one family.
    pub(crate) fn new(original: NatOriginal) -> Self {
        let family = match original.source {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        let add = |sum: Sum, address: IpAddr| match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        };
        let sum = add(add(Sum::default(), original.source), original.destination);
        Self {
            family,
            original: sum.fold(),
        }
    }

    /// Updates the checksum of what the decapsulated packet `bytes` carries. TCP, UDP, UDP-Lite, DCCP and ICMPv6 have one
    /// over the addresses; of others nothing is changed.
    ///
    /// RFC 3948 section 3.1.2: "incrementally recompute the TCP/UDP checksum: Subtract the IP source address in the received
    /// packet from the checksum. Add the real IP source address received via IKE to the checksum (obtained from the
    /// NAT-OA)", and the same for the destination. The update keeps a wrong checksum wrong.
    ///
    /// # Errors
    /// `TransportTruncated`, `SpiWrongEndpoint` for the other family, and the reasons for a malformed header chain.
    pub(crate) fn apply(&self, bytes: &mut [u8]) -> Result<(), DropReason> {
        let header = IpHeader::parse(bytes)?;
        if header.family != self.family {
            return Err(DropReason::SpiWrongEndpoint);
        }
        let upper = HeaderChain::walk(bytes, &header)?.upper;
        let (header_len, checksum_at) = match (upper.next_header, header.family) {
            (PROTOCOL_TCP, _) => (20, 16),
            (PROTOCOL_UDP | PROTOCOL_UDP_LITE, _) => (8, 6),
            (PROTOCOL_DCCP, _) => (12, 6),
            (PROTOCOL_ICMPV6, Family::V6) => (4, 2),
            _ => return Ok(()),
        };
        let (ip, transport) = bytes.split_at_mut(upper.offset);
        let addresses = match header.family {
            Family::V4 => &ip[12..20],
            Family::V6 => &ip[8..40],
        };
        let received = Sum::default().add(addresses).fold();
        let field = transport
            .get_mut(..header_len)
            .and_then(|header| header.get_mut(checksum_at..)?.first_chunk_mut())
            .ok_or(DropReason::TransportTruncated)?;
        let before = u16::from_be_bytes(*field);
        let is_udp = matches!(upper.next_header, PROTOCOL_UDP | PROTOCOL_UDP_LITE);
        // RFC 768: "An all zero transmitted checksum value means that the transmitter generated no checksum".
        if is_udp && before == 0 {
            return Ok(());
        }
        let after = match checksum::update(before, self.original, received) {
            // RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
            0 if is_udp => 0xffff,
            after => after,
        };
        *field = after.to_be_bytes();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ChecksumFixUp, DropReason, NatOriginal};

    const ORIGINAL: NatOriginal = NatOriginal {
        source: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5)),
        destination: std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9)),
    };
    /// What the NAT made of them: 198.51.100.7 to 192.168.1.2.
    const RECEIVED: [u8; 8] = [198, 51, 100, 7, 192, 168, 1, 2];

    /// An IPv4 packet as received around `transport`.
    fn packet(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let len = (20 + transport.len()) as u16;
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet.extend_from_slice(&RECEIVED);
        packet.extend_from_slice(transport);
        packet
    }

    /// The plain UDP checksum of RFC 768.
    fn udp_checksum(addresses: &[u8], udp: &[u8]) -> u16 {
        let pseudo = [addresses, &[0, 17], &(udp.len() as u16).to_be_bytes(), udp].concat();
        let mut sum: u32 = pseudo
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        match !(sum as u16) {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Among all values of one word are those where the checksum becomes zero, before and after.
    #[test]
    fn udp_is_right_for_every_sum() {
        let fix_up = ChecksumFixUp::new(ORIGINAL);
        let mut udp = [0x30, 0x39, 0, 53, 0, 10, 0, 0, 0, 0];
        for word in 0..=u16::MAX {
            udp[8..].copy_from_slice(&word.to_be_bytes());
            let with = |addresses: &[u8]| {
                let mut udp = udp;
                udp[6..8].fill(0);
                let sum = udp_checksum(addresses, &udp);
                udp[6..8].copy_from_slice(&sum.to_be_bytes());
                udp
            };
            let mut packet = packet(17, &with(&[10, 0, 0, 5, 203, 0, 113, 9]));
            fix_up.apply(&mut packet).unwrap();
            assert_eq!(packet[20..], with(&RECEIVED), "{word:#06x}");
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        let mut packet = packet(17, &[0x30, 0x39, 0, 53, 0, 9, 0, 0, 7]);
        let before = packet.clone();
        ChecksumFixUp::new(ORIGINAL).apply(&mut packet).unwrap();
        assert_eq!(packet, before);
    }

    #[test]
    fn truncated_headers_are_refused_and_other_protocols_left_alone() {
        let fix_up = ChecksumFixUp::new(ORIGINAL);
        for (protocol, shortest) in [(6, 20), (17, 8), (136, 8), (33, 12)] {
            for len in 0..=shortest {
                let mut packet = packet(protocol, &vec![1; len]);
                let expected = if len < shortest {
                    Err(DropReason::TransportTruncated)
                } else {
                    Ok(())
                };
                assert_eq!(fix_up.apply(&mut packet), expected, "{protocol} {len}");
            }
        }
        // ICMP, SCTP, ICMPv6 where it does not belong, and what nobody knows.
        for protocol in [1, 132, 58, 253] {
            for len in [0, 1, 40] {
                let mut packet = packet(protocol, &vec![1; len]);
                let before = packet.clone();
                assert_eq!(fix_up.apply(&mut packet), Ok(()));
                assert_eq!(packet, before, "{protocol}");
            }
        }
    }

    #[test]
    fn the_other_family_is_not_this_sas() {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        let fix_up = ChecksumFixUp::new(ORIGINAL);
        assert_eq!(fix_up.apply(&mut packet), Err(DropReason::SpiWrongEndpoint));
    }
}
