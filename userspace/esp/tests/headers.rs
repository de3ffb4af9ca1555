//! Headers around ESP against scapy: what outer headers take from inner ones, and the other way round.
//!
//! Needs python3 with scapy and cryptography (Debian: `python3-scapy`, `python3-cryptography`), and fails without.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use ravelin_esp::{DontFragment, DropReason, Dscp, EcnMode, FlowLabel, InnerDscp, OuterOptions};
use serde_json::json;
use support::headers::{HeadersPeer, inbound, outbound, plain_case};
use support::python::hex;
use support::{open_one, seal_one};

/// Every combination of options of the outer header, with inner packets of each kind.
fn each_choice(mut check: impl FnMut(OuterOptions)) {
    for dont_fragment in [DontFragment::Copy, DontFragment::Set, DontFragment::Clear] {
        for dscp in [Dscp::Copy, Dscp::Set(46)] {
            for ecn in [EcnMode::Normal, EcnMode::Compatibility] {
                for flow_label in [FlowLabel::Derived, FlowLabel::Copy, FlowLabel::Zero] {
                    check(OuterOptions {
                        dont_fragment,
                        dscp,
                        ecn,
                        flow_label,
                        hop_limit: 17,
                        ..OuterOptions::default()
                    });
                }
            }
        }
    }
}

/// RFC 4301 section 5.1.2, RFC 6040 section 4.1, RFC 6864 section 4.
#[test]
fn scapy_sees_the_outer_header_that_was_asked_for() {
    let mut scapy = HeadersPeer::start();
    let payload = "UDP(sport=1, dport=2)/Raw(b'x' * 24)";
    // Of each inner packet: its class, whether it may not be fragmented, its flow label.
    let inner: Vec<(Vec<u8>, u64, bool, Option<u64>)> = [
        (
            format!("IP(src='10.0.0.1', dst='10.0.0.2', tos=0xb9)/{payload}"),
            0xb9,
            false,
            None,
        ),
        (
            format!("IP(src='10.0.0.1', dst='10.0.0.2', tos=0x2b, flags='DF')/{payload}"),
            0x2b,
            true,
            None,
        ),
        (
            "IP(src='10.0.0.1', dst='10.0.0.2', tos=3, flags='MF', id=9)/Raw(b'x' * 24)".to_owned(),
            3,
            false,
            None,
        ),
        (
            format!("IPv6(src='fd00::1', dst='fd00::2', tc=0xfe, fl=0x12345)/{payload}"),
            0xfe,
            true,
            Some(0x12345),
        ),
        (
            format!("IPv6(src='fd00::1', dst='fd00::2', tc=1, fl=0)/{payload}"),
            1,
            true,
            Some(0),
        ),
    ]
    .into_iter()
    .map(|(expression, class, df, label)| (scapy.build(&expression), class, df, label))
    .collect();
    each_choice(|options| {
        for outer_v6 in [false, true] {
            let case = plain_case(true, outer_v6);
            let sa = outbound(case, |parameters| parameters.outer = options);
            let peer = case.inbound();
            let mut derived = None;
            for (clear, class, inner_df, inner_label) in &inner {
                let context = format!("{options:?} around {}", hex(clear));
                let (wire, _) = seal_one(&sa, clear).unwrap();
                let seen = scapy.fields(&wire);
                let dscp = match options.dscp {
                    Dscp::Copy => class / 4,
                    Dscp::Set(dscp) => dscp.into(),
                };
                let ecn = match options.ecn {
                    EcnMode::Normal => class % 4,
                    EcnMode::Compatibility => 0,
                };
                assert_eq!(seen["class"], dscp * 4 + ecn, "{context}");
                assert_eq!(seen["hop_limit"], 17, "{context}");
                assert_eq!(seen["length"], wire.len(), "{context}");
                if outer_v6 {
                    let label = seen["label"].as_u64().unwrap();
                    match (options.flow_label, inner_label) {
                        (FlowLabel::Zero, _) => assert_eq!(label, 0, "{context}"),
                        (FlowLabel::Copy, Some(inner)) => assert_eq!(label, *inner, "{context}"),
                        _ => {
                            assert_ne!(label, 0, "{context}");
                            assert_eq!(*derived.get_or_insert(label), label, "{context}");
                        }
                    }
                } else {
                    let df = match options.dont_fragment {
                        DontFragment::Copy => *inner_df,
                        DontFragment::Set => true,
                        DontFragment::Clear => false,
                    };
                    assert_eq!(seen["df"], df, "{context}");
                    assert_eq!(seen["fragment"], false, "{context}");
                    assert_eq!(seen["id"] == 0, df, "{context}");
                    assert_eq!(seen["valid"], true, "{context}");
                }
                // Compatibility mode hides marks; the way out is always RFC 6040's, and loses nothing here.
                assert_eq!(open_one(&peer, &wire).unwrap().0, *clear, "{context}");
            }
        }
    });
}

