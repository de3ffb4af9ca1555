//! The packet path over ports in memory: what goes in on one side of two gateways comes out on the other.

mod sizes;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use proptest::prelude::*;
use ravelin_classifier::{RuleSet, compile};
use ravelin_esp::checksum::ipv4_header;
use ravelin_esp::{
    Algorithm, Encapsulation, InboundSa, Mode, OutboundSa, Packet, Provider, SaParameters, Secret, TfcPadding,
};
use ravelin_policy::{self as policy, Policy};
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{DropReason, FrameMetadata, Kind};
use ravelin_xsk::twin::{TwinEnd, TwinPort};
use ravelin_xsk::{HugePages, PortOptions, Umem, UmemOptions};

mod many;
mod nat;
mod path_mtu;
mod pool;

use super::Forwarder;
use crate::address::to_address;
use crate::adjacency::{Adjacencies, Ends, Hop, Port, Question, Snapshot};
use crate::connection::Connection;
use crate::counters::WorkerCounters;
use crate::filter::Side;
use crate::path_mtu::PathMtu;
use crate::regime::{Regime, Shared};
use crate::touched::Touched;

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const INNER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What a gateway needs beside its packet memory. Site 1 is 10.1/16 behind 192.0.2.1, site 2 is 10.2/16.
struct Site {
    definition: policy::Connection,
    shared: Shared,
    rules: Arc<RuleSet>,
    counters: WorkerCounters,
    questions: Receiver<Question>,
}

impl Site {
    /// `connections` tunnels to the other site, of which the policy uses the first.
    fn new(here: u8, connections: u32) -> Self {
        Self::with(here, connections, "")
    }

    /// The same, with these lines about the connection in the policy.
    fn with(here: u8, connections: u32, lines: &str) -> Self {
        let there = 3 - here;
        let policy = format!(
            r#"
            default = "block"
            [filter-lists.l]
            filters = [{{ source = "10.{here}.0.0/16", destination = "10.{there}.0.0/16" }}]
            [[rules]]
            name = "r"
            filter-list = "l"
            action = "protect"
            connection = "c"
            [connections.c]
            mode = "tunnel"
            local = "192.0.2.{here}"
            remote = "192.0.2.{there}"
            {lines}
            [connections.c.static]
            algorithm = "aes-256-gcm"
            outbound = {{ spi = 0x100{here}, key-file = "a" }}
            inbound = {{ spi = 0x100{there}, key-file = "b" }}
            "#
        );
        let (policy, _) = Policy::parse(&policy, "test").unwrap();
        let definition = &policy.connections()[0];
        let connections = (0..connections).map(|index| Arc::new(connection(definition, here, index, index)));
        let rules = Arc::new(compile(&policy).unwrap());
        let regime = Regime::new(1, Arc::clone(&rules), connections, []);
        let (adjacencies, questions) = Adjacencies::new(snapshot(0, &[])).unwrap();
        Self {
            definition: definition.clone(),
            shared: Shared::new(regime, adjacencies),
            rules,
            counters: WorkerCounters::new(1),
            questions,
        }
    }

    /// With next hops for the peers and for both hosts.
    fn resolved(here: u8, connections: u32) -> Self {
        Self::new(here, connections).with_hops(here)
    }

    fn with_hops(self, here: u8) -> Self {
        let site = self;
        site.shared.adjacencies().publish(snapshot(
            1,
            &[
                (Side::Outer, [192, 0, 2, 3 - here], Hop::Ready(PEER_MAC)),
                (Side::Inner, [10, here, 0, 5], Hop::Ready(HOST_MAC)),
            ],
        ));
        site
    }
}

/// A connection to the other site with the SAs of a pair.
fn connection(definition: &policy::Connection, here: u8, slot: u32, pair: u32) -> Connection {
    let (there, now) = (3 - here, Instant::now());
    let sent = for_definition(parameters(here, there, here, pair), definition, true);
    let outbound = OutboundSa::new(sent, Provider::AwsLc, 0, now).unwrap();
    outbound.sequence().raise_ceiling(1 << 20);
    let received = for_definition(parameters(here, there, there, pair), definition, false);
    let inbound = InboundSa::new(received, Provider::AwsLc, 0, now).unwrap();
    let path = Arc::new(PathMtu::new(now));
    let named = policy::Connection {
        name: format!("c{slot}"),
        ..definition.clone()
    };
    let (outbound, inbound) = (Some(outbound.into()), Some(inbound.into()));
    Connection::new(&named, (slot, 0), path, pair, outbound, inbound)
}

