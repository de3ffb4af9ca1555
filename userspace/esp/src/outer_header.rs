//! The header that tunnel mode puts in front (RFC 4301 section 5.1.2).

use std::net::IpAddr;

use crate::checksum::Sum;
use crate::ip::{Family, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpHeader, PROTOCOL_UDP, UDP_HEADER_LEN};
use crate::outer_options::{DSCP_MASK, DontFragment, Dscp, EcnMode, FlowLabel, OuterOptions};

const DF: u16 = 0x4000;
const FLOW_LABEL_MASK: u32 = 0xf_ffff;

/// What the outer IP headers of an SA have in common. [`OuterOptions`] have become masks here: what of the inner header
/// is copied, and what stands in the rest, so that no packet asks for them.
#[derive(Debug)]
pub(crate) struct OuterHeader {
    family: Family,
    template: [u8; IPV6_HEADER_LEN],
    /// IPv4: the sum over the template.
    sum: Sum,
    /// Bits of the inner traffic class that are copied.
    class_copied: u8,
    class: u8,
    /// Whether DF is copied, and what it is else: [`DF`] or 0.
    df_copied: u16,
    df: u16,
    /// Bits of an inner flow label that are copied.
    label_copied: u32,
    label: u32,
    /// What is added to the sequence number to make the IPv4 ID: SAs between the same ends do not start alike.
    identification: u16,
}

