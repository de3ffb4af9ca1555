//! Capture files written byte by byte, whole and damaged.

use std::io::Cursor;

use proptest::prelude::*;
use ravelin_capture::{Capture, CaptureError, Frame};
use ravelin_xdp_common::{Frame as Kind, IpPacket, Reader as _, parse};

/// UDP from 10.0.0.1:1000 to 10.0.0.2:2000 without payload.
const PACKET: [u8; 28] = [
    0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 3, 0xe8, 7, 0xd0, 0, 8, 0, 0,
];

fn ethernet() -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0], &PACKET[..]].concat()
}

/// A classic file; each frame with its length on the wire.
fn pcap(link_type: u32, frames: &[(&[u8], usize)], big_endian: bool) -> Vec<u8> {
    let word = |value: u32| {
        if big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let half = |value: u16| {
        if big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut file = word(0xa1b2_c3d4).to_vec();
    file.extend([half(2), half(4)].concat());
    file.extend([word(0), word(0), word(65_535), word(link_type)].concat());
    for (data, wire_length) in frames {
        file.extend(
            [
                word(1),
                word(2),
                word(data.len() as u32),
                word(*wire_length as u32),
            ]
            .concat(),
        );
        file.extend_from_slice(data);
    }
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}

fn section() -> Vec<u8> {
    block(
        0x0a0d_0d0a,
        &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat(),
    )
}

fn interface(link_type: u16) -> Vec<u8> {
    block(
        1,
        &[&link_type.to_le_bytes()[..], &[0, 0], &[0, 0, 4, 0]].concat(),
    )
}

fn enhanced(interface: u32, data: &[u8], wire_length: u32) -> Vec<u8> {
    let words = [interface, 0, 0, data.len() as u32, wire_length];
    let head: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    block(6, &[&head, data].concat())
}

/// Number, captured bytes, length on the wire and direction of each frame, and what ended the file.
#[expect(clippy::type_complexity, reason = "helper of tests")]
fn frames(file: Vec<u8>) -> (Vec<(u64, Vec<u8>, usize, Option<bool>)>, Option<CaptureError>) {
    let mut capture = match Capture::read(Cursor::new(file)) {
        Ok(capture) => capture,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut all = Vec::new();
    loop {
        match capture.next_frame() {
            Ok(Some(Frame {
                number,
                bytes,
                wire_length,
                outgoing,
                time: _,
            })) => all.push((number, bytes.to_vec(), wire_length, outgoing)),
            Ok(None) => return (all, None),
            Err(error) => return (all, Some(error)),
        }
    }
}

#[test]
fn every_format_and_link_type_gives_the_same_packet() {
    let mut cooked = vec![0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0];
    cooked.extend(PACKET);
    let mut cooked2 = vec![8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
    cooked2.extend(PACKET);
    let ethernet = ethernet();
    let ng =
        |link: u16, data: &[u8]| [section(), interface(link), enhanced(0, data, data.len() as u32)].concat();
    let simple = block(
        3,
        &[&(ethernet.len() as u32).to_le_bytes(), &ethernet[..]].concat(),
    );
    let size = (ethernet.len() as u32).to_le_bytes();
    let packet_block = block(2, &[&[0; 12], &size[..], &size, &ethernet].concat());
    for (file, direction) in [
        (pcap(1, &[(&ethernet, ethernet.len())], false), None),
        (pcap(1, &[(&ethernet, ethernet.len())], true), None),
        (pcap(101, &[(&PACKET, PACKET.len())], false), None),
        (pcap(113, &[(&cooked, cooked.len())], false), Some(true)),
        (pcap(276, &[(&cooked2, cooked2.len())], false), Some(false)),
        (ng(1, &ethernet), None),
        (ng(228, &PACKET), None),
        (ng(276, &cooked2), Some(false)),
        ([section(), interface(1), simple].concat(), None),
        ([section(), interface(1), packet_block].concat(), None),
        // With the length of the frame check sequences.
        (pcap(0x4400_0001, &[(&ethernet, ethernet.len())], true), None),
    ] {
        let (frames, error) = frames(file);
        assert!(error.is_none(), "{error:?}");
        let [(number, bytes, wire_length, outgoing)] = frames.as_slice() else {
            panic!("{frames:?}")
        };
        assert_eq!((*number, *wire_length, *outgoing), (1, 42, direction));
        let mut packet = IpPacket::EMPTY;
        let frame = Frame {
            number: 1,
            bytes,
            wire_length: *wire_length,
            outgoing: None,
            time: 0,
        };
        let reader = frame.reader();
        assert_eq!(parse(&reader, &mut packet), Ok(Kind::Ip));
        assert_eq!(
            (packet.flow.source_port, packet.flow.destination_port),
            (1000, 2000)
        );
        assert!(!reader.missed());
    }
}

#[test]
fn times_are_nanoseconds() {
    let ethernet = ethernet();
    let time = |file: Vec<u8>| {
        let mut capture = Capture::read(Cursor::new(file)).unwrap();
        capture.next_frame().unwrap().unwrap().time
    };
    let classic = pcap(1, &[(&ethernet, 42)], false);
    assert_eq!(time(classic.clone()), 1_000_002_000);
    let fine = [&0xa1b2_3c4d_u32.to_le_bytes(), &classic[4..]].concat();
    assert_eq!(time(fine), 1_000_000_002);
    // Microseconds, unless the interface says otherwise.
    let mut enhanced = enhanced(0, &ethernet, 42);
    enhanced[16..20].copy_from_slice(&7_u32.to_le_bytes());
    assert_eq!(time([section(), interface(1), enhanced].concat()), 7_000);
}

#[test]
fn frames_that_were_cut_are_as_long_as_on_the_wire_and_remember_what_was_missed() {
    let whole = ethernet();
    for kept in 0..=whole.len() {
        let (frames, error) = frames(pcap(1, &[(&whole[..kept], whole.len())], false));
        assert!(error.is_none());
        let frame = Frame {
            number: 1,
            bytes: &frames[0].1,
            wire_length: frames[0].2,
            outgoing: None,
            time: 0,
        };
        let reader = frame.reader();
        let mut packet = IpPacket::EMPTY;
        let _ = parse(&reader, &mut packet);
        // The parser looks at all of this packet's bytes but those of the addresses on the link and the last two.
        assert_eq!(reader.missed(), kept < whole.len(), "{kept}");
        assert!(reader.holds(whole.len()) && !reader.holds(whole.len() + 1));
        assert_eq!(reader.read::<1>(whole.len()), None);
    }
}

#[test]
fn what_cannot_be_read_is_told_apart() {
    let ethernet = ethernet();
    let whole = pcap(1, &[(&ethernet, 42), (&ethernet, 42)], false);
    let (before, error) = frames(whole[..whole.len() - 1].to_vec());
    assert_eq!(before.len(), 1);
    assert!(
        matches!(error, Some(CaptureError::CutShort { frames: 1 })),
        "{error:?}"
    );
    assert!(matches!(
        frames(b"#!/bin/sh\n".repeat(9)).1,
        Some(CaptureError::NotACapture)
    ));
    assert!(matches!(frames(Vec::new()).1, Some(CaptureError::NotACapture)));
    let stray = [section(), enhanced(0, &ethernet, 42)].concat();
    assert!(matches!(frames(stray).1, Some(CaptureError::UnknownInterface)));
    let cut = [section(), interface(1), block(2, &[9; 24])].concat();
    assert!(matches!(
        frames(cut.clone()).1,
        Some(CaptureError::UnknownInterface | CaptureError::PacketBlock)
    ));
    // Its frames have eight more bytes in front, and would be read as something else.
    for magic in [0xa1b2_cd34_u32, 0xa1b2_cd34_u32.swap_bytes()] {
        let modified = [&magic.to_le_bytes(), &whole[4..]].concat();
        let (before, error) = frames(modified);
        assert!(before.is_empty());
        assert!(
            matches!(error, Some(CaptureError::Modified | CaptureError::NotACapture)),
            "{error:?}"
        );
    }
    // On a link of raw IP everything is IP, if not as it should be.
    let (raw, _) = frames(pcap(101, &[(&[0x55; 30], 30), (&[], 0)], false));
    for (_, bytes, wire_length, _) in raw {
        let reader = ravelin_xdp_common::SliceReader(&bytes);
        let mut packet = IpPacket::EMPTY;
        assert!(parse(&reader, &mut packet).is_err(), "{wire_length}");
    }
    // 802.11: passed over, and counted.
    let mut capture = Capture::read(Cursor::new(pcap(105, &[(&ethernet, 42)], false))).unwrap();
    assert!(capture.next_frame().unwrap().is_none());
    assert_eq!(capture.skipped(), (1, vec![105]));
}

proptest! {
    #[test]
    fn damage_never_panics(at in 0_usize..400, value: u8, cut in 0_usize..400, ng: bool) {
        let ethernet = ethernet();
        let mut file = if ng {
            [section(), interface(1), interface(113), enhanced(0, &ethernet, 42), enhanced(1, &ethernet, 42)].concat()
        } else {
            pcap(1, &[(&ethernet, 42), (&ethernet, 60)], false)
        };
        if let Some(byte) = file.get_mut(at) {
            *byte = value;
        }
        file.truncate(file.len().saturating_sub(cut.saturating_sub(200)));
        let _ = frames(file);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), ng: bool) {
        let start = if ng { [section(), interface(1)].concat() } else { pcap(1, &[], false) };
        let _ = frames([start, bytes].concat());
    }
}
