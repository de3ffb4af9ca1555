//! Fragments from anybody, and what becomes of them: bounded, and what comes out is a whole packet.
//!
//! The input is a row of records: two bytes of length, of which the top bits say how much time passes and who the SA is, and a
//! packet. What is whole and may be cut is cut, and its pieces come back as it.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use ravelin_esp::{Fragmentation, Reassembly};

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let mut pool = Reassembly::default();
    let (mut offered, mut ended, mut wholes) = (0, 0, 0);
    let mut rest = input;
    while let [high, low, data @ ..] = rest {
        let len = usize::from(high & 7) << 8 | usize::from(*low);
        let (packet, behind) = data.split_at(len.min(data.len()));
        rest = behind;
        now += Duration::from_millis(300 * u64::from(high >> 6));
        pool.expire(now, |_, count| ended += count);
        offered += 1;
        let label = u32::from(high >> 3 & 7);
        if let Some(whole) = pool.offer(packet, label, now, |_, count| ended += count) {
            check(whole.packet.bytes());
            wholes += 1;
        }
        cut(packet);
    }
    pool.expire(now + Duration::from_secs(60), |_, count| ended += count);
    // Each fragment ends once: alone, or with others as a whole packet.
    assert!(ended + wholes <= offered);
    assert!(wholes > 0 || ended == offered);
});

/// A packet that was put together says how long it is, and is no fragment.
fn check(bytes: &[u8]) {
    let total = match bytes[0] >> 4 {
        4 => {
            assert_eq!(u16::from_be_bytes([bytes[6], bytes[7]]) & 0x3fff, 0);
            usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))
        }
        6 => 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]])),
        version => panic!("IP version {version} came out"),
    };
    assert_eq!(total, bytes.len());
}

/// Pieces of a packet fit, and hold all of its payload.
fn cut(packet: &[u8]) {
    for mtu in [0, 27, 68, 576] {
        let Ok(pieces) = Fragmentation::new(packet, mtu) else {
            continue;
        };
        let header = usize::from(packet[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let mut payload = Vec::new();
        for piece in pieces {
            assert!(piece.len() <= mtu);
            let mut bytes = vec![0; piece.len()];
            piece.write(&mut bytes);
            payload.extend_from_slice(&bytes[usize::from(bytes[0] & 15) * 4..]);
        }
        assert_eq!(payload, packet[header..total]);
    }
}
