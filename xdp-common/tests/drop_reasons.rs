//! One frame by hand for every reason to refuse a frame, and what stands just on the right side of each bound.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ravelin_xdp_common::{DropReason, Frame, IpPacket, Ports, Reader, SliceReader, Upper, parse, parse_ip};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMP6: u8 = 58;

fn parsed(frame: &[u8]) -> Result<IpPacket, DropReason> {
    let mut packet = IpPacket::EMPTY;
    parse(&SliceReader(frame), &mut packet).map(|kind| {
        assert_eq!(kind, Frame::Ip);
        packet
    })
}

/// What the kernel is about to send: headers, and more bytes than their length field can say.
struct Segments<'a> {
    headers: SliceReader<'a>,
    length: usize,
}

impl Reader for Segments<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.headers.read(offset)
    }

    fn holds(&self, length: usize) -> bool {
        length <= self.length
    }

    fn length_of_segments(&self) -> Option<usize> {
        Some(self.length)
    }
}

fn refused(frame: &[u8]) -> DropReason {
    parsed(frame).unwrap_err()
}

fn ethernet(ether_types: &[u16], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    for (index, ether_type) in ether_types.iter().enumerate() {
        if index > 0 {
            frame.extend([0, 5]);
        }
        frame.extend(ether_type.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// `field` is flags and fragment offset.
fn v4(protocol: u8, field: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, (20 + payload.len()) as u8, 0, 1];
    packet.extend(field.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(payload);
    ethernet(&[0x0800], &packet)
}

fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 255]);
    packet.extend([0xfd; 32]);
    packet.extend(payload);
    ethernet(&[0x86dd], &packet)
}

fn tcp() -> Vec<u8> {
    let mut tcp = vec![0; 20];
    tcp[..4].copy_from_slice(&[0, 22, 0, 80]);
    tcp[12] = 0x50;
    tcp
}

fn udp(source: u16, destination: u16, length: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    udp.extend(payload);
    udp
}

fn set(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    frame[at] = value;
    frame
}

#[test]
fn ethernet_and_vlan() {
    for length in 0..14 {
        assert_eq!(refused(&vec![0; length]), DropReason::EthernetTruncated);
    }
    let packet = v4(TCP, 0, &tcp())[14..].to_vec();
    assert!(parsed(&ethernet(&[0x88a8, 0x8100, 0x0800], &packet)).is_ok());
    assert_eq!(
        refused(&ethernet(&[0x8100, 0x8100, 0x8100, 0x0800], &packet)),
        DropReason::VlanTooDeep
    );
    assert_eq!(
        refused(&ethernet(&[0x8100], &[0, 5, 8])),
        DropReason::EthernetTruncated
    );
}

#[test]
fn a_length_of_zero_is_that_of_segments_or_none() {
    // Linux before 7.0 puts a jumbo payload option there (RFC 2675).
    let jumbo = [&[TCP, 0, 0xc2, 4, 0, 2, 0xe6, 0x30][..], &tcp()].concat();
    let zero_v6 = |frame: Vec<u8>| set(set(frame, 18, 0), 19, 0);
    for (frame, upper_offset) in [
        (set(v4(TCP, 0, &tcp()), 17, 0), 20),
        (zero_v6(v6(TCP, &tcp())), 40),
        (zero_v6(v6(0, &jumbo)), 48),
    ] {
        let segments = |length| {
            let headers = SliceReader(&frame);
            let mut packet = IpPacket::EMPTY;
            parse(&Segments { headers, length }, &mut packet).map(|_| packet)
        };
        let packet = segments(190_000).unwrap();
        assert_eq!((packet.l3_length, packet.upper_offset), (u16::MAX, upper_offset));
        assert_eq!((packet.flow.protocol, packet.flow.ports), (TCP, Ports::Known));
        assert_eq!(segments(14 + 1500).unwrap().l3_length, 1500);
        // What the wire brings has the length that it says.
        assert!(parsed(&frame).is_err());
    }
    for frame in [set(v4(UDP, 0, &[0; 8]), 17, 0), zero_v6(v6(UDP, &[0; 8]))] {
        let headers = SliceReader(&frame);
        let length = 190_000;
        let mut packet = IpPacket::EMPTY;
        assert!(parse(&Segments { headers, length }, &mut packet).is_err());
    }
}

