//! Padding that hides lengths, and dummies: by our own receiver, by scapy and by tshark.
//!
//! Needs python3 with scapy and cryptography, and tshark (Debian: `python3-scapy`, `python3-cryptography`, `tshark`), and fails
//! without.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use ravelin_esp::{DropReason, OutboundSa, Packet, Sealed, TfcPadding};
use serde_json::json;
use support::headers::{HeadersPeer, outbound, plain_case};
use support::python::hex;
use support::{Case, ipv4, ipv6, open_one};

/// Seals in a buffer with so many bytes behind the packet.
fn seal_with_room(sa: &OutboundSa, clear: &[u8], tailroom: usize) -> Result<Vec<u8>, DropReason> {
    seal_by(clear, tailroom, |packet, outcome| {
        sa.seal_batch(packet, outcome, Instant::now());
    })
}

fn dummy(sa: &OutboundSa, bytes: &[u8], tailroom: usize) -> Result<Vec<u8>, DropReason> {
    seal_by(bytes, tailroom, |packet, outcome| {
        outcome[0] = sa.seal_dummy(&mut packet[0], Instant::now());
    })
}

fn seal_by(
    clear: &[u8],
    tailroom: usize,
    seal: impl FnOnce(&mut [Packet<'_>], &mut [Result<Sealed, DropReason>]),
) -> Result<Vec<u8>, DropReason> {
    const HEADROOM: usize = ravelin_esp::MAX_HEADROOM;
    // What was in the buffer before must not get out as padding.
    let mut buffer = vec![0xee; HEADROOM + clear.len() + tailroom];
    buffer[HEADROOM..HEADROOM + clear.len()].copy_from_slice(clear);
    let mut packet = [Packet::new(&mut buffer, HEADROOM..HEADROOM + clear.len()).unwrap()];
    let mut outcome = [Err(DropReason::SaMissing)];
    seal(&mut packet, &mut outcome);
    outcome[0].map(|_| packet[0].bytes().to_vec())
}

/// A packet of `len` bytes.
fn packet(v6: bool, len: usize) -> Vec<u8> {
    if v6 {
        ipv6(0, &[], &vec![7; len - 40])
    } else {
        ipv4(0, &[], &vec![7; len - 20])
    }
}

fn padded(case: Case, tfc_padding: TfcPadding, path_mtu: Option<u32>) -> OutboundSa {
    outbound(case, |parameters| {
        (parameters.tfc_padding, parameters.path_mtu) = (tfc_padding, path_mtu);
    })
}

fn tunnels() -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(|case| case.tunnel)
}

/// The lengths that those who watch see.
fn lengths(sa: &OutboundSa, clear: impl IntoIterator<Item = Vec<u8>>) -> BTreeSet<usize> {
    clear
        .into_iter()
        .map(|clear| seal_with_room(sa, &clear, 2000).unwrap().len())
        .collect()
}

#[test]
fn packets_of_a_tunnel_are_as_long_as_asked_for() {
    for case in tunnels() {
        let all = |lengths: &[usize], v6| {
            lengths
                .iter()
                .map(move |len| packet(v6, *len))
                .collect::<Vec<_>>()
        };
        let short = [40, 41, 42, 43, 100, 511, 512];
        let sa = padded(case, TfcPadding::To(512), Some(1500));
        let seen = lengths(&sa, [all(&short, false), all(&short, true)].concat());
        assert_eq!(Vec::from_iter(seen), [sa.sealed_len(512, 0)], "{case:?}");
        // Longer ones as without padding.
        for len in [513, 1000, 1300] {
            let seen = lengths(&sa, [packet(false, len)]);
            assert_eq!(Vec::from_iter(seen), [sa.sealed_len(len, 0)], "{case:?}");
        }

        for mtu in 1280..1300 {
            let sa = padded(case, TfcPadding::PathMtu, Some(mtu));
            let longest = sa.inner_mtu().unwrap() as usize;
            let seen = lengths(&sa, all(&[40, 41, 1000, longest - 1, longest], false));
            assert_eq!(
                Vec::from_iter(seen),
                [sa.sealed_len(longest, 0)],
                "{case:?} {mtu}"
            );
            assert!(sa.sealed_len(longest, 0) <= mtu as usize);
            // Padding never makes a packet too big.
            let sa = padded(case, TfcPadding::To(9000), Some(mtu));
            let seen = lengths(&sa, all(&[40, longest], false));
            assert_eq!(
                Vec::from_iter(seen),
                [sa.sealed_len(longest, 0)],
                "{case:?} {mtu}"
            );
        }
        let sa = padded(case, TfcPadding::PathMtu, None);
        assert_eq!(
            Vec::from_iter(lengths(&sa, [packet(false, 100)])),
            [sa.sealed_len(100, 0)]
        );
    }
}

#[test]
fn what_was_padded_opens_as_it_was() {
    for case in tunnels() {
        let sa = padded(case, TfcPadding::To(600), None);
        let peer = case.inbound();
        for len in [40, 99, 597, 598, 599, 600, 601] {
            for v6 in [false, true] {
                let clear = packet(v6, len);
                let wire = seal_with_room(&sa, &clear, 2000).unwrap();
                assert_eq!(open_one(&peer, &wire).unwrap().0, clear, "{case:?} {len}");
            }
        }
    }
}

/// RFC 4303 section 2.7: where the payload does not say its length, the receiver could not take padding off.
#[test]
fn transport_mode_pads_only_what_tells_its_length() {
    let mut scapy = HeadersPeer::start();
    let ends = "src='192.0.2.1', dst='192.0.2.2'";
    let ends6 = "src='2001:db8::1', dst='2001:db8::2'";
    for (v6, expression, pads) in [
        (false, format!("IP({ends})/UDP()/Raw(b'x' * 9)"), true),
        (
            false,
            format!("IP({ends}, options=[IPOption_NOP()] * 4)/UDP()/Raw(b'x' * 9)"),
            true,
        ),
        (false, format!("IP({ends})/IP()/ICMP()"), true),
        (false, format!("IP({ends})/IPv6()/ICMPv6EchoRequest()"), true),
        (true, format!("IPv6({ends6})/IPv6ExtHdrHopByHop()/UDP()"), true),
        (false, format!("IP({ends})/TCP()/Raw(b'x' * 9)"), false),
        (false, format!("IP({ends})/ICMP()/Raw(b'x' * 9)"), false),
        (false, format!("IP({ends})/SCTP()"), false),
        (true, format!("IPv6({ends6})/ICMPv6EchoRequest()"), false),
        // Options behind the datagram, and a jumbogram's length.
        (false, format!("IP({ends})/UDP(len=8)/Raw(b'options')"), false),
        (false, format!("IP({ends})/UDP(len=0)"), false),
        (false, format!("IP({ends}, proto=17)/Raw(b'abcde')"), false),
        (false, format!("IP({ends}, proto=4)/Raw(b'E')"), false),
        // Destination options inside ESP: what follows them is not looked for.
        (true, format!("IPv6({ends6})/IPv6ExtHdrDestOpt()/UDP()"), false),
    ] {
        let case = plain_case(false, v6);
        let sa = padded(case, TfcPadding::To(256), Some(1500));
        let clear = scapy.build(&expression);
        let wire = seal_with_room(&sa, &clear, 2000).unwrap();
        let kept = wire
            .windows(4)
            .position(|bytes| bytes == support::SPI.to_be_bytes())
            .unwrap();
        let expected = if pads { 256 } else { clear.len() };
        assert_eq!(wire.len(), sa.sealed_len(expected, kept), "{expression}");
        let opened = open_one(&case.inbound(), &wire).unwrap().0;
        // The receiver finds the packet, and zeros behind what its payload says is all.
        assert_eq!(opened.len(), expected, "{expression}");
        assert_eq!(
            opened[clear.len()..],
            vec![0; expected - clear.len()],
            "{expression}"
        );
        assert_eq!(opened[kept..clear.len()], clear[kept..], "{expression}");
    }
}

/// What does not fit its buffer is refused: nothing is cut off, and no number is spent.
#[test]
fn a_frame_without_room_for_the_padding_is_refused() {
    let case = plain_case(true, false);
    let sa = padded(case, TfcPadding::To(600), None);
    let clear = packet(false, 100);
    // All that is not the packet and not in front of it: 20 bytes of IP, 16 of ESP.
    let needed = sa.sealed_len(600, 0) - 20 - 16 - clear.len();
    for tailroom in [0, 17, needed - 1] {
        assert_eq!(seal_with_room(&sa, &clear, tailroom), Err(DropReason::FrameShort));
        assert_eq!(dummy(&sa, &[0; 600], 17), Err(DropReason::FrameShort));
    }
    assert_eq!(sa.sequence().last_used(), 0);
    assert_eq!(sa.counters().dropped(DropReason::FrameShort), 6);
    let wire = seal_with_room(&sa, &clear, needed).unwrap();
    assert_eq!(open_one(&case.inbound(), &wire).unwrap().0, clear);
}

/// RFC 4303 section 2.6: the receiver discards dummies, and whoever watches cannot tell them from other packets.
#[test]
fn dummies_look_like_packets_and_are_discarded() {
    for case in Case::all() {
        let sa = padded(case, TfcPadding::To(300), Some(1500));
        let peer = case.inbound();
        let (bytes, other) = if case.tunnel {
            (vec![0; 300], packet(false, 60))
        } else {
            let mut packet = packet(case.outer_v6, 300);
            packet[if case.outer_v6 { 6 } else { 9 }] = 59;
            (packet, vec![])
        };
        let wire = dummy(&sa, &bytes, 100).unwrap();
        assert_eq!(open_one(&peer, &wire), Err(DropReason::Dummy), "{case:?}");
        assert_eq!(
            open_one(&peer, &wire),
            Err(DropReason::ReplayDuplicate),
            "{case:?}"
        );
        assert_eq!(peer.counters().dropped(DropReason::Dummy), 1);
        assert_eq!((sa.counters().packets, sa.sequence().last_used()), (1, 1));
        if case.tunnel {
            let other = seal_with_room(&sa, &other, 2000).unwrap();
            assert_eq!(wire.len(), other.len(), "{case:?}");
            // All of the outer headers but checksums and IV.
            let ip = if case.outer_v6 { 0..40 } else { 0..10 };
            assert_eq!(wire[ip.clone()], other[ip], "{case:?}");
        } else {
            let mut udp = bytes;
            udp[if case.outer_v6 { 6 } else { 9 }] = 17;
            assert_eq!(dummy(&sa, &udp, 100), Err(DropReason::NextHeader));
        }
        assert_eq!(
            dummy(&sa, &[0; 1500], 100).unwrap_err(),
            if case.tunnel {
                DropReason::PacketTooBig
            } else {
                DropReason::IpBadVersion
            }
        );
    }
}

#[test]
fn scapy_opens_padded_packets_and_sees_dummies() {
    let mut scapy = HeadersPeer::start();
    for outer_v6 in [false, true] {
        let case = plain_case(true, outer_v6);
        let (source, destination) = case.endpoints();
        let name = if outer_v6 { "IPv6" } else { "IP" };
        let headers = json!({ "tunnel_header": format!("{name}(src='{source}', dst='{destination}')") });
        for padding in [TfcPadding::To(700), TfcPadding::PathMtu] {
            let sa = padded(case, padding, Some(1400));
            for expression in [
                "IP(src='10.0.0.1', dst='10.0.0.2')/TCP()/Raw(b'x' * 99)",
                "IPv6(src='fd00::1', dst='fd00::2')/UDP()/Raw(b'y')",
            ] {
                let clear = scapy.build(expression);
                let wire = seal_with_room(&sa, &clear, 2000).unwrap();
                let opened = scapy.open(case, &headers, &wire);
                assert_eq!(hex(&opened[..clear.len()]), hex(&clear));
                assert!(opened.len() >= 700 && opened[clear.len()..].iter().all(|byte| *byte == 0));
                let protocol = if expression.starts_with("IPv6") { 41 } else { 4 };
                assert_eq!(scapy.next_header(case, &wire), protocol);
            }
            let wire = dummy(&sa, &[0; 700], 100).unwrap();
            assert_eq!(scapy.next_header(case, &wire), 59);
        }
    }
}

/// What tshark shows of each packet of a capture without link layer, given the SA's key: fields of the innermost layer.
fn tshark(case: Case, packets: &[Vec<u8>]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let (source, destination) = case.endpoints();
    let family = if case.outer_v6 { "IPv6" } else { "IPv4" };
    let sa = format!(
        "\"{family}\",\"{source}\",\"{destination}\",\"{:#010x}\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{}\",\"NULL\",\"\"\n",
        support::SPI,
        hex(&case.key_material())
    );
    std::fs::write(folder.path().join("esp_sa"), sa).unwrap();
    let preferences = "esp.enable_encryption_decode: TRUE\nesp.enable_authentication_check: TRUE\n";
    std::fs::write(folder.path().join("preferences"), preferences).unwrap();
    // The format of libpcap, version 2.4, little-endian; link type 101 is raw IP.
    let mut capture = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101]
        .map(u32::to_le_bytes)
        .concat();
    for packet in packets {
        let len = packet.len() as u32;
        capture.extend([1, 0, len, len].map(u32::to_le_bytes).concat());
        capture.extend_from_slice(packet);
    }
    let file = folder.path().join("padded.pcap");
    std::fs::write(&file, capture).unwrap();
    let mut command = Command::new("tshark");
    command
        .env("WIRESHARK_CONFIG_DIR", folder.path())
        .args(["-n", "-r"])
        .arg(file);
    command.args(["-T", "fields", "-E", "occurrence=l", "-E", "separator=/s"]);
    for field in [
        "esp.icv_good",
        "esp.protocol",
        "ip.len",
        "udp.length",
        "udp.srcport",
    ] {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark is needed: apt install tshark");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn tshark_opens_padded_packets() {
    let case = plain_case(true, false);
    let sa = padded(case, TfcPadding::PathMtu, Some(1500));
    let mut clear = ipv4(0, &[], &[0x30, 0x39, 0, 99, 0, 12, 0, 0, 1, 2, 3, 4]);
    clear[9] = 17;
    clear[10..12].fill(0);
    let sum = support::checksum(&clear[..20]);
    clear[10..12].copy_from_slice(&sum.to_be_bytes());
    let wire = [
        seal_with_room(&sa, &clear, 2000).unwrap(),
        dummy(&sa, &[0; 1446], 100).unwrap(),
    ];
    assert_eq!(wire[0].len(), wire[1].len());
    // The inner packet is as long as it was: 32 bytes, of them 12 of UDP from port 12345.
    let seen = tshark(case, &wire);
    assert_eq!(seen[0], "1 0x04 32 12 12345");
    // Of a dummy only the outer header, and that it is authentic.
    assert_eq!(seen[1], "1  1500  ");
}
