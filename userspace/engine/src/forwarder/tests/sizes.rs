//! Packets that are too long, in both directions.

use ravelin_esp::{Fragmentation, Packet};

use super::*;

/// An Ethernet frame with a UDP packet from 10.1.0.5 to 10.2.0.5 of `len` bytes that routers may fragment.
pub(super) fn long_frame(len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len - 28).map(|at| (at * 7 % 251) as u8).collect();
    let mut frame = clear_frame(&payload, 64);
    frame[20] = 0;
    frame[24..26].fill(0);
    let sum = ipv4_header(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The payload of a datagram whose fragments are in these frames, in order, each of `longest` bytes at most.
fn joined(frames: &[Vec<u8>], longest: usize) -> Vec<u8> {
    let mut joined = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        assert!(frame.len() - 14 <= longest);
        assert_eq!(ipv4_header(&frame[14..34]), 0);
        let field = u16::from_be_bytes([frame[20], frame[21]]);
        assert_eq!(usize::from(field & 0x1fff) * 8, joined.len());
        assert_eq!(field & 0x2000 != 0, index + 1 < frames.len());
        joined.extend(&frame[34..]);
    }
    joined
}

fn taken(end: &TwinEnd) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| end.take()).collect()
}

/// Has site `here` see its clear side with this MTU, through its address in it.
fn narrow(site: &Site, here: u8, mtu: u32) {
    let mut snapshot = snapshot(
        7,
        &[
            (Side::Outer, [192, 0, 2, 3 - here], Hop::Ready(PEER_MAC)),
            (Side::Inner, [10, here, 0, 5], Hop::Ready(HOST_MAC)),
        ],
    );
    snapshot.inner.mtu = mtu;
    snapshot.inner.v4 = Some([10, here, 0, 1]);
    site.shared.adjacencies().publish(snapshot);
}

#[test]
fn clear_packets_that_may_be_cut_go_in_pieces() {
    let (site1, site2) = (Site::resolved(1, 1), Site::resolved(2, 1));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, inner2, outer2) = gateway(&site2, &umem2);
    let frame = long_frame(1500);
    inject(&inner1, Kind::Seal, 0, &frame);
    one.turn().unwrap();
    let sealed = taken(&outer1);
    assert_eq!(sealed.len(), 2);
    for sealed in &sealed {
        assert!(sealed.len() <= 1514 && sealed[23] == 50);
        inject(&outer2, Kind::OpenEsp, 0, sealed);
    }
    two.turn().unwrap();
    let opened = taken(&inner2);
    assert_eq!(joined(&opened, 1446), frame[34..]);
    assert_eq!((opened[0][22], opened[1][22]), (62, 62));
    assert_eq!(site1.counters.fragmented.value(), 1);
    assert_eq!(inner1.take(), None, "nobody is told of what arrives");
}

/// A batch makes more pieces than a batch holds; none is lost and none overtakes.
#[test]
fn a_batch_may_become_two() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    for _ in 0..64 {
        inject(&inner, Kind::Seal, 0, &long_frame(1500));
    }
    assert_eq!(forwarder.turn().unwrap().received, 64);
    let sequences: Vec<u32> = taken(&outer)
        .iter()
        .map(|frame| u32::from_be_bytes(frame[38..42].try_into().unwrap()))
        .collect();
    assert_eq!(sequences, (1..=128).collect::<Vec<_>>());
    forwarder.turn().unwrap();
    assert_eq!(memory.counts().held, 0);
}

