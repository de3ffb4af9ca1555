//! Checksums that a stack left to a network card which then was none: a container at the other end of a veth, or a virtual machine. The
//! kernel knows which they are (`CHECKSUM_PARTIAL`) and XDP does not say; sealed like that they would arrive wrong.

use ravelin_esp::checksum::Sum;
use ravelin_xdp_common::{IpPacket, SliceReader, parse_ip};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a transport header is, and where.
#[derive(Clone, Copy)]
struct Transport {
    protocol: u8,
    at: usize,
}

/// Completes the checksum of TCP or UDP if only the pseudo header is in it so far. `packet` is a whole IP packet and nothing behind it.
///
/// A finished checksum that is right stays as it is: where it happens to look unfinished, completing it gives the same again,
/// since the pseudo header counts once, by its sum or by what stands for it in the field. One that is wrong stays wrong, unless it
/// looks unfinished, which is as likely as that a checksum does not notice.
#[inline]
pub(crate) fn complete(packet: &mut [u8]) {
    let Some((transport, pseudo)) = find(packet) else {
        return;
    };
    let Some(covered) = packet.get_mut(transport.at..) else {
        return;
    };
    let field = if transport.protocol == TCP { 16 } else { 6 };
    let Some([high, low]) = covered.get(field..field + 2) else {
        return;
    };
    let present = u16::from_be_bytes([*high, *low]);
    // RFC 768: "An all zero transmitted checksum value means that the transmitter generated no checksum".
    if present == pseudo && !(transport.protocol == UDP && present == 0) {
        finish(covered, field);
    }
}

