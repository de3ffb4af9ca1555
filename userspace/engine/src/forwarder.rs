//! The path of packets through one worker: from the clear side sealed to the wire, from the wire opened to the
//! clear side. No allocation, no lock, no log here; what it cannot do at once waits in the hold.

use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use ravelin_esp::{MAX_BATCH, Packet, Reassembly};
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{Address, DropReason, Family, FrameMetadata, Kind};
use ravelin_xsk::{BATCH, Batch, Frame, Kick, Port, PortError};

use crate::adjacency::{Ends, Hop, Question, Snapshot};
use crate::connection::Connection;
use crate::counters::WorkerCounters;
use crate::crypto_pool::{CryptoPool, Way};
use crate::device::Mac;
use crate::filter::Side;
use crate::foresight;
use crate::fragments::Fragments;
use crate::hold::{Hold, Waiting};
use crate::icmp::Budget;
use crate::peer_hops::PeerHops;
use crate::regime::{Regime, Shared};

const ETHERNET: usize = 14;

/// How often packets that wait are looked at when there are no news about neighbours: to drop those whose time is up.
const RETRY: Duration = Duration::from_millis(10);

// A worker's batch goes through the SAs at once.
const _: () = assert!(BATCH <= MAX_BATCH);

/// One worker's packet path.
#[derive(Debug)]
pub struct Forwarder<'a, 'u, P> {
    pub(crate) inner: P,
    pub(crate) outer: P,
    pub(crate) shared: &'a Shared,
    pub(crate) counters: &'a WorkerCounters,
    pub(crate) received: Batch<'u>,
    to_inner: Batch<'u>,
    to_outer: Batch<'u>,
    hold: Hold<'u>,
    pub(crate) icmp_budget: Budget,
    /// For packets from where no peer is: each costs a decryption, whoever sent it.
    pub(crate) moved_budget: Budget,
    /// For ICMP errors that are believed.
    pub(crate) quote_budget: Budget,
    /// The clear side is this host's own stack: nothing is forwarded.
    pub(crate) for_host: bool,
    pub(crate) fragments: Fragments,
    /// ESP packets of which fragments have come; away while a batch is opened.
    pub(crate) reassembly: Option<Box<Reassembly>>,
    /// This host's own datagrams of which fragments have come; away while one is sealed, and only there for a host.
    pub(crate) own: Option<Box<Reassembly>>,
    /// Of the last packet of IPv6 that was fragmented here.
    pub(crate) identification: u32,
    /// The regime's edition and the snapshot's generation that were used last.
    generations: (u64, u64),
    /// The last next hop found on the clear side: packets come in trains, and this saves each but the first the look-up.
    last_hop: Option<(Address, Mac)>,
    /// Those found towards peers.
    peers: PeerHops,
    /// Threads that share the work.
    pub(crate) pool: Option<Box<CryptoPool<'u>>>,
    /// Losses that were counted already: on receiving, on sending, of jumbo packets for their length and for want of memory.
    published: [u64; 4],
    /// The snapshot with which the hold was last looked through, and when.
    released: (u64, Instant),
}

/// What a turn found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Frames received, and errands run.
    pub received: usize,
    /// Frames that could not be handed to a device yet.
    pub unsent: bool,
    /// Packets are with the threads of the pool, and will be back soon.
    pub away: bool,
    /// Packets wait for a neighbour.
    pub holding: bool,
}

/// A frame on its way through a batch.
#[derive(Debug)]
pub(crate) struct Admitted<'u> {
    pub(crate) frame: Frame<'u>,
    /// What the driver said about it.
    pub(crate) metadata: FrameMetadata,
    /// How its transformation went.
    pub(crate) outcome: Result<(), DropReason>,
}