fn parameters(here: u8, there: u8, sender: u8, index: u32) -> SaParameters {
    let key = [sender ^ index as u8; 36];
    let mode = Mode::Tunnel {
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, here)),
        remote: IpAddr::V4(Ipv4Addr::new(192, 0, 2, there)),
    };
    let spi = 0x1000 + u32::from(sender) + 0x100 * index;
    SaParameters::new(spi, mode, Algorithm::AES_256_GCM, Secret::copy_from(&key))
}

/// What else the policy says of an SA.
fn for_definition(parameters: SaParameters, definition: &policy::Connection, outbound: bool) -> SaParameters {
    let encapsulation = match definition.encapsulation {
        policy::Encapsulation::None => Encapsulation::None,
        policy::Encapsulation::Udp {
            local_port,
            remote_port,
        } => {
            let (source_port, destination_port) = if outbound {
                (local_port, remote_port)
            } else {
                (remote_port, local_port)
            };
            Encapsulation::Udp {
                source_port,
                destination_port,
            }
        }
    };
    let tfc_padding = match definition.tfc_padding {
        policy::TfcPadding::To(len) => TfcPadding::To(len),
        _ => TfcPadding::None,
    };
    SaParameters {
        encapsulation,
        tfc_padding,
        ..parameters
    }
}

fn snapshot(generation: u64, hops: &[(Side, [u8; 4], Hop)]) -> Snapshot {
    let port = |mac, v4| Port {
        mac,
        mtu: 1500,
        v4: Some(v4),
        v6: None,
    };
    let first = Snapshot {
        generation,
        outer: port(OUTER_MAC, [192, 0, 2, 1]),
        inner: port(INNER_MAC, [10, 1, 0, 1]),
        ..Snapshot::default()
    };
    hops.iter().fold(first, |snapshot, (side, address, hop)| {
        let destination = IpAddr::from(*address);
        if *side == Side::Inner {
            return snapshot.with_hop(*side, Ends::to(to_address(destination)), *hop);
        }
        // From either end.
        [[192, 0, 2, 1], [192, 0, 2, 2]]
            .iter()
            .fold(snapshot, |snapshot, source| {
                let source = IpAddr::from(*source);
                snapshot.with_hop(*side, Ends::between(source, destination), *hop)
            })
    })
}

fn umem() -> Umem {
    Umem::new(&UmemOptions {
        frame_count: 2048,
        huge_pages: HugePages::Never,
        ..UmemOptions::default()
    })
    .unwrap()
}

fn options() -> PortOptions {
    PortOptions {
        rx_ring: 512,
        tx_ring: 512,
        fill_ring: 512,
        completion_ring: 512,
        ..PortOptions::default()
    }
}

/// A gateway between two wires.
fn gateway<'a, 'u>(site: &'a Site, umem: &'u Umem) -> (Forwarder<'a, 'u, TwinPort<'u>>, TwinEnd, TwinEnd) {
    let (inner, inner_end) = TwinPort::new(umem, &options()).unwrap();
    let (outer, outer_end) = TwinPort::new(umem, &options()).unwrap();
    (
        Forwarder::new(inner, outer, &site.shared, &site.counters),
        inner_end,
        outer_end,
    )
}