impl OuterHeader {
    /// The header from `local` to `remote`, which are of one family.
    pub(crate) fn new(local: IpAddr, remote: IpAddr, protocol: u8, spi: u32, options: &OuterOptions) -> Self {
        let mut template = [0; IPV6_HEADER_LEN];
        let family = match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                template[0] = 0x45;
                template[8] = options.hop_limit;
                template[9] = protocol;
                template[12..16].copy_from_slice(&local.octets());
                template[16..20].copy_from_slice(&remote.octets());
                Family::V4
            }
            (local, remote) => {
                template[0] = 0x60;
                template[6] = protocol;
                template[7] = options.hop_limit;
                template[8..24].copy_from_slice(&ipv6_octets(local));
                template[24..40].copy_from_slice(&ipv6_octets(remote));
                Family::V6
            }
        };
        let (dscp_copied, class) = match options.dscp {
            Dscp::Copy => (DSCP_MASK, 0),
            Dscp::Set(dscp) => (0, dscp << 2),
        };
        let ecn_copied = match options.ecn {
            EcnMode::Normal => !DSCP_MASK,
            EcnMode::Compatibility => 0,
        };
        let (df_copied, df) = match options.dont_fragment {
            DontFragment::Copy => (DF, 0),
            DontFragment::Set => (0, DF),
            DontFragment::Clear => (0, 0),
        };
        let (label_copied, label) = match options.flow_label {
            FlowLabel::Derived => (0, derived_label(spi)),
            FlowLabel::Copy => (FLOW_LABEL_MASK, derived_label(spi)),
            FlowLabel::Zero => (0, 0),
        };
        Self {
            family,
            template,
            sum: Sum::default().add(&template[..IPV4_HEADER_LEN]),
            class_copied: dscp_copied | ecn_copied,
            class,
            df_copied,
            df,
            label_copied,
            label,
            identification: derived_label(spi) as u16,
        }
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
    pub(crate) fn write(&self, packet: &mut [u8], total_len: u16, inner: &IpHeader, sequence: u64) {
        let class = inner.traffic_class & self.class_copied | self.class;
        match self.family {
            Family::V4 => {
                let header = &mut packet[..IPV4_HEADER_LEN];
                // Of a length that the compiler knows: moves instead of a call.
                header.copy_from_slice(&self.template[..IPV4_HEADER_LEN]);
                let df = if inner.dont_fragment { self.df_copied } else { 0 } | self.df;
                // RFC 6864 section 4.3: "Sources emitting non-atomic datagrams MUST NOT repeat IPv4 ID values within one
                // MDL for a given source address/destination address/protocol tuple." Within an SA none repeats for
                // 65,536 packets; whatever a faster one mixes up, the ICV refuses. Section 4.1: atomic datagrams may
                // carry any ID; 0 says nothing about us.
                let identification = if df == 0 {
                    (sequence as u16).wrapping_add(self.identification)
                } else {
                    0
                };
                header[1] = class;
                header[2..4].copy_from_slice(&total_len.to_be_bytes());
                header[4..6].copy_from_slice(&identification.to_be_bytes());
                header[6..8].copy_from_slice(&df.to_be_bytes());
                let sum = self.sum.add_word(class.into()).add_word(total_len);
                let checksum = sum.add_word(identification).add_word(df).checksum();
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Family::V6 => {
                let header = &mut packet[..IPV6_HEADER_LEN];
                header.copy_from_slice(&self.template);
                let label = match inner.family {
                    Family::V6 => inner.flow_label & self.label_copied | self.label & !self.label_copied,
                    Family::V4 => self.label,
                };
                let first = 6 << 28 | u32::from(class) << 20 | label;
                header[..4].copy_from_slice(&first.to_be_bytes());
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
    let sum = Sum::default()
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

/// 20 bits, not zero, that differ between SAs and stay for an SA's life (RFC 6437 section 3).
fn derived_label(spi: u32) -> u32 {
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
    use super::{
        DontFragment, Dscp, EcnMode, Family, FlowLabel, IpHeader, OuterHeader, OuterOptions, PROTOCOL_UDP,
    };
    use crate::checksum;
    use crate::ip::PROTOCOL_ESP;

    const INNER: IpHeader = IpHeader {
        family: Family::V4,
        header_len: 20,
        total_len: 20,
        traffic_class: 0xb9,
        flow_label: 0,
        dont_fragment: false,
        fragment: false,
    };
    const SPI: u32 = 256;

    fn ipv4(options: &OuterOptions, inner: &IpHeader, sequence: u64) -> [u8; 20] {
        let ends = [[192, 0, 2, 1], [192, 0, 2, 2]].map(Into::into);
        let outer = OuterHeader::new(ends[0], ends[1], PROTOCOL_ESP, SPI, options);
        let mut packet = [0xaa; 20];
        outer.write(&mut packet, 1000, inner, sequence);
        assert_eq!(
            checksum::ipv4_header(&packet),
            0,
            "the sum over a header with its checksum is zero"
        );
        packet
    }

    /// The first word of an IPv6 header: class and label.
    fn ipv6(options: &OuterOptions, inner: &IpHeader) -> (u8, u32) {
        let ends = ["2001:db8::1", "2001:db8::2"].map(|end| end.parse().unwrap());
        let outer = OuterHeader::new(ends[0], ends[1], PROTOCOL_UDP, SPI, options);
        let mut packet = [0xaa; 41];
        outer.write(&mut packet, 1000, inner, 1);
        assert_eq!(packet[4..8], [3, 0xc0, 17, options.hop_limit]);
        assert_eq!(packet[8..12], [0x20, 1, 0x0d, 0xb8]);
        assert_eq!((packet[23], packet[39], packet[40]), (1, 2, 0xaa));
        let first = u32::from_be_bytes(packet[..4].try_into().unwrap());
        assert_eq!(first >> 28, 6);
        ((first >> 20) as u8, first & 0xf_ffff)
    }

    #[test]
    fn ipv4_fields() {
        let header = ipv4(&OuterOptions::default(), &INNER, 0x1_2345_6789);
        assert_eq!(header[..4], [0x45, 0xb9, 3, 0xe8]);
        assert_eq!(header[6..10], [0, 0, 64, 50]);
        assert_eq!(header[12..], [192, 0, 2, 1, 192, 0, 2, 2]);
    }

    /// RFC 4301 section 8.1, and RFC 6864 section 4: only what may be fragmented needs an ID.
    #[test]
    fn dont_fragment_in_every_combination() {
        use DontFragment::{Clear, Copy, Set};
        let inners = [
            (Family::V4, false, false),
            (Family::V4, false, true),
            (Family::V4, true, false),
            // A fragment that may not be fragmented further.
            (Family::V4, true, true),
            (Family::V6, true, false),
        ];
        let expected = [
            (Copy, [false, false, true, true, true]),
            (Set, [true; 5]),
            (Clear, [false; 5]),
        ];
        for (dont_fragment, row) in expected {
            for ((family, df, fragment), expected) in inners.into_iter().zip(row) {
                let inner = IpHeader {
                    family,
                    dont_fragment: df,
                    fragment,
                    ..INNER
                };
                let options = OuterOptions {
                    dont_fragment,
                    ..OuterOptions::default()
                };
                let header = ipv4(&options, &inner, 7);
                // Never more fragments, never an offset: the outer datagram is whole whatever the inner one is.
                assert_eq!(
                    header[6..8],
                    [if expected { 0x40 } else { 0 }, 0],
                    "{options:?} {inner:?}"
                );
                assert_eq!(header[4..6] == [0, 0], expected, "{options:?} {inner:?}");
            }
        }
    }

    #[test]
    fn what_may_be_fragmented_has_an_identification_of_its_own() {
        let options = OuterOptions {
            dont_fragment: DontFragment::Clear,
            ..OuterOptions::default()
        };
        let first = u64::from(u32::MAX) - 40_000;
        let ids: std::collections::HashSet<[u8; 2]> = (first..first + 65_536)
            .map(|sequence| ipv4(&options, &INNER, sequence)[4..6].try_into().unwrap())
            .collect();
        assert_eq!(ids.len(), 65_536);
        let another = |spi| {
            let ends = [[192, 0, 2, 1], [192, 0, 2, 2]].map(Into::into);
            let outer = OuterHeader::new(ends[0], ends[1], PROTOCOL_ESP, spi, &options);
            let mut packet = [0; 20];
            outer.write(&mut packet, 1000, &INNER, 1);
            [packet[4], packet[5]]
        };
        assert_ne!(
            another(0x1001),
            another(0x1002),
            "a rekeyed SA does not start with the IDs of the one before"
        );
    }

    /// Every traffic class through every choice, in both families. The expectation is written with divisions, not masks.
    #[test]
    fn traffic_class_in_every_combination() {
        for dscp in [Dscp::Copy, Dscp::Set(0), Dscp::Set(46), Dscp::Set(63)] {
            for ecn in [EcnMode::Normal, EcnMode::Compatibility] {
                let options = OuterOptions {
                    dscp,
                    ecn,
                    ..OuterOptions::default()
                };
                for traffic_class in 0..=255 {
                    let (inner_dscp, inner_ecn) = (traffic_class / 4, traffic_class % 4);
                    let outer_dscp = match dscp {
                        Dscp::Copy => inner_dscp,
                        Dscp::Set(dscp) => dscp,
                    };
                    let outer_ecn = match ecn {
                        EcnMode::Normal => inner_ecn,
                        EcnMode::Compatibility => 0,
                    };
                    for family in [Family::V4, Family::V6] {
                        let inner = IpHeader {
                            family,
                            traffic_class,
                            ..INNER
                        };
                        let expected = outer_dscp * 4 + outer_ecn;
                        assert_eq!(
                            ipv4(&options, &inner, 1)[1],
                            expected,
                            "{options:?} {traffic_class}"
                        );
                        assert_eq!(ipv6(&options, &inner).0, expected, "{options:?} {traffic_class}");
                    }
                }
            }
        }
    }

    #[test]
    fn flow_label_in_every_combination() {
        let label = |flow_label, inner: &IpHeader| {
            let options = OuterOptions {
                flow_label,
                ..OuterOptions::default()
            };
            ipv6(&options, inner).1
        };
        let v6 = |flow_label| IpHeader {
            family: Family::V6,
            flow_label,
            ..INNER
        };
        let derived = label(FlowLabel::Derived, &INNER);
        assert_ne!(derived, 0);
        for inner in [0, 1, 0xf_ffff, 0x5_a5a5] {
            assert_eq!(label(FlowLabel::Derived, &v6(inner)), derived);
            assert_eq!(label(FlowLabel::Copy, &v6(inner)), inner);
            assert_eq!(label(FlowLabel::Zero, &v6(inner)), 0);
        }
        assert_eq!(
            label(FlowLabel::Copy, &INNER),
            derived,
            "IPv4 has no label to copy"
        );
        assert_eq!(label(FlowLabel::Zero, &INNER), 0);
    }

    #[test]
    fn the_hop_limit_is_the_one_asked_for() {
        for hop_limit in [1, 64, 255] {
            let options = OuterOptions {
                hop_limit,
                ..OuterOptions::default()
            };
            assert_eq!(ipv4(&options, &INNER, 1)[8], hop_limit);
            ipv6(&options, &INNER);
        }
    }
}