#[test]
fn opened_packets_leave_in_pieces_or_their_sender_hears_through_the_tunnel() {
    let (site1, site2) = (Site::resolved(1, 1), Site::resolved(2, 1));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, inner2, outer2) = gateway(&site2, &umem2);
    narrow(&site2, 2, 600);
    let mut arrive = |frame: &[u8]| {
        inject(&inner1, Kind::Seal, 0, frame);
        one.turn().unwrap();
        inject(&outer2, Kind::OpenEsp, 0, &outer1.take().unwrap());
        two.turn().unwrap();
        let answer = outer2.take();
        if let Some(answer) = &answer {
            inject(&outer1, Kind::OpenEsp, 0, answer);
            one.turn().unwrap();
        }
        (taken(&inner2), inner1.take())
    };
    let frame = long_frame(1400);
    let (pieces, answer) = arrive(&frame);
    assert_eq!((pieces.len(), answer), (3, None));
    assert_eq!(joined(&pieces, 600), frame[34..]);

    let frame = clear_frame(&[7; 1372], 64);
    let (pieces, answer) = arrive(&frame);
    assert!(pieces.is_empty());
    let answer = answer.unwrap();
    assert_eq!(answer[26..34], [10, 2, 0, 1, 10, 1, 0, 5]);
    assert_eq!(
        (answer[34], answer[35], answer[40..42].to_vec()),
        (3, 4, vec![2, 88])
    );
    assert_eq!(
        ravelin_esp::checksum::Sum::default()
            .add(&answer[34..])
            .checksum(),
        0
    );
    // The packet as the other gateway got it: one hop from the sender.
    let mut quoted = clear_frame(&[7; 1372], 63);
    assert_eq!(answer[42..], quoted.split_off(14)[..answer.len() - 42]);
    assert_eq!(answer.len(), 14 + 576);
    assert_eq!(site2.counters.drops(DropReason::PacketTooBig), 1);

    let (pieces, answer) = arrive(&clear_frame(b"two hops too few", 2));
    assert!(pieces.is_empty());
    assert_eq!(answer.unwrap()[34..36], [11, 0]);
    assert_eq!(site2.counters.drops(DropReason::TtlExceeded), 1);
    assert_eq!(site2.counters.icmp_errors.value(), 2);
}

/// RFC 4301 section 6.2: this gateway's own address is none of the tunnel's here, but what it has to say is about a packet that was.
#[test]
fn an_error_whose_own_header_fits_no_rule_goes_by_what_it_quotes() {
    let (site1, site2) = (Site::resolved(1, 1), Site::resolved(2, 1));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, inner2, outer2) = gateway(&site2, &umem2);
    inject(&inner1, Kind::Seal, 0, &clear_frame(b"x", 2));
    one.turn().unwrap();
    inject(&outer2, Kind::OpenEsp, 0, &outer1.take().unwrap());
    two.turn().unwrap();
    assert_eq!(site2.counters.icmp_errors.value(), 1);
    assert_eq!(inner2.take(), None);
    inject(&outer1, Kind::OpenEsp, 0, &outer2.take().unwrap());
    one.turn().unwrap();
    let told = inner1.take().unwrap();
    // Time exceeded, about the packet from the one host to the other.
    assert_eq!((told[14 + 9], told[14 + 20]), (1, 11));
    assert_eq!(told[14 + 16..14 + 20], told[14 + 28 + 12..14 + 28 + 16]);
    assert_eq!((umem1.counts().held, umem2.counts().held), (0, 0));
}

/// Whole datagrams of hosts that do ESP themselves are longer than any frame.
#[test]
fn fragments_of_a_packet_longer_than_a_frame() {
    let site = Site::resolved(2, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    let sender = OutboundSa::new(parameters(1, 2, 1, 0), Provider::AwsLc, 0, Instant::now()).unwrap();
    sender.sequence().raise_ceiling(1 << 20);
    for len in [3000, 20_000, 65_000] {
        let clear = long_frame(len);
        let mut buffer = vec![0; 200];
        buffer.extend(&clear[14..]);
        buffer.resize(buffer.len() + 200, 0);
        let packet = Packet::new(&mut buffer, 200..200 + len).unwrap();
        let mut packets = [packet];
        let mut outcomes = [Err(DropReason::SaMissing)];
        sender.seal_batch(&mut packets, &mut outcomes, Instant::now());
        outcomes[0].unwrap();
        for piece in Fragmentation::new(packets[0].bytes(), 1500).unwrap() {
            let mut frame = vec![0; 14 + piece.len()];
            frame[12] = 8;
            piece.write(&mut frame[14..]);
            let first = frame[20..22] == [0x20, 0];
            let slot = if first { 0 } else { FrameMetadata::NO_SLOT };
            inject(&outer, Kind::Reassemble, slot, &frame);
        }
        forwarder.turn().unwrap();
        forwarder.turn().unwrap();
        let opened = taken(&inner);
        assert_eq!(opened.len(), (len - 20).div_ceil(1480));
        assert_eq!(joined(&opened, 1500), clear[34..]);
        assert_eq!(memory.counts().held, 0);
    }
    assert_eq!(site.counters.reassembled.value(), 3);
}

/// Without packet memory nothing is sent by half, and nothing is kept.
#[test]
fn pieces_without_memory_are_dropped() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    inject(&inner, Kind::Seal, 0, &long_frame(1500));
    // One is left: the first piece's.
    let kept: Vec<_> = std::iter::from_fn(|| memory.frame()).skip(1).collect();
    forwarder.turn().unwrap();
    assert_eq!(outer.take(), None);
    assert_eq!(site.counters.drops(DropReason::NoFrame), 1);
    drop(kept);
    assert_eq!(memory.counts().held, 0);
}

