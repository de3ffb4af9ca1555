//! The parser against scapy, an implementation by others: frames that scapy made, and what scapy says they are.
//!
//! Needs python3 with scapy (Debian: `python3-scapy`), and fails without.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::IpAddr;
use std::process::Command;

use ravelin_xdp_common::{
    DropReason, Family, Frame, IpPacket, Ports, SliceReader, address_v6, mapped_v4, parse, parse_ip,
};
use serde_json::Value;

/// What scapy made: the frame's bytes and its description.
fn frames() -> Vec<(Vec<u8>, Value)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scapy_frames.py");
    let output = Command::new("/usr/bin/python3")
        .arg(script)
        .output()
        .expect("/usr/bin/python3 is needed: apt install python3-scapy");
    assert!(
        output.status.success(),
        "scapy failed (apt install python3-scapy): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).unwrap();
            let hex = value["frame"].as_str().unwrap();
            let bytes = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
            (bytes.collect(), value)
        })
        .collect()
}

fn parsed(bytes: &[u8]) -> Result<(Frame, IpPacket), DropReason> {
    let mut packet = IpPacket::EMPTY;
    parse(&SliceReader(bytes), &mut packet).map(|frame| (frame, packet))
}

#[test]
fn every_field_is_as_scapy_says() {
    let frames = frames();
    assert!(frames.len() >= 1000, "{}", frames.len());
    for (bytes, expected) in &frames {
        let (frame, packet) = parsed(bytes).unwrap_or_else(|reason| panic!("{reason:?}: {expected}"));
        if let Some(kind) = expected["kind"].as_str() {
            assert_eq!(format!("{frame:?}"), kind);
            continue;
        }
        assert_eq!(frame, Frame::Ip, "{expected}");
        check(&packet, expected);
        // The same without its Ethernet header, as after decryption.
        let mut inner = IpPacket::EMPTY;
        let start = usize::from(packet.l3_offset);
        parse_ip(
            &SliceReader(&bytes[start..start + usize::from(packet.l3_length)]),
            &mut inner,
        )
        .unwrap();
        assert_eq!(
            inner,
            IpPacket {
                l3_offset: 0,
                ..packet
            },
            "{expected}"
        );
    }
}

fn check(packet: &IpPacket, expected: &Value) {
    let number = |key: &str| expected[key].as_u64().unwrap();
    let address = |key: &str| match expected[key].as_str().unwrap().parse().unwrap() {
        IpAddr::V4(v4) => mapped_v4(v4.octets()),
        IpAddr::V6(v6) => address_v6(v6.octets()),
    };
    let flow = &packet.flow;
    assert_eq!(
        flow.family,
        if number("version") == 4 {
            Family::V4
        } else {
            Family::V6
        },
        "{expected}"
    );
    assert_eq!(
        (flow.source, flow.destination),
        (address("source"), address("destination")),
        "{expected}"
    );
    assert_eq!(u64::from(flow.protocol), number("protocol"), "{expected}");
    let (ports, source, destination) = match &expected["ports"] {
        Value::Array(pair) => (Ports::Known, pair[0].as_u64().unwrap(), pair[1].as_u64().unwrap()),
        Value::String(word) if word == "unknown" => (Ports::Unknown, 0, 0),
        Value::String(word) if word == "absent" => (Ports::Absent, 0, 0),
        other => panic!("{other}"),
    };
    assert_eq!(flow.ports, ports, "{expected}");
    assert_eq!(
        (u64::from(flow.source_port), u64::from(flow.destination_port)),
        (source, destination),
        "{expected}"
    );
    assert_eq!(
        format!("{:?}", packet.upper),
        expected["upper"].as_str().unwrap(),
        "{expected}"
    );
    assert_eq!(u64::from(packet.spi), number("spi"), "{expected}");
    assert_eq!(
        packet.fragment,
        expected["fragment"].as_bool().unwrap(),
        "{expected}"
    );
    assert_eq!(u64::from(packet.l3_offset), number("l3_offset"), "{expected}");
    assert_eq!(u64::from(packet.l3_length), number("l3_length"), "{expected}");
    assert_eq!(
        u64::from(packet.upper_offset),
        number("upper_offset"),
        "{expected}"
    );
}

#[test]
fn a_frame_cut_anywhere_inside_its_packet_is_refused() {
    for (bytes, expected) in frames() {
        let whole = parsed(&bytes).unwrap();
        let end = expected["l3_offset"].as_u64().zip(expected["l3_length"].as_u64());
        for length in 0..bytes.len() {
            let cut = parsed(&bytes[..length]);
            match end {
                // Behind the packet there is only padding, which nothing may depend on.
                Some((offset, l3_length)) if length as u64 >= offset + l3_length => {
                    assert_eq!(cut, Ok(whole), "{length} of {expected}");
                }
                Some(_) => assert!(cut.is_err(), "{length} of {expected}"),
                // ARP and unknown protocols are known by their EtherType alone.
                None => assert!(
                    cut == Ok(whole) || cut == Err(DropReason::EthernetTruncated),
                    "{length}"
                ),
            }
        }
    }
}

#[test]
fn bits_flipped_anywhere_keep_offsets_inside_the_frame() {
    for (bytes, _) in frames() {
        for bit in 0..bytes.len().min(120) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok((Frame::Ip, packet)) = parsed(&flipped) {
                assert!(packet.upper_offset <= packet.l3_length);
                assert!(usize::from(packet.l3_offset) + usize::from(packet.l3_length) <= flipped.len());
            }
        }
    }
}
