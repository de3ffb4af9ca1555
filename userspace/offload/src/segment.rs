//! From one large packet of the stack to the packets of the wire.

use ravelin_esp::checksum::{self, Sum};
use thiserror::Error;

use crate::vnet::{Gso, PartialChecksum, VnetHeader};

const TCP: u8 = 6;
/// Bytes from a TCP header to its checksum.
const TCP_CHECKSUM: usize = 16;
/// Bytes from a UDP header to its checksum.
const UDP_CHECKSUM: usize = 6;
const UDP_HEADER: usize = 8;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// What a [`VnetHeader`] and its packet do not agree about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OffloadError {
    /// Neither IPv4 nor IPv6, or shorter than its own headers.
    #[error("the packet is shorter than its headers say")]
    Truncated,
    /// The checksum to complete does not lie in the packet.
    #[error("the checksum to complete does not lie in the packet")]
    Checksum,
    /// The packet is to be cut, but not of that kind, or into pieces of no bytes.
    #[error("the packet cannot be cut as its header demands")]
    Segmentation,
}

/// One packet of the stack, given out as packets of the wire.
///
/// It holds what is common to them and a place; the packet itself stays with the caller, who passes the same bytes each time.
#[derive(Clone, Copy, Debug)]
pub struct Segmenter {
    kind: Kind,
    /// Whether the packet is IPv6.
    v6: bool,
    /// Bytes of all headers.
    headers: usize,
    /// Bytes of headers in front of TCP or UDP.
    transport: usize,
    /// Bytes of payload of each packet but the last.
    step: usize,
    /// Bytes of the whole packet.
    length: usize,
    /// Of the packet that comes next.
    number: u16,
    /// The pseudo header without the length of what follows it, from the packet's own checksum: so it is right behind any
    /// extension header, and a checksum that was wrong stays wrong.
    pseudo: Sum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Whole,
    Tcp,
    Udp,
}

impl Segmenter {
    /// Prepares a packet, which begins with its IP header, for a path that carries IP packets of `limit` bytes.
    ///
    /// A packet that is not to be cut has its checksum completed here, in place. TCP is cut smaller than asked for if
    /// that is what the path needs: to TCP it is a stream. Datagrams keep their size.
    ///
    /// # Errors
    ///
    /// [`OffloadError`]; what then stands in `packet` is to be thrown away.
    pub fn new(header: &VnetHeader, packet: &mut [u8], limit: usize) -> Result<Self, OffloadError> {
        let v6 = match packet.first().map(|first| first >> 4) {
            Some(4) => false,
            Some(6) => true,
            _ => return Err(OffloadError::Truncated),
        };
        let shortest = if v6 { 40 } else { 20 };
        if packet.len() < shortest {
            return Err(OffloadError::Truncated);
        }
        let whole = Self {
            kind: Kind::Whole,
            v6,
            headers: 0,
            transport: 0,
            step: packet.len(),
            length: packet.len(),
            number: 0,
            pseudo: Sum::default(),
        };
        match header.gso {
            Gso::None => {}
            Gso::TcpV4 | Gso::TcpV6 if v6 != matches!(header.gso, Gso::TcpV6) => {
                return Err(OffloadError::Segmentation);
            }
            Gso::TcpV4 | Gso::TcpV6 => return whole.tcp(header, packet, header.gso_size.into(), limit),
            Gso::Udp => return whole.udp(header, packet),
        }
        if packet.len() > limit
            && let Some(transport) = splittable(packet, v6, header.checksum)
        {
            return whole.tcp_at(transport, header.checksum, packet, usize::MAX, limit);
        }
        if let Some(PartialChecksum { start, offset }) = header.checksum {
            complete(packet, start.into(), offset.into())?;
        }
        Ok(whole)
    }

    /// Bytes of the packet that comes next; `None` after the last.
    #[must_use]
    pub fn next_length(&self) -> Option<usize> {
        let start = usize::from(self.number) * self.step;
        let payload = self.length - self.headers;
        // A packet without payload is still one packet.
        (start < payload || self.number == 0).then(|| self.headers + self.step.min(payload - start))
    }

