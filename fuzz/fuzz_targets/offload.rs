//! Any packet with any demand of the stack: it is refused, or cut into packets that lie in bounds. Any run of packets: what is
//! put together and cut again is what came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_offload::{Run, Segment, Segmenter, VnetHeader};

/// Enough for every packet of the stack.
const MOST: usize = 65_536;

fuzz_target!(|input: &[u8]| {
    let Some((header, rest)) = input.split_first_chunk::<{ VnetHeader::LENGTH }>() else {
        return;
    };
    let Some((limit, packet)) = rest.split_first_chunk::<2>() else {
        return;
    };
    if let Some(header) = VnetHeader::from_bytes(header) {
        let limit = usize::from(u16::from_be_bytes(*limit));
        for piece in cut(&header, packet, limit).into_iter().flatten() {
            assert!(piece.len() <= packet.len());
        }
    }
    // The same bytes as a train of packets, each as long as its IP header says.
    let mut train = Vec::new();
    let mut left = packet;
    while let Some(length) = length(left).filter(|length| (1..=left.len()).contains(length)) {
        let (packet, behind) = left.split_at(length);
        train.push(packet.to_vec());
        left = behind;
    }
    let mut run: Option<(Run, Vec<u8>, Vec<Vec<u8>>)> = None;
    for packet in train {
        let Some(segment) = Segment::parse(&packet) else {
            continue;
        };
        if let Some((open, bytes, pieces)) = &mut run
            && open.take(&segment)
        {
            bytes.extend_from_slice(&packet[segment.headers()..]);
            pieces.push(packet);
        } else {
            check(run.take());
            run = Some((Run::new(segment), packet.clone(), vec![packet]));
        }
    }
    check(run);
});

fn check(run: Option<(Run, Vec<u8>, Vec<Vec<u8>>)>) {
    let Some((run, mut bytes, pieces)) = run else {
        return;
    };
    let header = run.finish(&mut bytes);
    let again = cut(&header, &bytes, usize::MAX).expect("what was put together can be cut");
    assert_eq!(again.len(), pieces.len());
    for (mut again, mut piece) in again.into_iter().zip(pieces) {
        if piece[0] >> 4 == 4 {
            // With DF a sender may leave the identification as it is; cut packets count.
            for packet in [&mut again, &mut piece] {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
        }
        assert_eq!(again, piece);
    }
}

fn cut(header: &VnetHeader, packet: &[u8], limit: usize) -> Option<Vec<Vec<u8>>> {
    let mut packet = packet.to_vec();
    let mut segmenter = Segmenter::new(header, &mut packet, limit).ok()?;
    let mut pieces = Vec::new();
    while let Some(length) = segmenter.next_length() {
        let mut piece = vec![0; length];
        assert!(segmenter.write_next(&packet, &mut piece));
        pieces.push(piece);
        assert!(pieces.len() <= MOST);
    }
    Some(pieces)
}

fn length(packet: &[u8]) -> Option<usize> {
    let word = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *packet.get(at)?,
            *packet.get(at + 1)?,
        ])))
    };
    match packet.first()? >> 4 {
        4 => word(2),
        6 => Some(word(4)? + 40),
        _ => None,
    }
}