impl<'u> Admitted<'u> {
    /// Reads what the driver wrote in front of a frame and checks it against the frame.
    #[inline]
    pub(crate) fn new(frame: Frame<'u>) -> Result<Self, DropReason> {
        let metadata = frame
            .metadata(FrameMetadata::LENGTH)
            .and_then(FrameMetadata::from_bytes);
        let metadata = metadata.ok_or(DropReason::MetadataInvalid)?;
        if usize::from(metadata.l3_offset) + usize::from(metadata.l3_length) > frame.len() {
            return Err(DropReason::MetadataInvalid);
        }
        Ok(Self {
            frame,
            metadata,
            outcome: Err(DropReason::SaMissing),
        })
    }

    /// A packet that no driver has seen as it is, from its IP header on, for the SA in a slot.
    pub(crate) fn inside(frame: Frame<'u>, slot: u32) -> Self {
        let l3_length = frame.len() as u16;
        Self {
            frame,
            metadata: FrameMetadata {
                slot,
                rule_id: NO_RULE,
                l3_offset: 0,
                l3_length,
                generation: 0,
                kind: Kind::OpenEsp,
                family: 0,
            },
            outcome: Err(DropReason::SaMissing),
        }
    }

    /// Cuts off what surrounds the IP packet.
    pub(crate) fn trim(&mut self) -> Result<(), DropReason> {
        let trimmed = self.frame.trim_front(self.metadata.l3_offset.into());
        trimmed
            .and_then(|()| self.frame.truncate(self.metadata.l3_length.into()))
            .map_err(|_| DropReason::FrameShort)
    }

    /// Seals or opens it by itself, and notes how that went.
    pub(crate) fn transform<T>(&mut self, crypt: impl FnOnce(&mut Packet<'_>) -> Result<T, DropReason>) {
        let (buffer, start, end) = self.frame.chunk_mut();
        let outcome = match Packet::new(buffer, start..end) {
            Ok(mut packet) => crypt(&mut packet).map(|_| packet.range()),
            // Not reached: a frame's range lies within its chunk.
            Err(_) => Err(DropReason::FrameShort),
        };
        self.outcome = outcome.and_then(|range| self.give(range));
    }

    /// Has the frame hold what has become of its packet.
    fn give(&mut self, range: Range<usize>) -> Result<(), DropReason> {
        self.frame
            .set_range(range.start, range.end)
            .map_err(|_| DropReason::FrameShort)
    }

    /// The IP packet of a frame that was not trimmed yet.
    #[inline]
    pub(crate) fn packet_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.metadata.l3_offset);
        let end = start + usize::from(self.metadata.l3_length);
        // `new` has checked the range.
        self.frame.data_mut().get_mut(start..end).unwrap_or_default()
    }
}

