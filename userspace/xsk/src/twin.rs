//! A port in memory: the same interface without root, devices or system calls.
//!
//! [`TwinPort`] keeps the habits of a socket that engine code can get wrong: queued frames leave only with
//! [`Port::kick`], their chunks come back only with [`Port::reclaim`], received packets need chunks handed over by
//! [`Port::refill`], and a device can go down or vanish. What it sends is copied to the other end: a [`TwinEnd`] in a
//! test's hands, or another port ([`pair`]).

mod wire;

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Mutex};

use self::wire::{Lane, lock};
pub use self::wire::{Link, TwinEnd};
use crate::chain::{self, Chain};
use crate::error::{OpenError, PortError};
use crate::if_xdp::{Descriptor, XDP_PKT_CONTD};
use crate::ledger::Owner;
use crate::socket::{Attachment, SHORTEST_FRAME};
use crate::{Batch, Frame, Kick, Outstanding, Port, PortCounters, PortOptions, Statistics, Umem};

/// The name that errors give for the device.
const DEVICE: &str = "twin";

/// A [`Port`] over a [`Umem`] whose wire is memory.
#[derive(Debug)]
pub struct TwinPort<'u> {
    umem: &'u Umem,
    receive: Lane,
    send: Lane,
    link: Arc<Mutex<Link>>,
    chain: Chain<'u>,
    /// Chunks handed over for receiving.
    fill: VecDeque<u32>,
    /// Queued, not kicked.
    queued: VecDeque<Descriptor>,
    /// Sent, not reclaimed.
    completed: Vec<u32>,
    fill_ring: usize,
    tx_ring: usize,
    receiving: Owner,
    sending: Owner,
    counters: PortCounters,
    statistics: Statistics,
    _attachment: Attachment<'u>,
}

impl<'u> TwinPort<'u> {
    /// A port and the other end of its wire, which holds `options.rx_ring` packets in each direction. Of the options only
    /// the ring sizes matter, and they need not be powers of two.
    ///
    /// # Errors
    /// [`OpenError::TooManyPorts`], or no descriptor for an eventfd.
    pub fn new(umem: &'u Umem, options: &PortOptions) -> Result<(Self, TwinEnd), OpenError> {
        let (to_port, from_port) = (Lane::new(options)?, Lane::new(options)?);
        let port = Self::on(umem, options, to_port.clone(), from_port.clone())?;
        let end = TwinEnd {
            to_port,
            from_port,
            link: Arc::clone(&port.link),
        };
        Ok((port, end))
    }

    fn on(umem: &'u Umem, options: &PortOptions, receive: Lane, send: Lane) -> Result<Self, OpenError> {
        let too_many = || OpenError::TooManyPorts {
            device: DEVICE.to_owned(),
            queue: 0,
        };
        let attachment = Attachment::new(umem).ok_or_else(too_many)?;
        let (fill_ring, tx_ring) = (options.fill_ring as usize, options.tx_ring as usize);
        let mut port = Self {
            umem,
            receive,
            send,
            link: Arc::default(),
            chain: Chain::default(),
            fill: VecDeque::with_capacity(fill_ring),
            queued: VecDeque::with_capacity(tx_ring),
            completed: Vec::with_capacity(tx_ring),
            fill_ring,
            tx_ring,
            receiving: Owner::fill(attachment.slot()),
            sending: Owner::tx(attachment.slot()),
            counters: PortCounters::default(),
            statistics: Statistics::default(),
            _attachment: attachment,
        };
        port.refill();
        Ok(port)
    }

    /// Writes a packet into chunks of the fill ring as the kernel does, `room` bytes into each, and receives it.
    fn place(&mut self, metadata: &[u8], bytes: &[u8], room: usize) -> Option<Frame<'u>> {
        let mut metadata = metadata;
        let mut pieces = bytes.chunks(room).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let address = self.umem.address(self.fill.pop_front()?);
            let start = self.umem.data_offset() as usize;
            let mut descriptor = Descriptor {
                addr: address,
                len: 0,
                options: 0,
            };
            let mut frame = self.umem.receive(descriptor, self.receiving)?;
            frame
                .set_range(start - metadata.len(), start + piece.len())
                .ok()?;
            let (front, back) = frame.data_mut().split_at_mut(metadata.len());
            front.copy_from_slice(metadata);
            back.copy_from_slice(piece);
            let (chunk, ..) = frame.into_parts();
            self.umem.ledger().give(chunk, self.receiving);
            descriptor.addr += start as u64;
            descriptor.len = piece.len() as u32;
            let more = pieces.peek().is_some();
            descriptor.options = if more { XDP_PKT_CONTD } else { 0 };
            if self.chain.is_whole(descriptor.options) {
                return self.umem.receive(descriptor, self.receiving);
            }
            let whole = self
                .chain
                .take(self.umem, descriptor, self.receiving, &mut self.counters);
            if !more {
                return whole;
            }
            metadata = &[];
        }
    }

    fn link(&self) -> Result<(), PortError> {
        let (device, queue) = (DEVICE.to_owned(), 0);
        match *lock(&self.link) {
            Link::Up => Ok(()),
            Link::Down => Err(PortError::DeviceDown { device, queue }),
            Link::Removed => Err(PortError::DeviceGone { device, queue }),
        }
    }
}

