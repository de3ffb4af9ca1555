//! From the packets of the wire to one large packet for the stack.
//!
//! Coalesced is only what could be cut again into the very packets that came (`net/ipv4/tcp_offload.c` calls that GRO):
//! the receiver acknowledges them as if it had got them one by one, and were they forwarded, the same would go out.

use ravelin_esp::checksum::{self, Sum};

use crate::vnet::{Gso, PartialChecksum, VnetHeader};

const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
/// Bytes from a TCP header to its checksum.
const TCP_CHECKSUM: usize = 16;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// The largest packet that the stack takes.
const LARGEST: usize = 65_535;

/// Most options of a TCP header, in bytes.
const OPTIONS: usize = 40;

/// A whole TCP segment with payload and a correct checksum: what may be part of a larger packet.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    flow: Flow,
    /// All of the headers that must be the same in each packet of a run.
    constant: Constant,
    sequence: u32,
    /// Of the IPv4 header; 0 in IPv6.
    identification: u16,
    /// FIN and PSH.
    ending: u8,
    headers: u16,
    payload: u16,
}

/// Which connection a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    v6: bool,
    /// Source and destination; IPv4 addresses in the first four bytes each.
    addresses: [[u8; 16]; 2],
    ports: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Constant {
    /// IPv4: TOS, the fragment bits, TTL. IPv6: traffic class and flow label, hop limit.
    ip: [u8; 5],
    acknowledgement: [u8; 4],
    /// Data offset, flags but FIN and PSH, window.
    rest: [u8; 4],
    options: [u8; OPTIONS],
}

impl Segment {
    /// Reads a packet, which begins with its IP header; `None` if it has to go alone.
    ///
    /// That is everything but TCP, fragments, headers with IP options or extension headers, segments without payload or
    /// with other flags than ACK, ECE, FIN and PSH, and whatever has a wrong length or checksum.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let v6 = match packet.first()? {
            0x45 => false,
            0x60..=0x6f => true,
            _ => return None,
        };
        let ip_length = if v6 { 40 } else { 20 };
        let (ip, tcp) = packet.split_at_checked(ip_length)?;
        let mut addresses = [[0; 16]; 2];
        let (constant_ip, identification) = if v6 {
            let length = u16::from_be_bytes([ip[4], ip[5]]);
            if usize::from(length) != tcp.len() || ip[6] != TCP {
                return None;
            }
            addresses[0].copy_from_slice(&ip[8..24]);
            addresses[1].copy_from_slice(&ip[24..40]);
            ([ip[0], ip[1], ip[2], ip[3], ip[7]], 0)
        } else {
            let length = u16::from_be_bytes([ip[2], ip[3]]);
            // Fragments, and the bit that RFC 791 reserves: only DF may be set.
            let fragment = u16::from_be_bytes([ip[6], ip[7]]) & !0x4000 != 0;
            if usize::from(length) != packet.len()
                || ip[9] != TCP
                || fragment
                || checksum::ipv4_header(ip) != 0
            {
                return None;
            }
            addresses[0][..4].copy_from_slice(&ip[12..16]);
            addresses[1][..4].copy_from_slice(&ip[16..20]);
            (
                [ip[1], ip[6], ip[7], ip[8], 0],
                u16::from_be_bytes([ip[4], ip[5]]),
            )
        };
        let header: &[u8; TCP_HEADER] = tcp.first_chunk()?;
        let header_length = usize::from(header[12] >> 4) * 4;
        let options = tcp.get(TCP_HEADER..header_length)?;
        let payload = tcp.len() - header_length;
        let flags = header[13];
        let ending = flags & (FIN | PSH);
        // The low half of the 13th byte is reserved, or AE (RFC 9768).
        if payload == 0 || flags & !(FIN | PSH | ECE) != ACK || header[12] & 15 != 0 {
            return None;
        }
        let flow = Flow {
            v6,
            addresses,
            ports: [header[0], header[1], header[2], header[3]],
        };
        if flow.pseudo(tcp.len()).add(tcp).checksum() != 0 {
            return None;
        }
        let mut constant = Constant {
            ip: constant_ip,
            acknowledgement: [header[8], header[9], header[10], header[11]],
            rest: [header[12], flags & !ending, header[14], header[15]],
            options: [0; OPTIONS],
        };
        constant.options[..options.len()].copy_from_slice(options);
        Some(Self {
            flow,
            constant,
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            identification,
            ending,
            headers: (ip_length + header_length) as u16,
            // The packet's length has 16 bits.
            payload: payload as u16,
        })
    }

    /// Bytes of headers: what of a further packet of a run is left out.
    #[must_use]
    pub const fn headers(&self) -> usize {
        self.headers as usize
    }
}

