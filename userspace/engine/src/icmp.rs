//! ICMP errors to hosts of the clear side: "packet too big" makes path MTU discovery work through the tunnel,
//! "time exceeded" makes traceroute work.

use std::time::{Duration, Instant};

use ravelin_esp::checksum::{self, Sum};
use ravelin_xdp_common::{IpPacket, SliceReader, parse_ip};
use ravelin_xsk::Frame;

use crate::adjacency::Port;
use crate::device::Mac;

/// What to tell the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpError {
    /// The packet does not fit; this many bytes would.
    TooBig(u32),
    /// TTL or hop limit ran out here.
    TimeExceeded,
}

const ETHERNET: usize = 14;
const ICMP: usize = 8;
/// RFC 1812 section 4.3.2.3: an IPv4 error has at most 576 bytes; RFC 4443 section 2.4: an IPv6 error fits the minimum MTU.
const LONGEST: [usize; 2] = [576, 1280];

/// Turns a frame into the ICMP error about it, addressed to its sender; `None` where none may be sent.
///
/// The frame is as received, Ethernet header first; `l3_offset` is where its IP header stands. The result is ready
/// to be sent on the device it came from.
pub(crate) fn answer<'u>(
    mut frame: Frame<'u>,
    l3_offset: usize,
    port: &Port,
    error: IcmpError,
) -> Option<Frame<'u>> {
    let link: [u8; 12] = *frame.data().first_chunk()?;
    frame.trim_front(l3_offset).ok()?;
    // RFC 1812 section 4.3.2.7: none about "a packet sent as a Link Layer broadcast"; the same goes for multicast.
    if link[0] & 1 != 0 || !may_answer(frame.data()) {
        return None;
    }
    let frame = about(frame, port, error, usize::MAX)?;
    framed(frame, *link.last_chunk()?, port)
}

/// An IP packet with an Ethernet header in front, from the device to `destination`.
pub(crate) fn framed<'u>(mut frame: Frame<'u>, destination: Mac, port: &Port) -> Option<Frame<'u>> {
    let v6 = is_v6(frame.data())?;
    let ethernet = frame.prepend(ETHERNET).ok()?;
    ethernet[..6].copy_from_slice(&destination);
    ethernet[6..12].copy_from_slice(&port.mac);
    ethernet[12..].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
    Some(frame)
}

/// How many bytes of a packet an error quotes at most.
pub(crate) const LONGEST_QUOTE: usize = LONGEST[1] - 40 - ICMP;

fn is_v6(packet: &[u8]) -> Option<bool> {
    packet.first().map(|first| first >> 4 == 6)
}