    /// Writes that packet into `out`, which has just its length. False, and `out` is untouched, if it has not, if there is no
    /// further packet or `packet` is another one.
    pub fn write_next(&mut self, packet: &[u8], out: &mut [u8]) -> bool {
        if self.next_length() != Some(out.len()) || packet.len() != self.length {
            return false;
        }
        let start = self.headers + usize::from(self.number) * self.step;
        let (headers, payload) = out.split_at_mut(self.headers);
        headers.copy_from_slice(&packet[..self.headers]);
        payload.copy_from_slice(&packet[start..start + payload.len()]);
        let last = start + payload.len() == self.length;
        match self.kind {
            Kind::Whole => {}
            Kind::Tcp => self.finish_tcp(out, last),
            Kind::Udp => self.finish_udp(out),
        }
        self.number += 1;
        true
    }

    fn tcp(
        self,
        header: &VnetHeader,
        packet: &[u8],
        size: usize,
        limit: usize,
    ) -> Result<Self, OffloadError> {
        let checksum = header.checksum.ok_or(OffloadError::Segmentation)?;
        if usize::from(checksum.offset) != TCP_CHECKSUM {
            return Err(OffloadError::Segmentation);
        }
        self.tcp_at(checksum.start.into(), Some(checksum), packet, size, limit)
    }

    fn tcp_at(
        self,
        transport: usize,
        partial: Option<PartialChecksum>,
        packet: &[u8],
        size: usize,
        limit: usize,
    ) -> Result<Self, OffloadError> {
        let tcp = self.transport_header(packet, transport, 20)?;
        let headers = transport + usize::from(tcp[12] >> 4) * 4;
        if headers < transport + 20 || headers > packet.len() {
            return Err(OffloadError::Truncated);
        }
        let step = size.min(limit.saturating_sub(headers));
        self.cut(
            Kind::Tcp,
            (transport, headers),
            step,
            TCP_CHECKSUM,
            partial,
            packet,
        )
    }

    fn udp(self, header: &VnetHeader, packet: &[u8]) -> Result<Self, OffloadError> {
        let checksum = header.checksum.ok_or(OffloadError::Segmentation)?;
        if usize::from(checksum.offset) != UDP_CHECKSUM {
            return Err(OffloadError::Segmentation);
        }
        let transport = usize::from(checksum.start);
        self.transport_header(packet, transport, UDP_HEADER)?;
        let headers = transport + UDP_HEADER;
        let step = header.gso_size.into();
        self.cut(
            Kind::Udp,
            (transport, headers),
            step,
            UDP_CHECKSUM,
            Some(checksum),
            packet,
        )
    }