/// Jumbo packets through both gateways, with chunks so small that most need several.
#[test]
fn jumbo_packets_go_whole_and_leave_no_memory_behind() {
    let memory = || {
        Umem::new(&UmemOptions {
            frame_count: 4096,
            large_frames: 256,
            huge_pages: HugePages::Never,
            ..UmemOptions::default()
        })
        .unwrap()
    };
    let (site1, site2) = (Site::resolved(1, 1), Site::resolved(2, 1));
    for (site, here) in [(&site1, 1), (&site2, 2)] {
        let mut snapshot = snapshot(
            7,
            &[
                (Side::Outer, [192, 0, 2, 3 - here], Hop::Ready(PEER_MAC)),
                (Side::Inner, [10, here, 0, 5], Hop::Ready(HOST_MAC)),
            ],
        );
        (snapshot.inner.mtu, snapshot.outer.mtu) = (9000, 9000);
        site.shared.adjacencies().publish(snapshot);
    }
    let (umem1, umem2) = (memory(), memory());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, inner2, outer2) = gateway(&site2, &umem2);
    // Every length around where packets, clear or sealed, go over into another chunk; and more in a batch than go at once.
    let lengths: Vec<usize> = (1700..2100)
        .chain(3500..3700)
        .chain((28..8946).step_by(61))
        .chain(8900..=8946)
        .collect();
    for lengths in lengths.chunks(50) {
        for length in lengths {
            inject(
                &inner1,
                Kind::Seal,
                0,
                &clear_frame(&vec![*length as u8; length - 28], 64),
            );
        }
        for _ in 0..20 {
            one.turn().unwrap();
            while let Some(sealed) = outer1.take() {
                assert!(sealed.len() <= 9014);
                inject(&outer2, Kind::OpenEsp, 0, &sealed);
            }
            two.turn().unwrap();
        }
        for length in lengths {
            let expected = clear_frame(&vec![*length as u8; length - 28], 62);
            let opened = inner2.take().unwrap();
            assert!(opened[14..] == expected[14..], "{length}");
        }
    }
    // One that is too long is answered, one that may be cut is, and what is broken is dropped; nothing stays.
    inject(&inner1, Kind::Seal, 0, &clear_frame(&[1; 8946 - 27], 64));
    inject(&inner1, Kind::Seal, 0, &long_frame(8947));
    inject(&outer1, Kind::OpenEsp, 0, &clear_frame(&[2; 8000], 64));
    assert!(
        inner1.inject(&[], &[3; 16_384]),
        "without metadata, and longer than any frame"
    );
    for _ in 0..8 {
        one.turn().unwrap();
    }
    assert_eq!(inner1.take().unwrap()[34..36], [3, 4]);
    assert_eq!(taken(&outer1).len(), 2);
    one.publish_losses();
    for reason in [DropReason::PacketTooBig, DropReason::FrameTooLong] {
        assert_eq!(site1.counters.drops(reason), 1, "{}", reason.name());
    }
    for (site, forwarder, memory) in [(&site1, &mut one, &umem1), (&site2, &mut two, &umem2)] {
        forwarder.turn().unwrap();
        assert_eq!(site.counters.drops(DropReason::NoFrame), 0);
        assert_eq!(memory.large_counts().held, 0);
        let counts = memory.counts();
        assert_eq!((counts.held, counts.sending, counts.lost), (0, 0, 0));
        assert_eq!(counts.receiving, 1024, "two fill rings");
    }
}