/// An Ethernet frame with a UDP packet from 10.1.0.5 to 10.2.0.5.
fn clear_frame(payload: &[u8], ttl: u8) -> Vec<u8> {
    let length = (28 + payload.len()) as u16;
    let mut ip = vec![
        0x45, 0, 0, 0, 0, 1, 0x40, 0, ttl, 17, 0, 0, 10, 1, 0, 5, 10, 2, 0, 5,
    ];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = ipv4_header(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&INNER_MAC[..], &HOST_MAC[..], &[8, 0]].concat();
    frame.extend(ip);
    frame.extend([0x30, 0x39, 0, 53]);
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn metadata(kind: Kind, slot: u32, frame: &[u8]) -> Vec<u8> {
    metadata_of(kind, slot, 1, frame)
}

fn metadata_of(kind: Kind, slot: u32, generation: u32, frame: &[u8]) -> Vec<u8> {
    let metadata = FrameMetadata {
        slot,
        rule_id: NO_RULE,
        l3_offset: 14,
        l3_length: (frame.len() - 14) as u16,
        generation: generation as u16,
        kind,
        family: 4,
    };
    metadata
        .to_words()
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect()
}

fn inject(end: &TwinEnd, kind: Kind, slot: u32, frame: &[u8]) {
    assert!(end.inject(&metadata(kind, slot, frame), frame));
}

#[test]
fn what_one_gateway_seals_the_other_opens() {
    let (site1, site2) = (Site::resolved(1, 1), Site::resolved(2, 1));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, inner2, outer2) = gateway(&site2, &umem2);
    for size in [0_usize, 1, 2, 3, 64, 1400] {
        let frame = clear_frame(&vec![0xa5; size], 64);
        inject(&inner1, Kind::Seal, 0, &frame);
        one.turn().unwrap();
        let sealed = outer1.take().unwrap();
        assert_eq!(sealed[..14], [&PEER_MAC[..], &OUTER_MAC[..], &[8, 0]].concat());
        assert_eq!(sealed[14 + 9], 50);
        assert!(
            !sealed
                .windows(8)
                .any(|window| window == [10, 1, 0, 5, 10, 2, 0, 5])
        );

        inject(&outer2, Kind::OpenEsp, 0, &sealed);
        two.turn().unwrap();
        let opened = inner2.take().unwrap();
        // As it went in, two hops later, in a frame for the host.
        let mut expected = clear_frame(&vec![0xa5; size], 62);
        expected[..14].copy_from_slice(&[&HOST_MAC[..], &INNER_MAC[..], &[8, 0]].concat());
        assert_eq!(opened, expected);

        // A second time it is a replay.
        inject(&outer2, Kind::OpenEsp, 0, &sealed);
        two.turn().unwrap();
        assert_eq!(inner2.take(), None);
    }
    assert_eq!(site2.counters.drops(DropReason::ReplayDuplicate), 6);
    assert_eq!(site2.counters.rule(0).packets, 6);
}

/// What a peer seals it may not have checked; that it is authentic does not make it well-formed.
#[test]
fn an_opened_packet_with_a_wrong_header_checksum_goes_nowhere() {
    let (site1, site2) = (Site::resolved(1, 1), Site::resolved(2, 1));
    let memory = umem();
    let (mut two, inner, outer) = gateway(&site2, &memory);
    for (len, flipped, dropped) in [(64, 0, 0), (64, 1, 1), (1300, 0, 1), (1300, 0x80, 2)] {
        let mut clear = clear_frame(&vec![0xa5; len], 64).split_off(14);
        clear[11] ^= flipped;
        let mut buffer = [0; 2048];
        let end = 200 + clear.len();
        buffer[200..end].copy_from_slice(&clear);
        let mut packet = [Packet::new(&mut buffer, 200..end).unwrap()];
        let mut sealed = [Err(DropReason::SaMissing)];
        let regime = site1.shared.regime();
        let outbound = regime.connection(0).unwrap().outbound.as_ref().unwrap();
        outbound.sa.seal_batch(&mut packet, &mut sealed, Instant::now());
        sealed[0].unwrap();
        let frame = [&OUTER_MAC[..], &PEER_MAC[..], &[8, 0], packet[0].bytes()].concat();
        inject(&outer, Kind::OpenEsp, 0, &frame);
        two.turn().unwrap();
        assert_eq!(inner.take().is_some(), flipped == 0, "{len} bytes");
        assert_eq!(site2.counters.drops(DropReason::InnerMalformed), dropped);
    }
}

#[test]
fn packets_of_one_connection_keep_their_order() {
    let site = Site::resolved(1, 3);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    for number in 0..60_u8 {
        inject(
            &inner,
            Kind::Seal,
            u32::from(number % 3),
            &clear_frame(&[number; 8], 64),
        );
    }
    forwarder.turn().unwrap();
    let mut last = HashMap::new();
    let mut count = 0;
    while let Some(frame) = outer.take() {
        let spi: [u8; 4] = frame[34..38].try_into().unwrap();
        let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
        assert_eq!(sequence, last.insert(spi, sequence).unwrap_or(0) + 1);
        count += 1;
    }
    assert_eq!((count, last.len()), (60, 3));
}

