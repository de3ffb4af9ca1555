//! The packets: in, on and beside what the rules say, the lifeline, ESP, and whatever an attacker makes of them.

use std::net::IpAddr;

use ravelin_classifier::arbitrary::{self, Rng};
use ravelin_classifier::reference::{Packet, Transport};
use ravelin_policy::Policy;
use ravelin_xdp_common::{DropReason, InboundEndpoint, address_bytes};

use crate::frame::{Content, Envelope, Fragment, Made, Piece, Truth, ethernet, frame};
use crate::world::World;

/// Longest frame: those of more than a page less head and tail room the kernel gives XDP programs in several buffers.
const LONGEST: usize = 9014;

/// Frames for a policy, about a third of them mangled. Each has the 14 bytes that the kernel wants.
pub(crate) fn frames(rng: &mut Rng, policy: Option<&Policy>, count: usize) -> Vec<Made> {
    let mut frames = Vec::with_capacity(count + 4);
    while frames.len() < count {
        match rng.below(20) {
            0 => frames.push(garbage(rng)),
            1 => frames.push(malformed(rng, policy)),
            2..=7 => {
                let made = whole_frame(rng, policy);
                frames.push(mangled(rng, made));
            }
            8 => frames.append(&mut datagram(rng, policy)),
            9 => frames.append(&mut esp_datagram(rng)),
            _ => frames.push(whole_frame(rng, policy)),
        }
    }
    frames.truncate(count);
    frames
}

/// Frames as they were meant.
pub(crate) fn whole_frames(rng: &mut Rng, policy: Option<&Policy>, count: usize) -> Vec<Made> {
    (0..count).map(|_| whole_frame(rng, policy)).collect()
}

/// A TCP packet that no own address and no SA has to do with.
pub(crate) fn tcp_v4() -> Vec<u8> {
    let mut rng = Rng::new(0);
    let ends = ("203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap());
    let mut tcp = vec![0; 20];
    tcp[12] = 0x50;
    frame(&mut rng, &Envelope::PLAIN, ends, 6, &tcp).0
}

/// A frame that is neither IP nor ARP.
pub(crate) fn lldp() -> Vec<u8> {
    let mut bytes = ethernet(&[], 0x88cc);
    bytes.extend([0; 46]);
    bytes
}

fn whole_frame(rng: &mut Rng, policy: Option<&Policy>) -> Made {
    match rng.below(20) {
        0 => other_protocol(rng),
        1 | 2 => neighbour_discovery(rng),
        3..=6 => esp(rng),
        7 => path_mtu(rng),
        8 => lifeline(rng),
        _ => {
            let packet = selected(rng, policy);
            packet_frame(rng, packet)
        }
    }
}

/// A packet that the policy's filters have to do with.
fn selected(rng: &mut Rng, policy: Option<&Policy>) -> Packet {
    let Some(policy) = policy else {
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.1.1.2".parse().unwrap());
        return Packet {
            source,
            destination,
            protocol: 17,
            transport: Transport::Ports(53, 40_000),
        };
    };
    loop {
        let (packet, _) = arbitrary::packet(rng, policy);
        // These values stand for extension headers in IPv6 and cannot be the upper layer.
        let later = packet.transport == Transport::LaterFragment;
        if packet.source.is_ipv4() || later || !matches!(packet.protocol, 0 | 43 | 44 | 60) {
            return packet;
        }
    }
}

/// ARP, and EtherTypes that are nothing to Ravelin.
fn other_protocol(rng: &mut Rng) -> Made {
    let (ether_type, content) = *rng.pick(&[
        (0x0806, Content::Arp),
        (0x88cc, Content::NonIp),
        (0x8864, Content::NonIp),
        (0x0026, Content::NonIp),
        (0x9100, Content::NonIp),
    ]);
    let envelope = Envelope::arbitrary(rng);
    let mut bytes = ethernet(&envelope.tags, ether_type);
    bytes.extend((0..rng.below(60)).map(|_| rng.bits() as u8));
    let nobody: IpAddr = "0.0.0.0".parse().unwrap();
    Made {
        bytes,
        truth: Some(Truth {
            packet: Packet {
                source: nobody,
                destination: nobody,
                protocol: 0,
                transport: Transport::Absent,
            },
            content,
            fragment: None,
            l3_offset: 0,
            l3_length: 0,
            malformed: None,
        }),
    }
}

/// ICMPv6 133 to 137, and 130 to 132 and 143, to destinations on the link and off it, with hop limits true and false.
fn neighbour_discovery(rng: &mut Rng) -> Made {
    let to = [
        "ff02::1",
        "ff02::1:ff00:1",
        "ff02::16",
        "fe80::2",
        "2001:db8::1",
        "fd00:0:1:1:8000::1",
        "fd00::1",
        "ff05::2",
    ];
    let near = 129 + rng.below(10) as u16;
    let packet = Packet {
        source: rng.pick(&["fe80::1", "::", "fd00::9"]).parse().unwrap(),
        destination: rng.pick(&to).parse().unwrap(),
        protocol: 58,
        transport: Transport::Ports(*rng.pick(&[143, 144, near, near]), 0),
    };
    packet_frame(rng, packet)
}

/// IKE, NAT keepalives, and what looks alike, to this machine and through it.
fn lifeline(rng: &mut Rng) -> Made {
    let ends = [
        ("192.0.2.1", "198.51.100.9"),
        ("10.0.0.1", "10.0.0.2"),
        ("10.0.0.2", "10.1.0.2"),
        ("2001:db8::1", "2001:db8::9"),
        ("fd00::1", "fd00::2"),
        // An own IPv4 address in an IPv6 header is not an own address.
        ("::ffff:192.0.2.1", "::ffff:192.0.2.9"),
    ];
    let (source, destination) = *rng.pick(&ends);
    let mut port = || *rng.pick(&[500, 500, 4500, 4500, 4500, 501, 40_000]);
    let transport = Transport::Ports(port(), port());
    let packet = Packet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 17,
        transport,
    };
    let packet = if rng.chance(50) { packet.reversed() } else { packet };
    packet_frame(rng, packet)
}