impl Flow {
    fn pseudo(&self, length: usize) -> Sum {
        let used = if self.v6 { 16 } else { 4 };
        self.addresses
            .iter()
            .fold(Sum::default(), |sum, address| sum.add(&address[..used]))
            .add(&(length as u32).to_be_bytes())
            .add_word(TCP.into())
    }
}

/// Segments of one flow that become one packet.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    first: Segment,
    last: Segment,
    count: u16,
    payload: usize,
}

impl Run {
    /// A run that begins with this segment.
    #[must_use]
    pub const fn new(first: Segment) -> Self {
        Self {
            first,
            last: first,
            count: 1,
            payload: first.payload as usize,
        }
    }

    /// Whether a segment is of the same connection and direction: it must not overtake this run.
    #[must_use]
    pub fn is_of(&self, segment: &Segment) -> bool {
        self.first.flow == segment.flow
    }

    /// Takes the segment that came next if it continues the run; else the run is to be finished before it.
    pub fn take(&mut self, next: &Segment) -> bool {
        let (first, last) = (&self.first, &self.last);
        let whole = first.payload;
        let fits = self.payload + usize::from(next.payload) + first.headers() <= LARGEST;
        // All but the last are of one size, and nothing follows FIN or PSH.
        let continues = last.ending == 0
            && last.payload == whole
            && next.payload <= whole
            && next.sequence == last.sequence.wrapping_add(last.payload.into());
        // RFC 6864 section 4.1: with DF the field has no meaning; senders count, or leave it as it is.
        let identified = first.flow.v6
            || next.identification == first.identification.wrapping_add(self.count)
            || (self.keeps_identification() && next.identification == first.identification);
        if !(self.is_of(next) && first.constant == next.constant && fits && continues && identified) {
            return false;
        }
        self.last = *next;
        self.count += 1;
        self.payload += usize::from(next.payload);
        true
    }

    /// Whether nothing can follow any more.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.last.ending != 0
            || self.last.payload != self.first.payload
            || self.payload + self.first.payload as usize + self.first.headers as usize > LARGEST
    }

    /// Makes the headers of the first packet those of all. They are followed by the payloads in their order.
    ///
    /// `headers` begins with the IP header; should it be shorter than the headers of the packet that the run began with,
    /// nothing is changed.
    pub fn finish(&self, headers: &mut [u8]) -> VnetHeader {
        if self.count == 1 || headers.len() < self.first.headers() {
            return VnetHeader::default();
        }
        let v6 = self.first.flow.v6;
        let start = if v6 { 40 } else { 20 };
        let length = self.first.headers() + self.payload;
        if v6 {
            headers[4..6].copy_from_slice(&((length - start) as u16).to_be_bytes());
        } else {
            headers[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            headers[10..12].fill(0);
            let sum = checksum::ipv4_header(&headers[..start]);
            headers[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        headers[start + 13] |= self.last.ending;
        let pseudo = self.first.flow.pseudo(length - start).fold();
        let field = start + TCP_CHECKSUM;
        headers[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        VnetHeader {
            checksum: Some(PartialChecksum {
                start: start as u16,
                offset: TCP_CHECKSUM as u16,
            }),
            gso: if v6 { Gso::TcpV6 } else { Gso::TcpV4 },
            header_length: self.first.headers,
            gso_size: self.first.payload,
        }
    }

    const fn keeps_identification(&self) -> bool {
        const DF: u8 = 0x40;
        self.first.constant.ip[1] & DF != 0
            && (self.count == 1 || self.last.identification == self.first.identification)
    }
}
