//! Peers behind a NAT, and what is sent without having been received.

use std::num::NonZero;

use super::*;
use crate::errand::Errand;
use crate::sighting::Sighting;

const UDP: &str = "encapsulation = \"udp\"";

/// Offset of the UDP header in a frame over IPv4.
const UDP_AT: usize = 14 + 20;

fn site(here: u8, lines: &str) -> Site {
    Site::with(here, 1, lines).with_hops(here)
}

/// What the first site's gateway seals for the second, one frame for each payload.
fn sealed(site: &Site, payloads: &[&[u8]]) -> Vec<Vec<u8>> {
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(site, &memory);
    payloads
        .iter()
        .map(|payload| {
            inject(&inner, Kind::Seal, 0, &clear_frame(payload, 64));
            forwarder.turn().unwrap();
            outer.take().unwrap()
        })
        .collect()
}

/// The frame as it comes from another place.
fn from_place(frame: &[u8], address: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[14 + 12..14 + 16].copy_from_slice(&address);
    frame[14 + 10..14 + 12].fill(0);
    let sum = ipv4_header(&frame[14..UDP_AT]);
    frame[14 + 10..14 + 12].copy_from_slice(&sum.to_be_bytes());
    frame[UDP_AT..UDP_AT + 2].copy_from_slice(&port.to_be_bytes());
    frame
}

fn sightings(site: &Site) -> Vec<Sighting> {
    site.shared.sightings.receiver.try_iter().collect()
}

#[test]
fn a_keepalive_goes_where_packets_go() {
    let site = site(1, UDP);
    let memory = umem();
    let (mut forwarder, _inner, outer) = gateway(&site, &memory);
    let keepalive = Errand::Keepalive { slot: 0 };
    for port in [4500_u16, 61_000] {
        let regime = site.shared.regime();
        let connection = regime.connection(0).unwrap();
        let outbound = connection.outbound.as_ref().unwrap();
        outbound.sa.set_destination_port(NonZero::new(port).unwrap());
        site.shared.errands.send(keepalive);
        forwarder.turn().unwrap();
        let frame = outer.take().unwrap();
        assert_eq!(frame[..14], [&PEER_MAC[..], &OUTER_MAC[..], &[8, 0]].concat());
        assert_eq!(ipv4_header(&frame[14..UDP_AT]), 0);
        assert_eq!(frame[14 + 12..UDP_AT], [192, 0, 2, 1, 192, 0, 2, 2]);
        let [high, low] = port.to_be_bytes();
        assert_eq!(frame[UDP_AT..], [0x11, 0x94, high, low, 0, 9, 0, 0, 0xff]);
    }
    // Gone meanwhile.
    site.shared.errands.send(Errand::Keepalive { slot: 7 });
    forwarder.turn().unwrap();
    assert_eq!(outer.take(), None);
    assert_eq!(site.counters.keepalives.value(), 2);
}

#[test]
fn a_dummy_is_as_long_as_others_and_discarded() {
    let lines = "tfc-padding = 200\ndummy-packets = 1";
    let (site1, site2) = (site(1, lines), site(2, lines));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, inner2, outer2) = gateway(&site2, &umem2);
    site1.shared.errands.send(Errand::Dummy { slot: 0 });
    one.turn().unwrap();
    let dummy = outer1.take().unwrap();
    inject(&inner1, Kind::Seal, 0, &clear_frame(b"say", 64));
    one.turn().unwrap();
    let packet = outer1.take().unwrap();
    assert_eq!(dummy.len(), packet.len());
    for frame in [&dummy, &packet] {
        inject(&outer2, Kind::OpenEsp, 0, frame);
        two.turn().unwrap();
    }
    assert_eq!(inner2.take().unwrap()[14 + 28..], *b"say");
    assert_eq!(inner2.take(), None);
    assert_eq!(site2.counters.drops(DropReason::Dummy), 1);
    assert_eq!(site1.counters.dummies.value(), 1);
}

/// The default: it is told, and nothing else happens.
#[test]
fn a_packet_from_elsewhere_is_told_and_leaves_no_trace() {
    let (site1, site2) = (site(1, UDP), site(2, UDP));
    let frames = sealed(&site1, &[b"one", b"two"]);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site2, &memory);
    for (address, port) in [([192, 0, 2, 1], 61_000), ([198, 51, 100, 9], 4500)] {
        inject(&outer, Kind::Moved, 0, &from_place(&frames[1], address, port));
        forwarder.turn().unwrap();
        assert_eq!(inner.take(), None);
        let expected = Sighting {
            pair: 0,
            spi: 0x1001,
            address: to_address(address.into()),
            port,
            sequence: 2,
        };
        assert_eq!(sightings(&site2), [expected]);
    }
    assert_eq!(site2.counters.drops(DropReason::PeerMoved), 2);
    // From the peer's own place both packets are taken, in any order.
    for frame in frames.iter().rev() {
        inject(&outer, Kind::OpenUdpEsp, 0, frame);
        forwarder.turn().unwrap();
        assert!(inner.take().is_some());
    }
}