/// What a router says about a packet of ours that was too big, now and then about one of others.
fn path_mtu(rng: &mut Rng) -> Made {
    let endpoints = World::endpoints();
    let (spi, endpoint) = *rng.pick(&endpoints);
    let quoted = esp_packet(&endpoint).reversed();
    let v4 = endpoint.family == 4;
    let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
    let packet = Packet {
        source: if v4 { "203.0.113.9" } else { "2001:db8:9::9" }.parse().unwrap(),
        destination: if rng.chance(90) {
            quoted.source
        } else {
            quoted.destination
        },
        protocol: if v4 { 1 } else { 58 },
        transport: match rng.below(10) {
            0 => Transport::Ports(kind, code + 1),
            1 => Transport::Ports(kind + 1, code),
            _ => Transport::Ports(kind, code),
        },
    };
    let (spi, known) = match rng.below(6) {
        0 => (spi ^ 0x100, false),
        1 => {
            let other = *rng.pick(&endpoints);
            (other.0, other.0 == spi)
        }
        _ => (spi, true),
    };
    let spi = World::outbound_key(spi, &endpoint).spi;
    let protection = if endpoint.encapsulation == 2 {
        [&[4, 5, 0, 0], &spi.to_be_bytes()[..]].concat()
    } else {
        spi.to_be_bytes().to_vec()
    };
    let body = [protection, (rng.bits() as u32).to_be_bytes().to_vec()].concat();
    let body = upper(rng, &quoted, &body);
    let envelope = Envelope {
        options: if v4 { rng.below(3) } else { 0 },
        ..Envelope::PLAIN
    };
    let ends = (quoted.source, quoted.destination);
    let (frame, l3_offset, _) = frame(rng, &envelope, ends, quoted.protocol, &body);
    let mut quote = frame[l3_offset.into()..].to_vec();
    let whole = rng.chance(80);
    if whole {
        quote.extend((0..rng.below(60)).map(|_| rng.bits() as u8));
    } else {
        quote.truncate(rng.below(quote.len()));
    }
    let mut made = carry(rng, packet, &quote);
    let asked = packet.transport == Transport::Ports(kind, code);
    if let Some(truth) = made.truth.as_mut().filter(|_| asked) {
        truth.content = Content::PathMtu((known && whole).then_some(endpoint.slot));
    }
    made
}

