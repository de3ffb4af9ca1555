//! The packet parser: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, the start of the
//! transport header, ESP and UDP-encapsulated ESP.
//!
//! Bytes come from the wire and lie. Every length is checked against what encloses it; whatever does not fit is
//! an error with a [`DropReason`], never a guess.

use crate::{DropReason, Family, Flow, Ports, Reader, address_v6, mapped_v4};

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// ARP: always passes.
    Arp,
    /// Neither IP nor ARP; the policy's `non-ip` decides.
    NonIp,
    /// IPv4 or IPv6.
    Ip,
}

/// An IP packet inside a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// The selector values.
    pub flow: Flow,
    /// Bytes from the start of the frame to the IP header.
    pub l3_offset: u16,
    /// Bytes of the IP packet by its own length field, header included; Ethernet padding is not counted. Of longer ones 65,535: IPv6 packets of
    /// up to 40 bytes more, and what the kernel has yet to cut into segments.
    pub l3_length: u16,
    /// Bytes from the start of the IP header to the upper-layer header (or to a later fragment's payload).
    pub upper_offset: u16,
    /// Whether the packet is a fragment, first or later.
    pub fragment: bool,
    /// Identification of the datagram that a fragment belongs to. Of a whole one, this and the two below mean nothing.
    pub fragment_id: u32,
    /// Where the fragment stands in its datagram, in bytes; 0 for a first fragment.
    pub fragment_offset: u16,
    /// Bytes of the datagram that the fragment holds.
    pub fragment_length: u16,
    /// What the packet carries, as far as Ravelin treats it apart.
    pub upper: Upper,
    /// Security parameters index in host order, with [`Upper::Esp`], [`Upper::UdpEsp`] and [`Upper::Ah`]; else 0.
    pub spi: u32,
}

impl IpPacket {
    /// A packet to parse into.
    pub const EMPTY: Self = Self {
        flow: Flow {
            source: [0; 2],
            destination: [0; 2],
            source_port: 0,
            destination_port: 0,
            family: Family::V4,
            protocol: 0,
            ports: Ports::Absent,
        },
        l3_offset: 0,
        l3_length: 0,
        upper_offset: 0,
        fragment: false,
        fragment_id: 0,
        fragment_offset: 0,
        fragment_length: 0,
        upper: Upper::Other,
        spi: 0,
    };

    /// Bytes behind the IP header and its extensions.
    #[must_use]
    #[inline(always)]
    pub const fn upper_length(&self) -> u16 {
        self.l3_length.saturating_sub(self.upper_offset)
    }
}

/// What an IP packet carries, as far as Ravelin treats it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// Anything that only the filters judge.
    Other,
    /// ICMPv6 133 to 137 with hop limit 255 (RFC 4861 section 6.1); and multicast listener discovery, without which switches do not bring
    /// a machine the questions for its addresses: 130 to 132 and 143 with hop limit 1, from a link-local address or none (RFC 3810 section 5).
    NeighbourDiscovery,
    /// UDP port 500, or UDP port 4500 with the non-ESP marker (RFC 3948 section 2.2).
    Ike,
    /// One byte 0xff on UDP port 4500 (RFC 3948 section 2.3).
    NatKeepalive,
    /// ESP over IP.
    Esp,
    /// ESP over UDP port 4500.
    UdpEsp,
    /// IP protocol 51. What it authenticates is not looked at: an authentication header ends the walk through the headers.
    Ah,
}

const ETHERNET_HEADER: usize = 14;
const MOST_VLAN_TAGS: usize = 2;
const MOST_EXTENSION_HEADERS: usize = 8;

mod ether_type {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const ARP: u16 = 0x0806;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const QINQ: u16 = 0x88a8;
}

pub(crate) mod protocol {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(super) const DCCP: u8 = 33;
    pub(super) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ESP: u8 = 50;
    pub(crate) const AH: u8 = 51;
    pub(crate) const ICMP6: u8 = 58;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    pub(super) const SCTP: u8 = 132;
    pub(super) const UDP_LITE: u8 = 136;
}

const IKE_PORT: u16 = 500;
const NAT_TRAVERSAL_PORT: u16 = 4500;