#[test]
fn packets_wait_for_their_neighbour() {
    let site = Site::new(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    for number in 0..3 {
        inject(&inner, Kind::Seal, 0, &clear_frame(&[number], 64));
        assert!(forwarder.turn().unwrap().holding);
    }
    assert_eq!(outer.take(), None);
    let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    let question = Question {
        side: Side::Outer,
        source: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
        destination: peer,
    };
    assert!(site.questions.try_iter().all(|asked| asked == question));

    site.shared
        .adjacencies()
        .publish(snapshot(1, &[(Side::Outer, [192, 0, 2, 2], Hop::Resolving)]));
    forwarder.turn().unwrap();
    assert_eq!(outer.take(), None);
    site.shared.adjacencies().publish(snapshot(
        2,
        &[(Side::Outer, [192, 0, 2, 2], Hop::Ready(PEER_MAC))],
    ));
    assert!(!forwarder.turn().unwrap().holding);
    let sequences: Vec<u8> = std::iter::from_fn(|| outer.take())
        .map(|frame| frame[41])
        .collect();
    assert_eq!(sequences, [1, 2, 3]);
}

#[test]
fn only_so_many_packets_wait() {
    let site = Site::new(1, 1);
    let memory = umem();
    let (mut forwarder, inner, _outer) = gateway(&site, &memory);
    for _ in 0..300 {
        inject(&inner, Kind::Seal, 0, &clear_frame(b"x", 64));
        forwarder.turn().unwrap();
    }
    assert_eq!(site.counters.drops(DropReason::NoNeighbour), 300 - 256);
    assert_eq!(memory.counts().held, 256);
    site.shared.adjacencies().publish(snapshot(
        1,
        &[(Side::Outer, [192, 0, 2, 2], Hop::Closed(DropReason::NoRoute))],
    ));
    forwarder.turn().unwrap();
    assert_eq!(site.counters.drops(DropReason::NoRoute), 256);
    assert_eq!(memory.counts().held, 0);
}

#[test]
fn a_changed_neighbour_takes_effect_with_the_snapshot() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    for (generation, mac) in [(1, PEER_MAC), (2, [4; 6])] {
        site.shared.adjacencies().publish(snapshot(
            generation,
            &[(Side::Outer, [192, 0, 2, 2], Hop::Ready(mac))],
        ));
        inject(&inner, Kind::Seal, 0, &clear_frame(b"x", 64));
        forwarder.turn().unwrap();
        assert_eq!(outer.take().unwrap()[..6], mac);
    }
}

#[test]
fn the_sender_hears_of_packets_that_do_not_fit() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    let mtu = 1446_u16;
    for (payload, fits) in [(usize::from(mtu) - 28, true), (usize::from(mtu) - 27, false)] {
        let frame = clear_frame(&vec![7; payload], 64);
        inject(&inner, Kind::Seal, 0, &frame);
        forwarder.turn().unwrap();
        let sealed = outer.take();
        assert_eq!(sealed.is_some(), fits);
        if let Some(sealed) = sealed {
            assert!(sealed.len() <= 1514);
            continue;
        }
        let error = inner.take().unwrap();
        assert_eq!(error[..14], [&HOST_MAC[..], &INNER_MAC[..], &[8, 0]].concat());
        assert_eq!(ipv4_header(&error[14..34]), 0);
        assert_eq!(error[26..34], [10, 1, 0, 1, 10, 1, 0, 5]);
        // Type 3, code 4, next-hop MTU; then the packet as it was sent.
        assert_eq!((error[34], error[35]), (3, 4));
        assert_eq!(error[40..42], mtu.to_be_bytes());
        assert_eq!(
            ravelin_esp::checksum::Sum::default().add(&error[34..]).checksum(),
            0
        );
        assert_eq!(error[42..], frame[14..14 + error.len() - 42]);
        assert_eq!(error.len(), 14 + 576);
    }
    inject(&inner, Kind::Seal, 0, &clear_frame(b"x", 1));
    forwarder.turn().unwrap();
    let error = inner.take().unwrap();
    assert_eq!((error[34], error[35]), (11, 0));
    assert_eq!(site.counters.drops(DropReason::PacketTooBig), 1);
    assert_eq!(site.counters.drops(DropReason::TtlExceeded), 1);
}

