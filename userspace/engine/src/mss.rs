//! The maximum segment size that the two ends of a TCP connection tell each other, made smaller where sealed packets would not fit
//! (the option: RFC 9293 section 3.7.1). So TCP works through a tunnel where ICMP does not come back.
//!
//! Both directions count: what one end announces limits what the other sends.

use ravelin_esp::checksum;
use ravelin_xdp_common::{IpPacket, SliceReader, parse_ip};

const TCP: u8 = 6;
/// Of the TCP header without options, which a segment's size does not count.
const TCP_HEADER: usize = 20;

mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    pub(super) const AUTHENTICATION: u8 = 29;
}

/// Lowers the maximum segment size that a packet announces to what fits `mtu` bytes of IP packet. `mtu` is asked only if the packet
/// is the first of a TCP connection, in one direction or the other. Whether it was too large.
#[inline]
pub(crate) fn clamp(packet: &mut [u8], mtu: impl FnOnce() -> Option<u32>) -> bool {
    let Some((tcp, headers)) = find_syn(packet) else {
        return false;
    };
    let Some(longest) = mtu().and_then(|mtu| (mtu as usize).checked_sub(headers + TCP_HEADER)) else {
        return false;
    };
    let longest = u16::try_from(longest).unwrap_or(u16::MAX);
    packet.get_mut(tcp..).is_some_and(|tcp| lower(tcp, longest))
}

/// Where the TCP header of a packet with SYN starts, and what the IP header without options and extensions takes: RFC 9293
/// section 3.7.1 has the sender subtract those itself.
#[inline]
fn find_syn(packet: &[u8]) -> Option<(usize, usize)> {
    const SYN: u8 = 2;
    let (tcp, headers) = match packet.first()? >> 4 {
        4 => {
            let ip: &[u8; 20] = packet.first_chunk()?;
            // What is in fragments is left alone: the checksum is over all of them.
            let whole = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0;
            (ip[9] == TCP && whole).then_some((usize::from(ip[0] & 15) * 4, 20))?
        }
        6 => match *packet.get(6)? {
            TCP => (40, 40),
            // Those extension headers that may stand in front of TCP.
            0 | 43 | 60 => (behind_extensions(packet)?, 40),
            _ => return None,
        },
        _ => return None,
    };
    (packet.get(tcp + 13)? & SYN != 0).then_some((tcp, headers))
}

#[cold]
fn behind_extensions(packet: &[u8]) -> Option<usize> {
    let mut parsed = IpPacket::EMPTY;
    parse_ip(&SliceReader(packet), &mut parsed).ok()?;
    (parsed.flow.protocol == TCP && !parsed.fragment).then_some(parsed.upper_offset.into())
}

/// Lowers the option in a TCP header. One whose options contradict themselves is left alone, and so is one with an authentication
/// option, which may cover the others (RFC 5925 section 2.2).
fn lower(tcp: &mut [u8], longest: u16) -> bool {
    let Some(options) = tcp
        .get(12)
        .map(|field| usize::from(field >> 4) * 4)
        .and_then(|end| tcp.get(TCP_HEADER..end))
    else {
        return false;
    };
    let mut found = None;
    let mut at = 0;
    while let [kind, behind @ ..] = &options[at..] {
        match *kind {
            option::END => break,
            option::NO_OPERATION => at += 1,
            kind => {
                let length = behind.first().copied().map_or(0, usize::from);
                if length < 2 || at + length > options.len() || kind == option::AUTHENTICATION {
                    return false;
                }
                if kind == option::MAXIMUM_SEGMENT_SIZE && length == 4 {
                    found = Some(TCP_HEADER + at + 2);
                }
                at += length;
            }
        }
    }
    match found {
        Some(at) if u16::from_be_bytes([tcp[at], tcp[at + 1]]) > longest => {
            replace(tcp, at, longest.to_be_bytes());
            true
        }
        _ => false,
    }
}

