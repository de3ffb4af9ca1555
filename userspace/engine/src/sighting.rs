//! Authentic packets from elsewhere: what workers do with them, and how they tell.

use std::slice;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use ravelin_policy::AddressUpdate;
use ravelin_xdp_common::{Address, DropReason, IpPacket, SliceReader, parse_ip};
use ravelin_xsk::Port;

use crate::connection::Inbound;
use crate::forwarder::{Admitted, Forwarder};
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
        one: &mut Admitted<'u>,
        regime: &Regime,
        inbound: &Inbound,
        now: Instant,
    ) {
        let Some(connection) = regime.connection(inbound.connection) else {
            return;
        };
        let mut packet = IpPacket::EMPTY;
        if let Err(reason) = parse_ip(&SliceReader(one.frame.data()), &mut packet) {
            one.outcome = Err(reason);
            return;
        }
        let sa = &inbound.sa;
        let (address, port) = (packet.flow.source, packet.flow.source_port);
        let follows = connection.settings.nat.address_update == AddressUpdate::Port
            && address == connection.ends.destination;
        let mut newest = None;
        if follows {
            one.transform(|packet| {
                let mut outcome = [Err(DropReason::SaMissing)];
                sa.open_batch(slice::from_mut(packet), &mut outcome, now);
                let [outcome] = outcome;
                let opened = outcome.ok().map(|opened| opened.sequence);
                newest = opened.filter(|sequence| sa.highest_sequence() == Some(*sequence));
                outcome
            });
        } else {
            one.transform(|packet| {
                let mut outcome = [Err(DropReason::SaMissing)];
                sa.verify_batch(slice::from_mut(packet), &mut outcome, now);
                let [outcome] = outcome;
                let verified = outcome.ok().filter(|verified| verified.newest);
                newest = verified.map(|verified| verified.sequence);
                outcome
            });
            if one.outcome.is_ok() {
                one.outcome = Err(DropReason::PeerMoved);
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
