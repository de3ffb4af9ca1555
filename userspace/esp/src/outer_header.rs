//! The header that tunnel mode puts in front (RFC 4301 section 5.1.2).

use std::net::IpAddr;

use crate::checksum;
use crate::ip::{
    Family, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpHeader, PROTOCOL_ESP, PROTOCOL_UDP, UDP_HEADER_LEN,
};
use crate::parameters::Encapsulation;

/// TTL or hop limit of outer headers; the inner one is the inner packet's own affair.
const OUTER_HOP_LIMIT: u8 = 64;

/// The part of the outer IP header that is the same for every packet of an SA.
#[derive(Debug)]
pub(crate) struct OuterHeader {
    family: Family,
    template: [u8; IPV6_HEADER_LEN],
}

impl OuterHeader {
    /// The header from `local` to `remote`, which are of one family.
    pub(crate) fn new(local: IpAddr, remote: IpAddr, encapsulation: Encapsulation, spi: u32) -> Self {
        let protocol = match encapsulation {
            Encapsulation::None => PROTOCOL_ESP,
            Encapsulation::Udp { .. } => PROTOCOL_UDP,
        };
        let mut template = [0; IPV6_HEADER_LEN];
        let family = match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                template[0] = 0x45;
                template[8] = OUTER_HOP_LIMIT;
                template[9] = protocol;
                template[12..16].copy_from_slice(&local.octets());
                template[16..20].copy_from_slice(&remote.octets());
                Family::V4
            }
            (local, remote) => {
                template[..4].copy_from_slice(&(0x6000_0000 | flow_label(spi)).to_be_bytes());
                template[6] = protocol;
                template[7] = OUTER_HOP_LIMIT;
                template[8..24].copy_from_slice(&ipv6_octets(local));
                template[24..40].copy_from_slice(&ipv6_octets(remote));
                Family::V6
            }
        };
        Self { family, template }
    }

    pub(crate) fn len(&self) -> usize {
        match self.family {
            Family::V4 => IPV4_HEADER_LEN,
            Family::V6 => IPV6_HEADER_LEN,
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Writes the header of a packet of `total_len` bytes to the front of `packet`.
    ///
    /// DSCP and ECN are the inner packet's (RFC 4301 section 5.1.2.1, RFC 6040 normal mode), and so is DF; an IPv6
    /// inner packet cannot be fragmented by routers, so its outer packet is not either.
    pub(crate) fn write(&self, packet: &mut [u8], total_len: u16, inner: &IpHeader, sequence: u64) {
        let header = &mut packet[..self.len()];
        header.copy_from_slice(&self.template[..header.len()]);
        match self.family {
            Family::V4 => {
                header[1] = inner.traffic_class;
                header[2..4].copy_from_slice(&total_len.to_be_bytes());
                if inner.dont_fragment || inner.family == Family::V6 {
                    // RFC 6864 section 4.1: atomic datagrams may carry any ID; 0 says nothing about us.
                    header[6] = 0x40;
                } else {
                    header[4..6].copy_from_slice(&(sequence as u16).to_be_bytes());
                }
                let checksum = checksum::ipv4_header(header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Family::V6 => {
                header[0] |= inner.traffic_class >> 4;
                header[1] |= inner.traffic_class << 4;
                let payload_len = total_len - IPV6_HEADER_LEN as u16;
                header[4..6].copy_from_slice(&payload_len.to_be_bytes());
            }
        }
    }
}

/// Writes a UDP header (RFC 3948 section 2.1) for `udp_len` bytes, header included, with checksum 0.
pub(crate) fn write_udp(
    header: &mut [u8; UDP_HEADER_LEN],
    source_port: u16,
    destination_port: u16,
    udp_len: u16,
) {
    header[0..2].copy_from_slice(&source_port.to_be_bytes());
    header[2..4].copy_from_slice(&destination_port.to_be_bytes());
    header[4..6].copy_from_slice(&udp_len.to_be_bytes());
    header[6..8].fill(0);
}

/// Computes the UDP checksum of the IPv6 packet `packet`, whose UDP header is at `udp_at` and whose checksum is 0 so far.
pub(crate) fn complete_udp_checksum(packet: &mut [u8], udp_at: usize) {
    let udp = &packet[udp_at..];
    let sum = checksum::Sum::default()
        .add(&packet[8..IPV6_HEADER_LEN])
        .add(&(udp.len() as u32).to_be_bytes())
        .add_word(u16::from(PROTOCOL_UDP))
        .add(udp);
    // RFC 8200 section 8.1: a computed 0 is sent as all ones.
    let checksum = match sum.checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    packet[udp_at + 6..udp_at + 8].copy_from_slice(&checksum.to_be_bytes());
}

/// 20 bits that differ between SAs and stay for an SA's life, so that one SA takes one path (RFC 6437 section 3). The
/// inner flows are deliberately not told apart.
fn flow_label(spi: u32) -> u32 {
    (spi.wrapping_mul(0x9e37_79b1) >> 12).max(1)
}

fn ipv6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Encapsulation, Family, IpHeader, OuterHeader};
    use crate::checksum;

    const INNER: IpHeader = IpHeader {
        family: Family::V4,
        header_len: 20,
        total_len: 20,
        traffic_class: 0xb9,
        dont_fragment: false,
        fragment: false,
    };

    fn ipv4(inner: &IpHeader) -> [u8; 20] {
        let outer = OuterHeader::new(
            [192, 0, 2, 1].into(),
            [192, 0, 2, 2].into(),
            Encapsulation::None,
            256,
        );
        let mut packet = [0xaa; 20];
        outer.write(&mut packet, 1000, inner, 0x1_2345_6789);
        packet
    }

    #[test]
    fn ipv4_fields() {
        let header = ipv4(&INNER);
        assert_eq!(header[..10], [0x45, 0xb9, 3, 0xe8, 0x67, 0x89, 0, 0, 64, 50]);
        assert_eq!(header[12..], [192, 0, 2, 1, 192, 0, 2, 2]);
        assert_eq!(
            checksum::ipv4_header(&header),
            0,
            "the sum over a header with its checksum is zero"
        );
    }

    #[test]
    fn dont_fragment_is_copied_and_set_for_ipv6() {
        for inner in [
            IpHeader {
                dont_fragment: true,
                ..INNER
            },
            IpHeader {
                family: Family::V6,
                ..INNER
            },
        ] {
            assert_eq!(ipv4(&inner)[4..8], [0, 0, 0x40, 0]);
        }
    }

    #[test]
    fn ipv6_fields() {
        let (local, remote) = ("2001:db8::1", "2001:db8::2");
        let udp = Encapsulation::Udp {
            source_port: 4500,
            destination_port: 4500,
        };
        let outer = OuterHeader::new(local.parse().unwrap(), remote.parse().unwrap(), udp, 256);
        let mut packet = [0xaa; 41];
        outer.write(&mut packet, 1000, &INNER, 1);
        let first = u32::from_be_bytes(packet[..4].try_into().unwrap());
        assert_eq!((first >> 28, first >> 20 & 0xff), (6, 0xb9));
        assert_ne!(first & 0xf_ffff, 0);
        assert_eq!(packet[4..8], [3, 0xc0, 17, 64]);
        assert_eq!(packet[8..12], [0x20, 1, 0x0d, 0xb8]);
        assert_eq!((packet[23], packet[39], packet[40]), (1, 2, 0xaa));
    }
}
