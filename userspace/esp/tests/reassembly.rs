//! Fragments in, the packet out: against packets that were cut here, and against a plain model for what must not fit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ravelin_esp::{DropReason, Reassembly, checksum};

/// A packet from peer `peer` that carries ESP, by family.
fn packet(v6: bool, peer: u8, payload: &[u8], ecn: u8) -> Vec<u8> {
    if v6 {
        let mut bytes = vec![0; 40];
        bytes[..2].copy_from_slice(&[0x62, 0x81 | ecn << 4]);
        bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        bytes[6..8].copy_from_slice(&[50, 61]);
        bytes[8..24].fill(peer);
        bytes[24..40].fill(0xfd);
        bytes.extend(payload);
        return bytes;
    }
    let mut bytes = vec![0; 24];
    bytes[..2].copy_from_slice(&[0x46, 0x20 | ecn]);
    bytes[2..4].copy_from_slice(&((24 + payload.len()) as u16).to_be_bytes());
    bytes[8..10].copy_from_slice(&[61, 50]);
    bytes[12..16].fill(peer);
    bytes[16..20].fill(10);
    // A router alert (RFC 2113).
    bytes[20..24].copy_from_slice(&[148, 4, 0, 0]);
    sum(&mut bytes);
    bytes.extend(payload);
    bytes
}

