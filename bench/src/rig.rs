//! A gateway without devices: one worker's packet path over ports in memory, in a network of tunnels.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use ravelin_classifier::{Host, RuleSet, compile};
use ravelin_engine::{
    Adjacencies, Connection, Ends, Forwarder, Hop, PathMtu, Port, Question, Regime, Shared, Side, Snapshot,
    WorkerCounters,
};
use ravelin_esp::checksum::ipv4_header;
use ravelin_esp::{Algorithm, InboundSa, Mode, OutboundSa, Provider, SaParameters, Secret};
use ravelin_policy::{self as policy, Policy};
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{DropReason, FrameMetadata, Kind, mapped_v4};
use ravelin_xsk::twin::{TwinEnd, TwinPort};
use ravelin_xsk::{self as xsk, PortOptions, Umem, UmemOptions};

use crate::tunnel::{HOST, INSIDE, LOCAL, MOST, Tunnel};

const ETHERNET: usize = 14;

/// Offset in a clear packet of its place, in 32 bits, among those that were [sealed](Network::sealed_frames) with it.
pub const TURN: usize = 20 + 8;

/// Packets that are on a wire at a time.
pub const BATCH: usize = 32;

/// The tunnels, and what workers share.
#[derive(Debug)]
pub struct Network {
    policy: Policy,
    rules: Arc<RuleSet>,
    shared: Shared,
    counters: WorkerCounters,
    tunnels: u32,
    _questions: crossbeam_channel::Receiver<Question>,
    /// SAs of the other ends, to make what they send.
    peers: Vec<OutboundSa>,
}

