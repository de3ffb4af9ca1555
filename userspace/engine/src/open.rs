//! From the wire to the clear side.

use std::time::Instant;

use ravelin_xdp_common::{Decision, Direction, DropReason, Header, IpPacket, Kind, SliceReader, parse_ip};
use ravelin_xsk::{Frame, Port};

use crate::adjacency::Snapshot;
use crate::filter::Side;
use crate::forward;
use crate::forwarder::{Admitted, Forwarder, by_slot, destination_of, transform};
use crate::regime::Regime;

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Opens the batch that the outer port received and sends what proved itself to the hosts of the clear side.
    pub(crate) fn open(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        let mut admitted = self.admitted(|this, frame| this.admit_sealed(frame));
        for run in by_slot(&mut admitted) {
            // Should the slot have changed hands since the driver looked, the SPI is not this SA's.
            if let Some(inbound) = regime.inbound(run[0].metadata.slot) {
                transform(run, |packets, outcomes| {
                    inbound.sa.open_batch(packets, outcomes, now);
                });
                self.shared.opened.set(inbound.pair);
            }
        }
        for mut one in admitted {
            if let Err(reason) = one.outcome {
                self.counters.dropped(reason);
                continue;
            }
            match self.accept(&mut one, regime, snapshot, now) {
                Ok(packet) => {
                    let destination = destination_of(packet.flow.destination, packet.flow.family);
                    self.forward(one.frame, Side::Inner, destination, snapshot, now);
                }
                Err(reason) => {
                    if let Some(inbound) = regime.inbound(one.metadata.slot) {
                        inbound.sa.dropped(reason);
                    }
                    self.counters.dropped(reason);
                }
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

    /// RFC 4301 section 5.2: the decrypted packet must match the selectors of the SA that brought it, which here
    /// means that the best rule for it protects with the SA's own connection, whether the SA is the connection's present
    /// one or stays after a rekey. Then it is forwarded like any packet.
    fn accept(
        &mut self,
        one: &mut Admitted<'u>,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Result<IpPacket, DropReason> {
        let mut packet = IpPacket::EMPTY;
        parse_ip(&SliceReader(one.frame.data()), &mut packet).map_err(|_| DropReason::InnerMalformed)?;
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
        let connection = regime
            .inbound(one.metadata.slot)
            .map(|inbound| inbound.connection);
        match verdict.decision {
            Decision::Protect if Some(verdict.connection) == connection => {}
            Decision::FragmentUnknown => return Err(DropReason::FragmentUnknown),
            Decision::FragmentOverlap => return Err(DropReason::FragmentOverlap),
            _ => return Err(DropReason::InnerPolicy),
        }
        self.counters.matched(verdict.rule_id, one.frame.len());
        if one.frame.len() as u64 > u64::from(snapshot.inner.mtu) {
            return Err(DropReason::PacketTooBig);
        }
        forward::decrement_ttl(one.frame.data_mut())?;
        Ok(packet)
    }
}