#[test]
fn a_forged_or_old_packet_from_elsewhere_tells_nothing() {
    let (site1, site2) = (site(1, UDP), site(2, UDP));
    let frames = sealed(&site1, &[b"one", b"two", b"three"]);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site2, &memory);
    inject(&outer, Kind::OpenUdpEsp, 0, &frames[1]);
    forwarder.turn().unwrap();
    assert!(inner.take().is_some());
    let place = |frame: &[u8]| from_place(frame, [192, 0, 2, 1], 61_000);
    let mut forged = place(&frames[2]);
    *forged.last_mut().unwrap() ^= 1;
    for (frame, reason) in [
        (forged, DropReason::IcvMismatch),
        (place(&frames[1]), DropReason::ReplayDuplicate),
        // Fresh, but older than what came from where the peer is.
        (place(&frames[0]), DropReason::PeerMoved),
    ] {
        inject(&outer, Kind::Moved, 0, &frame);
        forwarder.turn().unwrap();
        assert_eq!(inner.take(), None);
        assert_eq!(site2.counters.drops(reason), 1, "{}", reason.name());
    }
    assert_eq!(sightings(&site2), []);
}

/// RFC 7296 section 2.23, as far as a policy asks for it.
#[test]
fn another_port_is_taken_from_if_the_policy_says_so_and_another_address_never() {
    let (site1, site2) = (
        site(1, UDP),
        site(2, &format!("{UDP}\naddress-update = \"port\"")),
    );
    let frames = sealed(&site1, &[b"one", b"two", b"three"]);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site2, &memory);
    // The newer one first; the older one is taken too, and does not move the peer back.
    for (frame, port) in [(&frames[1], 61_000), (&frames[0], 50_000)] {
        inject(&outer, Kind::Moved, 0, &from_place(frame, [192, 0, 2, 1], port));
        forwarder.turn().unwrap();
        assert!(inner.take().is_some());
    }
    let seen: Vec<_> = sightings(&site2)
        .iter()
        .map(|one| (one.port, one.sequence))
        .collect();
    assert_eq!(seen, [(61_000, 2)]);
    inject(
        &outer,
        Kind::Moved,
        0,
        &from_place(&frames[2], [198, 51, 100, 9], 4500),
    );
    forwarder.turn().unwrap();
    assert_eq!(inner.take(), None);
    assert_eq!(site2.counters.drops(DropReason::PeerMoved), 1);
    // A second time it would be a replay.
    inject(
        &outer,
        Kind::Moved,
        0,
        &from_place(&frames[1], [192, 0, 2, 1], 61_000),
    );
    forwarder.turn().unwrap();
    assert_eq!(site2.counters.drops(DropReason::ReplayDuplicate), 1);
}

/// Whoever knows the SPI can send such packets: they must not cost more than a trickle.
#[test]
fn only_so_many_packets_from_elsewhere_are_looked_at() {
    let (site1, site2) = (site(1, UDP), site(2, UDP));
    let frame = sealed(&site1, &[b"one"]).remove(0);
    let memory = umem();
    let (mut forwarder, _inner, outer) = gateway(&site2, &memory);
    let began = Instant::now();
    for _ in 0..1000 {
        inject(
            &outer,
            Kind::Moved,
            0,
            &from_place(&frame, [192, 0, 2, 1], 61_000),
        );
        forwarder.turn().unwrap();
    }
    let looked_at = site2.counters.drops(DropReason::PeerMoved);
    assert_eq!(
        looked_at + site2.counters.drops(DropReason::SpiWrongEndpoint),
        1000
    );
    let most = 64 + began.elapsed().as_millis() as u64 / 10 + 1;
    assert!((64..=most).contains(&looked_at), "{looked_at} of at most {most}");
}

/// Both kinds of packets of a slot in one batch.
#[test]
fn packets_from_elsewhere_do_not_hold_up_the_peers() {
    let (site1, site2) = (site(1, UDP), site(2, UDP));
    let payloads: Vec<[u8; 1]> = (0..20).map(|n| [n]).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
    let frames = sealed(&site1, &payloads);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site2, &memory);
    for (n, frame) in frames.iter().enumerate() {
        if n % 3 == 0 {
            inject(&outer, Kind::Moved, 0, &from_place(frame, [192, 0, 2, 1], 61_000));
        } else {
            inject(&outer, Kind::OpenUdpEsp, 0, frame);
        }
    }
    forwarder.turn().unwrap();
    let opened: Vec<u8> = std::iter::from_fn(|| inner.take())
        .map(|frame| frame[14 + 28])
        .collect();
    let expected: Vec<u8> = (0..20).filter(|n| n % 3 != 0).collect();
    assert_eq!(opened, expected);
    assert_eq!(site2.counters.drops(DropReason::PeerMoved), 7);
}
