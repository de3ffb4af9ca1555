//! Our SAs of one case, and what became of its packets.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::Instant,
};

use ravelin_esp::{DropReason, InboundSa, MAX_HEADROOM, MAX_TAILROOM, OutboundSa, Packet};

use crate::case::{Direction, TFC_LEN};

/// One pair of peers. The inbound SAs are found by SPI, in the gateway.
#[derive(Debug)]
pub(crate) struct Association {
    /// To look into packets without receiving them: of the first generation, with a replay window of its own.
    look: InboundSa,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    outbound: Arc<OutboundSa>,
    /// By direction.
    holds: [Option<Hold>; 2],
    /// Packets that were not sealed or opened, though they should have been.
    dropped: Vec<(Direction, DropReason)>,
}

/// Where an ESP packet goes instead of the wire, or instead of being opened.
#[derive(Debug)]
struct Hold {
    /// What it carries at its end. Others go their way: something of an earlier connection may still be about.
    payload: Vec<u8>,
    packets: Sender<Vec<u8>>,
}

impl Association {
    pub(crate) fn new(outbound: Arc<OutboundSa>, look: InboundSa) -> Self {
        Self {
            look,
            inner: Mutex::new(Inner {
                outbound,
                holds: [None, None],
                dropped: Vec::new(),
            }),
        }
    }

    /// The SA that is sent with now.
    pub(crate) fn outbound(&self) -> Arc<OutboundSa> {
        Arc::clone(&self.lock().outbound)
    }

    /// Sends with `outbound` from now on.
    pub(crate) fn switch(&self, outbound: Arc<OutboundSa>) {
        self.lock().outbound = outbound;
    }

    /// Holds ESP packets that carry `payload` back until [`Association::release`]; they come here.
    pub(crate) fn hold(&self, direction: Direction, payload: &[u8]) -> Receiver<Vec<u8>> {
        let (packets, held) = channel();
        let payload = payload.to_vec();
        self.lock().holds[direction as usize] = Some(Hold { payload, packets });
        held
    }

    pub(crate) fn release(&self, direction: Direction) {
        self.lock().holds[direction as usize] = None;
    }

    /// What was sealed of `clear`, unless it is to be held back.
    pub(crate) fn unless_held_outbound(&self, clear: &[u8], sealed: Vec<u8>) -> Option<Vec<u8>> {
        self.lock()
            .unless_held(Direction::ToTheirs, sealed, |_| Some(clear.to_vec()))
    }

    /// `sealed`, unless it is to be held back.
    pub(crate) fn unless_held_inbound(&self, sealed: Vec<u8>) -> Option<Vec<u8>> {
        self.lock()
            .unless_held(Direction::ToOurs, sealed, |sealed| open(&self.look, sealed).ok())
    }

    pub(crate) fn drop_packet(&self, direction: Direction, reason: DropReason) {
        self.lock().dropped.push((direction, reason));
    }

    /// What was dropped so far.
    pub(crate) fn dropped(&self) -> Vec<(Direction, DropReason)> {
        self.lock().dropped.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is done under the lock that could leave it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// `sealed`, unless what `clear` finds in it is waited for.
    fn unless_held(
        &self,
        direction: Direction,
        sealed: Vec<u8>,
        clear: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let Some(hold) = &self.holds[direction as usize] else {
            return Some(sealed);
        };
        if !clear(&sealed).is_some_and(|clear| clear.ends_with(&hold.payload)) {
            return Some(sealed);
        }
        // Nobody waits any longer if the receiver is gone; then the packet is lost as on a bad link.
        let _ = hold.packets.send(sealed);
        None
    }
}

/// The ESP packet for a clear one.
pub(crate) fn seal(sa: &OutboundSa, clear: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut buffer = padded(clear);
    let mut packet = [whole(&mut buffer, clear.len())];
    let mut outcome = [Err(DropReason::SaMissing)];
    sa.seal_batch(&mut packet, &mut outcome, Instant::now());
    let [outcome] = outcome;
    outcome.map(|_| packet[0].bytes().to_vec())
}

/// The clear packet in an ESP one.
pub(crate) fn open(sa: &InboundSa, sealed: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut buffer = padded(sealed);
    let mut packet = [whole(&mut buffer, sealed.len())];
    let mut outcome = [Err(DropReason::SaMissing)];
    sa.open_batch(&mut packet, &mut outcome, Instant::now());
    let [outcome] = outcome;
    outcome.map(|_| packet[0].bytes().to_vec())
}

fn padded(packet: &[u8]) -> Vec<u8> {
    const TAILROOM: usize = MAX_TAILROOM + TFC_LEN as usize;
    [&[0; MAX_HEADROOM], packet, &[0; TAILROOM]].concat()
}

fn whole(buffer: &mut [u8], len: usize) -> Packet<'_> {
    Packet::new(buffer, MAX_HEADROOM..MAX_HEADROOM + len).expect("the range is inside by construction")
}