/// The selector values of ESP or AH for an inbound SA.
fn esp_packet(endpoint: &InboundEndpoint) -> Packet {
    let ip = |address| -> IpAddr {
        let v6 = std::net::Ipv6Addr::from(address_bytes(address));
        if endpoint.family == 4 {
            v6.to_ipv4_mapped().unwrap().into()
        } else {
            v6.into()
        }
    };
    let udp = endpoint.encapsulation == 1;
    Packet {
        source: ip(endpoint.remote),
        destination: ip(endpoint.local),
        protocol: match endpoint.encapsulation {
            0 => 50,
            1 => 17,
            _ => 51,
        },
        transport: if udp {
            Transport::Ports(endpoint.remote_port, endpoint.local_port)
        } else {
            Transport::Absent
        },
    }
}

/// ESP over IP and over UDP, and AH: of a known SA, and of one that differs in a single respect.
fn esp(rng: &mut Rng) -> Made {
    let endpoints = World::endpoints();
    let (spi, endpoint) = *rng.pick(&endpoints);
    let udp = endpoint.encapsulation == 1;
    let mut packet = esp_packet(&endpoint);
    match rng.below(12) {
        0 => packet = packet.reversed(),
        1 => packet.source = packet.destination,
        2 => {
            // The other encapsulation.
            packet.protocol = match packet.protocol {
                17 => 50,
                50 => *rng.pick(&[17, 51]),
                _ => 50,
            };
            packet.transport = if packet.protocol == 17 {
                Transport::Ports(4500, 4500)
            } else {
                Transport::Absent
            };
        }
        3 if udp => packet.transport = Transport::Ports(4500, 4501),
        4 => {
            packet.source = if endpoint.family == 4 {
                "192.0.2.99".parse().unwrap()
            } else {
                "2001:db8::99".parse().unwrap()
            };
        }
        _ => {}
    }
    let spi = match rng.below(8) {
        0 => rng.below(256) as u32,
        1 => rng.bits() as u32,
        2 => endpoints[rng.below(endpoints.len())].0,
        _ => spi,
    };
    let mut body = Vec::new();
    if packet.protocol == 51 {
        // Next header, length and two bytes that are reserved.
        body.extend([6, 5, 0, 0]);
    }
    body.extend(spi.to_be_bytes());
    let rest = if rng.chance(20) {
        rng.below(40)
    } else {
        32 + rng.below(100)
    };
    body.extend((0..rest).map(|_| rng.bits() as u8));
    carry(rng, packet, &body)
}

/// A frame for these selector values, with a payload that fits.
fn packet_frame(rng: &mut Rng, packet: Packet) -> Made {
    let length = match rng.below(200) {
        0..4 => 3300 + rng.below(5600),
        4..14 => rng.below(1400),
        _ => rng.below(64),
    };
    let mut body: Vec<u8> = (0..length).map(|_| rng.bits() as u8).collect();
    if let (17, Transport::Ports(source, destination)) = (packet.protocol, packet.transport)
        && (source == 4500 || destination == 4500)
    {
        let front: &[u8] = match rng.below(6) {
            0 => &[0, 0, 0, 0],
            1 => &[0, 0, 0x20, 0x01],
            2 => &[0, 0, 0, 255],
            3 => &[],
            _ => {
                // Keepalives, and what is a byte too long or of another value.
                body.truncate(rng.below(4));
                &[0xff]
            }
        };
        body.splice(0..0, front.iter().copied());
    } else if matches!(packet.protocol, 50 | 51) {
        body.extend([0; 8]);
    }
    carry(rng, packet, &body)
}

