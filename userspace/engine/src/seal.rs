//! From the clear side to the wire.

use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_esp::{Fragmentation, MAX_TAILROOM, Mode, OutboundSa, seal_runs};
use ravelin_xdp_common::{Decision, Direction, DropReason, IpPacket, Kind, SliceReader, parse_ip};
use ravelin_xsk::{BATCH, Frame, Port};

use crate::adjacency::Snapshot;
use crate::datagram;
use crate::filter::Side;
use crate::forward;
use crate::forwarder::{Admitted, Forwarder, transform};
use crate::icmp::{self, IcmpError};
use crate::mss;
use crate::regime::Regime;
use crate::unfinished;

/// A clear packet that is to be sealed.
enum Clear<'u> {
    /// With it comes the longest packet that the SA takes: a longer one may be cut.
    Packet(Admitted<'u>, usize),
    /// To be fragmented once it is sealed, or a fragment of one.
    Datagram(Admitted<'u>),
}

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Seals the batch that the inner port received and sends it to the peers.
    pub(crate) fn seal(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        let mut received = std::mem::take(&mut self.received);
        let mut admitted = ArrayVec::new();
        for frame in received.drain() {
            let (one, inner_mtu) = match self.admit_clear(frame, regime, snapshot, now) {
                None => continue,
                Some(Clear::Packet(one, inner_mtu)) => (one, inner_mtu),
                Some(Clear::Datagram(one)) => {
                    // What came before goes first.
                    self.seal_admitted(&mut admitted, regime, snapshot, now);
                    self.seal_datagram(one, regime, snapshot, now);
                    continue;
                }
            };
            if one.frame.len() <= inner_mtu {
                self.push(one, &mut admitted, regime, snapshot, now);
                continue;
            }
            let pieces = Fragmentation::new(one.frame.data(), inner_mtu);
            match pieces.and_then(|pieces| self.cut(pieces)) {
                Ok(pieces) => {
                    for piece in pieces {
                        self.push(
                            Admitted::inside(piece, one.metadata.slot),
                            &mut admitted,
                            regime,
                            snapshot,
                            now,
                        );
                    }
                }
                Err(reason) => self.counters.dropped(reason),
            }
        }
        self.received = received;
        self.seal_admitted(&mut admitted, regime, snapshot, now);
    }

    /// Puts a packet among those to be sealed; when there are as many as go at once, they are.
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
                (Ok(()), Some(connection)) => {
                    let destination = (connection.remote, connection.remote_address);
                    self.forward(one.frame, Side::Outer, destination, snapshot, now);
                }
                (Ok(()), None) => self.counters.dropped(DropReason::SaMissing),
                (Err(reason), _) => self.counters.dropped(reason),
            }
        }
    }

    /// Checks a clear packet as a router does, before anything is spent on it.
    fn admit_clear(
        &mut self,
        frame: Frame<'u>,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Option<Clear<'u>> {
        let mut one = match Admitted::new(frame) {
            Ok(one) if one.metadata.kind == Kind::Seal => one,
            Ok(_) => return self.drop(DropReason::MetadataInvalid),
            Err(reason) => return self.drop(reason),
        };
        let connection = regime.sealing(&one.metadata);
        let Some((connection, outbound)) = connection.and_then(|one| Some((one, one.outbound.as_ref()?)))
        else {
            return self.drop(DropReason::SaMissing);
        };
        // Here, and not for all SAs when the MTU changes: there may be many, and few are in use.
        outbound.limit_to(connection.outer_mtu(snapshot.outer.mtu, now));
        let inner_mtu = outbound.sa.inner_mtu().unwrap_or(u32::MAX);
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
        match checked.and_then(|()| one.trim()) {
            Ok(()) => {
                // What comes from this host's own stack is complete: its edge sees to that.
                if !self.for_host {
                    unfinished::complete(one.frame.data_mut());
                }
                if connection.settings.tcp_mss_clamp && mss::clamp(one.frame.data_mut(), || Some(inner_mtu)) {
                    self.counters.mss_clamped.add(1);
                }
                match self.with_room(one.frame, &outbound.sa) {
                    Ok(frame) if whole => Some(Clear::Datagram(Admitted { frame, ..one })),
                    Ok(frame) => Some(Clear::Packet(Admitted { frame, ..one }, inner_mtu as usize)),
                    Err(reason) => self.drop(reason),
                }
            }
            Err(reason) => {
                outbound.sa.dropped(reason);
                let error = match reason {
                    DropReason::PacketTooBig => Some(IcmpError::TooBig(inner_mtu)),
                    DropReason::TtlExceeded => Some(IcmpError::TimeExceeded),
                    _ => None,
                };
                if let Some(error) = error {
                    self.tell_sender(one, error, snapshot, now);
                }
                self.drop(reason)
            }
        }
    }

    /// The packet in a frame that has room for the trailer, and for padding: where packets may have several chunks, one that just
    /// fits into a chunk has none behind it.
    fn with_room(&self, frame: Frame<'u>, sa: &OutboundSa) -> Result<Frame<'u>, DropReason> {
        let memory = self.outer.umem();
        if !memory.has_large_frames() {
            return Ok(frame);
        }
        let padded = frame.len().max(sa.tfc_length().unwrap_or(0) as usize) + MAX_TAILROOM;
        if padded <= frame.len() + frame.tailroom() {
            return Ok(frame);
        }
        let mut larger = memory.frame_for(padded).ok_or(DropReason::NoFrame)?;
        let room = larger.append(frame.len()).map_err(|_| DropReason::FrameShort)?;
        room.copy_from_slice(frame.data());
        Ok(larger)
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
    /// RFC 4301 section 6: ICMP that this machine makes is subject to the SPD like anything else.
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
        let Some((connection, outbound)) = connection.and_then(|one| Some((one, one.outbound.as_ref()?)))
        else {
            return;
        };
        if !icmp::may_answer(packet) || !self.icmp_budget.take(now) {
            return;
        }
        outbound.limit_to(connection.outer_mtu(snapshot.outer.mtu, now));
        let longest = outbound.sa.inner_mtu().unwrap_or(u32::MAX) as usize;
        let quoted = packet.get(..icmp::LONGEST_QUOTE).unwrap_or(packet);
        let answer = self
            .frame_of(quoted)
            .and_then(|frame| icmp::about(frame, &snapshot.inner, error, longest));
        let mut parsed = IpPacket::EMPTY;
        let Some(answer) = answer.filter(|frame| parse_ip(&SliceReader(frame.data()), &mut parsed).is_ok())
        else {
            return;
        };
        let verdict = regime.rules().classify(&parsed.flow, Direction::Outbound);
        if verdict.decision != Decision::Protect || verdict.connection != connection.slot {
            return;
        }
        self.counters.icmp_errors.add(1);
        let mut admitted = ArrayVec::new();
        admitted.push(Admitted::inside(answer, connection.slot));
        self.seal_admitted(&mut admitted, regime, snapshot, now);
    }

    /// A frame with a packet, if it fits into one.
    pub(crate) fn frame_of(&self, packet: &[u8]) -> Option<Frame<'u>> {
        let mut frame = self.outer.umem().frame_for(packet.len())?;
        frame.append(packet.len()).ok()?.copy_from_slice(packet);
        Some(frame)
    }

    /// Counts a packet that ends here.
    pub(crate) fn drop<T>(&self, reason: DropReason) -> Option<T> {
        self.counters.dropped(reason);
        None
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
