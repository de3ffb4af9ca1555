//! What is seen of the packet that an ICMP error quotes, byte by byte.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ravelin_xdp_common::{Address, Flow, IpPacket, Ports, SliceReader, address_v6, mapped_v4, parse_ip};

const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;

fn v4(protocol: u8, field: u16, options: usize, upper: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45 + options as u8, 0, 0, 0, 0, 1];
    packet.extend(field.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(vec![1; 4 * options]);
    packet.extend(upper);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn v6(next: u8, behind: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((behind.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend([0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    packet.extend(behind);
    packet
}

/// An error of this type about `quote`, and bytes that do not belong to it.
fn error(kind: u8, quote: &[u8], padding: usize) -> Vec<u8> {
    let icmp = [&[kind, 1, 0, 0, 0, 0, 0, 0], quote].concat();
    let mut packet = if quote.first().is_some_and(|first| first >> 4 == 6) {
        v6(58, &icmp)
    } else {
        v4(1, 0, 0, &icmp)
    };
    packet.extend(vec![0x45; padding]);
    packet
}

/// What an error about `quote` is taken to be about; bytes behind it change nothing.
fn quoted(quote: &[u8]) -> Option<Flow> {
    let kind = if quote[0] >> 4 == 6 { 1 } else { 3 };
    let [first, second] = [0, 64].map(|padding| {
        let bytes = error(kind, quote, padding);
        let mut packet = IpPacket::EMPTY;
        parse_ip(&SliceReader(&bytes), &mut packet).unwrap();
        assert!(packet.is_icmp_error());
        packet.quoted(&SliceReader(&bytes))
    });
    assert_eq!(first, second);
    first
}

fn ports(flow: &Flow) -> (Ports, u16, u16) {
    (flow.ports, flow.source_port, flow.destination_port)
}

fn with_ports(source: u16, destination: u16, rest: &[u8]) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), rest].concat()
}

#[test]
fn the_selector_values_are_those_of_the_quoted_packet_as_it_went() {
    let ends: [[Address; 2]; 2] = [
        [mapped_v4([10, 0, 0, 1]), mapped_v4([10, 0, 0, 2])],
        [
            address_v6([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]),
            address_v6([0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]),
        ],
    ];
    for protocol in [TCP, UDP, 33, 132, 136] {
        let upper = with_ports(1234, 80, &[0; 4]);
        let options = v4(protocol, 0, 10, &upper);
        let atomic = [&[protocol, 0, 0, 0, 0, 0, 0, 9], &upper[..]].concat();
        let chain = [
            &[60, 1, 0, 0, 0, 0, 0, 0],
            &[0; 8][..],
            &[protocol, 0, 0, 0, 0, 0, 0, 0],
            &upper,
        ]
        .concat();
        for (quote, family) in [
            (v4(protocol, 0, 0, &upper), 0),
            (v4(protocol, 0x2000, 0, &upper), 0),
            (options, 0),
            (v6(protocol, &upper), 1),
            (v6(44, &atomic), 1),
            (v6(0, &chain), 1),
        ] {
            let flow = quoted(&quote).unwrap();
            assert_eq!([flow.source, flow.destination], ends[family]);
            assert_eq!(flow.protocol, protocol, "{quote:02x?}");
            assert_eq!(ports(&flow), (Ports::Known, 1234, 80), "{quote:02x?}");
        }
    }
    // Type and code.
    let echo = quoted(&v4(1, 0, 0, &[8, 3, 0, 0])).unwrap();
    assert_eq!(ports(&echo), (Ports::Known, 8, 3));
    let echo = quoted(&v6(58, &[128, 2, 0, 0])).unwrap();
    assert_eq!(ports(&echo), (Ports::Known, 128, 2));
    let none = quoted(&v4(GRE, 0, 0, &[1, 2, 3, 4])).unwrap();
    assert_eq!(ports(&none), (Ports::Absent, 0, 0));
}

#[test]
fn ports_that_are_not_quoted_are_unknown() {
    let upper = with_ports(1234, 80, &[]);
    for quote in [
        v4(UDP, 0, 0, &upper[..3]),
        v4(TCP, 0, 0, &[]),
        v4(UDP, 3, 0, &upper),
        // The header itself is cut.
        v4(UDP, 0, 5, &[])[..20].to_vec(),
        v6(UDP, &upper[..3]),
        // Of a later fragment, and behind a header that is cut, not even the protocol is certain.
        v6(44, &[&[GRE, 0, 0, 24, 0, 0, 0, 9], &upper[..]].concat()),
        v6(44, &[&[ESP, 0, 0, 24, 0, 0, 0, 9], &upper[..]].concat()),
        v6(0, &[GRE, 0, 0, 0, 0, 0, 0]),
        v6(
            0,
            &[
                &[60, 0, 0, 0, 0, 0, 0, 0].repeat(4)[..],
                &[ESP, 0, 0, 0, 0, 0, 0, 0],
                &upper,
            ]
            .concat(),
        ),
        v6(0, &[&[UDP, 255, 0, 0, 0, 0, 0, 0], &upper[..]].concat()),
    ] {
        let flow = quoted(&quote).unwrap();
        assert_eq!(ports(&flow), (Ports::Unknown, 0, 0), "{quote:02x?}");
    }
    // What has no ports lacks none.
    for protocol in [GRE, ESP, AH] {
        assert_eq!(quoted(&v4(protocol, 3, 0, &[])).unwrap().ports, Ports::Absent);
        assert_eq!(quoted(&v4(protocol, 0, 0, &[0; 8])).unwrap().ports, Ports::Absent);
        assert_eq!(quoted(&v6(protocol, &[])).unwrap().ports, Ports::Absent);
    }
}

#[test]
fn less_than_an_ip_header_is_no_quote() {
    let whole = v4(UDP, 0, 0, &with_ports(1, 2, &[]));
    assert!(quoted(&whole[..20]).is_some());
    for length in 1..20 {
        assert_eq!(quoted(&whole[..length]), None);
    }
    let whole = v6(UDP, &with_ports(1, 2, &[]));
    assert!(quoted(&whole[..40]).is_some());
    for length in 1..40 {
        assert_eq!(quoted(&whole[..length]), None);
    }
    let mut short = v4(UDP, 0, 0, &[0; 8]);
    for first in [0x44, 0x40, 0x55, 0x05] {
        short[0] = first;
        assert_eq!(quoted(&short), None, "{first:x}");
    }
    // One of the other family.
    let icmp = [&[3, 1, 0, 0, 0, 0, 0, 0], &v6(UDP, &[0; 8])[..]].concat();
    let bytes = v4(1, 0, 0, &icmp);
    let mut packet = IpPacket::EMPTY;
    parse_ip(&SliceReader(&bytes), &mut packet).unwrap();
    assert_eq!(packet.quoted(&SliceReader(&bytes)), None);
}

#[test]
fn errors_are_those_messages_that_quote() {
    let kind_of = |bytes: &[u8]| {
        let mut packet = IpPacket::EMPTY;
        parse_ip(&SliceReader(bytes), &mut packet).unwrap();
        packet.is_icmp_error()
    };
    for kind in 0..=255 {
        let about = [v4(UDP, 0, 0, &[0; 8]), v6(UDP, &[0; 8])].map(|quote| kind_of(&error(kind, &quote, 0)));
        let expected = [[3, 4, 5, 11, 12].contains(&kind), [1, 2, 3, 4].contains(&kind)];
        assert_eq!(about, expected, "{kind}");
    }
    // A later fragment has no type, and ICMP of the other family is none.
    assert!(!kind_of(&v4(1, 3, 0, &[3; 40])));
    assert!(!kind_of(&v4(58, 0, 0, &[1; 40])));
    // A first fragment quotes.
    assert!(kind_of(&v4(1, 0x2000, 0, &[3; 40])));
}
