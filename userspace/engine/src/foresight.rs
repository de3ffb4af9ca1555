//! What a batch will need of connections and SAs, on its way into the cache before it is used.
//!
//! With thousands of SAs in use next to nothing of a packet's SA is in the cache, and the way to it is a chain: slot, connection, SA,
//! key. Who follows the chains one after the other waits for memory at each link of each. Here those of a whole batch are
//! followed link by link: memory is asked for all second links while the first ones are looked at, and so on.

use arrayvec::ArrayVec;
use ravelin_gcm::prefetch;
use ravelin_xdp_common::FrameMetadata;
use ravelin_xsk::{BATCH, Frame};

use crate::connection::{Connection, Inbound};
use crate::path_mtu::PathMtu;
use crate::peer_hops::PeerHops;
use crate::regime::Regime;

/// As many connections stay in the cache by themselves.
const FEW: usize = 64;

/// Looks ahead at clear packets that will be sealed.
pub(crate) fn of_sealing(batch: &[Frame<'_>], regime: &Regime, peers: &PeerHops) {
    let Some(slots) = slots(batch, regime) else { return };
    for slot in &slots {
        if let Some(place) = regime.connection_place(*slot) {
            prefetch(place, size_of_val(place));
        }
        peers.prefetch(*slot);
    }
    let connections = || slots.iter().filter_map(|slot| regime.connection(*slot));
    for connection in connections() {
        prefetch(connection, Connection::ASKED_FOR);
    }
    let sealing = || connections().filter_map(|one| Some((one, &*one.outbound.as_ref()?.sa)));
    for (connection, sa) in sealing() {
        prefetch::<PathMtu>(&connection.path, size_of::<PathMtu>());
        sa.prefetch();
    }
    for (_, sa) in sealing() {
        sa.prefetch_key();
    }
}

/// Looks ahead at packets that will be opened.
pub(crate) fn of_opening(batch: &[Frame<'_>], regime: &Regime) {
    let Some(pairs) = slots(batch, regime) else { return };
    for pair in &pairs {
        if let Some(place) = regime.inbound_place(*pair) {
            prefetch(place, size_of_val(place));
        }
    }
    let inbound = || pairs.iter().filter_map(|pair| regime.inbound(*pair));
    for inbound in inbound() {
        prefetch(inbound, Inbound::ASKED_FOR);
    }
    for inbound in inbound() {
        inbound.sa.prefetch();
    }
    for inbound in inbound() {
        inbound.sa.prefetch_key();
    }
}

/// The numbers that the driver has put in front of frames, of frames in a row that have the same only one; `None` if there is no use
/// in looking ahead.
fn slots(batch: &[Frame<'_>], regime: &Regime) -> Option<ArrayVec<u32, BATCH>> {
    if regime.places() <= FEW {
        return None;
    }
    let mut slots = ArrayVec::<_, BATCH>::new();
    for frame in batch.iter().take(BATCH) {
        let metadata = frame.metadata(FrameMetadata::LENGTH);
        let slot = metadata.and_then(FrameMetadata::from_bytes).map(|one| one.slot);
        if let Some(slot) = slot.filter(|slot| slots.last() != Some(slot)) {
            slots.push(slot);
        }
    }
    (slots.len() > 1).then_some(slots)
}