#[test]
fn ip_headers() {
    let good = v4(TCP, 0, &tcp());
    assert!(parsed(&good).is_ok());
    assert_eq!(refused(&good[..14 + 19]), DropReason::IpTruncated);
    assert_eq!(refused(&set(good.clone(), 14, 0x65)), DropReason::IpBadVersion);
    assert_eq!(
        refused(&set(good.clone(), 14, 0x44)),
        DropReason::IpBadHeaderLength
    );
    assert_eq!(
        refused(&set(good.clone(), 14, 0x4f)),
        DropReason::IpBadHeaderLength
    );
    assert_eq!(refused(&set(good.clone(), 17, 19)), DropReason::IpBadHeaderLength);
    assert_eq!(refused(&set(good.clone(), 17, 41)), DropReason::IpBadTotalLength);
    assert_eq!(refused(&set(good, 16, 0xff)), DropReason::IpBadTotalLength);

    let good = v6(TCP, &tcp());
    assert!(parsed(&good).is_ok());
    assert_eq!(refused(&good[..14 + 39]), DropReason::IpTruncated);
    assert_eq!(refused(&set(good.clone(), 14, 0x45)), DropReason::IpBadVersion);
    assert_eq!(refused(&set(good.clone(), 19, 21)), DropReason::IpBadTotalLength);
    // 40 + 65,535 does not fit 16 bits, but that is how long an IPv6 packet may be.
    let mut long = set(set(good, 18, 0xff), 19, 0xff);
    long.resize(14 + 40 + 65_535, 0);
    assert_eq!(parsed(&long).map(|packet| packet.l3_length), Ok(u16::MAX));
    long.pop();
    assert_eq!(refused(&long), DropReason::IpBadTotalLength);

    let mut packet = IpPacket::EMPTY;
    assert_eq!(
        parse_ip(&SliceReader(&[]), &mut packet),
        Err(DropReason::IpTruncated)
    );
    assert_eq!(
        parse_ip(&SliceReader(&[0x55; 60]), &mut packet),
        Err(DropReason::IpBadVersion)
    );
}

#[test]
fn ipv6_extension_headers() {
    let chain = |count: usize| {
        let mut bytes = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count);
        let last = bytes.len() - 8;
        bytes[last] = TCP;
        bytes.extend(tcp());
        v6(60, &bytes)
    };
    assert!(parsed(&chain(8)).is_ok());
    assert_eq!(refused(&chain(9)), DropReason::Ipv6TooManyExtensions);
    // The header ends behind the packet; one byte short of a whole header; nothing at all.
    assert_eq!(
        refused(&v6(60, &[TCP, 1, 0, 0, 0, 0, 0, 0])),
        DropReason::Ipv6ExtensionTruncated
    );
    assert_eq!(
        refused(&v6(43, &[TCP, 0, 0, 0, 0, 0, 0])),
        DropReason::Ipv6ExtensionTruncated
    );
    assert_eq!(refused(&v6(0, &[])), DropReason::Ipv6ExtensionTruncated);
    // The longest: 2,048 bytes, whose bounds come from the packet and not from what follows it.
    assert_eq!(
        refused(&v6(60, &[TCP, 255, 0, 0, 0, 0, 0, 0])),
        DropReason::Ipv6ExtensionTruncated
    );
}