/// RFC 6040 section 4.2 and RFC 2983: every pair of outer and inner ECN, with the DSCP kept and copied, both families
/// in both.
#[test]
fn what_scapy_tunnels_leaves_with_the_right_traffic_class() {
    let mut scapy = HeadersPeer::start();
    for outer_v6 in [false, true] {
        for inner_v6 in [false, true] {
            for inner_dscp in [InnerDscp::Keep, InnerDscp::Copy] {
                let case = plain_case(true, outer_v6);
                let mut unexpected = 0;
                let mut seen_unexpected = 0;
                for (outer_ecn, inner_ecn) in (0..16).map(|pair| (pair / 4, pair % 4)) {
                    let (outer, inner) = (10 * 4 + outer_ecn, 46 * 4 + inner_ecn);
                    let (source, destination) = case.endpoints();
                    let header = |v6: bool, source: &str, destination: &str, class: u8| {
                        let (name, field) = if v6 { ("IPv6", "tc") } else { ("IP", "tos") };
                        format!("{name}(src='{source}', dst='{destination}', {field}={class})")
                    };
                    let tunnel = header(outer_v6, &source.to_string(), &destination.to_string(), outer);
                    let ends = if inner_v6 {
                        ["fd00::1", "fd00::2"]
                    } else {
                        ["10.0.0.1", "10.0.0.2"]
                    };
                    let clear = scapy.build(&format!(
                        "{}/UDP()/Raw(b'x')",
                        header(inner_v6, ends[0], ends[1], inner)
                    ));
                    let wire = scapy.seal(case, &json!({ "tunnel_header": tunnel }), &clear);
                    // scapy 2.5 gives a tunnel over IPv6 the inner class; what routers do on the way is done here.
                    let wire = with_class(wire, outer);
                    let sa = inbound(case, |parameters| parameters.outer.inner_dscp = inner_dscp);
                    let opened = open_one(&sa, &wire);
                    seen_unexpected += sa.unexpected_ecn();
                    // By the words of section 4.2: what the inner field says stands, unless the outer one is CE, or
                    // ECT(1) around ECT(0).
                    unexpected += u64::from(matches!((outer_ecn, inner_ecn), (1..=3, 0) | (2, 1) | (1, 3)));
                    let ecn = match (outer_ecn, inner_ecn) {
                        (3, 0) => {
                            assert_eq!(opened, Err(DropReason::EcnNotCapable));
                            continue;
                        }
                        (3, _) => 3,
                        (1, 2) => 1,
                        _ => inner_ecn,
                    };
                    let dscp = match inner_dscp {
                        InnerDscp::Keep => 46,
                        InnerDscp::Copy => 10,
                    };
                    let opened = opened.unwrap().0;
                    let context = format!("{outer:08b} around {inner:08b}, {inner_dscp:?}");
                    assert_eq!(scapy.fields(&opened)["class"], dscp * 4 + ecn, "{context}");
                    if !inner_v6 {
                        assert_eq!(scapy.fields(&opened)["valid"], true, "{context}");
                    }
                }
                assert_eq!((unexpected, seen_unexpected), (5, 5));
            }
        }
    }
}

/// The packet with another traffic class in its first header.
fn with_class(mut packet: Vec<u8>, class: u8) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[0] = 0x60 | class >> 4;
        packet[1] = packet[1] & 0x0f | class << 4;
    } else {
        packet[1] = class;
        packet[10..12].fill(0);
        let sum = support::checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}
