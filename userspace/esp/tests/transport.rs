//! Transport mode against scapy: where ESP stands among extension headers, and checksums behind a NAT.
//!
//! Needs python3 with scapy and cryptography (Debian: `python3-scapy`, `python3-cryptography`), and fails without.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::Instant;

use ravelin_esp::NatOriginal;
use ravelin_xdp_common::DropReason;
use serde_json::json;
use support::headers::{HeadersPeer, inbound, plain_case};
use support::python::hex;
use support::{Case, Frames, open_one, seal_one};

/// IPv6 header chains in scapy's language, and which of them stay in front of ESP.
const CHAINS: &[(&str, &[&str])] = &[
    ("", &[]),
    (
        "IPv6ExtHdrHopByHop(options=[RouterAlert()])",
        &["IPv6ExtHdrHopByHop"],
    ),
    // A destination options header in front of a routing header is read on the way.
    (
        "IPv6ExtHdrDestOpt(options=[PadN(optdata=b'123456789')])/IPv6ExtHdrRouting(type=0, segleft=0, addresses=['fd00::7'])",
        &["IPv6ExtHdrDestOpt", "IPv6ExtHdrRouting"],
    ),
    (
        "IPv6ExtHdrRouting(type=0, segleft=0, addresses=['fd00::7', 'fd00::8'])",
        &["IPv6ExtHdrRouting"],
    ),
    // RFC 6275: the home address of a mobile node.
    (
        "IPv6ExtHdrRouting(type=2, segleft=0, addresses=['fd00::7'])",
        &["IPv6ExtHdrRouting"],
    ),
    // RFC 8754: segment routing.
    (
        "IPv6ExtHdrSegmentRouting(addresses=['fd00::7', 'fd00::8'], segleft=0, lastentry=1)",
        &["IPv6ExtHdrSegmentRouting"],
    ),
    // An atomic fragment (RFC 6946).
    ("IPv6ExtHdrFragment(offset=0, m=0, id=5)", &["IPv6ExtHdrFragment"]),
    // For the destination alone: protected.
    ("IPv6ExtHdrDestOpt(options=[PadN(optdata=b'1234')])", &[]),
    (
        "IPv6ExtHdrHopByHop()/IPv6ExtHdrDestOpt()/IPv6ExtHdrRouting(type=0, segleft=0, addresses=['fd00::7'])\
         /IPv6ExtHdrFragment(id=9)/IPv6ExtHdrDestOpt(options=[PadN(optdata=b'1234')])",
        &[
            "IPv6ExtHdrHopByHop",
            "IPv6ExtHdrDestOpt",
            "IPv6ExtHdrRouting",
            "IPv6ExtHdrFragment",
        ],
    ),
];

const UPPERS: [&str; 3] = [
    "TCP(sport=1, dport=2)/Raw(b'some bytes')",
    "UDP(sport=1, dport=2)/Raw(b'x')",
    "ICMPv6EchoRequest(data=b'12345')",
];

/// RFC 4303 section 3.1.1: "In the IPv6 context, ESP is viewed as an end-to-end payload, and thus should appear after
/// hop-by-hop, routing, and fragmentation extension headers."
#[test]
fn esp_stands_where_it_should_among_extension_headers() {
    let mut scapy = HeadersPeer::start();
    for udp in [false, true] {
        let case = Case {
            udp,
            ..plain_case(false, true)
        };
        for (chain, in_front) in CHAINS {
            for upper in UPPERS {
                let slash = if chain.is_empty() { "" } else { "/" };
                let clear = scapy.build(&format!(
                    "IPv6(src='2001:db8::1', dst='2001:db8::2')/{chain}{slash}{upper}"
                ));
                let (wire, _) = seal_one(&case.outbound(), &clear).unwrap();
                let expected: Vec<&str> = [&["IPv6"], *in_front].concat();
                assert_eq!(scapy.layers(&wire), expected, "{chain}");
                assert_eq!(open_one(&case.inbound(), &wire).unwrap().0, clear, "{chain}");
                // scapy 2.5 cannot take UDP out of an IPv6 transport-mode packet.
                if !udp {
                    assert_eq!(scapy.open(case, &json!({}), &wire), clear, "{chain}");
                }
                // scapy puts ESP in front of fragment and segment routing headers, and then a whole datagram is no
                // longer what is protected.
                if !udp && !chain.contains("Fragment") && !chain.contains("Segment") {
                    let wire = scapy.seal(case, &json!({}), &clear);
                    assert_eq!(open_one(&case.inbound(), &wire).unwrap().0, clear, "{chain}");
                }
            }
        }
    }
}