/// Fragments of one datagram in any order of arrival, and now and then a second first one.
fn datagram(rng: &mut Rng, policy: Option<&Policy>) -> Vec<Made> {
    let packet = loop {
        let packet = selected(rng, policy);
        if matches!(packet.transport, Transport::Ports(..)) && packet.protocol != 58 {
            break packet;
        }
    };
    let id = rng.below(1 << 16) as u32;
    let first = |rng: &mut Rng, packet, length| {
        let fragment = Fragment {
            id,
            offset: 0,
            more: true,
        };
        fragment_of(rng, packet, fragment, &vec![0; length])
    };
    let mut pieces = vec![first(rng, packet, 48)];
    for index in 0..1 + rng.below(3) {
        let fragment = Fragment {
            id,
            // Behind the first one, or reaching into it.
            offset: (4 + rng.below(12)) as u16,
            more: index % 2 == 0,
        };
        // A later fragment of IPv6 may say of any protocol that it is its own (RFC 8200 section 4.5), also that an extension
        // header comes next.
        let protocol = if packet.source.is_ipv6() && rng.chance(30) {
            *rng.pick(&[0, 6, 17, 43, 44, 47, 50, 51, 58, 59, 60, 255])
        } else {
            packet.protocol
        };
        let packet = Packet {
            protocol,
            transport: Transport::LaterFragment,
            ..packet
        };
        pieces.push(fragment_of(rng, packet, fragment, &[0; 24]));
    }
    if rng.chance(20) {
        // To other ports, and as long as the first or not.
        let transport = Transport::Ports(7, 9);
        let length = if rng.chance(50) { 48 } else { 40 };
        pieces.push(first(rng, Packet { transport, ..packet }, length));
    }
    for index in (1..pieces.len()).rev() {
        pieces.swap(index, rng.below(index + 1));
    }
    pieces
}

/// Fragments of ESP for a known SA, or between its ends for another SPI, in any order of arrival, which may overlap.
fn esp_datagram(rng: &mut Rng) -> Vec<Made> {
    let endpoints = World::endpoints();
    let (spi, endpoint) = *rng.pick(&endpoints);
    let packet = esp_packet(&endpoint);
    let spi = if rng.chance(80) { spi } else { rng.bits() as u32 };
    let id = rng.below(1 << 16) as u32;
    let fragment = |offset, more| Fragment { id, offset, more };
    let mut body = if packet.protocol == 51 {
        vec![6, 5, 0, 0]
    } else {
        Vec::new()
    };
    body.extend(spi.to_be_bytes());
    body.extend([0; 36]);
    let mut pieces = vec![fragment_of(rng, packet, fragment(0, true), &body)];
    let later = Packet {
        transport: match packet.transport {
            Transport::Absent if packet.source.is_ipv4() => Transport::Absent,
            _ => Transport::LaterFragment,
        },
        ..packet
    };
    for index in 0..1 + rng.below(3) {
        let offset = (3 + rng.below(6)) as u16;
        pieces.push(fragment_of(
            rng,
            later,
            fragment(offset, index % 2 == 0),
            &[0; 24],
        ));
    }
    if rng.chance(50) {
        for index in (1..pieces.len()).rev() {
            pieces.swap(index, rng.below(index + 1));
        }
    }
    pieces
}

fn fragment_of(rng: &mut Rng, packet: Packet, fragment: Fragment, body: &[u8]) -> Made {
    let mut envelope = Envelope::arbitrary(rng);
    envelope.fragment = Some(fragment);
    enveloped(rng, packet, envelope, body)
}

/// Puts the upper layer's header in front of `body` and the envelope around it.
fn carry(rng: &mut Rng, packet: Packet, body: &[u8]) -> Made {
    let v4 = packet.source.is_ipv4();
    let mut envelope = Envelope::arbitrary(rng);
    let later = packet.transport == Transport::LaterFragment
        || (v4 && packet.transport == Transport::Absent && rng.chance(10));
    if later {
        let farthest = if rng.chance(50) { 8 } else { 8000 };
        // From the third unit on, as an honest sender's: nearer would be inside the shortest TCP header.
        envelope.fragment = Some(Fragment {
            id: rng.below(3) as u32,
            offset: (3 + rng.below(farthest)) as u16,
            more: rng.chance(50),
        });
    } else if rng.chance(6) {
        envelope.fragment = Some(Fragment {
            id: rng.below(3) as u32,
            offset: 0,
            // Without more: the atomic fragments of RFC 6946. IPv4 has no such thing.
            more: v4 || rng.chance(60),
        });
    }
    enveloped(rng, packet, envelope, body)
}