/// Parses a frame that starts at its Ethernet header. With [`Frame::Ip`] the packet is in `packet`.
///
/// The packet is an output parameter, defined on every path: in an enum's payload it would be undefined on some,
/// and LLVM then stores undefined registers, which the verifier refuses.
///
/// # Errors
///
/// The reason to drop the frame, when a header is truncated, contradicts what encloses it, or hides what the
/// filters would have to see.
#[inline(always)]
pub fn parse<R: Reader>(reader: &R, packet: &mut IpPacket) -> Result<Frame, DropReason> {
    let Some(bytes) = reader.read::<2>(12) else {
        return Err(DropReason::EthernetTruncated);
    };
    let mut ether = u16::from_be_bytes(bytes);
    let mut l3_offset = ETHERNET_HEADER;
    let mut tags = 0;
    while tags < MOST_VLAN_TAGS && is_vlan(ether) {
        let Some(bytes) = reader.read::<2>(l3_offset + 2) else {
            return Err(DropReason::EthernetTruncated);
        };
        ether = u16::from_be_bytes(bytes);
        l3_offset += 4;
        tags += 1;
    }
    match ether {
        ether_type::IPV4 => parse_ipv4(reader, l3_offset, packet),
        ether_type::IPV6 => parse_ipv6(reader, l3_offset, packet),
        ether_type::ARP => Ok(Frame::Arp),
        ether if is_vlan(ether) => Err(DropReason::VlanTooDeep),
        _ => Ok(Frame::NonIp),
    }
}

/// Parses an IP packet that starts at its IP header: what is left after decryption.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_ip<R: Reader>(reader: &R, packet: &mut IpPacket) -> Result<(), DropReason> {
    let Some([first]) = reader.read::<1>(0) else {
        return Err(DropReason::IpTruncated);
    };
    match first >> 4 {
        4 => parse_ipv4(reader, 0, packet).map(drop),
        6 => parse_ipv6(reader, 0, packet).map(drop),
        _ => Err(DropReason::IpBadVersion),
    }
}

#[inline(always)]
const fn is_vlan(ether: u16) -> bool {
    ether == ether_type::VLAN || ether == ether_type::QINQ
}

/// Where a packet stands in its datagram. A plain struct: an enum's unused payload is undefined, and LLVM then
/// lets pointers flow into it, which the verifier refuses.
#[derive(Clone, Copy)]
struct Fragment {
    /// In units of eight bytes; 0 for a first fragment and for a whole datagram.
    offset: u16,
    /// More fragments follow.
    more: bool,
}

impl Fragment {
    const WHOLE: Self = Self {
        offset: 0,
        more: false,
    };

    #[inline(always)]
    const fn is_whole(self) -> bool {
        self.offset == 0 && !self.more
    }

    #[inline(always)]
    const fn is_later(self) -> bool {
        self.offset != 0
    }
}

#[inline(always)]
fn parse_ipv4<R: Reader>(reader: &R, l3_offset: usize, packet: &mut IpPacket) -> Result<Frame, DropReason> {
    let Some(header) = reader.read::<20>(l3_offset) else {
        return Err(DropReason::IpTruncated);
    };
    if header[0] >> 4 != 4 {
        return Err(DropReason::IpBadVersion);
    }
    let header_length = usize::from(header[0] & 15) * 4;
    let mut l3_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if l3_length == 0 && header[9] == protocol::TCP {
        l3_length = segments_length(reader, l3_offset);
    }
    if header_length < 20 || header_length > l3_length {
        return Err(DropReason::IpBadHeaderLength);
    }
    if !reader.holds(l3_offset + l3_length) {
        return Err(DropReason::IpBadTotalLength);
    }
    let fragment_field = u16::from_be_bytes([header[6], header[7]]);
    let fragment = Fragment {
        offset: fragment_field & 0x1fff,
        more: fragment_field & 0x2000 != 0,
    };
    packet.flow = Flow {
        source: mapped_v4([header[12], header[13], header[14], header[15]]),
        destination: mapped_v4([header[16], header[17], header[18], header[19]]),
        source_port: 0,
        destination_port: 0,
        family: Family::V4,
        protocol: header[9],
        ports: Ports::Absent,
    };
    packet.l3_offset = l3_offset as u16;
    packet.l3_length = at_most_16_bits(l3_length);
    packet.upper_offset = header_length as u16;
    packet.fragment = !fragment.is_whole();
    packet.fragment_id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    packet.fragment_offset = fragment.offset << 3;
    packet.fragment_length = at_most_16_bits(l3_length - header_length);
    parse_upper(reader, packet, fragment, 0, l3_length - header_length)
}

/// The length of a packet that says it has none: more than 16 bits hold, in a socket buffer that is to become several packets (BIG TCP). Of
/// any other nothing is known.
#[inline(always)]
fn segments_length<R: Reader>(reader: &R, l3_offset: usize) -> usize {
    match reader.length_of_segments() {
        Some(length) => length.saturating_sub(l3_offset),
        None => 0,
    }
}

