//! A socket whose rings the crate xsk-rs has.

mod open;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use crate::chain::{self, Chain};
use crate::error::PortError;
use crate::if_xdp::Descriptor;
use crate::ledger::Owner;
use crate::socket::calls::{is_transient, is_unbound, send};
use crate::socket::{Attachment, REFILL, SHORTEST_FRAME};
use crate::xsk_rs_memory::XskRsMemory;
use crate::{BATCH, Batch, Kick, Outstanding, Port, PortCounters, PortOptions, Statistics, Umem, syscall};

/// An AF_XDP socket of the crate xsk-rs; what that costs is told at [`XskRs`](crate::XskRs).
///
/// Dropping it takes its descriptors away from the kernel's hands as little as dropping a [`Socket`](crate::Socket) does: chunks that the
/// kernel still has are lost until the UMEM is rebuilt.
#[derive(Debug)]
pub struct XskRsSocket<'u> {
    umem: &'u Umem,
    memory: &'u XskRsMemory,
    rx: RxQueue,
    outbox: Outbox,
    fill: FillQueue,
    completion: CompQueue,
    /// Descriptors on their way out of a ring.
    taken: Box<[FrameDesc; BATCH]>,
    /// The packet of which a part has come.
    chain: Chain<'u>,
    /// Chunks with the kernel; they bound what may be queued, so that ring and completion ring never overflow.
    outstanding: Outstanding,
    options: PortOptions,
    counters: PortCounters,
    receiving: Owner,
    sending: Owner,
    /// A duplicate: the crate's own belongs to its queues.
    fd: OwnedFd,
    zero_copy: bool,
    /// What a wakeup in `rx` said; `kick` reports it.
    fault: Option<io::Error>,
    device: String,
    queue: u32,
    attachment: Attachment<'u>,
}

/// The transmit ring, and what is to be put into it at once.
#[derive(Debug)]
struct Outbox {
    tx: TxQueue,
    ready: ArrayVec<FrameDesc, BATCH>,
    /// Put into the ring since this was last asked.
    queued: u32,
    /// Refused by the ring since this was last asked.
    refused: u32,
}

impl Outbox {
    /// Queues a descriptor of a chunk that the ledger has given to `owner`.
    fn push(&mut self, descriptor: FrameDesc, umem: &Umem, owner: Owner) {
        if self.ready.is_full() {
            self.flush(umem, owner);
        }
        self.ready.push(descriptor);
    }

    fn flush(&mut self, umem: &Umem, owner: Owner) {
        // SAFETY: the chunks are of this memory, and by the ledger nobody's but this ring's.
        let queued = unsafe { self.tx.produce(&self.ready) };
        self.queued += queued as u32;
        // None, or all: there is room, unless the kernel's index is wrong.
        for descriptor in self.ready.drain(..).skip(queued) {
            let reclaimed = umem.reclaim(descriptor.addr() as u64, owner);
            debug_assert!(reclaimed, "it was given to the port just now");
            self.refused += 1;
        }
    }
}

impl XskRsSocket<'_> {
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