fn enveloped(rng: &mut Rng, packet: Packet, mut envelope: Envelope, body: &[u8]) -> Made {
    let position = envelope
        .fragment
        .filter(|fragment| fragment.offset > 0 || fragment.more);
    let later = position.is_some_and(|fragment| fragment.offset > 0);
    let upper = if later {
        body.to_vec()
    } else {
        upper(rng, &packet, body)
    };
    if matches!(packet.transport, Transport::Ports(133..=137, _)) && packet.protocol == 58 {
        envelope.hop_limit = *rng.pick(&[255, 255, 255, 254, 64, 0]);
    }
    if matches!(packet.transport, Transport::Ports(130..=132 | 143, _)) && packet.protocol == 58 {
        envelope.hop_limit = *rng.pick(&[1, 1, 1, 255, 2, 0]);
    }
    let content = if later {
        Content::Plain
    } else {
        content(&packet, body, &envelope, position.is_some())
    };
    let ends = (packet.source, packet.destination);
    let (bytes, l3_offset, l3_length) = frame(rng, &envelope, ends, packet.protocol, &upper);
    Made {
        bytes,
        truth: Some(Truth {
            packet,
            content,
            fragment: position.map(|fragment| Piece {
                id: fragment.id,
                offset: usize::from(fragment.offset) * 8,
                length: upper.len(),
            }),
            l3_offset,
            l3_length,
            malformed: None,
        }),
    }
}

fn content(packet: &Packet, body: &[u8], envelope: &Envelope, fragment: bool) -> Content {
    let spi = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let v6 = packet.source.is_ipv6();
    match (packet.protocol, packet.transport) {
        (50, _) => Content::Esp {
            spi: spi(body),
            udp: false,
            length: body.len(),
        },
        (51, _) => Content::Ah {
            spi: spi(&body[4..]),
            length: body.len(),
        },
        (58, Transport::Ports(133..=137, _)) if v6 && envelope.hop_limit == 255 && !fragment => {
            Content::NeighbourDiscovery
        }
        (58, Transport::Ports(130..=132 | 143, _)) if v6 && envelope.hop_limit == 1 && !fragment => {
            match packet.source {
                IpAddr::V6(from)
                    if (from.is_unicast_link_local() || from.is_unspecified())
                        && packet.destination.is_multicast() =>
                {
                    Content::ListenerDiscovery
                }
                _ => Content::Plain,
            }
        }
        (17, Transport::Ports(500, _) | Transport::Ports(_, 500)) => Content::Ike,
        (17, Transport::Ports(4500, _) | Transport::Ports(_, 4500)) => match body {
            [0xff] => Content::Keepalive,
            [0, 0, 0, 0, ..] => Content::Ike,
            [_, _, _, _, ..] => Content::Esp {
                spi: spi(body),
                udp: true,
                length: body.len(),
            },
            _ => Content::Plain,
        },
        _ => Content::Plain,
    }
}

/// The upper layer: header and body.
fn upper(rng: &mut Rng, packet: &Packet, body: &[u8]) -> Vec<u8> {
    let Transport::Ports(source, destination) = packet.transport else {
        return body.to_vec();
    };
    let mut bytes = Vec::new();
    if matches!(packet.protocol, 1 | 58) {
        bytes.extend([source as u8, destination as u8]);
        bytes.extend([0; 6]);
    } else {
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
    }
    match packet.protocol {
        6 => {
            let options = if rng.chance(30) { rng.below(11) } else { 0 };
            bytes.extend([0; 8]);
            bytes.extend([((5 + options) as u8) << 4, 0x10]);
            bytes.extend(vec![1; 6 + 4 * options]);
        }
        17 => {
            bytes.extend(((8 + body.len()) as u16).to_be_bytes());
            bytes.extend([0; 2]);
        }
        136 => bytes.extend([0; 4]),
        33 | 132 => bytes.extend([0; 8]),
        _ => {}
    }
    bytes.extend(body);
    bytes
}