/// RFC 4303 section 3.3.4: "transport mode ESP is applied only to whole IP datagrams (not to IP fragments)"; the sealed packet may
/// be longer than the path takes, where it is fragmented afterwards.
#[test]
fn a_datagram_longer_than_the_path_takes_is_sealed_where_that_is_wanted() {
    for v6 in [false, true] {
        let case = plain_case(false, v6);
        let sa = case.outbound();
        sa.set_path_mtu(Some(1500)).unwrap();
        let payload = [7; 40_000];
        let clear = if v6 {
            support::ipv6(0, &[], &payload)
        } else {
            support::ipv4(0, &[], &payload)
        };
        assert_eq!(seal_one(&sa, &clear), Err(DropReason::PacketTooBig));
        let mut frames = Frames::new([&clear]);
        let mut packet = frames.packets().remove(0);
        sa.seal_unfitted(&mut packet, Instant::now()).unwrap();
        assert!(packet.len() > clear.len());
        assert_eq!(open_one(&case.inbound(), packet.bytes()).unwrap().0, clear);
        let too_long = if v6 {
            support::ipv6(0, &[], &[7; 65_520])
        } else {
            support::ipv4(0, &[], &[7; 65_500])
        };
        let mut frames = Frames::new([&too_long]);
        let sealed = sa.seal_unfitted(&mut frames.packets()[0], Instant::now());
        assert_eq!(
            sealed.map(|sealed| sealed.sequence),
            Err(DropReason::PacketTooBig)
        );
    }
}

#[test]
fn options_of_ipv4_stay_in_front() {
    let mut scapy = HeadersPeer::start();
    for udp in [false, true] {
        let case = Case {
            udp,
            ..plain_case(false, false)
        };
        for options in [
            "[]",
            "[IPOption_NOP()] * 4",
            "[IPOption_Router_Alert()]",
            "[IPOption_RR(routers=['192.0.2.9'] * 9), IPOption_EOL()]",
        ] {
            let clear = scapy.build(&format!(
                "IP(src='192.0.2.1', dst='192.0.2.2', id=7, options={options})/TCP(sport=1, dport=2)/Raw(b'x' * 9)"
            ));
            let (wire, _) = seal_one(&case.outbound(), &clear).unwrap();
            let header_len = usize::from(clear[0] & 15) * 4;
            assert_eq!(wire[20..header_len], clear[20..header_len], "{options}");
            assert_eq!(scapy.fields(&wire)["valid"], true, "{options}");
            assert_eq!(open_one(&case.inbound(), &wire).unwrap().0, clear, "{options}");
            if !udp {
                assert_eq!(scapy.open(case, &json!({}), &wire), clear, "{options}");
                let wire = scapy.seal(case, &json!({}), &clear);
                assert_eq!(open_one(&case.inbound(), &wire).unwrap().0, clear, "{options}");
            }
        }
    }
}