impl<'u> Port<'u> for XskRsSocket<'u> {
    fn rx(&mut self, batch: &mut Batch<'u>) -> usize {
        let wanted = batch.room();
        // SAFETY: what is taken are chunks of this memory; which they are is checked by the ledger.
        let taken = unsafe { self.rx.consume(&mut self.taken[..wanted]) };
        let mut received = 0;
        for descriptor in &self.taken[..taken] {
            let descriptor = Descriptor {
                addr: descriptor.addr() as u64,
                // It came from 32 bits.
                len: descriptor.lengths().data() as u32,
                options: descriptor.options(),
            };
            let frame = self
                .chain
                .receive(self.umem, descriptor, self.receiving, &mut self.counters);
            if let Some(frame) = frame
                && batch.push(frame).is_ok()
            {
                received += 1;
            }
        }
        self.outstanding.receiving -= (taken as u32).min(self.outstanding.receiving);
        self.counters.received += received as u64;
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
        let room = (self.options.tx_ring - self.outstanding.sending) as usize;
        let start = self.umem.data_offset() as usize;
        let chains = self.umem.has_large_frames();
        let count = if chains {
            chain::fitting(batch, start, room)
        } else {
            batch.len().min(room)
        };
        for mut frame in batch.drain_front(count) {
            let (len, pieces) = (frame.len(), frame.pieces(start));
            if len < SHORTEST_FRAME || !frame.belongs_to(self.umem) || (pieces > 1 && !chains) {
                self.counters.refused += 1;
                continue;
            }
            if pieces > 1 || frame.is_large() {
                let sent = chain::scatter(&frame, self.umem, start, self.sending, |piece| {
                    let Some(chunk) = self.umem.chunk_at(piece.addr) else {
                        return;
                    };
                    // SAFETY: the piece's frame has just been given up, and the kernel does not know yet.
                    let piece = unsafe { self.memory.packet(chunk, piece.len as usize, piece.options) };
                    self.outbox.push(piece, self.umem, self.sending);
                });
                self.counters.no_frame += u64::from(!sent);
                continue;
            }
            let (bytes, from, to) = frame.chunk_mut();
            if from != start {
                bytes.copy_within(from..to, start);
            }
            let (chunk, ..) = frame.into_parts();
            self.umem.ledger().give(chunk, self.sending);
            // SAFETY: the frame has just been given up, and the kernel does not know yet.
            let packet = unsafe { self.memory.packet(chunk, len, 0) };
            self.outbox.push(packet, self.umem, self.sending);
        }
        self.outbox.flush(self.umem, self.sending);
        let queued = std::mem::take(&mut self.outbox.queued);
        self.outstanding.sending += queued;
        self.counters.queued += u64::from(queued);
        self.counters.invalid += u64::from(std::mem::take(&mut self.outbox.refused));
        count
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        if let Some(error) = self.fault.take() {
            return Err(self.failed("recvfrom", error));
        }
        let (tx, size) = (&mut self.outbox.tx, self.options.tx_ring);
        let mut pending = || size.saturating_sub(tx.nb_free_exact());
        let left = pending();
        if left == 0 {
            return Ok(Kick::Idle);
        }
        if self.options.need_wakeup && !self.outbox.tx.needs_wakeup() {
            return Ok(Kick::Idle);
        }
        let (socket, tx) = (self.fd.as_fd(), &mut self.outbox.tx);
        // Not the crate's own wakeup, which says nothing of a device that is down or drops frames.
        send(socket, self.zero_copy, &mut self.counters, left, || {
            size.saturating_sub(tx.nb_free_exact())
        })
        .map_err(|error| self.failed("sendto", error))
    }

    fn reclaim(&mut self) -> usize {
        let mut completed = 0;
        let mut taken = 0;
        while taken < self.options.completion_ring {
            // SAFETY: what is taken are chunks of this memory; which they are is checked by the ledger.
            let count = unsafe { self.completion.consume(&mut self.taken[..]) };
            for descriptor in &self.taken[..count] {
                completed += usize::from(self.umem.reclaim(descriptor.addr() as u64, self.sending));
            }
            taken += count as u32;
            if count < BATCH {
                break;
            }
        }
        self.outstanding.sending -= taken.min(self.outstanding.sending);
        self.counters.completed += completed as u64;
        self.counters.invalid += u64::from(taken) - completed as u64;
        completed
    }

    fn refill(&mut self) -> usize {
        let free = u32::try_from(self.umem.free_frames()).unwrap_or(u32::MAX);
        let mut missing = (self.options.fill_ring - self.outstanding.receiving).min(free);
        let mut filled = 0;
        while missing > 0 {
            let mut count = 0;
            for place in self.taken.iter_mut().take(missing as usize) {
                let Some(chunk) = self.umem.ledger().take_as(self.receiving) else {
                    break;
                };
                *place = self.memory.chunk(chunk);
                count += 1;
            }
            let chunks = &self.taken[..count];
            // SAFETY: the chunks are of this memory, and by the ledger nobody's but this ring's.
            let done = unsafe { self.fill.produce(chunks) };
            // None, or all: there is room, unless the kernel's index is wrong.
            for descriptor in &chunks[done..] {
                let reclaimed = self.umem.reclaim(descriptor.addr() as u64, self.receiving);
                debug_assert!(reclaimed, "it was given to the port just now");
            }
            if done == 0 {
                break;
            }
            missing -= done as u32;
            filled += done as u32;
        }
        self.outstanding.receiving += filled;
        self.counters.filled += u64::from(filled);
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
        let statistics = self.rx.fd().xdp_statistics();
        let statistics = statistics.map_err(|error| self.failed("getsockopt(XDP_STATISTICS)", error))?;
        Ok(Statistics {
            rx_dropped: statistics.rx_dropped(),
            rx_invalid_descriptors: statistics.rx_invalid_descs(),
            tx_invalid_descriptors: statistics.tx_invalid_descs(),
            rx_ring_full: statistics.rx_ring_full(),
            fill_ring_empty: statistics.rx_fill_ring_empty_descs(),
            tx_ring_empty: statistics.tx_ring_empty_descs(),
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

impl Drop for XskRsSocket<'_> {
    fn drop(&mut self) {
        self.reclaim();
        let unbound = is_unbound(self.fd.as_fd());
        self.umem.ledger().settle(self.receiving, unbound);
        // What was queued: a driver may read it still, or it was never taken, and nobody can tell which.
        self.umem.ledger().settle(self.sending, false);
    }
}