/// Frames with one fault, whose name is known.
fn malformed(rng: &mut Rng, policy: Option<&Policy>) -> Made {
    let packet = loop {
        let packet = selected(rng, policy);
        if matches!(packet.transport, Transport::Ports(..)) {
            break packet;
        }
    };
    let mut envelope = Envelope::arbitrary(rng);
    let v6 = packet.source.is_ipv6();
    let mut upper = upper(rng, &packet, &[0; 40]);
    let reason = match rng.below(7) {
        0 => {
            envelope.tags = vec![0x88a8, 0x8100, 0x8100];
            DropReason::VlanTooDeep
        }
        1 if v6 => {
            envelope.extensions = vec![(60, 0); 9];
            DropReason::Ipv6TooManyExtensions
        }
        2 if v6 => {
            // A fragment inside a fragment.
            envelope.extensions = vec![(60, 0)];
            envelope.fragment = Some(Fragment {
                id: 1,
                offset: 0,
                more: true,
            });
            let ends = (packet.source, packet.destination);
            let (bytes, ..) = frame(rng, &envelope, ends, 44, &[6, 0, 0, 0, 0, 0, 0, 0]);
            return faulty(packet, bytes, DropReason::FragmentUnknown);
        }
        3 => {
            envelope.fragment = Some(Fragment {
                id: 1,
                offset: 0,
                more: true,
            });
            upper.truncate(rng.below(8));
            DropReason::FragmentTiny
        }
        4 if packet.protocol == 17 => {
            let lie = upper.len() as u16 + 1;
            upper[4..6].copy_from_slice(&lie.to_be_bytes());
            DropReason::TransportBadLength
        }
        5 if v6 || packet.protocol == 6 => {
            envelope.fragment = Some(Fragment {
                id: 1,
                offset: 1 + rng.below(2) as u16,
                more: false,
            });
            DropReason::FragmentTiny
        }
        _ => {
            upper.truncate(rng.below(8));
            DropReason::TransportTruncated
        }
    };
    let ends = (packet.source, packet.destination);
    let (bytes, ..) = frame(rng, &envelope, ends, packet.protocol, &upper);
    faulty(packet, bytes, reason)
}

fn faulty(packet: Packet, bytes: Vec<u8>, reason: DropReason) -> Made {
    Made {
        bytes,
        truth: Some(Truth {
            packet,
            content: Content::Plain,
            fragment: None,
            l3_offset: 0,
            l3_length: 0,
            malformed: Some(reason),
        }),
    }
}

/// Cut, with flipped bits, with bytes or length fields overwritten.
fn mangled(rng: &mut Rng, made: Made) -> Made {
    let mut bytes = made.bytes;
    for _ in 0..1 + rng.below(2) {
        // Mostly where headers are.
        let reach = if rng.chance(80) {
            bytes.len().min(90)
        } else {
            bytes.len()
        };
        let at = 12 + rng.below(reach - 12);
        match rng.below(5) {
            0 => bytes.truncate(14.max(at)),
            1 => bytes[at] = rng.bits() as u8,
            2 => bytes[at] = *rng.pick(&[0, 1, 4, 5, 6, 17, 43, 44, 50, 58, 60, 0x45, 0x60, 0xff]),
            3 => {
                let extra = rng.below(64);
                bytes.splice(at..at, vec![0; extra]);
            }
            _ => (0..1 + rng.below(4)).for_each(|_| {
                let bit = rng.below(reach.min(bytes.len()) * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }),
        }
    }
    bytes.truncate(LONGEST);
    Made { bytes, truth: None }
}

/// Bytes that mean nothing, some behind a promising EtherType.
fn garbage(rng: &mut Rng) -> Made {
    let length = 14 + rng.below(120);
    let mut bytes: Vec<u8> = (0..length).map(|_| rng.bits() as u8).collect();
    if rng.chance(80) {
        let ether_type: u16 = *rng.pick(&[0x0800, 0x86dd, 0x8100, 0x88a8]);
        bytes[12..14].copy_from_slice(&ether_type.to_be_bytes());
        if let (Some(first), true) = (bytes.get_mut(14), rng.chance(80)) {
            *first = if ether_type == 0x0800 { 0x45 } else { 0x60 };
        }
    }
    Made { bytes, truth: None }
}