fn sum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum::ipv4_header(&header[..24]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// One fragment of it: `id`, and the bytes of its payload from `start` to `end`.
fn cut(whole: &[u8], id: u16, start: usize, end: usize, more: bool) -> Vec<u8> {
    let v6 = whole[0] >> 4 == 6;
    let header = if v6 { 40 } else { 24 };
    let body = &whole[header + start..header + end];
    let mut piece = whole[..header].to_vec();
    assert_eq!(start % 8, 0);
    if v6 {
        piece[4..6].copy_from_slice(&((8 + body.len()) as u16).to_be_bytes());
        piece[6] = 44;
        piece.extend([50, 0]);
        piece.extend((start as u16 | u16::from(more)).to_be_bytes());
        piece.extend([0, 0]);
        piece.extend(id.to_be_bytes());
    } else {
        piece[2..4].copy_from_slice(&((24 + body.len()) as u16).to_be_bytes());
        piece[4..6].copy_from_slice(&id.to_be_bytes());
        let field = (start / 8) as u16 | u16::from(more) << 13;
        piece[6..8].copy_from_slice(&field.to_be_bytes());
        sum(&mut piece);
    }
    piece.extend(body);
    piece
}

/// What is expected to come out: in IPv4 the identification stays.
fn expected(whole: &[u8], id: u16) -> Vec<u8> {
    let mut whole = whole.to_vec();
    if whole[0] >> 4 == 4 {
        whole[4..6].copy_from_slice(&id.to_be_bytes());
        sum(&mut whole);
    }
    whole
}

/// The pool, and what it said about losses.
struct Pool {
    reassembly: Reassembly,
    lost: BTreeMap<&'static str, usize>,
}

impl Pool {
    fn new() -> Self {
        Self {
            reassembly: Reassembly::new(),
            lost: BTreeMap::new(),
        }
    }

    fn offer(&mut self, packet: &[u8], label: u32, now: Instant) -> Option<(u32, Vec<u8>)> {
        let lost = &mut self.lost;
        self.reassembly
            .offer(packet, label, now, |reason, count| {
                *lost.entry(reason.name()).or_default() += count;
            })
            .map(|whole| (whole.label, whole.packet.bytes().to_vec()))
    }

    fn expire(&mut self, now: Instant) {
        let lost = &mut self.lost;
        self.reassembly.expire(now, |reason, count| {
            *lost.entry(reason.name()).or_default() += count;
        });
    }

    fn lost(&self, reason: DropReason) -> usize {
        self.lost.get(reason.name()).copied().unwrap_or(0)
    }
}

/// Cuts at multiples of eight: at least two pieces.
fn pieces(len: usize, cuts: &[usize]) -> Vec<(usize, usize, bool)> {
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| cut % (len - 1) / 8 * 8)
        .filter(|cut| *cut > 0)
        .collect();
    cuts.extend([0, len]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .map(|pair| (pair[0], pair[1], pair[1] < len))
        .collect()
}

proptest! {
    /// In any order, with any of them twice, and others in between.
    #[test]
    fn what_was_cut_comes_out_whole(
        v6: bool,
        payload in prop::collection::vec(any::<u8>(), 17..3000),
        cuts in prop::collection::vec(any::<usize>(), 1..20),
        order in prop::collection::vec(any::<usize>(), 60),
        twice in any::<u32>(),
    ) {
        let now = Instant::now();
        let whole = packet(v6, 1, &payload, 0);
        let ranges = pieces(payload.len(), &cuts);
        prop_assume!(ranges.len() > 1);
        let mut fragments: Vec<(u16, Vec<u8>)> = Vec::new();
        for id in [1, 2] {
            for (index, (start, end, more)) in ranges.iter().enumerate() {
                let fragment = (id, cut(&whole, id, *start, *end, *more));
                if id == 1 && index > 0 && twice >> (index % 32) & 1 == 1 {
                    fragments.push(fragment.clone());
                }
                fragments.push(fragment);
            }
        }
        for (index, swap) in order.iter().enumerate().take(fragments.len()) {
            let other = swap % fragments.len();
            fragments.swap(index, other);
        }
        let mut pool = Pool::new();
        let mut found = BTreeMap::new();
        for (id, fragment) in &fragments {
            // Only the label that comes with the first fragment counts.
            let first = fragment[if v6 { 42 } else { 6 }..][..2] == if v6 { [0, 1] } else { [0x20, 0] };
            if let Some((label, packet)) = pool.offer(fragment, if first { u32::from(*id) } else { 99 }, now) {
                prop_assert_eq!(label, u32::from(*id));
                prop_assert_eq!(&packet, &expected(&whole, *id));
                found.insert(*id, packet);
            }
        }
        prop_assert_eq!(found.len(), 2);
        pool.expire(now + Duration::from_secs(3));
        // A copy that comes after its datagram was whole begins another one, whose time runs out.
        let copies = fragments.len() - 2 * ranges.len();
        prop_assert_eq!(
            pool.lost(DropReason::ReassemblyDuplicate) + pool.lost(DropReason::ReassemblyTimeout),
            copies
        );
    }

    /// Whatever comes, each fragment ends once; and a packet that comes out was made of pieces that do not overlap.
    #[test]
    fn every_fragment_ends_once(
        fragments in prop::collection::vec((0..3_u16, 0..6_usize, 1..4_usize, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let now = Instant::now();
        let payload: Vec<u8> = (0..80).collect();
        let whole = packet(false, 1, &payload, 0);
        let mut pool = Pool::new();
        let mut model: BTreeMap<u16, Model> = BTreeMap::new();
        let mut used = 0;
        for (id, start, len, more, flip) in &fragments {
            let (start, end) = (start * 8, (start + len) * 8);
            let mut bytes = cut(&whole, *id, start, end, *more);
            if *flip {
                bytes[24] ^= 0x80;
            }
            let out = pool.offer(&bytes, 0, now);
            let body = bytes[24..].to_vec();
            let expected = model.entry(*id).or_default().add(start, end, *more, body);
            if start == 0 && !more {
                // No fragment at all.
                prop_assert_eq!(&out, &None);
                continue;
            }
            prop_assert_eq!(out.as_ref().map(|(_, packet)| packet[24..].to_vec()), expected.clone());
            if expected.is_some() {
                used += model.remove(id).unwrap().count();
            }
        }
        pool.expire(now + Duration::from_secs(3));
        prop_assert_eq!(used + pool.lost.values().sum::<usize>(), fragments.len());
    }
}

/// A datagram as RFC 8200 section 4.5 has it, in bytes.
#[derive(Default)]
struct Model {
    pieces: Vec<(usize, usize, Vec<u8>)>,
    total: Option<usize>,
    refused: bool,
}

impl Model {
    fn add(&mut self, start: usize, end: usize, more: bool, bytes: Vec<u8>) -> Option<Vec<u8>> {
        if self.refused || (start == 0 && !more) {
            return None;
        }
        if self.pieces.contains(&(start, end, bytes.clone())) {
            return None;
        }
        let overlap = self.pieces.iter().any(|(from, to, _)| *from < end && start < *to);
        self.pieces.push((start, end, bytes));
        let farthest = self.pieces.iter().map(|(_, to, _)| *to).max()?;
        let total = if more {
            self.total
        } else {
            self.total.or(Some(end))
        };
        if overlap || total.is_some_and(|total| farthest > total || (!more && end != total)) {
            self.refused = true;
            return None;
        }
        self.total = total;
        self.pieces.sort();
        let whole: Vec<u8> = self.pieces.iter().flat_map(|(.., bytes)| bytes.clone()).collect();
        (total == Some(whole.len())).then_some(whole)
    }

    fn count(&self) -> usize {
        self.pieces.len()
    }
}

#[test]
fn an_overlap_ends_the_datagram_and_what_still_comes_of_it() {
    let now = Instant::now();
    for v6 in [false, true] {
        let whole = packet(v6, 1, &[7; 64], 0);
        let mut pool = Pool::new();
        let offer = |pool: &mut Pool, start, end, more| pool.offer(&cut(&whole, 1, start, end, more), 0, now);
        assert_eq!(offer(&mut pool, 0, 32, true), None);
        assert_eq!(offer(&mut pool, 24, 64, false), None);
        assert_eq!(pool.lost(DropReason::ReassemblyOverlap), 2);
        // All bytes in two honest pieces; the datagram stays dropped.
        assert_eq!(offer(&mut pool, 0, 32, true), None);
        assert_eq!(offer(&mut pool, 32, 64, false), None);
        assert_eq!(pool.lost(DropReason::ReassemblyOverlap), 4);
        // With time it is forgotten.
        let later = now + Duration::from_secs(2);
        pool.expire(later);
        assert_eq!(pool.offer(&cut(&whole, 1, 0, 32, true), 0, later), None);
        assert!(pool.offer(&cut(&whole, 1, 32, 64, false), 0, later).is_some());
    }
}

#[test]
fn the_same_bytes_with_another_content_are_an_overlap() {
    let now = Instant::now();
    let whole = packet(false, 1, &[7; 64], 0);
    let other = packet(false, 1, &[8; 64], 0);
    let mut pool = Pool::new();
    pool.offer(&cut(&whole, 1, 0, 32, true), 0, now);
    pool.offer(&cut(&whole, 1, 0, 32, true), 0, now);
    assert_eq!(pool.lost(DropReason::ReassemblyDuplicate), 1);
    pool.offer(&cut(&other, 1, 0, 32, true), 0, now);
    assert_eq!(pool.lost(DropReason::ReassemblyOverlap), 2);
    assert_eq!(pool.offer(&cut(&whole, 1, 32, 64, false), 0, now), None);
}

#[test]
fn two_ends_and_bytes_behind_the_end_are_refused() {
    let now = Instant::now();
    let whole = packet(false, 1, &[7; 64], 0);
    for (first, second) in [
        // Both say that they are the last.
        ((32, 48, false), (48, 64, false)),
        ((48, 64, false), (32, 48, false)),
        // A middle behind the end.
        ((32, 40, false), (40, 48, true)),
        ((40, 48, true), (32, 40, false)),
    ] {
        let mut pool = Pool::new();
        for (start, end, more) in [first, second] {
            assert_eq!(pool.offer(&cut(&whole, 1, start, end, more), 0, now), None);
        }
        assert_eq!(
            pool.lost(DropReason::ReassemblyMalformed),
            2,
            "{first:?} {second:?}"
        );
    }
}

#[test]
fn time_and_pieces_are_bounded() {
    let now = Instant::now();
    let whole = packet(false, 1, &[7; 1024], 0);
    let mut pool = Pool::new();
    for index in 0..64 {
        pool.offer(&cut(&whole, 1, index * 16, index * 16 + 8, true), 0, now);
    }
    pool.expire(now + Duration::from_millis(1999));
    assert!(pool.lost.is_empty());
    pool.expire(now + Duration::from_secs(2));
    assert_eq!(pool.lost(DropReason::ReassemblyTimeout), 64);
    for index in 0..65 {
        let start = if index < 64 { index * 16 } else { 8 };
        pool.offer(&cut(&whole, 2, start, start + 8, true), 0, now);
    }
    assert_eq!(pool.lost(DropReason::ReassemblyMalformed), 65);
}

/// RFC 791: the whole datagram has at most 65,535 bytes, headers included.
#[test]
fn a_packet_longer_than_ip_allows_is_never_made() {
    let now = Instant::now();
    for (v6, header, extra) in [(false, 24, 0), (true, 0, 0), (false, 24, 1)] {
        let whole = packet(v6, 1, &vec![7; 65_535], 0);
        let len = 65_535 - header + extra;
        let mut pool = Pool::new();
        let mut out = None;
        let mut start = 0;
        while start < len {
            let end = len.min(start + 1280);
            out = pool.offer(&cut(&whole, 1, start, end, end < len), 0, now);
            start = end;
        }
        assert_eq!(out.is_some(), extra == 0, "{v6}");
        assert_eq!(
            pool.lost(DropReason::ReassemblyMalformed),
            if extra == 0 { 0 } else { 52 }
        );
    }
}

#[test]
fn a_flood_from_one_peer_costs_others_nothing() {
    let now = Instant::now();
    let mut pool = Pool::new();
    let honest: Vec<Vec<u8>> = (0..8)
        .map(|peer| packet(false, 100 + peer, &[peer; 64], 0))
        .collect();
    for whole in &honest {
        pool.offer(&cut(whole, 1, 0, 32, true), 0, now);
    }
    let flood = packet(false, 1, &[7; 64], 0);
    for id in 0..1000 {
        let now = now + Duration::from_micros(id.into());
        pool.offer(&cut(&flood, id, 0, 32, true), 0, now);
    }
    assert_eq!(pool.lost(DropReason::ReassemblyFull), 1000 - (64 - 8));
    for whole in &honest {
        assert!(pool.offer(&cut(whole, 1, 32, 64, false), 0, now).is_some());
    }
    // The oldest had to go.
    assert_eq!(pool.offer(&cut(&flood, 0, 32, 64, false), 0, now), None);
    assert!(pool.offer(&cut(&flood, 999, 32, 64, false), 0, now).is_some());
}

/// RFC 3168 section 5.3.
#[test]
fn congestion_marks_survive() {
    let now = Instant::now();
    for v6 in [false, true] {
        for (first, second, whole) in [
            (0, 0, Some(0)),
            (2, 3, Some(3)),
            (3, 1, Some(3)),
            (1, 1, Some(1)),
            (0, 2, Some(0)),
            (0, 3, None),
            (3, 0, None),
        ] {
            let parts = [first, second].map(|ecn| packet(v6, 1, &[7; 64], ecn));
            let mut pool = Pool::new();
            pool.offer(&cut(&parts[0], 1, 0, 32, true), 0, now);
            let out = pool.offer(&cut(&parts[1], 1, 32, 64, false), 0, now);
            let expected = whole.map(|ecn| expected(&packet(v6, 1, &[7; 64], ecn), 1));
            assert_eq!(out.map(|(_, packet)| packet), expected, "{first} {second}");
        }
    }
}
