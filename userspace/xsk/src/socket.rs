//! One AF_XDP socket: four rings on one queue of one device.

pub(crate) mod calls;
pub(crate) mod open;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use self::calls::{is_transient, is_unbound, send};
pub use self::open::queue_count;
use crate::chain::{self, Chain};
use crate::error::PortError;
use crate::if_xdp::Descriptor;
use crate::ledger::Owner;
use crate::ring::{ConsumerRing, ProducerRing};
use crate::umem::PortSlot;
use crate::{Batch, Kick, Outstanding, Port, PortCounters, PortOptions, Statistics, Umem, syscall};

/// Shortest frame worth sending, bytes: an Ethernet header.
pub(crate) const SHORTEST_FRAME: usize = 14;

/// Fill entries that may be missing before `rx` hands over chunks, unless the ring is small.
pub(crate) const REFILL: u32 = 32;

/// An AF_XDP socket bound to one queue of one device; the [`Port`] to a real wire.
///
/// Dropping it closes the socket. Chunks that the kernel still has are then lost until the UMEM is rebuilt
/// ([`FrameCounts::lost`](crate::FrameCounts::lost)), because the kernel does not say when it is done with them; if
/// the device was removed it is certain to be done, and they return to the free list.
#[derive(Debug)]
pub struct Socket<'u> {
    umem: &'u Umem,
    fill: ProducerRing<u64>,
    rx: ConsumerRing<Descriptor>,
    tx: ProducerRing<Descriptor>,
    completion: ConsumerRing<u64>,
    /// The packet of which a part has come.
    chain: Chain<'u>,
    /// Chunks with the kernel; they bound what may be queued, so that ring and completion ring never overflow.
    outstanding: Outstanding,
    options: PortOptions,
    counters: PortCounters,
    receiving: Owner,
    sending: Owner,
    fd: OwnedFd,
    zero_copy: bool,
    /// What a wakeup in `rx` said; `kick` reports it.
    fault: Option<io::Error>,
    device: String,
    queue: u32,
    attachment: Attachment<'u>,
}

/// A port's number in the UMEM, vacated when dropped.
#[derive(Debug)]
pub(crate) struct Attachment<'u> {
    umem: &'u Umem,
    slot: u8,
}

impl<'u> Attachment<'u> {
    pub(crate) fn new(umem: &'u Umem) -> Option<Self> {
        umem.attach().map(|slot| Self { umem, slot })
    }

    pub(crate) fn slot(&self) -> u8 {
        self.slot
    }
}

impl Drop for Attachment<'_> {
    fn drop(&mut self) {
        self.umem.set_port(self.slot, PortSlot::Vacant);
    }
}

impl<'u> Socket<'u> {
    /// Name of the device when the socket was opened.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The queue, from 0.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Whether the driver receives into and sends from the UMEM without a copy.
    #[must_use]
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    fn wake_rx(&mut self) {
        self.counters.wakeups += 1;
        if let Err(error) = syscall::wake_rx(self.fd.as_fd())
            && !is_transient(&error)
        {
            self.fault = Some(error);
        }
    }

    fn failed(&self, call: &'static str, error: io::Error) -> PortError {
        PortError::classify(&self.device, self.queue, call, error)
    }
}

