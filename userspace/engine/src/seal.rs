//! From the clear side to the wire.

use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_esp::{Fragmentation, MAX_TAILROOM, Mode, OutboundSa, seal_runs};
use ravelin_xdp_common::{Decision, DropReason, FrameMetadata, IpPacket, Kind, SliceReader, parse_ip};
use ravelin_xsk::{BATCH, Frame, Port};

use crate::adjacency::{self, Snapshot};
use crate::connection::{Connection, Outbound};
use crate::crypto_pool::Way;
use crate::datagram;
use crate::filter::Side;
use crate::forward;
use crate::forwarder::{Admitted, Forwarder, transform};
use crate::icmp::{self, IcmpError};
use crate::mss;
use crate::regime::Regime;
use crate::unfinished;

/// How a clear packet is to be sealed.
#[derive(Clone, Copy)]
enum Clear {
    /// The longest packet that the SA takes, in bytes: a longer one may be cut.
    Packet(usize),
    /// To be fragmented once it is sealed, or a fragment of one.
    Datagram,
}

/// Why a clear packet is not sealed, and what its sender is told.
#[derive(Clone, Copy)]
struct Refusal {
    reason: DropReason,
    answer: Option<IcmpError>,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, answer: None }
    }
}

/// What the packets of a connection have in common that the driver decided under one generation.
#[derive(Clone, Copy)]
struct Sealing<'r> {
    slot: u32,
    generation: u16,
    connection: &'r Connection,
    outbound: &'r Outbound,
    /// The longest clear packet, in bytes.
    inner_mtu: u32,
}

impl<'r> Sealing<'r> {
    /// `None` if there is no SA for such packets.
    #[inline]
    fn of(metadata: &FrameMetadata, regime: &'r Regime, snapshot: &Snapshot, now: Instant) -> Option<Self> {
        let connection = regime.sealing(metadata)?;
        let outbound = connection.outbound_within(snapshot.outer.mtu, now)?;
        Some(Self {
            slot: metadata.slot,
            generation: metadata.generation,
            connection,
            outbound,
            inner_mtu: outbound.sa.inner_mtu().unwrap_or(u32::MAX),
        })
    }

