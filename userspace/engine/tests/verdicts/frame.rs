//! Frames from what they are to mean, written byte by byte.

use std::net::IpAddr;

use ravelin_classifier::arbitrary::Rng;
use ravelin_classifier::reference::Packet;
use ravelin_xdp_common::{DropReason, Kind};

/// A frame, and what it was made to be; nothing is known of one that was mangled afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    pub(crate) truth: Option<Truth>,
}

/// What a frame was made to be.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    /// The selector values. Without meaning for frames that are not IP.
    pub(crate) packet: Packet,
    pub(crate) content: Content,
    /// A fragment, first or later.
    pub(crate) fragment: Option<Piece>,
    pub(crate) l3_offset: u16,
    pub(crate) l3_length: u16,
    /// Made to be refused by the parser.
    pub(crate) malformed: Option<DropReason>,
}

impl Truth {
    pub(crate) fn family(&self) -> u8 {
        if self.packet.source.is_ipv4() { 4 } else { 6 }
    }
}

/// What a packet carries, where that matters beyond the selector values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Plain,
    Arp,
    NonIp,
    NeighbourDiscovery,
    /// Of multicast listeners on the link.
    ListenerDiscovery,
    Ike,
    Keepalive,
    /// An ICMP error about the path MTU, and the slot of the SA that it quotes, if any.
    PathMtu(Option<u32>),
    /// `length` counts from the SPI to the end.
    Esp {
        spi: u32,
        udp: bool,
        length: usize,
    },
    /// `length` counts from the authentication header to the end.
    Ah {
        spi: u32,
        length: usize,
    },
}

impl Content {
    /// SPI, what there is to open, and its length, for what an SA may have made.
    pub(crate) fn sealed(self) -> Option<(u32, Kind, usize)> {
        match self {
            Self::Esp {
                spi,
                udp: true,
                length,
            } => Some((spi, Kind::OpenUdpEsp, length)),
            Self::Esp {
                spi,
                udp: false,
                length,
            } => Some((spi, Kind::OpenEsp, length)),
            Self::Ah { spi, length } => Some((spi, Kind::OpenAh, length)),
            _ => None,
        }
    }

    /// Whether it ends inside the header that its IP protocol promises.
    pub(crate) fn truncated(self) -> bool {
        match self {
            Self::Esp { udp, length, .. } => !udp && length < 8,
            Self::Ah { length, .. } => length < 12,
            _ => false,
        }
    }
}

/// What a fragment is of its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) id: u32,
    /// First byte and number of bytes.
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

/// The position of a fragment in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Of its datagram; 16 bits in IPv4.
    pub(crate) id: u32,
    /// In units of eight bytes.
    pub(crate) offset: u16,
    pub(crate) more: bool,
}

/// All that stands in front of the upper layer.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    /// TPIDs of VLAN tags.
    pub(crate) tags: Vec<u16>,
    /// IPv4 options in units of four bytes.
    pub(crate) options: usize,
    /// IPv6 extension headers: next-header value and length field.
    pub(crate) extensions: Vec<(u8, u8)>,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) hop_limit: u8,
    /// Bytes behind the IP packet, as Ethernet pads short frames.
    pub(crate) padding: usize,
}

impl Envelope {
    pub(crate) const PLAIN: Self = Self {
        tags: Vec::new(),
        options: 0,
        extensions: Vec::new(),
        fragment: None,
        hop_limit: 64,
        padding: 0,
    };

    /// Mostly plain; now and then with all that is allowed.
    pub(crate) fn arbitrary(rng: &mut Rng) -> Self {
        let tags = if rng.chance(25) { 1 + rng.below(2) } else { 0 };
        let extensions = match rng.below(10) {
            0 => 1 + rng.below(3),
            1 => 4 + rng.below(4),
            _ => 0,
        };
        Self {
            tags: (0..tags).map(|_| *rng.pick(&[0x8100, 0x88a8])).collect(),
            options: if rng.chance(15) { rng.below(11) } else { 0 },
            extensions: (0..extensions)
                .map(|_| (*rng.pick(&[0, 43, 60]), rng.below(3) as u8))
                .collect(),
            fragment: None,
            hop_limit: 64,
            padding: if rng.chance(30) { rng.below(20) } else { 0 },
        }
    }
}