/// Puts two bytes into a TCP header, wherever they stand, and keeps the checksum as right or wrong as it was (RFC 1624).
fn replace(tcp: &mut [u8], at: usize, value: [u8; 2]) {
    let word = |tcp: &[u8], at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let mut sum = word(tcp, 16);
    for (at, byte) in (at..).zip(value) {
        // The words of the checksum start at even offsets, and a TCP header ends at one.
        let old = word(tcp, at & !1);
        tcp[at] = byte;
        sum = checksum::update(sum, old, word(tcp, at & !1));
    }
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ravelin_esp::checksum::Sum;

    use super::*;

    /// A TCP packet with these flags and options.
    fn packet(v6: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut tcp = vec![
            0x30, 0x39, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0, flags, 1, 0, 0, 0, 0, 0,
        ];
        tcp.extend(options);
        tcp.resize(tcp.len().next_multiple_of(4), 0);
        tcp[12] = (tcp.len() as u8 / 4) << 4;
        tcp.extend(payload);
        let mut ip = if v6 {
            let mut ip = vec![0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64];
            ip.extend(1..=32);
            ip
        } else {
            let length = (20 + tcp.len()) as u8;
            vec![
                0x45, 0, 0, length, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 1, 0, 5, 10, 2, 0, 5,
            ]
        };
        let sum = tcp_sum(&ip, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        ip.extend(tcp);
        ip
    }

    /// RFC 9293 section 3.1: 0 if the checksum is right.
    fn tcp_sum(ip: &[u8], tcp: &[u8]) -> u16 {
        let addresses = if ip[0] >> 4 == 4 { &ip[12..20] } else { &ip[8..40] };
        Sum::default()
            .add(addresses)
            .add_word(6)
            .add_word(tcp.len() as u16)
            .add(tcp)
            .checksum()
    }

    fn clamped(mut packet: Vec<u8>, mtu: u32) -> Option<Vec<u8>> {
        let before = packet.clone();
        let lowered = clamp(&mut packet, || Some(mtu));
        assert_eq!(lowered, before != packet);
        lowered.then_some(packet)
    }

    #[test]
    fn both_packets_of_a_handshake_in_both_families() {
        for (v6, headers) in [(false, 40), (true, 60)] {
            let tcp = headers - 20;
            for flags in [2, 0x12, 0xc2] {
                let made = packet(v6, flags, &[2, 4, 5, 0xb4], &[]);
                let lowered = clamped(made.clone(), 1400).unwrap();
                assert_eq!(
                    lowered[tcp + 20..tcp + 24],
                    [2, 4, 5, if v6 { 0x3c } else { 0x50 }]
                );
                assert_eq!(tcp_sum(&lowered, &lowered[tcp..]), 0);
                assert_eq!(clamped(lowered, 1400), None);
                assert_eq!(clamped(made, 1460 + headers as u32), None);
            }
            for flags in [0, 0x10, 0x18, 4, 1] {
                assert_eq!(clamped(packet(v6, flags, &[2, 4, 5, 0xb4], &[]), 1400), None);
            }
        }
    }

    #[test]
    fn what_it_may_not_touch() {
        let none = |packet: Vec<u8>| assert_eq!(clamped(packet, 576), None);
        // No option, or none that can be found.
        none(packet(false, 2, &[], &[2, 4, 5, 0xb4]));
        none(packet(false, 2, &[0, 2, 4, 5, 0xb4], &[]));
        none(packet(false, 2, &[3, 0, 2, 4, 5, 0xb4], &[]));
        none(packet(false, 2, &[3, 60, 2, 4, 5, 0xb4], &[]));
        none(packet(false, 2, &[2, 3, 5], &[]));
        none(packet(false, 2, &[1, 1, 1, 2], &[]));
        // RFC 5925.
        none(packet(false, 2, &[2, 4, 5, 0xb4, 29, 4, 1, 1], &[]));
        let syn = packet(false, 2, &[2, 4, 5, 0xb4], &[]);
        let changed = |at: usize, value: u8| {
            let mut packet = syn.clone();
            packet[at] = value;
            packet
        };
        none(changed(9, 17));
        none(changed(6, 0x20));
        none(changed(7, 1));
        none(changed(32, 0xf0));
        none(changed(32, 0x10));
        for length in 0..syn.len() {
            none(syn[..length].to_vec());
        }
        assert!(!clamp(&mut syn.clone(), || None));
        assert!(!clamp(&mut syn.clone(), || Some(39)));
    }

    #[test]
    fn behind_extension_headers() {
        let mut syn = packet(true, 2, &[2, 4, 5, 0xb4], &[]);
        syn[5] += 16;
        syn[6] = 0;
        syn.splice(40..40, [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]);
        let lowered = clamped(syn.clone(), 1400).unwrap();
        assert_eq!(lowered[76..80], [2, 4, 5, 0x3c]);
        syn[40] = 59;
        assert_eq!(clamped(syn, 1400), None);
    }

    proptest! {
        /// Wherever the option stands: nothing else changes, and the checksum is as right as it was.
        #[test]
        fn the_checksum_stays_as_right_as_it_was(
            v6: bool,
            front in 0..5_usize,
            mss: u16,
            mtu in 100..3000_u32,
            payload in prop::collection::vec(any::<u8>(), 0..20),
            error: u16,
        ) {
            let mut options = vec![option::NO_OPERATION; front];
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
            let mut made = packet(v6, 2, &options, &payload);
            let (tcp, headers) = if v6 { (40, 60) } else { (20, 40) };
            made[tcp + 16] ^= (error >> 8) as u8;
            made[tcp + 17] ^= error as u8;
            let wrong = tcp_sum(&made, &made[tcp..]);
            let mut expected = made.clone();
            let fits = (mtu - headers) as u16;
            if mss > fits {
                expected[tcp + 22 + front..tcp + 24 + front].copy_from_slice(&fits.to_be_bytes());
            }
            clamp(&mut made, || Some(mtu));
            let sum = tcp_sum(&made, &made[tcp..]);
            // Zero has two forms.
            prop_assert!(sum == wrong || [sum, wrong].iter().all(|sum| sum.is_multiple_of(0xffff)));
            for at in [16, 17] {
                expected[tcp + at] = made[tcp + at];
            }
            prop_assert_eq!(made, expected);
        }

        #[test]
        fn any_bytes_end(mut bytes in prop::collection::vec(any::<u8>(), 0..200), first in prop::sample::select(vec![0x45, 0x4f, 0x60])) {
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            clamp(&mut bytes, || Some(1000));
        }
    }
}