impl<'a, 'u, P: Port<'u>> Forwarder<'a, 'u, P> {
    /// A packet path between two ports.
    pub fn new(inner: P, outer: P, shared: &'a Shared, counters: &'a WorkerCounters) -> Self {
        Self {
            inner,
            outer,
            shared,
            counters,
            received: Batch::new(),
            to_inner: Batch::new(),
            to_outer: Batch::new(),
            hold: Hold::new(),
            icmp_budget: Budget::new(Instant::now()),
            moved_budget: Budget::new(Instant::now()),
            quote_budget: Budget::new(Instant::now()),
            for_host: false,
            fragments: Fragments::new(Instant::now()),
            reassembly: Some(Box::default()),
            own: None,
            identification: 0,
            generations: (0, 0),
            last_hop: None,
            peers: PeerHops::default(),
            pool: None,
            published: [0; 4],
            released: (0, Instant::now()),
        }
    }

    /// The same for a host whose own stack is behind the inner port.
    #[must_use]
    pub(crate) fn for_host(self) -> Self {
        Self {
            for_host: true,
            own: Some(Box::default()),
            // RFC 7739 section 1: others should not be able to guess it. This is the standard library's source of chance.
            identification: RandomState::new().hash_one(0) as u32,
            ..self
        }
    }

    /// Takes one batch from each side as far as it goes.
    ///
    /// # Errors
    ///
    /// [`PortError`] when a device is down or gone.
    pub fn turn(&mut self) -> Result<Turn, PortError> {
        let now = Instant::now();
        let shared = self.shared;
        let regime = shared.regime();
        let snapshot = shared.adjacencies().current();
        let (regime, snapshot): (&Regime, &Snapshot) = (&regime, &snapshot);
        let generations = (regime.edition(), snapshot.generation);
        if generations != self.generations {
            self.last_hop = None;
            self.peers.renew(regime.places());
            // What is away still has SAs of the regime before.
            if self.settle_all(regime, snapshot, now) {
                self.generations = generations;
                self.counters.taken_up.set(regime.edition());
            }
        }
        if self.pool.is_some() {
            self.take_back(regime, snapshot, now);
        }
        self.release(snapshot, now);
        for reassembly in [&mut self.reassembly, &mut self.own].into_iter().flatten() {
            reassembly.expire(now, |reason, count| self.counters.lost(reason, count as u64));
        }
        let errands = self.run_errands(regime, snapshot, now);
        let mut received = 0;
        if self.has_room(Way::Out) {
            received = self.inner.rx(&mut self.received);
        }
        if received != 0 {
            foresight::of_sealing(&self.received, regime, &self.peers);
            self.seal(regime, snapshot, now);
        }
        let mut opened = 0;
        if self.has_room(Way::In) {
            opened = self.outer.rx(&mut self.received);
        }
        if opened != 0 {
            foresight::of_opening(&self.received, regime);
            self.open(regime, snapshot, now);
        }
        received += opened;
        let away = self.help(received == 0);
        let unsent = self.send()?;
        Ok(Turn {
            received: received + errands,
            unsent,
            away,
            holding: !self.hold.is_empty(),
        })
    }

    /// Hands what is ready to the devices.
    fn send(&mut self) -> Result<bool, PortError> {
        let mut unsent = false;
        for (port, batch) in [
            (&mut self.outer, &mut self.to_outer),
            (&mut self.inner, &mut self.to_inner),
        ] {
            port.reclaim();
            port.tx(batch);
            unsent |= port.kick()? == Kick::Retry || batch.room() < BATCH;
        }
        Ok(unsent)
    }

    /// Gives the kernel room to receive into, before the worker sleeps.
    pub(crate) fn refill(&mut self) {
        for port in [&mut self.outer, &mut self.inner] {
            port.reclaim();
            port.refill();
        }
    }

    /// Counts what was lost between the worker and the devices, which only the kernel knows.
    pub(crate) fn publish_losses(&mut self) {
        let (mut overruns, mut refused, mut too_long, mut no_frame) = (0, 0, 0, 0);
        for port in [&self.outer, &self.inner] {
            if let Ok(statistics) = port.statistics() {
                overruns += statistics.rx_dropped + statistics.rx_ring_full;
            }
            let counters = port.counters();
            refused += counters.dropped + counters.refused;
            too_long += counters.too_long;
            no_frame += counters.no_frame;
        }
        let losses = [overruns, refused, too_long, no_frame];
        let before = std::mem::replace(&mut self.published, losses);
        let reasons = [
            DropReason::ReceiveOverrun,
            DropReason::TransmitFailed,
            DropReason::FrameTooLong,
            DropReason::NoFrame,
        ];
        for ((reason, now), before) in reasons.into_iter().zip(losses).zip(before) {
            self.counters.lost(reason, now.saturating_sub(before));
        }
    }

    /// Whether the devices are still there.
    pub(crate) fn check(&mut self) -> Result<(), PortError> {
        self.outer.check()?;
        self.inner.check()
    }

    fn release(&mut self, snapshot: &Snapshot, now: Instant) {
        let news = self.released.0 != snapshot.generation;
        if self.hold.is_empty() || (!news && now.duration_since(self.released.1) < RETRY) {
            return;
        }
        self.released = (snapshot.generation, now);
        let counters = self.counters;
        for _ in 0..self.hold.len() {
            let Some((waiting, mac)) = self.hold.release(snapshot, now, counters) else {
                continue;
            };
            self.emit(waiting.frame, waiting.side, mac, snapshot);
        }
    }

    /// Takes a frame in, if the driver's word about it is whole, and of a kind that is asked for; else it is dropped and counted.
    #[inline(always)]
    pub(crate) fn admit(&self, frame: Frame<'u>, asked: impl FnOnce(Kind) -> bool) -> Option<Admitted<'u>> {
        match Admitted::new(frame) {
            Ok(one) if asked(one.metadata.kind) => Some(one),
            Ok(_) => {
                self.counters.dropped(DropReason::MetadataInvalid);
                None
            }
            Err(reason) => {
                self.counters.dropped(reason);
                None
            }
        }
    }

    /// Sends a sealed packet to the peer of a connection, or lets it wait for the neighbour.
    #[inline]
    pub(crate) fn forward_to_peer(
        &mut self,
        frame: Frame<'u>,
        connection: &Connection,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        if let Some(mac) = self.peers.get(connection.slot) {
            return self.emit(frame, Side::Outer, mac, snapshot);
        }
        let found = self.forward_elsewhere(frame, Side::Outer, connection.ends, snapshot, now);
        if let Some(mac) = found {
            self.peers.set(connection.slot, mac);
        }
    }

    /// Sends an opened IP packet towards its destination, or lets it wait for the neighbour.
    #[inline]
    pub(crate) fn forward(
        &mut self,
        frame: Frame<'u>,
        destination: &Address,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        if self.for_host {
            // The stack is no neighbour that had to be asked for.
            return self.emit(frame, Side::Inner, snapshot.outer.mac, snapshot);
        }
        match &self.last_hop {
            Some((last, mac)) if last == destination => {
                let mac = *mac;
                self.emit(frame, Side::Inner, mac, snapshot);
            }
            _ => {
                let found = self.forward_elsewhere(frame, Side::Inner, Ends::to(*destination), snapshot, now);
                if let Some(mac) = found {
                    self.last_hop = Some((*destination, mac));
                }
            }
        }
    }

    /// The same, where the next hop has to be looked up; returns it, if packets can go there.
    #[inline(never)]
    fn forward_elsewhere(
        &mut self,
        frame: Frame<'u>,
        side: Side,
        ends: Ends,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Option<Mac> {
        match snapshot.hop(side, &ends) {
            Some(Hop::Ready(mac)) => {
                self.emit(frame, side, mac, snapshot);
                return Some(mac);
            }
            Some(Hop::Closed(reason)) => self.counters.dropped(reason),
            unknown => {
                if unknown.is_none() {
                    let family = match version(&frame) {
                        6 => Family::V6,
                        _ => Family::V4,
                    };
                    self.shared.adjacencies().ask(Question::new(side, &ends, family));
                }
                self.hold.push(Waiting { frame, side, ends }, now, self.counters);
            }
        }
        None
    }

    /// Puts the Ethernet header in front of an IP packet and queues the frame.
    #[inline(always)]
    fn emit(&mut self, frame: Frame<'u>, side: Side, destination: Mac, snapshot: &Snapshot) {
        // It moves before it is changed: what was written in parts just now cannot be read as a whole at once.
        let Some(frame) = self.queue(frame, side) else {
            return;
        };
        let ether_type = match version(frame) {
            6 => [0x86, 0xdd],
            _ => [0x08, 0x00],
        };
        let Ok(header) = frame.prepend(ETHERNET) else {
            self.batch(side).pop();
            return self.counters.dropped(DropReason::FrameShort);
        };
        header[..6].copy_from_slice(&destination);
        header[6..12].copy_from_slice(&snapshot.port(side).mac);
        header[12..].copy_from_slice(&ether_type);
        match side {
            Side::Outer => self.counters.sealed.add(1),
            Side::Inner => self.counters.opened.add(1),
        }
    }

    fn batch(&mut self, side: Side) -> &mut Batch<'u> {
        match side {
            Side::Outer => &mut self.to_outer,
            Side::Inner => &mut self.to_inner,
        }
    }

    /// Queues a whole frame for a device, and shows it as it waits there. When the device takes no more, it is dropped and counted.
    #[inline(always)]
    pub(crate) fn queue(&mut self, frame: Frame<'u>, side: Side) -> Option<&mut Frame<'u>> {
        let (port, batch) = match side {
            Side::Outer => (&mut self.outer, &mut self.to_outer),
            Side::Inner => (&mut self.inner, &mut self.to_inner),
        };
        if batch.is_full() {
            port.tx(batch);
        }
        if batch.push(frame).is_err() {
            self.counters.dropped(DropReason::TransmitFailed);
            return None;
        }
        batch.last_mut()
    }
}

/// Seals or opens frames in place and notes how each went: all at once, those of each slot one after the other and as they came. `sa` is
/// asked once for each slot; frames of those without an SA are left alone, as are those that come from elsewhere than the peer.
pub(crate) fn transform<S, T: Copy>(
    admitted: &mut [Admitted<'_>],
    mut sa: impl FnMut(u32) -> Option<S>,
    crypt: impl FnOnce(&[(S, usize)], &mut [Packet<'_>], &mut [Result<T, DropReason>]),
) {
    let mut ready: ArrayVec<Packet<'_>, BATCH> = ArrayVec::new();
    let mut order: ArrayVec<Ready, BATCH> = ArrayVec::new();
    let mut sorted = true;
    for (one, place) in admitted.iter_mut().zip(0..) {
        let (slot, moved) = (one.metadata.slot, one.metadata.kind == Kind::Moved);
        let (buffer, start, end) = one.frame.chunk_mut();
        // A frame's range lies within its chunk, so there is a packet.
        if let Some(packet) = Packet::new(buffer, start..end).ok().filter(|_| !moved) {
            sorted &= order.last().is_none_or(|before| before.slot <= slot);
            order.push(Ready { slot, place });
            ready.push(packet);
        }
    }
    if !sorted {
        sort(&mut order, &mut ready);
    }
    let mut runs: ArrayVec<(S, usize), BATCH> = ArrayVec::new();
    let mut left_alone = 0_u64;
    for run in order.chunk_by(|a, b| a.slot == b.slot) {
        match sa(run[0].slot) {
            Some(sa) => runs.push((sa, run.len())),
            None => left_alone |= run.iter().fold(0, |bits, one| bits | 1 << one.place),
        }
    }
    if left_alone != 0 {
        let mut places = order.iter().map(|one| one.place);
        ready.retain(|_| places.next().is_some_and(|place| left_alone >> place & 1 == 0));
        order.retain(|one| left_alone >> one.place & 1 == 0);
    }
    let mut outcomes = [Err(DropReason::SaMissing); BATCH];
    crypt(&runs, &mut ready, &mut outcomes[..order.len()]);
    let mut ranges = ArrayVec::<_, BATCH>::new();
    ranges.extend(ready.iter().map(Packet::range));
    drop(ready);
    // By reference, as much as it is: an array that is given away is copied first.
    for ((Ready { place, .. }, range), outcome) in order.iter().zip(&ranges).zip(&outcomes) {
        let one = &mut admitted[*place as usize];
        one.outcome = outcome.and_then(|_| one.give(range.clone()));
    }
}

/// A packet that goes through an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ready {
    slot: u32,
    /// Among those that were admitted.
    place: u32,
}

// Places are bits of a word.
const _: () = assert!(BATCH <= u64::BITS as usize);

/// Puts packets together that have the same slot, and leaves them in their order there.
#[inline(never)]
fn sort(order: &mut ArrayVec<Ready, BATCH>, packets: &mut ArrayVec<Packet<'_>, BATCH>) {
    let mut by_place = [const { None }; BATCH];
    for (one, packet) in order.iter().zip(packets.drain(..)) {
        by_place[one.place as usize] = Some(packet);
    }
    order.sort_unstable();
    packets.extend(order.iter().filter_map(|one| by_place[one.place as usize].take()));
}

/// The version of IP in a frame that begins with its IP header.
#[inline]
fn version(frame: &Frame<'_>) -> u8 {
    frame.data().first().map_or(0, |first| first >> 4)
}

#[cfg(test)]
mod tests;