#[test]
fn an_opened_packet_must_fit_its_connection() {
    let (site1, site2) = (Site::resolved(1, 2), Site::resolved(2, 2));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, inner2, outer2) = gateway(&site2, &umem2);
    // The rule belongs to connection 0; the packet arrives, authentic, under connection 1.
    inject(&inner1, Kind::Seal, 1, &clear_frame(b"x", 64));
    one.turn().unwrap();
    inject(&outer2, Kind::OpenEsp, 1, &outer1.take().unwrap());
    two.turn().unwrap();
    assert_eq!(inner2.take(), None);
    assert_eq!(site2.counters.drops(DropReason::InnerPolicy), 1);
    let regime = site2.shared.regime();
    let by_sa = [0, 1].map(|slot| regime.inbound(slot).unwrap().sa.counters());
    assert_eq!(
        by_sa.map(|counts| counts.dropped(DropReason::InnerPolicy)),
        [0, 1]
    );
}

/// After a rekey packets under the old SA are for the same connection as those under the new one, and for no other.
#[test]
fn an_old_inbound_sa_opens_for_its_own_connection_only() {
    let (site1, site2) = (Site::resolved(1, 2), Site::resolved(2, 2));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, inner2, outer2) = gateway(&site2, &umem2);
    // Both connections of site 2 have other SAs by now, and only the old ones of the first are still armed.
    let old: Vec<_> = {
        let regime = site2.shared.regime();
        let connections = [0, 1].map(|slot| regime.connection(slot).unwrap());
        connections
            .map(|one| Arc::clone(one.inbound.as_ref().unwrap()))
            .into()
    };
    let rekeyed = || [0, 1].map(|slot| Arc::new(connection(&site2.definition, 2, slot, slot + 2)));
    let mut deliver = |slot, expected: Result<(), DropReason>| {
        inject(&inner1, Kind::Seal, slot, &clear_frame(b"x", 64));
        one.turn().unwrap();
        inject(&outer2, Kind::OpenEsp, slot, &outer1.take().unwrap());
        let before = expected.err().map(|reason| site2.counters.drops(reason));
        two.turn().unwrap();
        assert_eq!(inner2.take().is_some(), expected.is_ok(), "slot {slot}");
        if let Some(reason) = expected.err() {
            assert_eq!(Some(site2.counters.drops(reason)), before.map(|count| count + 1));
        }
    };
    let regime = Regime::new(2, Arc::clone(&site2.rules), rekeyed(), old.clone());
    site2.shared.publish(regime);
    deliver(0, Ok(()));
    // The rule is for connection 0: RFC 4301 section 5.2.
    deliver(1, Err(DropReason::InnerPolicy));
    let regime = Regime::new(2, Arc::clone(&site2.rules), rekeyed(), old[1..].to_vec());
    site2.shared.publish(regime);
    // What the driver still had redirected finds no SA any more.
    deliver(0, Err(DropReason::SaMissing));
    deliver(1, Err(DropReason::InnerPolicy));
}

/// A connection without an outbound SA is closed.
#[test]
fn nothing_is_sent_without_an_outbound_sa() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    let mut closed = connection(&site.definition, 1, 0, 0);
    closed.outbound = None;
    site.shared
        .publish(Regime::new(1, Arc::clone(&site.rules), [closed.into()], []));
    inject(&inner, Kind::Seal, 0, &clear_frame(b"x", 64));
    forwarder.turn().unwrap();
    assert_eq!((outer.take(), inner.take()), (None, None));
    assert_eq!(site.counters.drops(DropReason::SaMissing), 1);
}

/// The engine looks only after SAs that were used.
#[test]
fn used_sas_are_marked() {
    let (site1, site2) = (Site::resolved(1, 3), Site::resolved(2, 3));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, _inner2, outer2) = gateway(&site2, &umem2);
    for slot in [2, 0] {
        inject(&inner1, Kind::Seal, slot, &clear_frame(b"x", 64));
        one.turn().unwrap();
        inject(&outer2, Kind::OpenEsp, slot, &outer1.take().unwrap());
        two.turn().unwrap();
    }
    let taken = |touched: &Touched| touched.take().collect::<Vec<_>>();
    assert_eq!(taken(&site1.shared.sealed), [0, 2]);
    assert_eq!(taken(&site1.shared.opened), [0; 0]);
    assert_eq!(taken(&site2.shared.sealed), [0; 0]);
    assert_eq!(taken(&site2.shared.opened), [0, 2]);
}

