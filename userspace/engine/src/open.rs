//! From the wire to the clear side.

use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_esp::{Fragmentation, Reassembly, Whole, open_runs};
use ravelin_xdp_common::{
    Decision, Direction, DropReason, Header, IpPacket, Kind, SliceReader, Verdict, parse_ip,
};
use ravelin_xsk::{BATCH, Frame, Port};

use crate::adjacency::Snapshot;
use crate::crypto_pool::Way;
use crate::forward;
use crate::forwarder::{Admitted, Forwarder, transform};
use crate::icmp::IcmpError;
use crate::mss;
use crate::regime::Regime;

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Opens the batch that the outer port received and sends what proved itself to the hosts of the clear side.
    pub(crate) fn open(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        let mut reassembly = self.reassembly.take();
        let mut received = std::mem::take(&mut self.received);
        let mut admitted = ArrayVec::new();
        for frame in received.drain() {
            let Some(one) = self.admit(frame, |kind| kind != Kind::Seal) else {
                continue;
            };
            // It moves before it is changed: what was written in parts just now cannot be read as a whole at once.
            admitted.push(one);
            let Some(one) = admitted.last_mut() else { continue };
            let kind = one.metadata.kind;
            let checked = self.admit_sealed(one, now);
            if checked.is_ok() && !matches!(kind, Kind::Reassemble | Kind::PathMtu) {
                continue;
            }
            let Some(one) = admitted.pop() else { continue };
            if let Err(reason) = checked {
                self.counters.dropped(reason);
                continue;
            }
            if kind == Kind::PathMtu {
                self.learn_path_mtu(one.frame.data(), one.metadata.slot, (regime, snapshot), now);
                continue;
            }
            let whole = reassembly
                .as_mut()
                .and_then(|pool| self.reassemble(pool, &one, now));
            let Some(mut whole) = whole else {
                continue;
            };
            if let Some(frame) = self.frame_of(whole.packet.bytes()) {
                admitted.push(Admitted::inside(frame, whole.label));
            } else {
                // What came before goes first.
                self.open_admitted(&mut admitted, regime, snapshot, now);
                if !self.settle(Way::In, regime, snapshot, now) {
                    self.counters.dropped(DropReason::ReceiveOverrun);
                    continue;
                }
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
        if self.pool.is_some() {
            self.send_away(Way::In, admitted, regime, snapshot, now);
        }
        let opening = |pair| {
            // Should the pair have changed hands since the driver looked, the SPI is not this SA's.
            let inbound = regime.inbound(pair)?;
            self.shared.opened.set(inbound.pair);
            Some(&*inbound.sa)
        };
        transform(admitted, opening, |runs, packets, outcomes| {
            open_runs(runs, packets, outcomes, now);
        });
        // Each by itself: they are few, and may be from different places.
        for one in admitted.iter_mut().filter(|one| one.metadata.kind == Kind::Moved) {
            if let Some(inbound) = regime.inbound(one.metadata.slot) {
                self.open_moved(one, regime, inbound, now);
                self.shared.opened.set(inbound.pair);
            }
        }
        for one in admitted.drain(..) {
            if let Err(reason) = one.outcome {
                self.counters.dropped(reason);
                continue;
            }
            self.arrive(one.frame, one.metadata.slot, (regime, snapshot), now);
        }
    }

    /// Sends an opened packet on, if the policy wants it to come through this SA.
    #[inline]
    pub(crate) fn arrive(&mut self, frame: Frame<'u>, pair: u32, there: (&Regime, &Snapshot), now: Instant) {
        match self.accept(frame.data(), pair, there.0, now) {
            Ok(packet) => self.deliver(frame, pair, &packet, there, now),
            Err(reason) => self.refuse(pair, reason, there.0),
        }
    }

    /// Checks a packet from the wire before anything is spent on it, and leaves its IP packet.
    #[inline]
    fn admit_sealed(&mut self, one: &mut Admitted<'u>, now: Instant) -> Result<(), DropReason> {
        if one.metadata.kind == Kind::Moved && !self.moved_budget.take(now) {
            return Err(DropReason::SpiWrongEndpoint);
        }
        forward::verify_checksum(one.packet_mut())?;
        one.trim()
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
        let (pair, there) = (whole.label, (regime, snapshot));
        let result = self
            .accept(whole.packet.bytes(), pair, regime, now)
            .and_then(|packet| {
                self.clamp(whole.packet.bytes_mut(), pair, there, now);
                let frames = self.outward(whole.packet.bytes_mut(), pair, there, now)?;
                let destination = &packet.flow.destination;
                for frame in frames {
                    self.forward(frame, destination, snapshot, now);
                }
                Ok(())
            });
        if let Err(reason) = result {
            self.refuse(pair, reason, regime);
        }
    }

    /// Sends an opened packet on: its way is that of any packet through a router.
    fn deliver(
        &mut self,
        mut frame: Frame<'u>,
        pair: u32,
        packet: &IpPacket,
        there: (&Regime, &Snapshot),
        now: Instant,
    ) {
        let snapshot = there.1;
        self.clamp(frame.data_mut(), pair, there, now);
        let destination = &packet.flow.destination;
        if self.for_host {
            return self.forward(frame, destination, snapshot, now);
        }
        let fits = frame.len() as u64 <= u64::from(snapshot.inner.mtu);
        if fits && forward::decrement_ttl(frame.data_mut()).is_ok() {
            return self.forward(frame, destination, snapshot, now);
        }
        match self.outward(frame.data_mut(), pair, there, now) {
            Ok(frames) => {
                for frame in frames {
                    self.forward(frame, destination, snapshot, now);
                }
            }
            Err(reason) => self.refuse(pair, reason, there.0),
        }
    }

    /// What a host behind the peer announces to one of ours has to fit the way back: the SA that seals.
    fn clamp(&self, packet: &mut [u8], pair: u32, (regime, snapshot): (&Regime, &Snapshot), now: Instant) {
        let lowered = mss::clamp(packet, || {
            let connection = regime.connection(regime.inbound(pair)?.connection);
            let connection = connection.filter(|connection| connection.settings.tcp_mss_clamp)?;
            let outbound = connection.outbound_within(snapshot.outer.mtu, now)?;
            outbound.sa.inner_mtu()
        });
        if lowered {
            self.counters.mss_clamped.add(1);
        }
    }

    /// The frames in which an opened packet leaves: one, or the fragments that the device takes. The sender of a packet that
    /// cannot leave hears of it.
    fn outward(
        &mut self,
        bytes: &mut [u8],
        pair: u32,
        there: (&Regime, &Snapshot),
        now: Instant,
    ) -> Result<ArrayVec<Frame<'u>, BATCH>, DropReason> {
        if self.for_host {
            // Too long for a frame, and for nobody else: the stack puts it together again.
            let mtu = there.1.outer.mtu as usize;
            let pieces = Fragmentation::at_source(bytes, mtu, self.identify())?;
            return self.cut(pieces);
        }
        let mtu = there.1.inner.mtu;
        let frames = forward::check_ttl(bytes).and_then(|()| {
            if bytes.len() as u64 > u64::from(mtu) {
                // It is asked first, because an error quotes the packet as it came.
                Fragmentation::new(bytes, mtu as usize)?;
                forward::decrement_ttl(bytes)?;
                return self.cut(Fragmentation::new(bytes, mtu as usize)?);
            }
            forward::decrement_ttl(bytes)?;
            let frame = self.frame_of(bytes).ok_or(DropReason::NoFrame)?;
            Ok(ArrayVec::from_iter([frame]))
        });
        let error = match frames {
            Err(DropReason::PacketTooBig) => Some(IcmpError::TooBig(mtu)),
            Err(DropReason::TtlExceeded) => Some(IcmpError::TimeExceeded),
            _ => None,
        };
        if let Some(error) = error {
            self.tell_peer(bytes, pair, error, there, now);
        }
        frames
    }

    /// Counts a packet that was opened and still goes no further.
    fn refuse(&self, pair: u32, reason: DropReason, regime: &Regime) {
        if let Some(inbound) = regime.inbound(pair) {
            inbound.sa.dropped(reason);
        }
        self.counters.dropped(reason);
    }

    /// RFC 4301 section 5.2: the decrypted packet must match the selectors of the SA that brought it, which here
    /// means that the best rule for it protects with the SA's own connection, whether the SA is the connection's present
    /// one or stays after a rekey. Of an ICMP error it may be the packet that it quotes (section 6.2).
    fn accept(
        &mut self,
        bytes: &[u8],
        pair: u32,
        regime: &Regime,
        now: Instant,
    ) -> Result<IpPacket, DropReason> {
        let mut packet = IpPacket::EMPTY;
        parse_ip(&SliceReader(bytes), &mut packet).map_err(|_| DropReason::InnerMalformed)?;
        // RFC 1812 section 5.2.2: "A router MUST verify the IP checksum of any packet that is received". Sealing does not
        // make it right, and whoever cuts the packet would write a right one.
        forward::verify_checksum(bytes).map_err(|_| DropReason::InnerMalformed)?;
        let classify = || regime.rules().classify(&packet.flow, Direction::Inbound);
        let connection = regime.inbound(pair).map(|inbound| inbound.connection);
        let verdict = if packet.fragment {
            let header = Header {
                generation: regime.generation(),
                ..regime.rules().header()
            };
            // What is said of an error holds for its other fragments.
            self.fragments.judge(&packet, &header, now, || {
                regime.judge_opened_error(classify(), connection, bytes, &packet)
            })
        } else {
            classify()
        };
        // The permit is that of a session which may come either way, and names the connection.
        let fits = |verdict: &Verdict| {
            matches!(verdict.decision, Decision::Protect | Decision::Permit)
                && Some(verdict.connection) == connection
        };
        if fits(&verdict) {
            self.counters.matched(verdict.rule_id, bytes.len());
            return Ok(packet);
        }
        match verdict.decision {
            Decision::FragmentUnknown => return Err(DropReason::FragmentUnknown),
            Decision::FragmentOverlap => return Err(DropReason::FragmentOverlap),
            // What it quotes was asked.
            _ if packet.fragment => return Err(DropReason::InnerPolicy),
            _ => {}
        }
        let verdict = regime.judge_opened_error(verdict, connection, bytes, &packet);
        if !fits(&verdict) {
            return Err(DropReason::InnerPolicy);
        }
        self.counters.matched(verdict.rule_id, bytes.len());
        Ok(packet)
    }
}
