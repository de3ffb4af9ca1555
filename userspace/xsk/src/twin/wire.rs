//! What a twin's packets travel on, and its far end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::DEVICE;
use crate::error::OpenError;
use crate::{PortOptions, syscall};

/// The other end of a [`TwinPort`](super::TwinPort)'s wire. It may be used on another thread.
#[derive(Clone, Debug)]
pub struct TwinEnd {
    pub(super) to_port: Lane,
    pub(super) from_port: Lane,
    pub(super) link: Arc<Mutex<Link>>,
}

/// The state of a twin's device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Packets flow.
    #[default]
    Up,
    /// [`Port::kick`](crate::Port::kick) and [`Port::check`](crate::Port::check) say [`PortError::DeviceDown`](crate::PortError::DeviceDown); nothing is received.
    Down,
    /// [`Port::kick`](crate::Port::kick) and [`Port::check`](crate::Port::check) say [`PortError::DeviceGone`](crate::PortError::DeviceGone); nothing is received.
    Removed,
}

impl TwinEnd {
    /// Puts a packet on the wire towards the port, with `metadata` (may be empty) that will be directly in front of it;
    /// false if the wire is full or the packet would not fit into any frame.
    #[must_use]
    pub fn inject(&self, metadata: &[u8], packet: &[u8]) -> bool {
        let mut wire = self.to_port.lock();
        wire.push(metadata, packet)
    }

    /// Takes the next packet that the port sent, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        self.take_into(&mut packet).then_some(packet)
    }

    /// Takes the next packet that the port sent into `packet`, without allocating; false if there is none.
    #[must_use]
    pub fn take_into(&self, packet: &mut Vec<u8>) -> bool {
        let mut wire = self.from_port.lock();
        let Some(taken) = wire.packets.pop_front() else {
            return false;
        };
        let unused = std::mem::replace(packet, taken.bytes);
        wire.spare.push(unused);
        true
    }

    /// Packets that the port has sent and nobody has taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.from_port.lock().packets.len()
    }

    /// Packets that the port has not received yet.
    #[must_use]
    pub fn unreceived(&self) -> usize {
        self.to_port.lock().packets.len()
    }

    /// Takes the port's device down, removes it, or brings it back.
    pub fn set_link(&self, link: Link) {
        *lock(&self.link) = link;
    }
}

/// One direction of a wire.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) wire: Arc<Mutex<Wire>>,
    /// An eventfd that is readable while packets wait, once somebody polls it.
    pub(super) ready: Arc<File>,
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) packets: VecDeque<Packet>,
    /// Buffers for reuse.
    pub(super) spare: Vec<Vec<u8>>,
    pub(super) capacity: usize,
    pub(super) refused: u64,
    pub(super) ready: Arc<File>,
    pub(super) armed: bool,
    pub(super) signalled: bool,
}

#[derive(Debug)]
pub(super) struct Packet {
    /// Metadata, then the packet.
    pub(super) bytes: Vec<u8>,
    /// Length of the metadata.
    pub(super) metadata: usize,
}

/// Longest metadata that fits in front of a packet in any chunk, bytes.
const LONGEST_METADATA: usize = 256;
/// Longest packet that fits into any frame, bytes.
const LONGEST_PACKET: usize = crate::umem::LARGE_FRAME as usize;

impl Lane {
    pub(super) fn new(options: &PortOptions) -> Result<Self, OpenError> {
        let eventfd = syscall::eventfd().map_err(|source| OpenError::Call {
            device: DEVICE.to_owned(),
            queue: 0,
            call: "eventfd",
            source,
        })?;
        let ready = Arc::new(File::from(eventfd));
        let capacity = options.rx_ring as usize;
        let wire = Wire {
            packets: VecDeque::with_capacity(capacity),
            spare: Vec::with_capacity(capacity),
            capacity,
            refused: 0,
            ready: Arc::clone(&ready),
            armed: false,
            signalled: false,
        };
        Ok(Self {
            wire: Arc::new(Mutex::new(wire)),
            ready,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Wire> {
        lock(&self.wire)
    }
}

impl Wire {
    pub(super) fn is_full(&self) -> bool {
        self.packets.len() >= self.capacity
    }

    pub(super) fn push(&mut self, metadata: &[u8], packet: &[u8]) -> bool {
        if self.is_full() || metadata.len() > LONGEST_METADATA || packet.len() > LONGEST_PACKET {
            self.refused += 1;
            return false;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(metadata);
        bytes.extend_from_slice(packet);
        self.packets.push_back(Packet {
            bytes,
            metadata: metadata.len(),
        });
        self.settle();
        true
    }

    /// Appends to the packet that was pushed last.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        if let Some(packet) = self.packets.back_mut() {
            packet.bytes.extend_from_slice(bytes);
        }
    }

    pub(super) fn arm(&mut self) {
        self.armed = true;
        self.settle();
    }

    /// Makes the eventfd agree with the queue; no system call unless it changes, none at all while nobody polls.
    pub(super) fn settle(&mut self) {
        let waiting = !self.packets.is_empty();
        if !self.armed || waiting == self.signalled {
            return;
        }
        // Neither blocks nor fails: the counter goes from 0 to 1 and back.
        let _ = if waiting {
            (&*self.ready).write(&1u64.to_ne_bytes())
        } else {
            (&*self.ready).read(&mut [0; 8])
        };
        self.signalled = waiting;
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics with the lock held and a state half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