/// Two ports at the ends of one wire, on the same UMEM or on two.
///
/// # Errors
/// As [`TwinPort::new`].
pub fn pair<'a, 'b>(
    umem_a: &'a Umem,
    umem_b: &'b Umem,
    options: &PortOptions,
) -> Result<(TwinPort<'a>, TwinPort<'b>), OpenError> {
    let (a_to_b, b_to_a) = (Lane::new(options)?, Lane::new(options)?);
    let a = TwinPort::on(umem_a, options, b_to_a.clone(), a_to_b.clone())?;
    let b = TwinPort::on(umem_b, options, a_to_b, b_to_a)?;
    Ok((a, b))
}

impl<'u> Port<'u> for TwinPort<'u> {
    fn rx(&mut self, batch: &mut Batch<'u>) -> usize {
        let mut received = 0;
        if self.link().is_ok() {
            let wire = Arc::clone(&self.receive.wire);
            let mut wire = lock(&wire);
            while !batch.is_full() && !wire.packets.is_empty() {
                let Some(packet) = wire.packets.pop_front() else {
                    break;
                };
                let (metadata, bytes) = packet.bytes.split_at(packet.metadata);
                let room = self.umem.frame_size() - self.umem.data_offset() as usize;
                let pieces = bytes.len().div_ceil(room).max(1);
                if pieces > 1 && !self.umem.has_large_frames() {
                    self.statistics.rx_dropped += 1;
                } else if self.fill.len() < pieces {
                    self.statistics.fill_ring_empty += 1;
                    wire.packets.push_front(packet);
                    break;
                } else if let Some(frame) = self.place(metadata, bytes, room)
                    && batch.push(frame).is_ok()
                {
                    received += 1;
                }
                wire.spare.push(packet.bytes);
            }
            wire.settle();
        }
        self.counters.received += received as u64;
        self.refill();
        received
    }

    fn tx(&mut self, batch: &mut Batch<'u>) -> usize {
        let room = self
            .tx_ring
            .saturating_sub(self.queued.len() + self.completed.len());
        let count = chain::fitting(batch, 0, room);
        for frame in batch.drain_front(count) {
            if frame.len() < SHORTEST_FRAME || !frame.belongs_to(self.umem) {
                self.counters.refused += 1;
                continue;
            }
            if frame.is_large() {
                let sent = chain::scatter(&frame, self.umem, 0, self.sending, |descriptor| {
                    self.queued.push_back(descriptor);
                    self.counters.queued += 1;
                });
                self.counters.no_frame += u64::from(!sent);
                continue;
            }
            let (chunk, start, end) = frame.into_parts();
            self.umem.ledger().give(chunk, self.sending);
            let addr = self.umem.address(chunk) + u64::from(start);
            self.queued.push_back(Descriptor {
                addr,
                len: u32::from(end - start),
                options: 0,
            });
            self.counters.queued += 1;
        }
        count
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        self.link()?;
        if self.queued.is_empty() {
            return Ok(Kick::Idle);
        }
        self.counters.wakeups += 1;
        let mut wire = self.send.lock();
        let mut begun = false;
        while let Some(descriptor) = self.queued.front().filter(|_| begun || !wire.is_full()) {
            if let Some(frame) = self.umem.receive(*descriptor, self.sending) {
                if begun {
                    wire.extend(frame.data());
                } else {
                    wire.push(&[], frame.data());
                }
                begun = descriptor.options != 0;
                let (chunk, ..) = frame.into_parts();
                self.umem.ledger().give(chunk, self.sending);
                self.completed.push(chunk);
            }
            self.queued.pop_front();
        }
        Ok(if self.queued.is_empty() {
            Kick::Sent
        } else {
            Kick::Retry
        })
    }

    fn reclaim(&mut self) -> usize {
        let count = self.completed.len();
        for chunk in self.completed.drain(..) {
            let reclaimed = self.umem.ledger().reclaim(chunk, self.sending);
            debug_assert!(reclaimed, "a completed chunk is the port's");
        }
        self.counters.completed += count as u64;
        count
    }

    fn refill(&mut self) -> usize {
        let before = self.fill.len();
        while self.fill.len() < self.fill_ring {
            let Some(chunk) = self.umem.ledger().take_as(self.receiving) else {
                break;
            };
            self.fill.push_back(chunk);
        }
        let filled = self.fill.len() - before;
        self.counters.filled += filled as u64;
        filled
    }

    fn check(&mut self) -> Result<(), PortError> {
        self.link()
    }

    fn umem(&self) -> &'u Umem {
        self.umem
    }

    fn statistics(&self) -> Result<Statistics, PortError> {
        let rx_ring_full = self.receive.lock().refused;
        Ok(Statistics {
            rx_ring_full,
            ..self.statistics
        })
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn outstanding(&self) -> Outstanding {
        // Bounded by ring sizes, which are u32.
        let sending = (self.queued.len() + self.completed.len()) as u32;
        Outstanding {
            receiving: self.fill.len() as u32,
            sending,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.receive.lock().arm();
        self.receive.ready.as_fd()
    }
}

impl Drop for TwinPort<'_> {
    fn drop(&mut self) {
        self.umem.ledger().settle(self.receiving, true);
        self.umem.ledger().settle(self.sending, true);
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::{FrameCounts, UmemOptions};

    const RINGS: PortOptions = PortOptions {
        rx_ring: 128,
        tx_ring: 16,
        fill_ring: 16,
        completion_ring: 16,
        mode: crate::Mode::Auto,
        need_wakeup: true,
        tx_budget: 256,
        busy_poll: None,
    };

    fn umem(frame_count: u32) -> Umem {
        Umem::new(&UmemOptions {
            frame_count,
            ..UmemOptions::default()
        })
        .unwrap()
    }

    fn readable(port: &TwinPort<'_>) -> bool {
        let mut fds = [PollFd::new(port.fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn frames_leave_with_kick_and_chunks_return_with_reclaim() {
        let umem = umem(64);
        let (mut port, end) = TwinPort::new(&umem, &RINGS).unwrap();
        assert!(end.inject(b"meta", &[5; 60]));
        let mut batch = Batch::new();
        assert_eq!(port.rx(&mut batch), 1);
        assert_eq!(batch[0].data(), [5; 60]);
        assert_eq!(batch[0].metadata(4), Some(&b"meta"[..]));
        assert_eq!(batch[0].headroom(), 256);
        batch[0].prepend(2).unwrap().fill(6);
        assert_eq!(port.tx(&mut batch), 1);
        assert!(batch.is_empty());
        assert_eq!(end.take(), None, "not kicked");
        assert_eq!(port.reclaim(), 0);
        assert_eq!(port.kick().unwrap(), Kick::Sent);
        assert_eq!(end.take().unwrap(), [&[6; 2][..], &[5; 60]].concat());
        assert_eq!(
            umem.counts(),
            FrameCounts {
                free: 47,
                receiving: 16,
                sending: 1,
                ..FrameCounts::default()
            }
        );
        assert_eq!(port.reclaim(), 1);
        assert_eq!(port.kick().unwrap(), Kick::Idle);
        drop(port);
        assert_eq!(umem.counts().free, 64);
    }

    #[test]
    fn a_full_ring_leaves_the_rest_with_the_caller() {
        let umem = umem(128);
        let (mut port, end) = TwinPort::new(&umem, &RINGS).unwrap();
        let mut batch = Batch::new();
        for number in 0..20 {
            let mut frame = umem.frame().unwrap();
            frame.append(60).unwrap().fill(number);
            batch.push(frame).unwrap();
        }
        assert_eq!(port.tx(&mut batch), 16);
        assert_eq!((batch.len(), batch[0].data()[0]), (4, 16));
        assert_eq!(port.kick().unwrap(), Kick::Sent);
        assert_eq!(port.tx(&mut batch), 0, "completed, not reclaimed");
        port.reclaim();
        assert_eq!(port.tx(&mut batch), 4);
        assert_eq!(port.kick().unwrap(), Kick::Sent);
        let sent: Vec<u8> = std::iter::from_fn(|| end.take())
            .map(|packet| packet[0])
            .collect();
        assert_eq!(sent, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn frames_of_another_umem_and_stumps_are_refused() {
        let (ours, other) = (umem(32), umem(32));
        let (mut port, end) = TwinPort::new(&ours, &RINGS).unwrap();
        let mut batch = Batch::new();
        for (umem, len) in [(&other, 60), (&ours, 13), (&ours, 0), (&ours, 14)] {
            let mut frame = umem.frame().unwrap();
            frame.append(len).unwrap();
            batch.push(frame).unwrap();
        }
        assert_eq!(port.tx(&mut batch), 4);
        assert_eq!((port.counters().refused, port.counters().queued), (3, 1));
        assert_eq!(other.counts().free, 32, "its frame went home");
        assert_eq!(port.kick().unwrap(), Kick::Sent);
        assert_eq!(end.take().unwrap().len(), 14);
    }

    #[test]
    fn without_chunks_packets_wait() {
        let umem = umem(16);
        let (mut port, end) = TwinPort::new(&umem, &RINGS).unwrap();
        for number in 0..20 {
            assert!(end.inject(&[], &[number; 60]));
        }
        let mut batch = Batch::new();
        assert_eq!(port.rx(&mut batch), 16);
        assert_eq!(port.rx(&mut batch), 0);
        assert!(port.statistics().unwrap().fill_ring_empty > 0);
        batch.clear();
        port.refill();
        assert_eq!(port.rx(&mut batch), 4);
        assert_eq!(batch[0].data()[0], 16);
    }

    #[test]
    fn a_packet_too_long_for_a_chunk_is_dropped_and_counted() {
        let umem = umem(16);
        let (mut port, end) = TwinPort::new(&umem, &RINGS).unwrap();
        assert!(end.inject(&[], &[0; 1793]));
        assert!(end.inject(&[1; 256], &[0; 1792]));
        assert!(!end.inject(&[], &[0; 16385]));
        let mut batch = Batch::new();
        assert_eq!(port.rx(&mut batch), 1);
        assert_eq!((batch[0].len(), batch[0].tailroom()), (1792, 0));
        assert_eq!(batch[0].metadata(256), Some(&[1; 256][..]));
        let statistics = port.statistics().unwrap();
        assert_eq!((statistics.rx_dropped, statistics.rx_ring_full), (1, 1));
    }

    #[test]
    fn a_lost_link_is_an_error_and_frames_wait() {
        let umem = umem(64);
        let (mut port, end) = TwinPort::new(&umem, &RINGS).unwrap();
        let mut batch = Batch::new();
        let mut frame = umem.frame().unwrap();
        frame.append(60).unwrap();
        batch.push(frame).unwrap();
        port.tx(&mut batch);
        end.set_link(Link::Down);
        assert!(matches!(port.kick(), Err(PortError::DeviceDown { .. })));
        end.set_link(Link::Removed);
        assert!(matches!(port.check(), Err(PortError::DeviceGone { .. })));
        end.set_link(Link::Up);
        assert_eq!(port.kick().unwrap(), Kick::Sent);
        assert_eq!(end.waiting(), 1);
    }

    #[test]
    fn a_pair_forwards_and_conserves_frames() {
        let umem = umem(256);
        let (mut in_port, in_end) = TwinPort::new(&umem, &RINGS).unwrap();
        let (mut a, mut b) = pair(&umem, &umem, &RINGS).unwrap();
        let mut batch = Batch::new();
        for number in 0..1000u32 {
            let packet = [&number.to_be_bytes()[..], &[0; 60]].concat();
            assert!(in_end.inject(&[], &packet));
            in_port.rx(&mut batch);
            assert_eq!(a.tx(&mut batch), 1);
            assert_eq!(a.kick().unwrap(), Kick::Sent);
            assert_eq!(b.rx(&mut batch), 1);
            assert_eq!(batch[0].data()[..4], number.to_be_bytes());
            batch.clear();
            a.reclaim();
        }
        in_port.refill();
        let counts = umem.counts();
        assert_eq!(counts.total(), 256);
        assert_eq!((counts.held, counts.sending, counts.receiving), (0, 0, 48));
    }

    #[test]
    fn the_descriptor_is_readable_while_packets_wait() {
        let umem = umem(64);
        let (mut port, end) = TwinPort::new(&umem, &RINGS).unwrap();
        assert!(!readable(&port));
        assert!(end.inject(&[], &[0; 60]));
        assert!(end.inject(&[], &[0; 60]));
        assert!(readable(&port));
        port.rx(&mut Batch::new());
        assert!(!readable(&port));
        let worker = end.clone();
        std::thread::spawn(move || assert!(worker.inject(&[], &[0; 60])))
            .join()
            .unwrap();
        assert!(readable(&port));
    }
}