impl<'u> Port<'u> for Socket<'u> {
    fn rx(&mut self, batch: &mut Batch<'u>) -> usize {
        // At most BATCH.
        let wanted = batch.room() as u32;
        let (first, second) = self.rx.peek(wanted);
        let taken = (first.len() + second.len()) as u32;
        let mut received = 0;
        for part in [first, second] {
            for descriptor in part {
                let frame = self
                    .chain
                    .receive(self.umem, *descriptor, self.receiving, &mut self.counters);
                if let Some(frame) = frame
                    && batch.push(frame).is_ok()
                {
                    received += 1;
                }
            }
        }
        if taken > 0 {
            self.rx.release(taken);
            self.outstanding.receiving -= taken.min(self.outstanding.receiving);
            self.counters.received += received as u64;
        }
        if self.options.fill_ring - self.outstanding.receiving >= REFILL.min(self.options.fill_ring / 4) {
            self.refill();
        }
        if self.fill.needs_wakeup() {
            self.wake_rx();
        }
        received
    }

    fn tx(&mut self, batch: &mut Batch<'u>) -> usize {
        if self.outstanding.sending > self.options.tx_ring / 2 {
            self.reclaim();
        }
        let room = self.options.tx_ring - self.outstanding.sending;
        let chains = self.umem.has_large_frames();
        let wanted = if chains {
            batch.iter().map(|frame| frame.pieces(0)).sum()
        } else {
            batch.len()
        };
        let (first, second) = self.tx.reserve(room.min(wanted as u32));
        let mut count = first.len() + second.len();
        if chains {
            count = chain::fitting(batch, 0, count);
        }
        let mut slots = first.iter_mut().chain(second);
        let mut queued = 0;
        for frame in batch.drain_front(count) {
            if frame.len() < SHORTEST_FRAME || !frame.belongs_to(self.umem) {
                self.counters.refused += 1;
                continue;
            }
            if frame.is_large() {
                let sent = chain::scatter(&frame, self.umem, 0, self.sending, |descriptor| {
                    if let Some(slot) = slots.next() {
                        *slot = descriptor;
                        queued += 1;
                    }
                });
                self.counters.no_frame += u64::from(!sent);
                continue;
            }
            let Some(slot) = slots.next() else { break };
            let (chunk, start, end) = frame.into_parts();
            self.umem.ledger().give(chunk, self.sending);
            *slot = Descriptor {
                addr: self.umem.address(chunk) + u64::from(start),
                len: u32::from(end - start),
                options: 0,
            };
            queued += 1;
        }
        self.tx.submit(queued);
        self.outstanding.sending += queued;
        self.counters.queued += u64::from(queued);
        count
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        if let Some(error) = self.fault.take() {
            return Err(self.failed("recvfrom", error));
        }
        let pending = self.tx.pending();
        if pending == 0 || (self.options.need_wakeup && !self.tx.needs_wakeup()) {
            return Ok(Kick::Idle);
        }
        let (socket, tx) = (self.fd.as_fd(), &self.tx);
        send(socket, self.zero_copy, &mut self.counters, pending, || {
            tx.pending()
        })
        .map_err(|error| self.failed("sendto", error))
    }

    fn reclaim(&mut self) -> usize {
        let (first, second) = self.completion.peek(self.options.completion_ring);
        let taken = (first.len() + second.len()) as u32;
        if taken == 0 {
            return 0;
        }
        let mut completed = 0;
        for part in [first, second] {
            for address in part {
                if let Some(chunk) = self.umem.chunk_at(*address)
                    && self.umem.ledger().reclaim(chunk, self.sending)
                {
                    completed += 1;
                }
            }
        }
        self.completion.release(taken);
        self.outstanding.sending -= taken.min(self.outstanding.sending);
        self.counters.completed += completed as u64;
        self.counters.invalid += u64::from(taken) - completed as u64;
        completed
    }

    fn refill(&mut self) -> usize {
        let free = u32::try_from(self.umem.free_frames()).unwrap_or(u32::MAX);
        let missing = self.options.fill_ring - self.outstanding.receiving;
        let (first, second) = self.fill.reserve(missing.min(free));
        let mut filled = 0;
        for slot in first.iter_mut().chain(second) {
            let Some(chunk) = self.umem.ledger().take_as(self.receiving) else {
                break;
            };
            *slot = self.umem.address(chunk);
            filled += 1;
        }
        if filled > 0 {
            self.fill.submit(filled);
            self.outstanding.receiving += filled;
            self.counters.filled += u64::from(filled);
        }
        filled as usize
    }

    fn check(&mut self) -> Result<(), PortError> {
        match syscall::wake_rx(self.fd.as_fd()) {
            Err(error) if !is_transient(&error) => Err(self.failed("recvfrom", error)),
            _ => Ok(()),
        }
    }

    fn umem(&self) -> &'u Umem {
        self.umem
    }

    fn statistics(&self) -> Result<Statistics, PortError> {
        let statistics = syscall::statistics(self.fd.as_fd())
            .map_err(|error| self.failed("getsockopt(XDP_STATISTICS)", error))?;
        Ok(Statistics {
            rx_dropped: statistics.rx_dropped,
            rx_invalid_descriptors: statistics.rx_invalid_descs,
            tx_invalid_descriptors: statistics.tx_invalid_descs,
            rx_ring_full: statistics.rx_ring_full,
            fill_ring_empty: statistics.rx_fill_ring_empty_descs,
            tx_ring_empty: statistics.tx_ring_empty_descs,
        })
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn outstanding(&self) -> Outstanding {
        self.outstanding
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        self.reclaim();
        let unbound = is_unbound(self.fd.as_fd());
        if unbound {
            // Never taken by the kernel, and now never will be.
            for descriptor in self.tx.abandoned() {
                if let Some(chunk) = self.umem.chunk_at(descriptor.addr) {
                    let _ = self.umem.ledger().reclaim(chunk, self.sending);
                }
            }
        }
        self.umem.ledger().settle(self.receiving, unbound);
        // What the kernel took may still be read by a driver (IFF_TX_SKB_NO_LINEAR): changing it would change the wire.
        self.umem.ledger().settle(self.sending, false);
    }
}