impl Network {
    /// So many tunnels with AES-256-GCM, each to a site of its own.
    ///
    /// # Errors
    /// More tunnels than the addresses of this network have room for.
    pub fn new(tunnels: u32, provider: Provider, extended_sequence_numbers: bool) -> Result<Self> {
        ensure!((1..=MOST).contains(&tunnels), "1 to {MOST} tunnels");
        let mut text = String::from("default = \"block\"\n");
        let (inside, length) = INSIDE;
        for number in 0..tunnels {
            let tunnel = Tunnel(number);
            let (site, site_length) = tunnel.site();
            let (remote, outbound, inbound) = (tunnel.remote(), tunnel.outbound_spi(), tunnel.inbound_spi());
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "[filter-lists.l{number:06}]\nfilters = [{{ source = \"{inside}/{length}\", destination = \"{site}/{site_length}\" }}]\n\
                 [[rules]]\nname = \"r{number:06}\"\nfilter-list = \"l{number:06}\"\naction = \"protect\"\nconnection = \"c{number:06}\"\n\
                 [connections.c{number:06}]\nmode = \"tunnel\"\nlocal = \"{LOCAL}\"\nremote = \"{remote}\"\n\
                 [connections.c{number:06}.static]\nalgorithm = \"aes-256-gcm\"\n\
                 outbound = {{ spi = {outbound}, key-file = \"out-{number}\" }}\ninbound = {{ spi = {inbound}, key-file = \"in-{number}\" }}\n",
            );
        }
        let (policy, _) = Policy::parse(&text, "bench")?;
        let rules = Arc::new(compile(&policy)?);
        let (mut connections, mut peers) = (Vec::new(), Vec::new());
        let mut hops = snapshot();
        for (definition, slot) in policy.connections().iter().zip(0..) {
            let (connection, peer) = connect(definition, slot, provider, extended_sequence_numbers)?;
            let ends = Ends::between(definition.local, definition.remote);
            hops = hops.with_hop(Side::Outer, ends, Hop::Ready([2, 0, 0, 0, 0, 9]));
            connections.push(Arc::new(connection));
            peers.push(peer);
        }
        let regime = Regime::new(1, Arc::clone(&rules), connections, []);
        let (adjacencies, questions) = Adjacencies::new(hops).context("an eventfd")?;
        Ok(Self {
            policy,
            rules,
            shared: Shared::new(regime, adjacencies),
            counters: WorkerCounters::new(tunnels),
            tunnels,
            _questions: questions,
            peers,
        })
    }

    /// Packet memory for one worker.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn memory() -> Result<Umem> {
        Ok(Umem::new(&UmemOptions {
            // Both ports fill their rings before anything is sent.
            frame_count: 3 * PortOptions::default().fill_ring,
            ..UmemOptions::default()
        })?)
    }

    /// Frames of the clear side, of `size` bytes without the Ethernet header, one for each tunnel in turn.
    #[must_use]
    pub fn clear_frames(&self, size: usize) -> VecDeque<Ready> {
        let frames = (0..self.tunnels).map(|number| {
            let frame = [&[0; 12][..], &[8, 0], &clear_packet(number, size)].concat();
            Ready::new(Kind::Seal, number, frame)
        });
        frames.collect()
    }

    /// What the other ends send next: `count` frames of ESP, from one after the other.
    ///
    /// # Errors
    /// A packet that cannot be sealed.
    pub fn sealed_frames(&self, size: usize, count: usize) -> Result<Vec<Ready>> {
        let numbers = (0..self.tunnels).cycle().take(count);
        numbers
            .zip(0u32..)
            .map(|(number, turn)| self.sealed_frame(number, turn, size))
            .collect()
    }

    fn sealed_frame(&self, number: u32, turn: u32, size: usize) -> Result<Ready> {
        let mut packet = clear_packet(number, size);
        // The shortest ones have no room for it.
        if let Some(place) = packet.get_mut(TURN..TURN + 4) {
            place.copy_from_slice(&turn.to_be_bytes());
        }
        let (source, destination) = (packet[12..16].to_vec(), packet[16..20].to_vec());
        packet[12..16].copy_from_slice(&destination);
        packet[16..20].copy_from_slice(&source);
        let esp = seal_one(&self.peers[number as usize], &packet)?;
        let frame = [&[0; 12][..], &[8, 0], &esp].concat();
        Ok(Ready::new(Kind::OpenEsp, number, frame))
    }

    /// What the drivers of both devices decide, without drivers.
    #[must_use]
    pub fn drivers(&self) -> Host {
        Host::new(&self.policy, RuleSet::clone(&self.rules), &[LOCAL.into()])
    }

    /// A worker's packet path between two ports.
    pub fn path<'n, 'u, P: xsk::Port<'u>>(&'n self, inner: P, outer: P) -> Forwarder<'n, 'u, P> {
        Forwarder::new(inner, outer, &self.shared, &self.counters)
    }

    /// What was dropped so far, and why.
    #[must_use]
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let counted = DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), self.counters.drops(*reason)));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    /// A worker between two wires.
    ///
    /// # Errors
    /// No descriptors.
    pub fn worker<'n, 'u>(&'n self, memory: &'u Umem) -> Result<Worker<'n, 'u>> {
        let options = PortOptions::default();
        let (inner, inner_end) = TwinPort::new(memory, &options)?;
        let (outer, outer_end) = TwinPort::new(memory, &options)?;
        Ok(Worker {
            forwarder: self.path(inner, outer),
            network: self,
            inner: inner_end,
            outer: outer_end,
            taken: Vec::new(),
        })
    }
}

/// A frame and what the driver says of it.
#[derive(Clone, Debug)]
pub struct Ready {
    /// As it stands in front of the frame.
    pub metadata: Vec<u8>,
    /// From the Ethernet header on.
    pub frame: Vec<u8>,
}

impl Ready {
    fn new(kind: Kind, slot: u32, frame: Vec<u8>) -> Self {
        let metadata = FrameMetadata {
            slot,
            rule_id: NO_RULE,
            l3_offset: ETHERNET as u16,
            l3_length: (frame.len() - ETHERNET) as u16,
            generation: 1,
            kind,
            family: 4,
        };
        let words = metadata.to_words();
        Self {
            metadata: words.iter().flat_map(|word| word.to_ne_bytes()).collect(),
            frame,
        }
    }
}

/// A worker's packet path with both of its wires in the caller's hands.
#[derive(Debug)]
pub struct Worker<'n, 'u> {
    forwarder: Forwarder<'n, 'u, TwinPort<'u>>,
    network: &'n Network,
    inner: TwinEnd,
    outer: TwinEnd,
    taken: Vec<u8>,
}