/// Turns a frame with an IP packet, or the start of one, into the ICMP packet about it of at most `longest` bytes, from the
/// address that the device has. Whether one may be sent was asked before.
pub(crate) fn about<'u>(
    mut frame: Frame<'u>,
    port: &Port,
    error: IcmpError,
    longest: usize,
) -> Option<Frame<'u>> {
    let v6 = is_v6(frame.data())?;
    let header = if v6 { 40 } else { 20 };
    let longest = longest.min(LONGEST[usize::from(v6)]);
    let quoted = frame.len().min(longest.checked_sub(header + ICMP)?);
    frame.truncate(quoted).ok()?;
    if v6 {
        let source = port.v6?;
        let destination: [u8; 16] = *frame.data().get(8..)?.first_chunk()?;
        let (kind, code, value) = match error {
            IcmpError::TooBig(mtu) => (2, 0, mtu),
            IcmpError::TimeExceeded => (3, 0, 0),
        };
        write_icmp(frame.prepend(ICMP).ok()?, kind, code, value);
        let length = frame.len();
        let sum = Sum::default()
            .add(&source)
            .add(&destination)
            .add(&(length as u32).to_be_bytes())
            .add_word(58)
            .add(frame.data())
            .checksum();
        frame.data_mut()[2..4].copy_from_slice(&sum.to_be_bytes());
        let ip = frame.prepend(header).ok()?;
        ip.fill(0);
        ip[0] = 0x60;
        ip[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        ip[6] = 58;
        ip[7] = 64;
        ip[8..24].copy_from_slice(&source);
        ip[24..40].copy_from_slice(&destination);
    } else {
        let source = port.v4?;
        let destination: [u8; 4] = *frame.data().get(12..)?.first_chunk()?;
        // RFC 1191 section 4: the next-hop MTU stands in the low 16 bits.
        let (kind, code, value) = match error {
            IcmpError::TooBig(mtu) => (3, 4, mtu.min(0xffff)),
            IcmpError::TimeExceeded => (11, 0, 0),
        };
        write_icmp(frame.prepend(ICMP).ok()?, kind, code, value);
        let sum = Sum::default().add(frame.data()).checksum();
        frame.data_mut()[2..4].copy_from_slice(&sum.to_be_bytes());
        let length = (header + frame.len()) as u16;
        let ip = frame.prepend(header).ok()?;
        ip.fill(0);
        ip[0] = 0x45;
        // RFC 1812 section 4.3.2.5: precedence 6 for ICMP errors.
        ip[1] = 0xc0;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[8] = 64;
        ip[9] = 1;
        ip[12..16].copy_from_slice(&source);
        ip[16..20].copy_from_slice(&destination);
        let sum = checksum::ipv4_header(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    Some(frame)
}

fn write_icmp(header: &mut [u8], kind: u8, code: u8, value: u32) {
    header.fill(0);
    header[0] = kind;
    header[1] = code;
    header[4..8].copy_from_slice(&value.to_be_bytes());
}

/// Whether the sender of an IP packet may be told about it.
///
/// RFC 1812 section 4.3.2.7 and RFC 4443 section 2.4 (e): no error about an ICMP error, a packet whose source or destination
/// is not one host, and in IPv4 a later fragment.
pub(crate) fn may_answer(bytes: &[u8]) -> bool {
    let mut packet = IpPacket::EMPTY;
    if parse_ip(&SliceReader(bytes), &mut packet).is_err() {
        return false;
    }
    let flow = &packet.flow;
    if is_v6(bytes) == Some(true) {
        let (Some(source), Some(destination)) = (bytes.get(8), bytes.get(24)) else {
            return false;
        };
        let unspecified = bytes
            .get(8..24)
            .is_none_or(|source| source.iter().all(|byte| *byte == 0));
        // Of a later fragment the type is unknown, and counts as 0.
        let icmp_error = flow.protocol == 58 && flow.source_port < 128;
        !(unspecified || *source == 0xff || *destination == 0xff || icmp_error)
    } else {
        let Some(addresses) = bytes.get(12..20) else {
            return false;
        };
        let one_host = |first: u8| (1..224).contains(&first) && first != 127;
        let icmp_error = flow.protocol == 1 && matches!(flow.source_port, 3..=5 | 11 | 12);
        one_host(addresses[0]) && one_host(addresses[4]) && !icmp_error && packet.fragment_offset == 0
    }
}

/// How many errors may be sent (RFC 4443 section 2.4 (f)): a token bucket.
#[derive(Debug)]
pub(crate) struct Budget {
    tokens: u32,
    filled: Instant,
}

impl Budget {
    const BURST: u32 = 64;
    const INTERVAL: Duration = Duration::from_millis(10);

    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tokens: Self::BURST,
            filled: now,
        }
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let intervals = now.duration_since(self.filled).as_nanos() / Self::INTERVAL.as_nanos();
        if intervals > 0 {
            self.filled = now;
            self.tokens = Self::BURST.min(
                self.tokens
                    .saturating_add(u32::try_from(intervals).unwrap_or(u32::MAX)),
            );
        }
        self.tokens
            .checked_sub(1)
            .map(|left| self.tokens = left)
            .is_some()
    }
}
