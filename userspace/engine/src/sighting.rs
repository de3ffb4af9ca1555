//! Authentic packets from elsewhere: what workers do with them, and how they tell.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use ravelin_policy::AddressUpdate;
use ravelin_xdp_common::{Address, DropReason, IpPacket, SliceReader, parse_ip};
use ravelin_xsk::Port;

use crate::connection::Inbound;
use crate::forwarder::{Admitted, Forwarder, transform};
use crate::regime::Regime;

/// Sightings that may wait to be told. Those that do not fit say nothing that the next ones do not.
const MOST: usize = 64;

/// A connection's peer, seen at another address or port than it should be: it sent an authentic packet from there, which was newer
/// than all before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// The pair of the SA that brought it.
    pub(crate) pair: u32,
    /// Of that SA: numbers of pairs change hands.
    pub(crate) spi: u32,
    pub(crate) address: Address,
    /// Host order.
    pub(crate) port: u16,
    pub(crate) sequence: u64,
}

/// Sightings on their way from the workers.
#[derive(Debug)]
pub(crate) struct Sightings {
    sender: Sender<Sighting>,
    pub(crate) receiver: Receiver<Sighting>,
}

impl Sightings {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = bounded(MOST);
        Self { sender, receiver }
    }
}

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Finds out about a packet for a connection that came from elsewhere, and opens it if it is to be taken.
    pub(crate) fn open_moved(
        &self,
        one: &mut [Admitted<'u>; 1],
        regime: &Regime,
        inbound: &Inbound,
        now: Instant,
    ) {
        let Some(connection) = regime.connection(inbound.connection) else {
            return;
        };
        let mut packet = IpPacket::EMPTY;
        if let Err(reason) = parse_ip(&SliceReader(one[0].frame.data()), &mut packet) {
            one[0].outcome = Err(reason);
            return;
        }
        let sa = &inbound.sa;
        let (address, port) = (packet.flow.source, packet.flow.source_port);
        let follows = connection.settings.nat.address_update == AddressUpdate::Port
            && address == connection.remote_address;
        let mut newest = None;
        if follows {
            transform(one, |packets, outcomes| {
                sa.open_batch(packets, outcomes, now);
                let opened = outcomes.iter().flatten().map(|opened| opened.sequence).next();
                newest = opened.filter(|sequence| sa.highest_sequence() == Some(*sequence));
            });
        } else {
            transform(one, |packets, outcomes| {
                sa.verify_batch(packets, outcomes, now);
                let verified = outcomes.iter().flatten().find(|verified| verified.newest);
                newest = verified.map(|verified| verified.sequence);
            });
            if one[0].outcome.is_ok() {
                one[0].outcome = Err(DropReason::PeerMoved);
                sa.dropped(DropReason::PeerMoved);
            }
        }
        if let Some(sequence) = newest {
            let _ = self.shared.sightings.sender.try_send(Sighting {
                pair: inbound.pair,
                spi: sa.spi(),
                address,
                port,
                sequence,
            });
        }
    }
}