    /// The transport header at `start`, which is behind the IP header.
    fn transport_header<'p>(
        &self,
        packet: &'p [u8],
        start: usize,
        length: usize,
    ) -> Result<&'p [u8], OffloadError> {
        let ip = if self.v6 {
            40
        } else {
            usize::from(packet[0] & 15) * 4
        };
        if ip < 20 || start < ip || (!self.v6 && start != ip) {
            return Err(OffloadError::Segmentation);
        }
        packet.get(start..start + length).ok_or(OffloadError::Truncated)
    }

    fn cut(
        self,
        kind: Kind,
        (transport, headers): (usize, usize),
        step: usize,
        field: usize,
        partial: Option<PartialChecksum>,
        packet: &[u8],
    ) -> Result<Self, OffloadError> {
        let segments = (packet.len() - headers).checked_div(step);
        // The IPv4 identification and this counter have 16 bits.
        if segments.is_none_or(|segments| segments >= usize::from(u16::MAX)) {
            return Err(OffloadError::Segmentation);
        }
        let field = transport + field;
        let value = u16::from_be_bytes([packet[field], packet[field + 1]]);
        let length = packet.len() - transport;
        let pseudo = match partial {
            Some(_) => Sum::default().add_word(value),
            // A finished checksum makes the sum of everything zero: what follows the pseudo header is its negative.
            None => Sum::default().add_word(!Sum::default().add(&packet[transport..]).fold()),
        };
        // Subtracted in one's complement; see RFC 1624 section 3.
        let pseudo = pseudo
            .add_word(!(length as u16))
            .add_word(!((length >> 16) as u16));
        Ok(Self {
            kind,
            headers,
            transport,
            step,
            pseudo,
            ..self
        })
    }

    /// RFC 9293 section 3.1: each segment has its own sequence number; FIN and PSH belong to the last byte. RFC 3168
    /// section 6.1.2: CWR is set on one packet, the first.
    fn finish_tcp(&self, out: &mut [u8], last: bool) {
        self.finish_ip(out);
        let tcp = &mut out[self.transport..];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let passed = u32::from(self.number).wrapping_mul(self.step as u32);
        tcp[4..8].copy_from_slice(&sequence.wrapping_add(passed).to_be_bytes());
        if !last {
            tcp[13] &= !(FIN | PSH);
        }
        if self.number != 0 {
            tcp[13] &= !CWR;
        }
        self.finish_checksum(tcp, TCP_CHECKSUM);
    }

    fn finish_udp(&self, out: &mut [u8]) {
        self.finish_ip(out);
        let udp = &mut out[self.transport..];
        let length = udp.len() as u16;
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        self.finish_checksum(udp, UDP_CHECKSUM);
        no_zero(udp, UDP_CHECKSUM);
    }

    fn finish_ip(&self, out: &mut [u8]) {
        let length = out.len();
        if self.v6 {
            out[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
            return;
        }
        out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        let identification = u16::from_be_bytes([out[4], out[5]]).wrapping_add(self.number);
        out[4..6].copy_from_slice(&identification.to_be_bytes());
        out[10..12].fill(0);
        let sum = checksum::ipv4_header(&out[..self.transport]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn finish_checksum(&self, transport: &mut [u8], field: usize) {
        transport[field..field + 2].fill(0);
        let length = transport.len() as u16;
        let sum = self.pseudo.add_word(length).add(transport).checksum();
        transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where the TCP header of a packet stands that may be cut although nobody asked for it.
fn splittable(packet: &[u8], v6: bool, partial: Option<PartialChecksum>) -> Option<usize> {
    let transport = if v6 { 40 } else { usize::from(packet[0] & 15) * 4 };
    let protocol = packet[if v6 { 6 } else { 9 }];
    let fragment = !v6 && u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let elsewhere = partial.is_some_and(|partial| {
        (usize::from(partial.start), usize::from(partial.offset)) != (transport, TCP_CHECKSUM)
    });
    if protocol != TCP || fragment || elsewhere {
        return None;
    }
    let flags = *packet.get(transport + 13)?;
    let headers = transport + usize::from(packet[transport + 12] >> 4) * 4;
    // The urgent pointer counts from the sequence number of its own segment; SYN takes a number itself.
    (flags & (SYN | RST | URG) == 0 && headers < packet.len()).then_some(transport)
}

/// Completes a checksum whose field holds the sum of the pseudo header.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Result<(), OffloadError> {
    let udp = offset == UDP_CHECKSUM;
    let covered = packet.get_mut(start..).ok_or(OffloadError::Checksum)?;
    let sum = Sum::default().add(covered).checksum();
    let field = covered
        .get_mut(offset..offset + 2)
        .ok_or(OffloadError::Checksum)?;
    field.copy_from_slice(&sum.to_be_bytes());
    if udp {
        no_zero(covered, offset);
    }
    Ok(())
}

/// RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
fn no_zero(udp: &mut [u8], field: usize) {
    if udp[field..field + 2] == [0, 0] {
        udp[field..field + 2].fill(0xff);
    }
}
