//! From the clear side to the wire.

use std::time::Instant;

use ravelin_xdp_common::{DropReason, Kind};
use ravelin_xsk::{Frame, Port};

use crate::adjacency::Snapshot;
use crate::filter::Side;
use crate::forward;
use crate::forwarder::{Admitted, Forwarder, by_slot, transform};
use crate::icmp::{self, IcmpError};
use crate::regime::Regime;

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Seals the batch that the inner port received and sends it to the peers.
    pub(crate) fn seal(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) {
        let mut admitted = self.admitted(|this, frame| this.admit_clear(frame, regime, snapshot, now));
        for run in by_slot(&mut admitted) {
            let connection = regime.connection(run[0].metadata.slot);
            if let Some(outbound) = connection.and_then(|connection| connection.outbound.as_ref()) {
                transform(run, |packets, outcomes| {
                    outbound.sa.seal_batch(packets, outcomes, now);
                });
                self.shared.sealed.set(outbound.pair);
            }
        }
        for one in admitted {
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
    ) -> Option<Admitted<'u>> {
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
        outbound.limit_to(snapshot.outer.mtu, connection.path_mtu);
        let inner_mtu = outbound.sa.inner_mtu().unwrap_or(u32::MAX);
        let too_big = u32::from(one.metadata.l3_length) > inner_mtu;
        let checked = forward::verify_checksum(one.packet_mut()).and_then(|()| {
            if too_big {
                // The TTL counts first: an expired packet gets that answer.
                forward::check_ttl(one.packet_mut()).and(Err(DropReason::PacketTooBig))
            } else {
                forward::decrement_ttl(one.packet_mut())
            }
        });
        match checked.and_then(|()| one.trim()) {
            Ok(()) => Some(one),
            Err(reason) => {
                let error = match reason {
                    // Sent whether or not DF is set: the sender then makes fragments that fit, and this path makes
                    // none.
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

    /// Sends an ICMP error to the host that sent a frame which was not trimmed yet.
    fn tell_sender(&mut self, one: Admitted<'u>, error: IcmpError, snapshot: &Snapshot, now: Instant) {
        if !self.icmp_budget.take(now) {
            return;
        }
        let l3_offset = one.metadata.l3_offset.into();
        if let Some(answer) = icmp::answer(one.frame, l3_offset, &snapshot.inner, error) {
            self.counters.icmp_errors.add(1);
            self.queue(answer, Side::Inner);
        }
    }

    /// Counts a packet that ends here.
    pub(crate) fn drop<T>(&self, reason: DropReason) -> Option<T> {
        self.counters.dropped(reason);
        None
    }
}