impl Worker<'_, '_> {
    /// Seals frames of the clear side, up to [`BATCH`] of them.
    ///
    /// # Errors
    /// One of them did not come out.
    pub fn seal<'r>(&mut self, frames: impl IntoIterator<Item = &'r Ready>) -> Result<()> {
        self.pass(frames, true)
    }

    /// Opens frames of the wire, up to [`BATCH`] of them.
    ///
    /// # Errors
    /// One of them did not come out.
    pub fn open<'r>(&mut self, frames: impl IntoIterator<Item = &'r Ready>) -> Result<()> {
        self.pass(frames, false)
    }

    fn pass<'r>(&mut self, frames: impl IntoIterator<Item = &'r Ready>, sealing: bool) -> Result<()> {
        let (from, to) = if sealing {
            (&self.inner, &self.outer)
        } else {
            (&self.outer, &self.inner)
        };
        let mut left = 0;
        for Ready { metadata, frame } in frames {
            ensure!(from.inject(metadata, frame), "the wire is full");
            left += 1;
        }
        self.forwarder.turn()?;
        while to.take_into(&mut self.taken) {
            left -= 1;
        }
        ensure!(
            left == 0,
            "{left} packets did not come out: {:?}",
            self.network.drops()
        );
        Ok(())
    }
}

/// Our ends of a tunnel, and the other end's to send with.
fn connect(
    definition: &policy::Connection,
    slot: u32,
    provider: Provider,
    extended_sequence_numbers: bool,
) -> Result<(Connection, OutboundSa)> {
    let (there, here) = (Tunnel(slot).outbound_key(), Tunnel(slot).inbound_key());
    let ours = Mode::Tunnel {
        local: definition.local,
        remote: definition.remote,
    };
    let theirs = Mode::Tunnel {
        local: definition.remote,
        remote: definition.local,
    };
    let parameters = |spi: policy::Spi, mode, key: &[u8]| SaParameters {
        extended_sequence_numbers,
        ..SaParameters::new(spi.value(), mode, Algorithm::AES_256_GCM, Secret::copy_from(key))
    };
    let now = Instant::now();
    let (out, back) = (definition.keys.outbound.spi, definition.keys.inbound.spi);
    let outbound = OutboundSa::new(parameters(out, ours, &there), provider, 0, now)?;
    let inbound = InboundSa::new(parameters(back, ours, &here), provider, 0, now)?;
    let peer = OutboundSa::new(parameters(back, theirs, &here), provider, 0, now)?;
    for sa in [&outbound, &peer] {
        sa.sequence().raise_ceiling(u64::MAX);
    }
    let path = Arc::new(PathMtu::new(now));
    let (outbound, inbound) = (Some(outbound.into()), Some(inbound.into()));
    let connection = Connection::new(definition, (slot, 0), path, slot, outbound, inbound);
    Ok((connection, peer))
}

fn snapshot() -> Snapshot {
    let port = |last, v4: Ipv4Addr| Port {
        mac: [2, 0, 0, 0, 0, last],
        mtu: 1600,
        v4: Some(v4.octets()),
        v6: None,
    };
    let mut snapshot = Snapshot::default();
    snapshot.outer = port(1, LOCAL);
    snapshot.inner = port(2, Ipv4Addr::new(172, 16, 0, 1));
    let host = Ends::to(mapped_v4(HOST.octets()));
    snapshot.with_hop(Side::Inner, host, Hop::Ready([2, 0, 0, 0, 0, 7]))
}

/// A UDP packet from the host behind the gateway to that of a site.
fn clear_packet(number: u32, size: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; size];
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet[12..16].copy_from_slice(&HOST.octets());
    packet[16..20].copy_from_slice(&Tunnel(number).host().octets());
    packet[20..28].copy_from_slice(&[0x30, 0x39, 0, 53, 0, 0, 0, 0]);
    packet[24..26].copy_from_slice(&(size as u16 - 20).to_be_bytes());
    let sum = ipv4_header(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn seal_one(sa: &OutboundSa, packet: &[u8]) -> Result<Vec<u8>> {
    use ravelin_esp::{MAX_HEADROOM, MAX_TAILROOM, Packet, Sealed};
    let mut buffer = vec![0; MAX_HEADROOM + packet.len() + MAX_TAILROOM];
    let range = MAX_HEADROOM..MAX_HEADROOM + packet.len();
    buffer[range.clone()].copy_from_slice(packet);
    let mut packets = [Packet::new(&mut buffer, range)?];
    let mut outcomes: [Result<Sealed, DropReason>; 1] = [Err(DropReason::SaMissing)];
    sa.seal_batch(&mut packets, &mut outcomes, Instant::now());
    ensure!(outcomes[0].is_ok(), "{:?}", outcomes[0]);
    let range = packets[0].range();
    Ok(buffer[range].to_vec())
}
