//! The frame of a packet of which only the selector values are known.

use std::net::IpAddr;

use ravelin_policy::{Packet, Protocol, Transport};

/// An SPI that no connection is expected to use; the selector values do not tell one.
const SOME_SPI: u32 = 0xffff_fffe;

/// Next-header values that introduce an extension header and so are never an IPv6 packet's protocol.
const EXTENSION_HEADERS: [u8; 4] = [0, 43, 44, 60];

/// The shortest Ethernet frame that carries such a packet; `None` where there can be none.
///
/// Checksums are zero: nothing that decides looks at them. Neighbour discovery has hop limit 255, as it must.
#[must_use]
pub fn frame_of(packet: &Packet) -> Option<Vec<u8>> {
    let upper = upper(packet);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // A later fragment of IPv4 starts at a multiple of eight bytes behind any TCP header.
            let fragment: u16 = if packet.transport == Transport::LaterFragment {
                185
            } else {
                0
            };
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(length(20 + upper.len()));
            frame.extend([0, 1]);
            frame.extend(fragment.to_be_bytes());
            frame.extend([64, packet.protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let later = packet.transport == Transport::LaterFragment;
            if !later && EXTENSION_HEADERS.contains(&packet.protocol) {
                return None;
            }
            let fragment = later.then_some([packet.protocol, 0, 0x05, 0xa8, 0, 0, 0, 1]);
            let next_header = fragment.map_or(packet.protocol, |_| 44);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length(upper.len() + fragment.map_or(0, |header| header.len())));
            frame.extend([next_header, hop_limit(packet)]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            frame.extend(fragment.into_iter().flatten());
        }
        _ => return None,
    }
    frame.extend(upper);
    Some(frame)
}

fn hop_limit(packet: &Packet) -> u8 {
    match packet.transport {
        Transport::Ports(133..=137, _) if Protocol(packet.protocol) == Protocol::ICMP6 => 255,
        Transport::Ports(130..=132 | 143, _) if Protocol(packet.protocol) == Protocol::ICMP6 => 1,
        _ => 64,
    }
}

/// The upper-layer header, long enough for its protocol, or eight bytes of payload.
fn upper(packet: &Packet) -> Vec<u8> {
    let (first, second) = match packet.transport {
        Transport::Ports(first, second) => (first, second),
        Transport::LaterFragment => return vec![0; 8],
        Transport::Absent => {
            let mut payload = SOME_SPI.to_be_bytes().to_vec();
            payload.extend([0; 4]);
            return payload;
        }
    };
    let protocol = Protocol(packet.protocol);
    if protocol.is_icmp() {
        let byte = |value: u16| value.to_be_bytes()[1];
        return vec![byte(first), byte(second), 0, 0, 0, 0, 0, 0];
    }
    let mut header = [first.to_be_bytes(), second.to_be_bytes()].concat();
    match protocol {
        Protocol::UDP | Protocol::UDPLITE => header.extend([0, 8, 0, 0]),
        // Data offset of five words, and SYN.
        Protocol::TCP => header.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]),
        _ => header.extend([0; 8]),
    }
    header
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use ravelin_policy::Packet;
    use ravelin_xdp_common::{Frame, IpPacket, SliceReader, Upper, parse};

    use super::frame_of;

    /// The parser finds in the frame what the packet says.
    #[test]
    fn frames_hold_what_they_were_made_of() {
        for text in [
            "tcp 10.0.0.5:40000 -> 10.1.0.9:1433",
            "udp [fd00::1]:5353 -> [fd00::2]:53",
            "sctp 10.0.0.5:1 -> 10.1.0.9:2",
            "dccp 10.0.0.5:1 -> 10.1.0.9:2",
            "udplite 10.0.0.5:1 -> 10.1.0.9:2",
            "icmp 10.0.0.5 -> 10.1.0.9 type 8 code 3",
            "icmp6 fe80::1 -> ff02::1 type 134 code 0",
            "icmp6 fe80::1 -> ff02::16 type 143 code 0",
            "icmp6 fd00::1 -> ff02::16 type 143 code 0",
            "gre 10.0.0.5 -> 10.1.0.9",
            "esp fd00::1 -> fd00::2",
            "0 10.0.0.5 -> 10.1.0.9",
            "tcp 10.0.0.5 -> 10.1.0.9 fragment",
            "udp fd00::1 -> fd00::2 fragment",
            "gre fd00::1 -> fd00::2 fragment",
            "60 fd00::1 -> fd00::2 fragment",
            "58 10.0.0.5 -> 10.1.0.9",
        ] {
            let packet: Packet = text.parse().unwrap();
            let frame = frame_of(&packet).unwrap();
            let mut parsed = IpPacket::EMPTY;
            assert_eq!(parse(&SliceReader(&frame), &mut parsed), Ok(Frame::Ip), "{text}");
            assert_eq!(Packet::of(&parsed.flow), packet, "{text}");
            assert_eq!(
                parsed.upper == Upper::NeighbourDiscovery,
                text.contains("fe80::1 -> ff02::1"),
                "{text}"
            );
        }
        assert_eq!(frame_of(&"44 fd00::1 -> fd00::2".parse().unwrap()), None);
    }
}
