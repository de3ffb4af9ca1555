//! From the wire to the clear side.

use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_esp::{Reassembly, Whole};
use ravelin_xdp_common::{Decision, Direction, DropReason, Header, IpPacket, Kind, SliceReader, parse_ip};
use ravelin_xsk::{BATCH, Frame, Port};

use crate::adjacency::Snapshot;
use crate::filter::Side;
use crate::forward;
use crate::forwarder::{Admitted, Forwarder, by_slot, destination_of, transform};
use crate::regime::Regime;

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Opens the batch that the outer port received and sends what proved itself to the hosts of the clear side.
    pub(crate) fn open(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        let mut reassembly = self.reassembly.take();
        let mut received = std::mem::take(&mut self.received);
        let mut admitted = ArrayVec::new();
        for frame in received.drain() {
            let Some(one) = self.admit_sealed(frame) else {
                continue;
            };
            if one.metadata.kind != Kind::Reassemble {
                admitted.push(one);
                continue;
            }
            let whole = reassembly
                .as_mut()
                .and_then(|pool| self.reassemble(pool, &one, now));
            let Some(mut whole) = whole else {
                continue;
            };
            if let Some(frame) = self.frame_of(whole.packet.bytes()) {
                admitted.push(Admitted::sealed(frame, whole.label));
            } else {
                // What came before goes first.
                self.open_admitted(&mut admitted, regime, snapshot, now);
                self.open_large(&mut whole, regime, snapshot, now);
            }
        }
        self.received = received;
        self.reassembly = reassembly;
        self.open_admitted(&mut admitted, regime, snapshot, now);
    }

    fn open_admitted(
        &mut self,
        admitted: &mut ArrayVec<Admitted<'u>, BATCH>,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        for run in by_slot(admitted) {
            // Should the slot have changed hands since the driver looked, the SPI is not this SA's.
            if let Some(inbound) = regime.inbound(run[0].metadata.slot) {
                transform(run, |packets, outcomes| {
                    inbound.sa.open_batch(packets, outcomes, now);
                });
                self.shared.opened.set(inbound.pair);
            }
        }
        for mut one in admitted.drain(..) {
            if let Err(reason) = one.outcome {
                self.counters.dropped(reason);
                continue;
            }
            let slot = one.metadata.slot;
            match self.accept(one.frame.data_mut(), slot, regime, snapshot, now) {
                Ok(packet) => {
                    let destination = destination_of(packet.flow.destination, packet.flow.family);
                    self.forward(one.frame, Side::Inner, destination, snapshot, now);
                }
                Err(reason) => self.refuse(slot, reason, regime),
            }
        }
    }

    fn admit_sealed(&self, frame: Frame<'u>) -> Option<Admitted<'u>> {
        let mut one = match Admitted::new(frame) {
            Ok(one) if one.metadata.kind != Kind::Seal => one,
            Ok(_) => return self.drop(DropReason::MetadataInvalid),
            Err(reason) => return self.drop(reason),
        };
        match forward::verify_checksum(one.packet_mut()).and_then(|()| one.trim()) {
            Ok(()) => Some(one),
            Err(reason) => self.drop(reason),
        }
    }

    /// Takes a fragment; the packet that it completes, if it does.
    fn reassemble<'r>(
        &self,
        pool: &'r mut Reassembly,
        one: &Admitted<'u>,
        now: Instant,
    ) -> Option<Whole<'r>> {
        let whole = pool.offer(one.frame.data(), one.metadata.slot, now, |reason, count| {
            self.counters.lost(reason, count as u64);
        })?;
        self.counters.reassembled.add(1);
        Some(whole)
    }

    /// A frame with a packet, if it fits into one.
    fn frame_of(&self, packet: &[u8]) -> Option<Frame<'u>> {
        let mut frame = self.outer.umem().frame()?;
        frame.append(packet.len()).ok()?.copy_from_slice(packet);
        Some(frame)
    }

    /// Opens a packet that is too long for a frame as long as it is sealed.
    fn open_large(&mut self, whole: &mut Whole<'_>, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        let mut outcomes = [Err(DropReason::SaMissing)];
        if let Some(inbound) = regime.inbound(whole.label) {
            let packets = std::slice::from_mut(&mut whole.packet);
            inbound.sa.open_batch(packets, &mut outcomes, now);
            self.shared.opened.set(inbound.pair);
        }
        let [outcome] = outcomes;
        if let Err(reason) = outcome {
            self.counters.dropped(reason);
            return;
        }
        let accepted = self
            .accept(whole.packet.bytes_mut(), whole.label, regime, snapshot, now)
            .and_then(|packet| {
                let frame = self
                    .frame_of(whole.packet.bytes())
                    .ok_or(DropReason::FrameShort)?;
                Ok((packet, frame))
            });
        match accepted {
            Ok((packet, frame)) => {
                let destination = destination_of(packet.flow.destination, packet.flow.family);
                self.forward(frame, Side::Inner, destination, snapshot, now);
            }
            Err(reason) => self.refuse(whole.label, reason, regime),
        }
    }

    /// Counts a packet that was opened and still goes no further.
    fn refuse(&self, slot: u32, reason: DropReason, regime: &Regime) {
        if let Some(inbound) = regime.inbound(slot) {
            inbound.sa.dropped(reason);
        }
        self.counters.dropped(reason);
    }

    /// RFC 4301 section 5.2: the decrypted packet must match the selectors of the SA that brought it, which here
    /// means that the best rule for it protects with the SA's own connection, whether the SA is the connection's present
    /// one or stays after a rekey. Then it is forwarded like any packet.
    fn accept(
        &mut self,
        bytes: &mut [u8],
        slot: u32,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<IpPacket, DropReason> {
        let mut packet = IpPacket::EMPTY;
        parse_ip(&SliceReader(bytes), &mut packet).map_err(|_| DropReason::InnerMalformed)?;
        let classify = || regime.rules().classify(&packet.flow, Direction::Inbound);
        let verdict = if packet.fragment {
            let header = Header {
                generation: regime.generation(),
                ..regime.rules().header()
            };
            self.fragments.judge(&packet, &header, now, classify)
        } else {
            classify()
        };
        let connection = regime.inbound(slot).map(|inbound| inbound.connection);
        match verdict.decision {
            Decision::Protect if Some(verdict.connection) == connection => {}
            Decision::FragmentUnknown => return Err(DropReason::FragmentUnknown),
            Decision::FragmentOverlap => return Err(DropReason::FragmentOverlap),
            _ => return Err(DropReason::InnerPolicy),
        }
        self.counters.matched(verdict.rule_id, bytes.len());
        if bytes.len() as u64 > u64::from(snapshot.inner.mtu) {
            return Err(DropReason::PacketTooBig);
        }
        forward::decrement_ttl(bytes)?;
        Ok(packet)
    }
}