#[cold]
fn finish(covered: &mut [u8], field: usize) {
    // RFC 768: "If the computed checksum is zero, it is transmitted as all ones"; in TCP both are the same.
    let sum = match Sum::default().add(covered).checksum() {
        0 => 0xffff,
        sum => sum,
    };
    covered[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The transport header that is in a whole packet, and the sum of its pseudo header.
#[inline]
fn find(packet: &[u8]) -> Option<(Transport, u16)> {
    let (transport, addresses) = match packet.first()? >> 4 {
        4 => {
            let ip: &[u8; 20] = packet.first_chunk()?;
            // The stack itself completes what it cuts.
            if u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0 {
                return None;
            }
            let (protocol, at) = (ip[9], usize::from(ip[0] & 15) * 4);
            (Transport { protocol, at }, &packet[12..20])
        }
        6 => {
            let addresses = packet.get(8..40)?;
            let transport = match *packet.get(6)? {
                protocol @ (TCP | UDP) => Transport { protocol, at: 40 },
                // Those extension headers that may stand in front.
                0 | 43 | 60 => behind_extensions(packet)?,
                _ => return None,
            };
            (transport, addresses)
        }
        _ => return None,
    };
    if !matches!(transport.protocol, TCP | UDP) {
        return None;
    }
    let length = packet.len().checked_sub(transport.at)?;
    let sum = Sum::default()
        .add(addresses)
        .add(&(length as u32).to_be_bytes())
        .add_word(transport.protocol.into());
    Some((transport, sum.fold()))
}

#[cold]
fn behind_extensions(packet: &[u8]) -> Option<Transport> {
    let mut parsed = IpPacket::EMPTY;
    parse_ip(&SliceReader(packet), &mut parsed).ok()?;
    (!parsed.fragment).then_some(Transport {
        protocol: parsed.flow.protocol,
        at: parsed.upper_offset.into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 word by word.
    fn sum(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// A packet whose checksum is 0; where it stands; and its pseudo header.
    fn packet(v6: bool, options: bool, protocol: u8, payload: &[u8]) -> (Vec<u8>, usize, Vec<u8>) {
        let header = if protocol == TCP { 20 } else { 8 };
        let mut transport = vec![0x5a; header];
        transport[4..6].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
        if protocol == TCP {
            transport[12] = 0x50;
        }
        let field = if protocol == TCP { 16 } else { 6 };
        transport[field..field + 2].fill(0);
        transport.extend(payload);
        let length = transport.len() as u16;
        let (ip, addresses) = if v6 {
            let extension = if options {
                vec![protocol, 0, 1, 4, 0, 0, 0, 0]
            } else {
                vec![]
            };
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, if options { 60 } else { protocol }, 64];
            ip[4..6].copy_from_slice(&(length + extension.len() as u16).to_be_bytes());
            ip.extend(100..132);
            ip.extend(extension);
            (ip, 8..40)
        } else {
            let header: u8 = if options { 24 } else { 20 };
            let mut ip = vec![0x40 | (header / 4), 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
            ip[2..4].copy_from_slice(&(length + u16::from(header)).to_be_bytes());
            ip.extend([10, 1, 0, 5, 10, 2, 0, 5]);
            ip.resize(header.into(), 1);
            (ip, 12..20)
        };
        let pseudo = [&ip[addresses], &length.to_be_bytes(), &[0, protocol]].concat();
        let at = ip.len() + field;
        ([ip, transport].concat(), at, pseudo)
    }

    fn with(packet: &[u8], at: usize, sum: u16) -> Vec<u8> {
        let mut packet = packet.to_vec();
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    proptest! {
        #[test]
        fn unfinished_sums_become_right_and_others_stay(
            v6: bool,
            options: bool,
            protocol in prop::sample::select(vec![TCP, UDP]),
            payload in prop::collection::vec(any::<u8>(), 0..200),
            other: u16,
        ) {
            let (bare, at, pseudo) = packet(v6, options, protocol, &payload);
            let field = if protocol == TCP { 16 } else { 6 };
            let covered = [&pseudo, &bare[at - field..]].concat();
            let right = match !sum(&covered) {
                0 => 0xffff,
                right => right,
            };
            let mut unfinished = with(&bare, at, sum(&pseudo));
            complete(&mut unfinished);
            prop_assert_eq!(&unfinished, &with(&bare, at, right));
            complete(&mut unfinished);
            prop_assert_eq!(&unfinished, &with(&bare, at, right), "once is enough");
            let mut finished = with(&bare, at, other);
            complete(&mut finished);
            if other != sum(&pseudo) {
                prop_assert_eq!(&finished, &with(&bare, at, other));
            }
        }
    }

    /// The one payload in 65,536 for which a finished checksum looks unfinished.
    #[test]
    fn a_right_sum_that_looks_unfinished_stays_right() {
        let (bare, at, pseudo) = packet(false, false, UDP, &[0, 0]);
        let covered = sum(&[&pseudo, &bare[at - 6..]].concat());
        // Such that the complement of all is the pseudo header's sum.
        let word = sum(&[(!sum(&pseudo)).to_be_bytes(), (!covered).to_be_bytes()].concat());
        let (bare, at, pseudo) = packet(false, false, UDP, &word.to_be_bytes());
        let right = with(&bare, at, sum(&pseudo));
        let all = [&pseudo, &right[at - 6..]].concat();
        assert_eq!(sum(&all), 0xffff, "the receiver takes it");
        let mut completed = right.clone();
        complete(&mut completed);
        assert_eq!(completed, right);
    }

    #[test]
    fn fragments_other_protocols_and_nonsense_are_left_alone() {
        let (bare, at, pseudo) = packet(false, false, UDP, &[7; 40]);
        let mut fragment = with(&bare, at, sum(&pseudo));
        fragment[6] = 0x20;
        let mut sctp = with(&bare, at, sum(&pseudo));
        sctp[9] = 132;
        let short = bare[..24].to_vec();
        for packet in [
            fragment,
            sctp,
            short,
            vec![],
            vec![0x45],
            vec![0x60; 39],
            vec![0x4f; 20],
        ] {
            let mut same = packet.clone();
            complete(&mut same);
            assert_eq!(same, packet);
        }
    }
}