    #[inline]
    fn is_for(&self, metadata: &FrameMetadata) -> bool {
        (self.slot, self.generation) == (metadata.slot, metadata.generation)
    }
}

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Seals the batch that the inner port received and sends it to the peers.
    pub(crate) fn seal(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        let mut received = std::mem::take(&mut self.received);
        let mut admitted = ArrayVec::new();
        let mut last: Option<Sealing<'_>> = None;
        for frame in received.drain() {
            let Some(one) = self.admit(frame, |kind| kind == Kind::Seal) else {
                continue;
            };
            // Packets come in trains.
            if last.is_none_or(|last| !last.is_for(&one.metadata)) {
                last = Sealing::of(&one.metadata, regime, snapshot, now);
            }
            // It moves before it is changed: what was written in parts just now cannot be read as a whole at once.
            self.push(one, &mut admitted, regime, snapshot, now);
            let Some(one) = admitted.last_mut() else { continue };
            let clear = match last {
                Some(sealing) => self.admit_clear(one, sealing),
                None => Err(DropReason::SaMissing.into()),
            };
            if matches!(clear, Ok(Clear::Packet(inner_mtu)) if one.frame.len() <= inner_mtu) {
                continue;
            }
            if let Some(one) = admitted.pop() {
                self.seal_apart(one, clear, &mut admitted, regime, snapshot, now);
            }
        }
        self.received = received;
        self.seal_admitted(&mut admitted, regime, snapshot, now);
    }

    /// Does with a packet what is not just to seal it among others.
    #[cold]
    fn seal_apart(
        &mut self,
        one: Admitted<'u>,
        clear: Result<Clear, Refusal>,
        admitted: &mut ArrayVec<Admitted<'u>, BATCH>,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let inner_mtu = match clear {
            Ok(Clear::Packet(inner_mtu)) => inner_mtu,
            Ok(Clear::Datagram) => {
                // What came before goes first.
                self.seal_admitted(admitted, regime, snapshot, now);
                if !self.settle(Way::Out, regime, snapshot, now) {
                    return self.counters.dropped(DropReason::ReceiveOverrun);
                }
                return self.seal_datagram(one, regime, snapshot, now);
            }
            Err(Refusal { reason, answer }) => {
                if let Some(error) = answer {
                    self.tell_sender(one, error, snapshot, now);
                }
                return self.counters.dropped(reason);
            }
        };
        let pieces = Fragmentation::new(one.frame.data(), inner_mtu);
        match pieces.and_then(|pieces| self.cut(pieces)) {
            Ok(pieces) => {
                for piece in pieces {
                    let piece = Admitted::inside(piece, one.metadata.slot);
                    self.push(piece, admitted, regime, snapshot, now);
                }
            }
            Err(reason) => self.counters.dropped(reason),
        }
    }

    /// Puts a packet among those to be sealed; when there are as many as go at once, they are.
    #[inline]
    fn push(
        &mut self,
        one: Admitted<'u>,
        admitted: &mut ArrayVec<Admitted<'u>, BATCH>,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        if admitted.is_full() {
            self.seal_admitted(admitted, regime, snapshot, now);
        }
        admitted.push(one);
    }

    fn seal_admitted(
        &mut self,
        admitted: &mut ArrayVec<Admitted<'u>, BATCH>,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        if self.pool.is_some() {
            self.send_away(Way::Out, admitted, regime, snapshot, now);
        }
        let sealing = |slot| {
            let outbound = regime.connection(slot)?.outbound.as_ref()?;
            self.shared.sealed.set(outbound.pair);
            Some(&*outbound.sa)
        };
        transform(admitted, sealing, |runs, packets, outcomes| {
            seal_runs(runs, packets, outcomes, now);
        });
        for one in admitted.drain(..) {
            match (one.outcome, regime.connection(one.metadata.slot)) {
                (Ok(()), Some(connection)) => self.forward_to_peer(one.frame, connection, snapshot, now),
                (Ok(()), None) => self.counters.dropped(DropReason::SaMissing),
                (Err(reason), _) => self.counters.dropped(reason),
            }
        }
    }

    /// Checks a clear packet as a router does, before anything is spent on it, and leaves it as it is to be sealed; if it is refused
    /// it was not trimmed.
    #[inline]
    fn admit_clear(&self, one: &mut Admitted<'u>, sealing: Sealing<'_>) -> Result<Clear, Refusal> {
        let Sealing {
            connection,
            outbound,
            inner_mtu,
            ..
        } = sealing;
        let too_big = u32::from(one.metadata.l3_length) > inner_mtu;
        let whole = self.for_host
            && outbound.sa.mode() == Mode::Transport
            && datagram::is_sealed_whole(one.packet_mut(), too_big);
        let checked = forward::verify_checksum(one.packet_mut()).and_then(|()| {
            if too_big && !whole {
                // The TTL counts first: an expired packet gets that answer.
                if !self.for_host {
                    forward::check_ttl(one.packet_mut())?;
                }
                may_cut(one.packet_mut(), inner_mtu, outbound.sa.mode())?;
            }
            if self.for_host {
                // What this host itself sends, or has forwarded already, makes no hop here.
                return Ok(());
            }
            forward::decrement_ttl(one.packet_mut())
        });
        let checked = checked.and_then(|()| one.trim());
        if let Err(reason) = checked {
            outbound.sa.dropped(reason);
            let answer = match reason {
                DropReason::PacketTooBig => Some(IcmpError::TooBig(inner_mtu)),
                DropReason::TtlExceeded => Some(IcmpError::TimeExceeded),
                _ => None,
            };
            return Err(Refusal { reason, answer });
        }
        // What comes from this host's own stack is complete: its edge sees to that.
        if !self.for_host {
            unfinished::complete(one.frame.data_mut());
        }
        if connection.settings.tcp_mss_clamp && mss::clamp(one.frame.data_mut(), || Some(inner_mtu)) {
            self.counters.mss_clamped.add(1);
        }
        if self.outer.umem().has_large_frames() {
            self.make_room(&mut one.frame, &outbound.sa)?;
        }
        Ok(if whole {
            Clear::Datagram
        } else {
            Clear::Packet(inner_mtu as usize)
        })
    }

    /// Has the frame hold its packet with room for the trailer, and for padding: where packets may have several chunks, one that just
    /// fits into a chunk has none behind it.
    fn make_room(&self, frame: &mut Frame<'u>, sa: &OutboundSa) -> Result<(), DropReason> {
        let padded = frame.len().max(sa.tfc_length().unwrap_or(0) as usize) + MAX_TAILROOM;
        if padded <= frame.len() + frame.tailroom() {
            return Ok(());
        }
        let larger = self.outer.umem().frame_for(padded);
        let mut larger = larger.ok_or(DropReason::NoFrame)?;
        let room = larger.append(frame.len()).map_err(|_| DropReason::FrameShort)?;
        room.copy_from_slice(frame.data());
        *frame = larger;
        Ok(())
    }

    /// The fragments of a packet, each in a frame of its own.
    pub(crate) fn cut(&self, pieces: Fragmentation<'_>) -> Result<ArrayVec<Frame<'u>, BATCH>, DropReason> {
        let mut frames = ArrayVec::new();
        for piece in pieces {
            let memory = self.outer.umem();
            let frame = memory.frame_for(piece.len() + MAX_TAILROOM);
            let mut frame = frame.ok_or(DropReason::NoFrame)?;
            let room = frame.append(piece.len()).map_err(|_| DropReason::FrameShort)?;
            piece.write(room);
            frames.try_push(frame).map_err(|_| DropReason::PacketTooBig)?;
        }
        self.counters.fragmented.add(1);
        Ok(frames)
    }

    /// Sends an ICMP error to the host that sent a frame which was not trimmed yet.
    fn tell_sender(&mut self, mut one: Admitted<'u>, error: IcmpError, snapshot: &Snapshot, now: Instant) {
        if !self.icmp_budget.take(now) {
            return;
        }
        let l3_offset = one.metadata.l3_offset.into();
        let port = if self.for_host {
            // No router is between the stack and here; the answer seems to come from where the packet was to go.
            snapshot.outer.speaking_for(one.packet_mut())
        } else {
            snapshot.inner
        };
        if let Some(answer) = icmp::answer(one.frame, l3_offset, &port, error) {
            self.counters.icmp_errors.add(1);
            self.queue(answer, Side::Inner);
        }
    }

    /// Sends an ICMP error to the host behind the peer that sent an opened packet, if that goes through the very SAs that the
    /// packet came through.
    ///
    /// RFC 4301 section 6: ICMP that this machine makes is subject to the SPD like anything else, if need be by what it quotes.
    pub(crate) fn tell_peer(
        &mut self,
        packet: &[u8],
        pair: u32,
        error: IcmpError,
        (regime, snapshot): (&Regime, &Snapshot),
        now: Instant,
    ) {
        let connection = regime
            .inbound(pair)
            .and_then(|inbound| regime.connection(inbound.connection));
        let sealing = connection.and_then(|one| Some((one, one.outbound_within(snapshot.outer.mtu, now)?)));
        let Some((connection, outbound)) = sealing else {
            return;
        };
        let longest = outbound.sa.inner_mtu().unwrap_or(u32::MAX) as usize;
        let answer = self.error_about(packet, &snapshot.inner, error, longest, now);
        let mut parsed = IpPacket::EMPTY;
        let Some(answer) = answer.filter(|frame| parse_ip(&SliceReader(frame.data()), &mut parsed).is_ok())
        else {
            return;
        };
        let verdict = regime.judge_own_error(answer.data(), &parsed);
        if verdict.decision != Decision::Protect || verdict.connection != connection.slot {
            return;
        }
        self.counters.icmp_errors.add(1);
        let mut admitted = ArrayVec::new();
        admitted.push(Admitted::inside(answer, connection.slot));
        self.seal_admitted(&mut admitted, regime, snapshot, now);
    }

    /// An ICMP error about a packet, from its IP header on; `None` if there may be none about it, or there were too many.
    pub(crate) fn error_about(
        &mut self,
        packet: &[u8],
        port: &adjacency::Port,
        error: IcmpError,
        longest: usize,
        now: Instant,
    ) -> Option<Frame<'u>> {
        if !icmp::may_answer(packet) || !self.icmp_budget.take(now) {
            return None;
        }
        let quoted = packet.get(..icmp::LONGEST_QUOTE).unwrap_or(packet);
        icmp::about(self.frame_of(quoted)?, port, error, longest)
    }

    /// A frame with a packet, if it fits into one.
    pub(crate) fn frame_of(&self, packet: &[u8]) -> Option<Frame<'u>> {
        let mut frame = self.outer.umem().frame_for(packet.len())?;
        frame.append(packet.len()).ok()?.copy_from_slice(packet);
        Some(frame)
    }
}

/// Whether a packet that does not fit may be cut into fragments that do.
///
/// RFC 4301 section 8.1: "If the DF bit is clear … fragment before applying IPsec". In transport mode ESP covers whole datagrams
/// only (RFC 4303 section 3.3.4).
fn may_cut(packet: &[u8], mtu: u32, mode: Mode) -> Result<(), DropReason> {
    match mode {
        Mode::Tunnel { .. } => Fragmentation::new(packet, mtu as usize).map(drop),
        Mode::Transport => Err(DropReason::PacketTooBig),
    }
}