#[inline(always)]
const fn at_most_16_bits(length: usize) -> u16 {
    if length > u16::MAX as usize {
        u16::MAX
    } else {
        length as u16
    }
}

#[inline(always)]
fn parse_ipv6<R: Reader>(reader: &R, l3_offset: usize, packet: &mut IpPacket) -> Result<Frame, DropReason> {
    let Some(header) = reader.read::<8>(l3_offset) else {
        return Err(DropReason::IpTruncated);
    };
    let Some(source) = reader.read::<16>(l3_offset + 8) else {
        return Err(DropReason::IpTruncated);
    };
    let Some(destination) = reader.read::<16>(l3_offset + 24) else {
        return Err(DropReason::IpTruncated);
    };
    if header[0] >> 4 != 6 {
        return Err(DropReason::IpBadVersion);
    }
    let mut l3_length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    // With a jumbo payload option, or without: that is for the wire, where nothing of the kind is sent.
    if l3_length == 40 && matches!(header[6], protocol::TCP | protocol::HOP_BY_HOP) {
        let length = segments_length(reader, l3_offset);
        if length > l3_length {
            l3_length = length;
        }
    }
    if !reader.holds(l3_offset + l3_length) {
        return Err(DropReason::IpBadTotalLength);
    }
    let hop_limit = header[7];
    let mut next_header = header[6];
    let mut upper_offset = 40;
    let mut fragment = Fragment::WHOLE;
    // Where the fragment's bytes start, behind its header.
    let mut fragment_start = 40;
    let mut fragment_id = 0;
    let mut headers = 0;
    while is_extension(next_header) {
        // A later fragment's payload starts in the middle of something: what looks like a header chain here is data.
        if fragment.is_later() {
            break;
        }
        if headers == MOST_EXTENSION_HEADERS {
            return Err(DropReason::Ipv6TooManyExtensions);
        }
        // A fragment inside a fragment hides what the filters would have to see.
        if next_header == protocol::FRAGMENT && fragment.more {
            return Err(DropReason::FragmentUnknown);
        }
        if upper_offset + 8 > l3_length {
            return Err(DropReason::Ipv6ExtensionTruncated);
        }
        let Some(extension) = reader.read::<8>(l3_offset + upper_offset) else {
            return Err(DropReason::Ipv6ExtensionTruncated);
        };
        if next_header == protocol::FRAGMENT {
            let field = u16::from_be_bytes([extension[2], extension[3]]);
            fragment = Fragment {
                offset: field >> 3,
                more: field & 1 != 0,
            };
            upper_offset += 8;
            fragment_start = upper_offset;
            fragment_id = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
        } else {
            upper_offset += (usize::from(extension[1]) + 1) * 8;
        }
        if upper_offset > l3_length {
            return Err(DropReason::Ipv6ExtensionTruncated);
        }
        next_header = extension[0];
        headers += 1;
    }
    packet.flow = Flow {
        source: address_v6(source),
        destination: address_v6(destination),
        source_port: 0,
        destination_port: 0,
        family: Family::V6,
        protocol: next_header,
        ports: Ports::Absent,
    };
    packet.l3_offset = l3_offset as u16;
    packet.l3_length = at_most_16_bits(l3_length);
    packet.upper_offset = upper_offset as u16;
    packet.fragment = !fragment.is_whole();
    packet.fragment_id = fragment_id;
    packet.fragment_offset = fragment.offset << 3;
    packet.fragment_length = at_most_16_bits(l3_length - fragment_start);
    parse_upper(reader, packet, fragment, hop_limit, l3_length - upper_offset)
}

#[inline(always)]
pub(crate) const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
    )
}

/// Shortest transport header in bytes, or 0 for a protocol that Ravelin does not look into.
#[inline(always)]
pub(crate) const fn shortest_header(family: Family, protocol: u8) -> usize {
    match (protocol, family) {
        (protocol::TCP, _) => 20,
        (protocol::SCTP | protocol::DCCP | protocol::AH, _) => 12,
        (protocol::UDP | protocol::UDP_LITE | protocol::ESP, _)
        | (protocol::ICMP, Family::V4)
        | (protocol::ICMP6, Family::V6) => 8,
        _ => 0,
    }
}