/// Puts a packet together: its frame, and the offset and length of the IP packet in it.
pub(crate) fn frame(
    rng: &mut Rng,
    envelope: &Envelope,
    (source, destination): (IpAddr, IpAddr),
    protocol: u8,
    upper: &[u8],
) -> (Vec<u8>, u16, u16) {
    let ip = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(
            rng,
            envelope,
            [source.octets(), destination.octets()],
            protocol,
            upper,
        ),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(
            rng,
            envelope,
            [source.octets(), destination.octets()],
            protocol,
            upper,
        ),
        _ => panic!("two families: {source} {destination}"),
    };
    let mut bytes = ethernet(&envelope.tags, if source.is_ipv4() { 0x0800 } else { 0x86dd });
    let l3_offset = bytes.len() as u16;
    bytes.extend(&ip);
    bytes.extend((0..envelope.padding).map(|_| rng.bits() as u8));
    (bytes, l3_offset, ip.len() as u16)
}

/// An Ethernet header with VLAN tags.
pub(crate) fn ethernet(tags: &[u16], ether_type: u16) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0x20, 0x05]);
    }
    bytes.extend(ether_type.to_be_bytes());
    bytes
}

fn ipv4(rng: &mut Rng, envelope: &Envelope, addresses: [[u8; 4]; 2], protocol: u8, upper: &[u8]) -> Vec<u8> {
    let header_length = 20 + 4 * envelope.options;
    let fragment = envelope
        .fragment
        .map_or(if rng.chance(50) { 0x4000 } else { 0 }, |fragment| {
            fragment.offset | if fragment.more { 0x2000 } else { 0 }
        });
    let mut bytes = vec![0x40 | (header_length / 4) as u8, rng.bits() as u8];
    bytes.extend(((header_length + upper.len()) as u16).to_be_bytes());
    let id = envelope
        .fragment
        .map_or(rng.bits() as u16, |fragment| fragment.id as u16);
    bytes.extend(id.to_be_bytes());
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([envelope.hop_limit, protocol, 0, 0]);
    bytes.extend(addresses.concat());
    // No-operation options (RFC 791 section 3.1).
    bytes.extend(vec![1; 4 * envelope.options]);
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(upper);
    bytes
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ipv6(rng: &mut Rng, envelope: &Envelope, addresses: [[u8; 16]; 2], protocol: u8, upper: &[u8]) -> Vec<u8> {
    let mut extensions = envelope.extensions.clone();
    if envelope.fragment.is_some() {
        // What stands behind the fragment header is part of the fragmented payload: keep that to the upper layer.
        extensions.push((44, 0));
    }
    let mut chain = Vec::new();
    for (index, (kind, length)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(protocol, |(next, _)| *next);
        match (kind, envelope.fragment) {
            (44, Some(fragment)) => {
                let field = fragment.offset << 3 | u16::from(fragment.more);
                // The reserved byte is where other headers have their length.
                chain.extend([next, rng.bits() as u8]);
                chain.extend(field.to_be_bytes());
                chain.extend(fragment.id.to_be_bytes());
            }
            _ => {
                chain.extend([next, *length]);
                chain.extend((0..6 + 8 * usize::from(*length)).map(|_| rng.bits() as u8));
            }
        }
    }
    let mut bytes = vec![0x60, rng.bits() as u8, 0, 0];
    bytes.extend(((chain.len() + upper.len()) as u16).to_be_bytes());
    bytes.extend([
        extensions.first().map_or(protocol, |(kind, _)| *kind),
        envelope.hop_limit,
    ]);
    bytes.extend(addresses.concat());
    bytes.extend(chain);
    bytes.extend(upper);
    bytes
}
