//! A port in memory that costs as little as DPDK's `net_pcap` does: each received packet is copied in, and what is sent is let go.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use ravelin_classifier::Host;
use ravelin_xdp_common::{Direction, Fate, FrameMetadata};
use ravelin_xsk::{
    Batch, Frame, FrameError, Kick, Outstanding, Port, PortCounters, PortError, Statistics, Umem,
};

use crate::rig::Ready;

/// What the driver of the port's device does with a packet.
#[derive(Clone, Copy, Debug)]
pub enum Driver<'d> {
    /// It was decided before; the packet has its metadata.
    Done,
    /// It decides for every packet anew, as the XDP program does.
    Decides(&'d Host, Direction),
}

/// The wire of a [`MemoryPort`], in the hands of whoever measures.
#[derive(Debug, Default)]
pub struct Wire {
    /// What is received, over and over.
    packets: RefCell<Vec<Ready>>,
    next: Cell<usize>,
    left: Cell<usize>,
    sent: Cell<usize>,
    /// Where in a frame its number is, and the highest one so far.
    numbered: Cell<Option<usize>>,
    highest: Cell<Option<u32>>,
    overtaken: Cell<usize>,
}

impl Wire {
    /// Sent frames have a number of 32 bits from this byte on, and follow each other in its order; a new one begins.
    pub fn expect_numbers(&self, at: usize) {
        self.numbered.set(Some(at));
        self.highest.set(None);
    }

    /// Sent packets that came behind one with a higher number, or the same, so far.
    #[must_use]
    pub fn overtaken(&self) -> usize {
        self.overtaken.get()
    }

    fn look(&self, frame: &Frame<'_>, at: usize) {
        let number = frame
            .data()
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        let number = number.map(u32::from_be_bytes);
        if number > self.highest.get() {
            self.highest.set(number);
        } else {
            self.overtaken.set(self.overtaken.get() + 1);
        }
    }

    /// These packets are received from now on, from the first one.
    pub fn load(&self, packets: Vec<Ready>) {
        self.packets.replace(packets);
        self.next.set(0);
    }

    /// Lets the port receive so many more.
    pub fn release(&self, count: usize) {
        self.left.set(self.left.get() + count);
    }

    /// Packets that the port may still receive.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.get()
    }

    /// Packets that the port has sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent.get()
    }
}

/// One end of a [`Wire`].
#[derive(Debug)]
pub struct MemoryPort<'u, 'w> {
    umem: &'u Umem,
    wire: &'w Wire,
    driver: Driver<'w>,
    counters: PortCounters,
    nothing: File,
}

impl<'u, 'w> MemoryPort<'u, 'w> {
    /// A port at the end of a wire.
    ///
    /// # Errors
    /// No descriptor.
    pub fn new(umem: &'u Umem, wire: &'w Wire, driver: Driver<'w>) -> Result<Self> {
        Ok(Self {
            umem,
            wire,
            driver,
            counters: PortCounters::default(),
            nothing: File::open("/dev/null").context("/dev/null")?,
        })
    }

    /// The packet in a frame, with the driver's word in front; `None` if the driver does not redirect it.
    fn copy_in(&self, packet: &Ready) -> Result<Option<Frame<'u>>, FrameError> {
        let Some(mut frame) = self.umem.frame() else {
            return Ok(None);
        };
        frame.append(packet.frame.len())?.copy_from_slice(&packet.frame);
        match self.driver {
            Driver::Done => frame
                .prepend(FrameMetadata::LENGTH)?
                .copy_from_slice(&packet.metadata),
            Driver::Decides(host, direction) => {
                let judgement = host.judge(frame.data(), direction);
                if judgement.fate != Fate::Redirect {
                    return Ok(None);
                }
                let room = frame.prepend(FrameMetadata::LENGTH)?;
                for (place, word) in room.chunks_exact_mut(4).zip(judgement.metadata.to_words()) {
                    place.copy_from_slice(&word.to_ne_bytes());
                }
            }
        }
        frame.trim_front(FrameMetadata::LENGTH)?;
        Ok(Some(frame))
    }
}

impl<'u> Port<'u> for MemoryPort<'u, '_> {
    fn rx(&mut self, batch: &mut Batch<'u>) -> usize {
        let packets = self.wire.packets.borrow();
        let count = batch.room().min(self.wire.left.get());
        let mut next = self.wire.next.get();
        let mut received = 0;
        for _ in 0..count {
            let Some(packet) = packets.get(next) else { break };
            next = if next + 1 == packets.len() { 0 } else { next + 1 };
            let frame = self.copy_in(packet).ok().flatten();
            if frame.is_some_and(|frame| batch.push(frame).is_ok()) {
                received += 1;
            } else {
                self.counters.invalid += 1;
            }
        }
        self.wire.next.set(next);
        self.wire.left.set(self.wire.left.get() - count);
        self.counters.received += received as u64;
        received
    }

    fn tx(&mut self, batch: &mut Batch<'u>) -> usize {
        if let Some(at) = self.wire.numbered.get() {
            batch.iter().for_each(|frame| self.wire.look(frame, at));
        }
        let count = batch.drain().count();
        self.wire.sent.set(self.wire.sent.get() + count);
        self.counters.queued += count as u64;
        count
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        Ok(Kick::Idle)
    }

    fn reclaim(&mut self) -> usize {
        0
    }

    fn refill(&mut self) -> usize {
        0
    }

    fn check(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn umem(&self) -> &'u Umem {
        self.umem
    }

    fn statistics(&self) -> Result<Statistics, PortError> {
        Ok(Statistics::default())
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn outstanding(&self) -> Outstanding {
        Outstanding::default()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.nothing.as_fd()
    }
}