#[inline(always)]
fn parse_upper<R: Reader>(
    reader: &R,
    packet: &mut IpPacket,
    fragment: Fragment,
    hop_limit: u8,
    length: usize,
) -> Result<Frame, DropReason> {
    let upper_protocol = packet.flow.protocol;
    let shortest = shortest_header(packet.flow.family, upper_protocol);
    if fragment.is_later() {
        // RFC 8200 section 4.5: "The Next Header values in the Fragment headers of different fragments of the same original
        // packet may differ. Only the value from the Offset zero fragment packet is used for reassembly." So this may be
        // TCP, or anything, whatever it says.
        let unproven = matches!(packet.flow.family, Family::V6);
        // RFC 1858 section 4.2: a fragment that starts inside the TCP header could rewrite its flags.
        let tcp = unproven || upper_protocol == protocol::TCP;
        if tcp && usize::from(fragment.offset) * 8 < shortest_header(Family::V4, protocol::TCP) {
            return Err(DropReason::FragmentTiny);
        }
        if unproven || (shortest != 0 && !matches!(upper_protocol, protocol::ESP | protocol::AH)) {
            packet.flow.ports = Ports::Unknown;
        }
        return Ok(Frame::Ip);
    }
    if shortest == 0 {
        return Ok(Frame::Ip);
    }
    let offset = usize::from(packet.l3_offset) + usize::from(packet.upper_offset);
    let Some(start) = reader.read::<8>(offset).filter(|_| length >= shortest) else {
        return Err(if fragment.is_whole() {
            DropReason::TransportTruncated
        } else {
            DropReason::FragmentTiny
        });
    };
    let first = u16::from_be_bytes([start[0], start[1]]);
    let second = u16::from_be_bytes([start[2], start[3]]);
    let word = u32::from_be_bytes([start[0], start[1], start[2], start[3]]);
    packet.flow.ports = Ports::Known;
    packet.flow.source_port = first;
    packet.flow.destination_port = second;
    match upper_protocol {
        protocol::ESP => {
            packet.flow.ports = Ports::Absent;
            packet.flow.source_port = 0;
            packet.flow.destination_port = 0;
            packet.upper = Upper::Esp;
            packet.spi = word;
        }
        protocol::AH => {
            packet.flow.ports = Ports::Absent;
            packet.flow.source_port = 0;
            packet.flow.destination_port = 0;
            packet.upper = Upper::Ah;
            packet.spi = u32::from_be_bytes([start[4], start[5], start[6], start[7]]);
        }
        protocol::ICMP | protocol::ICMP6 => {
            packet.flow.source_port = u16::from(start[0]);
            packet.flow.destination_port = u16::from(start[1]);
            let [high, low] = packet.flow.source;
            let from_link = (high >> 48) & 0xffc0 == 0xfe80 || high | low == 0;
            let to_many = packet.flow.destination[0] >> 56 == 0xff;
            if upper_protocol == protocol::ICMP6
                && !packet.fragment
                && (matches!(start[0], 133..=137) && hop_limit == 255
                    || matches!(start[0], 130..=132 | 143) && hop_limit == 1 && from_link && to_many)
            {
                packet.upper = Upper::NeighbourDiscovery;
            }
        }
        protocol::TCP => {
            let Some(data_offset) = reader.read::<2>(offset + 12) else {
                return Err(DropReason::TransportTruncated);
            };
            let header_length = usize::from(data_offset[0] >> 4) * 4;
            if header_length < 20 || (header_length > length && fragment.is_whole()) {
                return Err(DropReason::TransportBadLength);
            }
        }
        protocol::UDP => {
            let udp_length = usize::from(u16::from_be_bytes([start[4], start[5]]));
            if udp_length < 8 || (udp_length > length && fragment.is_whole()) {
                return Err(DropReason::TransportBadLength);
            }
            // A first fragment holds less than its UDP length says; what follows it in the frame is padding.
            udp_upper(reader, offset + 8, udp_length.min(length) - 8, packet);
        }
        _ => {}
    }
    Ok(Frame::Ip)
}

#[inline(always)]
fn udp_upper<R: Reader>(reader: &R, offset: usize, length: usize, packet: &mut IpPacket) {
    let (source, destination) = (packet.flow.source_port, packet.flow.destination_port);
    if source == IKE_PORT || destination == IKE_PORT {
        packet.upper = Upper::Ike;
        return;
    }
    if source != NAT_TRAVERSAL_PORT && destination != NAT_TRAVERSAL_PORT {
        return;
    }
    if length == 1 {
        // With the last byte of the UDP checksum in front: the verifier does not see that one byte alone is in bounds.
        let Some(pair) = reader.read::<2>(offset - 1) else {
            return;
        };
        if pair[1] == 0xff {
            packet.upper = Upper::NatKeepalive;
        }
        return;
    }
    if let (true, Some(bytes)) = (length >= 4, reader.read::<4>(offset)) {
        packet.spi = u32::from_be_bytes(bytes);
        packet.upper = if packet.spi == 0 {
            Upper::Ike
        } else {
            Upper::UdpEsp
        };
    }
}