/// The device's MTU counts for every SA when it is used, whenever it came.
#[test]
fn a_changed_mtu_counts_at_once() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    for (generation, mtu, fits) in [(2, 1500, true), (3, 1000, false), (4, 1500, true)] {
        let mut snapshot = snapshot(generation, &[(Side::Outer, [192, 0, 2, 2], Hop::Ready(PEER_MAC))]);
        snapshot.outer.mtu = mtu;
        site.shared.adjacencies().publish(snapshot);
        // Also for SAs that came after the MTU.
        for pair in [0, generation as u32] {
            let connection = connection(&site.definition, 1, 0, pair);
            let regime = Regime::new(1, Arc::clone(&site.rules), [connection.into()], []);
            site.shared.publish(regime);
            inject(&inner, Kind::Seal, 0, &clear_frame(&[1; 1200], 64));
            forwarder.turn().unwrap();
            assert_eq!(outer.take().is_some(), fits, "{generation} {pair}");
        }
    }
}

/// RFC 4301 section 5.1 would be void if a packet were sealed for another connection than its rule's.
#[test]
fn a_slot_that_changed_hands_seals_only_what_was_meant_for_its_new_connection() {
    let site = Site::resolved(1, 2);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    // From generation 40,000 on, slot 0 belongs to what was in slot 1; the other connection is gone.
    let moved = {
        let regime = site.shared.regime();
        let second = regime.connection(1).unwrap();
        Arc::new(Connection {
            slot: 0,
            since: 40_000,
            ..second.clone()
        })
    };
    site.shared
        .publish(Regime::new(40_000, Arc::clone(&site.rules), [moved], []));
    for (generation, slot, sealed) in [
        (39_999, 0, false),
        (40_000, 0, true),
        // The driver is ahead of the worker.
        (40_001, 0, true),
        (39_999, 1, false),
        (40_000, 1, false),
    ] {
        let frame = clear_frame(b"x", 64);
        let missing = site.counters.drops(DropReason::SaMissing);
        assert!(inner.inject(&metadata_of(Kind::Seal, slot, generation, &frame), &frame));
        forwarder.turn().unwrap();
        let out = outer.take();
        assert_eq!(out.is_some(), sealed, "generation {generation}, slot {slot}");
        if let Some(out) = out {
            assert_eq!(out[34..38], 0x1101_u32.to_be_bytes());
        }
        assert_eq!(
            site.counters.drops(DropReason::SaMissing),
            missing + u64::from(!sealed)
        );
    }
    assert_eq!(site.counters.taken_up.edition(), 2);
}

#[test]
fn damaged_headers_go_no_further() {
    let site = Site::resolved(1, 1);
    let memory = umem();
    let (mut forwarder, inner, outer) = gateway(&site, &memory);
    let mut frame = clear_frame(b"x", 64);
    frame[30] ^= 1;
    inject(&inner, Kind::Seal, 0, &frame);
    forwarder.turn().unwrap();
    assert_eq!(outer.take(), None);
    assert_eq!(site.counters.drops(DropReason::IpBadChecksum), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever the driver hands over, no frame is lost from the packet memory, and none goes out in the clear.
    #[test]
    fn frames_are_conserved(
        packets in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(any::<u8>(), 0..24), prop::collection::vec(any::<u8>(), 14..200), 0..4_u32, any::<u8>()),
            1..40,
        ),
    ) {
        let site = Site::resolved(1, 2);
        let memory = umem();
        let (mut forwarder, inner, outer) = gateway(&site, &memory);
        for (to_inner, garbage, packet, slot, choice) in &packets {
            let end = if *to_inner { &inner } else { &outer };
            let kind = [Kind::Seal, Kind::OpenEsp, Kind::OpenUdpEsp, Kind::Reassemble][usize::from(*choice) % 4];
            let head = if *choice < 64 { garbage.clone() } else { metadata(kind, *slot, packet) };
            prop_assert!(end.inject(&head, packet));
        }
        forwarder.turn().unwrap();
        while let Some(frame) = outer.take() {
            prop_assert_eq!(frame[14 + 9], 50, "only ESP leaves the outer device");
        }
        prop_assert_eq!(inner.take().filter(|frame| frame[14 + 9] != 1), None, "only ICMP errors leave the inner device");
        forwarder.turn().unwrap();
        prop_assert_eq!(memory.counts().held, 0);
    }
}
