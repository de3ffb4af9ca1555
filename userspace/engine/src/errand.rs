//! What workers send without having received anything: the control thread says when, any worker that is awake does it.

use std::net::SocketAddr;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use ravelin_esp::{Encapsulation, MAX_TAILROOM, OutboundSa, Packet, nat_keepalive};
use ravelin_xdp_common::DropReason;
use ravelin_xsk::{Frame, Port};

use crate::adjacency::Snapshot;
use crate::connection::{Connection, Outbound};
use crate::crypto_pool::Way;
use crate::forwarder::Forwarder;
use crate::regime::Regime;

/// Errands that may wait. Those that do not fit come again, or are not missed.
const MOST: usize = 8192;

/// Errands that a worker runs in a turn.
const AT_ONCE: usize = 32;

/// Something to send for the connection in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// A NAT keepalive (RFC 3948 section 2.3).
    Keepalive { slot: u32 },
    /// A dummy (RFC 4303 section 2.6).
    Dummy { slot: u32 },
}

/// Errands on their way to the workers.
#[derive(Debug)]
pub(crate) struct Errands {
    sender: Sender<Errand>,
    receiver: Receiver<Errand>,
}

impl Errands {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = bounded(MOST);
        Self { sender, receiver }
    }

    /// Those that no worker has taken yet, taken.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Errand> {
        self.receiver.try_iter()
    }

    /// Has one done, if there is room; returns whether there was.
    pub(crate) fn send(&self, errand: Errand) -> bool {
        self.sender.try_send(errand).is_ok()
    }
}

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Runs errands that wait; returns how many it took.
    pub(crate) fn run_errands(&mut self, regime: &Regime, snapshot: &Snapshot, now: Instant) -> usize {
        let shared = self.shared;
        let mut taken = 0;
        for errand in shared.errands.waiting().take(AT_ONCE) {
            taken += 1;
            let (Errand::Keepalive { slot } | Errand::Dummy { slot }) = errand;
            // The connection may be gone by now, or its outbound SA deleted.
            let Some(connection) = regime.connection(slot) else {
                continue;
            };
            let Some(outbound) = connection.outbound_within(snapshot.outer.mtu, now) else {
                continue;
            };
            let room = match errand {
                Errand::Keepalive { .. } => 0,
                Errand::Dummy { .. } => outbound.sa.tfc_length().unwrap_or(0) as usize + MAX_TAILROOM,
            };
            let Some(frame) = self.outer.umem().frame_for(room) else {
                self.counters.dropped(DropReason::TransmitFailed);
                break;
            };
            let made = match errand {
                Errand::Keepalive { .. } => keepalive(frame, connection, outbound),
                Errand::Dummy { .. } if !self.settle(Way::Out, regime, snapshot, now) => {
                    Err(DropReason::ReceiveOverrun)
                }
                Errand::Dummy { .. } => {
                    shared.sealed.set(outbound.pair);
                    dummy(frame, &outbound.sa, now)
                }
            };
            match made {
                Ok(frame) => {
                    match errand {
                        Errand::Keepalive { .. } => self.counters.keepalives.add(1),
                        Errand::Dummy { .. } => self.counters.dummies.add(1),
                    }
                    self.forward_to_peer(frame, connection, snapshot, now);
                }
                Err(reason) => self.counters.dropped(reason),
            }
        }
        taken
    }
}

/// A keepalive to where the connection sends at the moment.
fn keepalive<'u>(
    mut frame: Frame<'u>,
    connection: &Connection,
    outbound: &Outbound,
) -> Result<Frame<'u>, DropReason> {
    let Encapsulation::Udp {
        source_port,
        destination_port,
    } = outbound.sa.encapsulation()
    else {
        return Err(DropReason::SaMissing);
    };
    let source = SocketAddr::new(connection.local, source_port);
    let destination = SocketAddr::new(connection.remote, destination_port);
    let packet = nat_keepalive(source, destination).ok_or(DropReason::SaMissing)?;
    let bytes = frame.append(packet.len()).map_err(|_| DropReason::FrameShort)?;
    bytes.copy_from_slice(&packet);
    Ok(frame)
}

/// A dummy as long as padding makes other packets.
fn dummy<'u>(mut frame: Frame<'u>, sa: &OutboundSa, now: Instant) -> Result<Frame<'u>, DropReason> {
    let len = sa.tfc_length().ok_or(DropReason::SaMissing)?;
    let bytes = frame.append(len as usize).map_err(|_| DropReason::FrameShort)?;
    bytes.fill(0);
    let (buffer, start, end) = frame.chunk_mut();
    let mut packet = Packet::new(buffer, start..end).map_err(|_| DropReason::FrameShort)?;
    sa.seal_dummy(&mut packet, now)?;
    let sealed = packet.range();
    frame
        .set_range(sealed.start, sealed.end)
        .map_err(|_| DropReason::FrameShort)?;
    Ok(frame)
}