/// What the peer sends, from its own address to the one it knows, and what arrives.
struct Nat {
    outer_v6: bool,
    original: [&'static str; 2],
    received: [&'static str; 2],
}

const NATS: [Nat; 4] = [
    Nat {
        outer_v6: false,
        original: ["10.0.0.5", "192.0.2.2"],
        received: ["198.51.100.77", "192.0.2.2"],
    },
    Nat {
        outer_v6: false,
        original: ["10.0.0.5", "203.0.113.9"],
        received: ["198.51.100.77", "192.168.1.2"],
    },
    // No NAT after all.
    Nat {
        outer_v6: false,
        original: ["10.0.0.5", "203.0.113.9"],
        received: ["10.0.0.5", "203.0.113.9"],
    },
    Nat {
        outer_v6: true,
        original: ["fd00::5", "2001:db8:1::9"],
        received: ["2001:db8:77::1234", "fd77::2"],
    },
];

/// What packets carry: right checksums by scapy, odd and even lengths, without a checksum, with headers between, and
/// protocols whose checksum knows no address.
fn payloads(v6: bool) -> Vec<(String, &'static str)> {
    let mut payloads: Vec<(String, &str)> = Vec::new();
    for len in [0, 1, 2, 3, 700, 1401] {
        payloads.push((
            format!("TCP(sport=1, dport=2, flags='S', options=[('MSS', 1400)])/Raw(b'x' * {len})"),
            "",
        ));
        payloads.push((format!("UDP(sport=1, dport=2)/Raw(b'x' * {len})"), ""));
        // UDP-Lite (RFC 3828) over everything, and DCCP (RFC 4340).
        let lite = "bytes.fromhex('0001000200000000')";
        payloads.push((format!("Raw({lite} + b'x' * {len})"), "136, 6"));
        let dccp = "bytes.fromhex('000100020300000001000000')";
        payloads.push((format!("Raw({dccp} + b'x' * {len})"), "33, 6"));
    }
    payloads.push((
        "UDP(sport=1, dport=2, chksum=0)/Raw(b'no checksum')".to_owned(),
        "",
    ));
    payloads.push((
        "SCTP(sport=1, dport=2)/SCTPChunkData(data=b'x' * 9)".to_owned(),
        "",
    ));
    if v6 {
        payloads.push(("ICMPv6EchoRequest(data=b'12345')".to_owned(), ""));
        payloads.push((
            "IPv6ExtHdrHopByHop()/IPv6ExtHdrDestOpt()/TCP(sport=1, dport=2)".to_owned(),
            "",
        ));
        payloads.push((
            "IPv6ExtHdrDestOpt()/UDP(sport=1, dport=2)/Raw(b'x')".to_owned(),
            "",
        ));
    } else {
        payloads.push(("ICMP()/Raw(b'12345')".to_owned(), ""));
    }
    payloads
}

/// A packet of scapy's between two addresses; `protocol` is that of a raw payload, and where its checksum stands.
fn expression(v6: bool, [source, destination]: [&str; 2], payload: &str, protocol: &str) -> String {
    let name = if v6 { "IPv6" } else { "IP" };
    let field = if v6 { "nh" } else { "proto" };
    match protocol.split_once(", ") {
        Some((protocol, at)) => format!(
            "checksummed({name}(src='{source}', dst='{destination}', {field}={protocol})/{payload}, {at})"
        ),
        None => format!("{name}(src='{source}', dst='{destination}')/{payload}"),
    }
}

/// RFC 3948 section 3.1.2: a host behind the NAT would refuse what arrives, were its checksum not corrected.
#[test]
fn checksums_are_right_behind_a_nat() {
    let mut scapy = HeadersPeer::start();
    for nat in &NATS {
        let case = Case {
            udp: true,
            ..plain_case(false, nat.outer_v6)
        };
        let original = NatOriginal {
            source: nat.original[0].parse().unwrap(),
            destination: nat.original[1].parse().unwrap(),
        };
        for (payload, protocol) in payloads(nat.outer_v6) {
            let clear = scapy.build(&expression(nat.outer_v6, nat.original, &payload, protocol));
            let expected = scapy.build(&expression(nat.outer_v6, nat.received, &payload, protocol));
            let sealed = if nat.outer_v6 {
                // scapy 2.5 announces ESP, not UDP, behind extension headers.
                seal_one(&case.outbound(), &clear).unwrap().0
            } else {
                let headers = json!({ "nat_t_header": "UDP(sport=4501, dport=4500)" });
                scapy.seal(case, &headers, &clear)
            };
            let wire = scapy.translate(&sealed, nat.received);
            let sa = inbound(case, |parameters| parameters.nat_original = Some(original));
            let opened = open_one(&sa, &wire).unwrap().0;
            assert_eq!(hex(&opened), hex(&expected), "{payload}");
        }
    }
}

#[test]
fn without_original_addresses_nothing_is_touched() {
    let mut scapy = HeadersPeer::start();
    let case = Case {
        udp: true,
        ..plain_case(false, false)
    };
    let nat = &NATS[0];
    let clear = scapy.build(&expression(false, nat.original, "TCP(sport=1, dport=2)", ""));
    let (sealed, _) = seal_one(&case.outbound(), &clear).unwrap();
    let wire = scapy.translate(&sealed, nat.received);
    let opened = open_one(&case.inbound(), &wire).unwrap().0;
    assert_eq!(opened[20..], clear[20..]);
}
