//! Where packets go next: what workers read, and the table that the resolver keeps for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ravelin_xdp_common::{Address, DropReason, Family};

use crate::address::{from_address, to_address};
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

/// Where a packet goes, and from which address: a machine with several uplinks may have other routes for each of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// This machine's; [`Ends::ANY`] where it does not matter.
    pub source: Address,
    /// Beyond one of its devices.
    pub destination: Address,
}

impl Ends {
    /// Whatever the source.
    const ANY: Address = [0; 2];

    /// Of what is only forwarded.
    #[must_use]
    pub const fn to(destination: Address) -> Self {
        Self {
            source: Self::ANY,
            destination,
        }
    }

    /// Of what this machine sends.
    #[must_use]
    pub fn between(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source: to_address(source),
            destination: to_address(destination),
        }
    }

    /// The source of a packet of this family, if it matters.
    fn source(&self, family: Family) -> Option<IpAddr> {
        (self.source != Self::ANY).then(|| from_address(self.source, family))
    }
}

/// Destinations with what is known about each, by the place of the source among those of the snapshot and the side. Asked for nearly every
/// packet, hence the hash: seeded at random, so that nobody can choose addresses that meet, and short.
pub(crate) type Hops = HashMap<(u32, Address), Hop, foldhash::fast::RandomState>;

/// An unchanging view of all adjacencies.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts snapshots; a change tells workers to look again.
    pub generation: u64,
    /// The outer device.
    pub outer: Port,
    /// The inner device.
    pub inner: Port,
    /// Sources that matter. There are few of them, so that they need not stand with every destination.
    pub(crate) sources: Vec<Address>,
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
    pub fn with_hop(mut self, side: Side, ends: Ends, hop: Hop) -> Self {
        self.add_hop(side, ends, hop);
        self
    }

    /// Adds what is known about one more destination.
    pub(crate) fn add_hop(&mut self, side: Side, ends: Ends, hop: Hop) {
        let place = self.place(ends.source).unwrap_or_else(|| {
            self.sources.push(ends.source);
            self.sources.len() - 1
        });
        self.hops.insert((tag(side, place), ends.destination), hop);
    }

    /// What is known about a destination beyond a device; `None` if nobody has asked yet.
    #[must_use]
    pub fn hop(&self, side: Side, ends: &Ends) -> Option<Hop> {
        let place = self.place(ends.source)?;
        self.hops.get(&(tag(side, place), ends.destination)).copied()
    }

    #[inline]
    fn place(&self, source: Address) -> Option<usize> {
        self.sources.iter().position(|known| *known == source)
    }
}

const fn tag(side: Side, place: usize) -> u32 {
    (place as u32) << 1 | side as u32
}

/// A worker's question about a destination beyond one of the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Where the packet is to leave.
    pub side: Side,
    /// Where it comes from, if that matters.
    pub source: Option<IpAddr>,
    /// Where it is to go.
    pub destination: IpAddr,
}

impl Question {
    /// About a packet of this family.
    pub(crate) fn new(side: Side, ends: &Ends, family: Family) -> Self {
        Self {
            side,
            source: ends.source(family),
            destination: from_address(ends.destination, family),
        }
    }

    /// What it asks about.
    pub(crate) fn ends(&self) -> Ends {
        match self.source {
            Some(source) => Ends::between(source, self.destination),
            None => Ends::to(to_address(self.destination)),
        }
    }
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
