//! What routers between the gateways say about packets that were too big, and what forgers say.

use ravelin_esp::checksum::Sum;

use super::sizes::long_frame;
use super::*;

const ROUTER: [u8; 4] = [203, 0, 113, 9];

/// A router's answer to a frame with ESP: an ICMP error in a frame.
fn too_big(frame: &[u8], mtu: u16) -> Vec<u8> {
    about(&frame[14..], mtu, 68)
}

/// The same about the start of a packet, so many bytes of it.
fn about(packet: &[u8], mtu: u16, quoted: usize) -> Vec<u8> {
    let mut icmp = vec![3, 4, 0, 0, 0, 0, 0, 0];
    icmp[6..].copy_from_slice(&mtu.to_be_bytes());
    icmp.extend(&packet[..quoted]);
    let sum = Sum::default().add(&icmp).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    ip[2..4].copy_from_slice(&((20 + icmp.len()) as u16).to_be_bytes());
    ip.extend(ROUTER);
    ip.extend(&packet[12..16]);
    let sum = ipv4_header(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&OUTER_MAC[..], &PEER_MAC, &[8, 0], &ip, &icmp].concat()
}

/// What becomes of `frame`: how long the sealed packets are, or which MTU its sender hears of.
fn sent<'u>(
    forwarder: &mut Forwarder<'_, 'u, TwinPort<'u>>,
    inner: &TwinEnd,
    outer: &TwinEnd,
    frame: &[u8],
) -> Result<Vec<usize>, u16> {
    inject(inner, Kind::Seal, 0, frame);
    forwarder.turn().unwrap();
    let sealed: Vec<usize> = std::iter::from_fn(|| outer.take())
        .map(|frame| frame.len() - 14)
        .collect();
    match inner.take() {
        Some(answer) => Err(u16::from_be_bytes(answer[40..42].try_into().unwrap())),
        None => Ok(sealed),
    }
}

#[test]
fn a_router_that_quotes_what_was_sent_is_believed() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    inject(&inner, Kind::Seal, 0, &clear_frame(&[7; 1372], 64));
    forwarder.turn().unwrap();
    let sealed = outer.take().unwrap();
    inject(&outer, Kind::PathMtu, 0, &too_big(&sealed, 1300));
    forwarder.turn().unwrap();
    assert_eq!(site.counters.path_mtus.value(), 1);
    // 20 of outer header, 8 of ESP, 8 of IV, 16 of ICV, 2 of trailer behind a multiple of four.
    let fits = (1300 - 20 - 8 - 8 - 16) / 4 * 4 - 2;
    let mut send = |frame: &[u8]| sent(&mut forwarder, &inner, &outer, frame);
    assert_eq!(send(&clear_frame(&[7; 1372], 64)), Err(fits));
    let largest = send(&clear_frame(&vec![7; usize::from(fits) - 28], 64)).unwrap();
    assert!(largest.len() == 1 && largest[0] <= 1300 && largest[0] > 1296);
    // What may be cut is cut smaller.
    let pieces = send(&long_frame(1400)).unwrap();
    assert!(pieces.len() == 2 && pieces.iter().all(|piece| *piece <= 1300));
    // One that would make it greater again is no news.
    inject(&outer, Kind::PathMtu, 0, &too_big(&sealed, 1400));
    forwarder.turn().unwrap();
    assert_eq!(site.counters.drops(DropReason::IcmpNoNews), 1);
    assert_eq!(
        sent(&mut forwarder, &inner, &outer, &clear_frame(&[7; 1372], 64)),
        Err(fits)
    );
}

#[test]
fn forgeries_change_nothing() {
    let site = Site::resolved(1, 2);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    inject(&inner, Kind::Seal, 0, &clear_frame(&[7; 1372], 64));
    forwarder.turn().unwrap();
    let sealed = outer.take().unwrap();
    let packet = &sealed[14..];
    let changed = |at: usize, value: u8| {
        let mut packet = packet.to_vec();
        packet[at] = value;
        about(&packet, 1300, 68)
    };
    let mut damaged = too_big(&sealed, 1300);
    damaged[38] ^= 1;
    let forgeries = [
        ("another source", changed(15, 9)),
        ("another destination", changed(19, 9)),
        ("another SPI", changed(23, 9)),
        ("a number not sent yet", changed(27, 2)),
        ("the number 0", changed(27, 0)),
        ("another protocol", changed(9, 51)),
        ("a longer quote than there is", about(packet, 1300, 27)),
        ("a quote that would have fitted", changed(2, 4)),
        ("a damaged checksum", damaged),
    ];
    for (count, (what, forgery)) in (1..).zip(&forgeries) {
        inject(&outer, Kind::PathMtu, 0, forgery);
        forwarder.turn().unwrap();
        assert_eq!(site.counters.drops(DropReason::IcmpUnproven), count, "{what}");
    }
    // Of another pair, and of none.
    for pair in [1, 7, FrameMetadata::NO_SLOT] {
        inject(&outer, Kind::PathMtu, pair, &too_big(&sealed, 1300));
        forwarder.turn().unwrap();
    }
    assert_eq!(
        site.counters.drops(DropReason::IcmpUnproven),
        forgeries.len() as u64 + 3
    );
    assert_eq!(site.counters.path_mtus.value(), 0);
    let unchanged = sent(&mut forwarder, &inner, &outer, &clear_frame(&[7; 1372], 64));
    assert_eq!(unchanged.unwrap().len(), 1);
    assert_eq!(memory.counts().held, 0);
}

/// A path whose MTU changes all the time, or somebody on it.
#[test]
fn believed_errors_are_counted_out() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    inject(&inner, Kind::Seal, 0, &clear_frame(&[7; 1372], 64));
    forwarder.turn().unwrap();
    let sealed = outer.take().unwrap();
    let started = Instant::now();
    for mtu in (700..1400).rev() {
        inject(&outer, Kind::PathMtu, 0, &too_big(&sealed, mtu));
        forwarder.turn().unwrap();
    }
    let (believed, often) = (
        site.counters.path_mtus.value(),
        site.counters.drops(DropReason::IcmpTooOften),
    );
    assert_eq!(believed + often, 700);
    assert!(believed <= 65 + started.elapsed().as_millis() as u64 / 10);
    // Nobody makes it less than what every host takes.
    while site.counters.path_mtus.value() == believed {
        inject(&outer, Kind::PathMtu, 0, &too_big(&sealed, 68));
        forwarder.turn().unwrap();
    }
    let fits = (576 - 20 - 8 - 8 - 16) / 4 * 4 - 2;
    assert_eq!(
        sent(&mut forwarder, &inner, &outer, &clear_frame(&[7; 1372], 64)),
        Err(fits)
    );
}