#[test]
fn transport_headers() {
    for (protocol, shortest) in [
        (1, 8),
        (TCP, 20),
        (UDP, 8),
        (33, 12),
        (ESP, 8),
        (132, 12),
        (136, 8),
    ] {
        let mut header = if protocol == UDP { udp(1, 2, 8, &[]) } else { tcp() };
        header.truncate(shortest);
        assert!(parsed(&v4(protocol, 0, &header)).is_ok(), "{protocol}");
        // Padding behind the packet must not complete the header.
        let mut padded = v4(protocol, 0, &header[..shortest - 1]);
        padded.extend([0; 30]);
        assert_eq!(refused(&padded), DropReason::TransportTruncated, "{protocol}");
        // A first fragment has to hold all of it (RFC 1858, RFC 7112).
        assert_eq!(
            refused(&v4(protocol, 0x2000, &header[..shortest - 1])),
            DropReason::FragmentTiny,
            "{protocol}"
        );
    }
    assert_eq!(
        refused(&v6(ICMP6, &[128, 0, 0, 0])),
        DropReason::TransportTruncated
    );
    assert_eq!(
        refused(&v4(TCP, 0, &set(tcp(), 12, 0x40))),
        DropReason::TransportBadLength
    );
    assert_eq!(
        refused(&v4(TCP, 0, &set(tcp(), 12, 0x60))),
        DropReason::TransportBadLength
    );
    assert_eq!(
        refused(&v4(UDP, 0, &udp(1, 2, 7, &[0; 4]))),
        DropReason::TransportBadLength
    );
    assert_eq!(
        refused(&v4(UDP, 0, &udp(1, 2, 13, &[0; 4]))),
        DropReason::TransportBadLength
    );
    assert!(parsed(&v4(UDP, 0, &udp(1, 2, 12, &[0; 4]))).is_ok());
}

