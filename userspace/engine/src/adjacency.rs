//! Where packets go next: what workers read, and the table that the resolver keeps for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ravelin_xdp_common::{Address, DropReason};

use crate::address::to_address;
use crate::device::Mac;
use crate::filter::Side;

/// What is known about one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Frames go to this link-layer address.
    Ready(Mac),
    /// The kernel is asking the neighbour for its link-layer address.
    Resolving,
    /// Packets for it are dropped.
    Closed(DropReason),
}

/// The devices' side of the adjacencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The device's own link-layer address: the source of frames.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// A source for ICMP errors, if the device has an IPv4 address.
    pub v4: Option<[u8; 4]>,
    /// A source for ICMPv6 errors: a global address if there is one, else link-local.
    pub v6: Option<[u8; 16]>,
}

impl Port {
    /// The same with the destination of an IP packet as its only address.
    #[must_use]
    pub(crate) fn speaking_for(&self, packet: &[u8]) -> Self {
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        Self {
            v4: packet
                .get(16..)
                .and_then(<[u8]>::first_chunk)
                .filter(|_| !v6)
                .copied(),
            v6: packet
                .get(24..)
                .and_then(<[u8]>::first_chunk)
                .filter(|_| v6)
                .copied(),
            ..*self
        }
    }
}

/// Destinations with what is known about each. Asked for nearly every packet, hence the hash: seeded at random, so that nobody can choose
/// addresses that meet, and short.
pub(crate) type Hops = HashMap<(u8, Address), Hop, foldhash::fast::RandomState>;

/// An unchanging view of all adjacencies.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts snapshots; a change tells workers to look again.
    pub generation: u64,
    /// The outer device.
    pub outer: Port,
    /// The inner device.
    pub inner: Port,
    pub(crate) hops: Hops,
}

impl Snapshot {
    /// The device's side.
    #[must_use]
    pub const fn port(&self, side: Side) -> &Port {
        match side {
            Side::Outer => &self.outer,
            Side::Inner => &self.inner,
        }
    }

    /// The same, and what is known about one more destination.
    #[must_use]
    pub fn with_hop(mut self, side: Side, destination: IpAddr, hop: Hop) -> Self {
        self.hops.insert((side as u8, to_address(destination)), hop);
        self
    }

    /// What is known about a destination beyond a device; `None` if nobody has asked yet.
    #[must_use]
    pub fn hop(&self, side: Side, destination: Address) -> Option<Hop> {
        self.hops.get(&(side as u8, destination)).copied()
    }
}

/// A worker's question about a destination beyond one of the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where the packet is to leave.
    pub side: Side,
    /// Where it is to go.
    pub destination: IpAddr,
}

/// Questions that may wait; beyond it workers ask again later.
const QUESTIONS: usize = 1024;

/// What workers and resolver share.
#[derive(Debug)]
pub struct Adjacencies {
    current: ArcSwap<Snapshot>,
    questions: Sender<Question>,
    wake: EventFd,
}

impl Adjacencies {
    /// The shared half and the resolver's end of the questions.
    ///
    /// # Errors
    ///
    /// When the process is out of file descriptors.
    pub fn new(first: Snapshot) -> std::io::Result<(Arc<Self>, Receiver<Question>)> {
        let (questions, receiver) = bounded(QUESTIONS);
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok((
            Arc::new(Self {
                current: ArcSwap::from_pointee(first),
                questions,
                wake,
            }),
            receiver,
        ))
    }

    /// The latest view. Once per batch, not per packet.
    #[must_use]
    pub fn current(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Asks the resolver for a destination that [`Snapshot::hop`] does not know. A system call, and only for the
    /// first packets of a destination.
    pub fn ask(&self, question: Question) {
        match self.questions.try_send(question) {
            // The counter of an eventfd is full after 2^64 - 2 writes without a read: the resolver is awake.
            Ok(()) => drop(self.wake.write(1)),
            // The packet waits in the worker and asks again.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
    }

    /// Readable when questions, or a stop, wait.
    pub(crate) const fn wake(&self) -> &EventFd {
        &self.wake
    }
}