#[test]
fn fragments() {
    // RFC 1858 section 4.2: offsets 1 and 2 lie inside the TCP header.
    for offset in 1..3 {
        assert_eq!(refused(&v4(TCP, offset, &[0; 40])), DropReason::FragmentTiny);
    }
    for (protocol, ports) in [
        (TCP, Ports::Unknown),
        (UDP, Ports::Unknown),
        (ESP, Ports::Absent),
        (47, Ports::Absent),
    ] {
        let packet = parsed(&v4(protocol, 3, &[0; 2])).unwrap();
        assert_eq!(
            (packet.flow.ports, packet.fragment, packet.upper),
            (ports, true, Upper::Other),
            "{protocol}"
        );
    }
    let fragment = |field: u16, next: u8, payload: &[u8]| {
        let mut bytes = vec![next, 0];
        bytes.extend(field.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        v6(44, &bytes)
    };
    // RFC 8200 section 4.5: it may be of any protocol, whatever it says; what looks like a header in it is data.
    for next in [TCP, UDP, ICMP6, ESP, 47, 59, 0, 43, 44, 60] {
        let packet = parsed(&fragment(3 << 3, next, &[TCP, 0, 0, 0, 0, 0, 0, 0])).unwrap();
        assert_eq!(
            (packet.flow.ports, packet.fragment_offset, packet.upper_offset),
            (Ports::Unknown, 24, 48),
            "{next}"
        );
        assert_eq!(
            refused(&fragment(2 << 3, next, &[0; 40])),
            DropReason::FragmentTiny,
            "{next}"
        );
    }
    // A fragment in a fragment hides the ports.
    assert_eq!(refused(&fragment(1, 44, &[0; 40])), DropReason::FragmentUnknown);
    assert_eq!(refused(&fragment(1, TCP, &tcp()[..19])), DropReason::FragmentTiny);
    // RFC 7112: the first fragment holds the whole chain.
    assert_eq!(
        refused(&fragment(1, 60, &[TCP, 4, 0, 0, 0, 0, 0, 0])),
        DropReason::Ipv6ExtensionTruncated
    );
    // An atomic fragment (RFC 6946) is whole.
    let atomic = parsed(&fragment(0, TCP, &tcp())).unwrap();
    assert_eq!((atomic.flow.ports, atomic.fragment), (Ports::Known, false));
}

#[test]
fn neighbour_discovery_comes_from_the_link_and_whole() {
    let message = [135, 0, 0, 0, 0, 0, 0, 0];
    let good = v6(ICMP6, &message);
    assert_eq!(parsed(&good).unwrap().upper, Upper::NeighbourDiscovery);
    assert_eq!(parsed(&set(good, 21, 254)).unwrap().upper, Upper::Other);
    for kind in [132, 138, 128, 255] {
        assert_eq!(
            parsed(&v6(ICMP6, &set(message.to_vec(), 0, kind))).unwrap().upper,
            Upper::Other
        );
    }
    let first_fragment = [&[ICMP6, 0, 0, 1, 0, 0, 0, 0], &message[..]].concat();
    assert_eq!(parsed(&v6(44, &first_fragment)).unwrap().upper, Upper::Other);
}

#[test]
fn listener_discovery_comes_from_the_link_and_whole() {
    // A router alert in front of it, as RFC 3810 section 5 demands.
    let report_to = |destination: &str, kind: u8, hop_limit: u8, source: &str| {
        let message = [[ICMP6, 0, 5, 2, 0, 0, 1, 0], [kind, 0, 0, 0, 0, 0, 0, 0]].concat();
        let mut frame = set(v6(0, &message), 21, hop_limit);
        for (at, address) in [(22, source), (38, destination)] {
            let address: std::net::Ipv6Addr = address.parse().unwrap();
            frame[at..at + 16].copy_from_slice(&address.octets());
        }
        parsed(&frame).unwrap().upper
    };
    let report = |kind, hop_limit, source| report_to("ff02::16", kind, hop_limit, source);
    for kind in [130, 131, 132, 143] {
        // Queries about a group go to the group.
        assert_eq!(
            report_to("ff0e::5", kind, 1, "fe80::1"),
            Upper::NeighbourDiscovery
        );
        assert_eq!(report_to("2001:db8::2", kind, 1, "fe80::1"), Upper::Other);
        assert_eq!(report_to("fe80::2", kind, 1, "fe80::1"), Upper::Other);
        assert_eq!(report(kind, 1, "fe80::1"), Upper::NeighbourDiscovery);
        assert_eq!(report(kind, 1, "::"), Upper::NeighbourDiscovery);
        assert_eq!(report(kind, 2, "fe80::1"), Upper::Other);
        assert_eq!(report(kind, 255, "fe80::1"), Upper::Other);
        assert_eq!(report(kind, 1, "2001:db8::1"), Upper::Other);
        assert_eq!(report(kind, 1, "::1"), Upper::Other);
    }
    for kind in [129, 142, 144] {
        assert_eq!(report(kind, 1, "fe80::1"), Upper::Other);
    }
}

#[test]
fn what_udp_carries_is_read_inside_the_datagram_only() {
    let carries = |frame: &[u8]| {
        let packet = parsed(frame).unwrap();
        (packet.upper, packet.spi)
    };
    let marker = [0; 4];
    assert_eq!(carries(&v4(UDP, 0, &udp(9, 4500, 12, &marker))), (Upper::Ike, 0));
    assert_eq!(
        carries(&v4(UDP, 0, &udp(9, 4500, 12, &[0, 0, 1, 0]))),
        (Upper::UdpEsp, 256)
    );
    assert_eq!(
        carries(&v4(UDP, 0, &udp(9, 4500, 9, &[0xff]))),
        (Upper::NatKeepalive, 0)
    );
    // Bytes behind the UDP length are none of the datagram's, here in the IP packet.
    assert_eq!(carries(&v4(UDP, 0, &udp(9, 4500, 8, &marker))), (Upper::Other, 0));
    assert_eq!(
        carries(&v4(UDP, 0, &udp(9, 4500, 11, &marker))),
        (Upper::Other, 0)
    );
    // A first fragment's UDP length is the whole datagram's and exceeds the packet. What follows the packet in the
    // frame is padding that anybody can write: it must make neither IKE nor ESP of it.
    for padding in [[0; 8], [0, 0, 0x20, 1, 0, 0, 0, 0], [0xff; 8]] {
        for length in [9, 12, 100] {
            let mut frame = v4(UDP, 0x2000, &udp(9, 4500, length, &[]));
            frame.extend(padding);
            assert_eq!(carries(&frame), (Upper::Other, 0), "{padding:?} {length}");
        }
    }
    // With the bytes in the packet it is what it says.
    assert_eq!(
        carries(&v4(UDP, 0x2000, &udp(9, 4500, 100, &[0; 8]))),
        (Upper::Ike, 0)
    );
}

#[test]
fn a_packet_longer_than_its_header_says_is_read_to_its_length_only() {
    let mut frame = v4(TCP, 0, &tcp());
    let exact = parsed(&frame).unwrap();
    frame.extend([0xee; 26]);
    assert_eq!(parsed(&frame).unwrap(), exact);
}
