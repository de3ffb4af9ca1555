//! The host edge as a worker's port: packets of this host's stack, cut to the size of the wire, and back.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use ravelin_esp::MAX_TAILROOM;
use ravelin_offload::{Segmenter, VnetHeader};
use ravelin_xdp_common::{
    Decision, Direction, DropReason, FrameMetadata, Header, IpPacket, Kind, SliceReader, parse_ip,
};
use ravelin_xsk::{BATCH, Batch, Kick, Outstanding, Port, PortCounters, PortError, Statistics, Tun, Umem};

use crate::counters::WorkerCounters;
use crate::delivery::{Delivery, Written};
use crate::fragments::Fragments;
use crate::regime::{Regime, Shared};

const ETHERNET: usize = 14;

/// A packet of the stack has at most 64 KiB (`GSO_LEGACY_MAX_SIZE`); TUN devices do not raise that.
const LARGEST: usize = VnetHeader::LENGTH + (1 << 16) + 256;

/// A TUN queue. To the packet path it looks as if an inner device's driver had judged each packet.
pub(crate) struct EdgePort<'a, 'u> {
    tun: &'a Tun,
    queue: u32,
    umem: &'u Umem,
    shared: &'a Shared,
    counters: &'a WorkerCounters,
    /// First fragments of this host's own datagrams.
    fragments: Fragments,
    buffer: Box<[u8]>,
    /// The packet in the buffer: where it ends, and what of it is still to be cut.
    current: Option<(usize, Segmenter, FrameMetadata)>,
    delivery: Delivery<'u>,
    io: PortCounters,
    gone: bool,
}

impl<'a, 'u> EdgePort<'a, 'u> {
    pub(crate) fn new(
        tun: &'a Tun,
        queue: u32,
        umem: &'u Umem,
        shared: &'a Shared,
        counters: &'a WorkerCounters,
    ) -> Self {
        Self {
            tun,
            queue,
            umem,
            shared,
            counters,
            fragments: Fragments::new(Instant::now()),
            buffer: vec![0; LARGEST].into_boxed_slice(),
            current: None,
            delivery: Delivery::default(),
            io: PortCounters::default(),
            gone: false,
        }
    }

    /// Reads the next packet; false when there is none.
    fn read(&mut self, regime: &Regime) -> bool {
        let length = match self.tun.read(&mut self.buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.gone |= error.kind() != io::ErrorKind::Interrupted;
                return false;
            }
        };
        match self.prepare(length, regime) {
            Ok((segmenter, metadata)) => self.current = Some((length, segmenter, metadata)),
            Err(reason) => self.counters.dropped(reason),
        }
        true
    }

    /// Judges the packet in the buffer. The driver has done that, but cannot say here what came of it; should the policy have
    /// changed in between, the later one counts.
    fn prepare(&mut self, length: usize, regime: &Regime) -> Result<(Segmenter, FrameMetadata), DropReason> {
        let (header, packet) = self.buffer[..length]
            .split_first_chunk_mut::<{ VnetHeader::LENGTH }>()
            .ok_or(DropReason::FrameShort)?;
        let header = VnetHeader::from_bytes(header).ok_or(DropReason::InnerMalformed)?;
        if packet.len() > usize::from(u16::MAX) {
            return Err(DropReason::PacketTooBig);
        }
        let mut parsed = IpPacket::EMPTY;
        parse_ip(&SliceReader(packet), &mut parsed)?;
        let classify = || regime.rules().classify(&parsed.flow, Direction::Outbound);
        let verdict = if parsed.fragment {
            let header = Header {
                generation: regime.generation(),
                ..regime.rules().header()
            };
            self.fragments.judge(&parsed, &header, Instant::now(), classify)
        } else {
            classify()
        };
        match verdict.decision {
            Decision::Protect => {}
            Decision::FragmentUnknown => return Err(DropReason::FragmentUnknown),
            Decision::FragmentOverlap => return Err(DropReason::FragmentOverlap),
            _ => return Err(DropReason::ClearEgress),
        }
        let device_mtu = self.shared.adjacencies().current().outer.mtu;
        let outbound = regime
            .connection(verdict.connection)
            .and_then(|connection| connection.outbound_within(device_mtu, Instant::now()))
            .ok_or(DropReason::SaMissing)?;
        let limit = outbound.sa.inner_mtu().unwrap_or(device_mtu);
        // Padding behind the IP packet there is none, but its own length decides.
        let packet = &mut packet[..usize::from(parsed.l3_length)];
        let segmenter =
            Segmenter::new(&header, packet, limit as usize).map_err(|_| DropReason::InnerMalformed)?;
        let metadata = FrameMetadata {
            slot: verdict.connection,
            rule_id: verdict.rule_id,
            // In front stands an empty Ethernet header: there is no other host on this link.
            l3_offset: ETHERNET as u16,
            l3_length: parsed.l3_length,
            generation: regime.generation() as u16,
            kind: Kind::Seal,
            family: parsed.flow.family as u8,
        };
        Ok((segmenter, metadata))
    }

    /// Cuts frames from the packet in the buffer, as many as the batch takes.
    fn cut(&mut self, batch: &mut Batch<'u>) {
        let Some((_, mut segmenter, metadata)) = self.current.take() else {
            return;
        };
        let start = VnetHeader::LENGTH;
        let packet = &self.buffer[start..start + usize::from(metadata.l3_length)];
        while let Some(length) = segmenter.next_length() {
            if batch.is_full() {
                self.current = Some((start + packet.len(), segmenter, metadata));
                return;
            }
            let Some(mut frame) = self.umem.frame_for(length + MAX_TAILROOM) else {
                self.counters.dropped(DropReason::NoFrame);
                return;
            };
            let metadata = FrameMetadata {
                l3_length: length as u16,
                ..metadata
            };
            let written = frame.tailroom() >= length + MAX_TAILROOM
                && frame
                    .append(length)
                    .is_ok_and(|out| segmenter.write_next(packet, out))
                && frame.prepend(ETHERNET).map(|header| header.fill(0)).is_ok()
                && frame
                    .prepend(FrameMetadata::LENGTH)
                    .is_ok_and(|bytes| write_metadata(metadata, bytes))
                && frame.trim_front(FrameMetadata::LENGTH).is_ok();
            if !written {
                self.counters.dropped(DropReason::FrameShort);
                return;
            }
            self.io.received += 1;
            if batch.push(frame).is_err() {
                // Not reached: there was room.
                return;
            }
        }
    }

    fn gone(&self) -> Result<(), PortError> {
        if self.gone {
            return Err(PortError::DeviceGone {
                device: self.tun.name().to_owned(),
                queue: self.queue,
            });
        }
        Ok(())
    }
}

/// What XDP on an inner device would have written there.
fn write_metadata(metadata: FrameMetadata, bytes: &mut [u8]) -> bool {
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(metadata.to_words()) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    true
}

impl<'u> Port<'u> for EdgePort<'_, 'u> {
    fn rx(&mut self, batch: &mut Batch<'u>) -> usize {
        let before = batch.len();
        let shared = self.shared;
        let regime = shared.regime();
        // Bounded, also when every packet is dropped.
        for _ in 0..BATCH {
            if self.current.is_none() && !self.read(&regime) {
                break;
            }
            self.cut(batch);
            if batch.is_full() {
                break;
            }
        }
        batch.len() - before
    }

    fn tx(&mut self, batch: &mut Batch<'u>) -> usize {
        let count = batch.len();
        let mut written = Written::default();
        for mut frame in batch.drain() {
            if frame.trim_front(ETHERNET).is_ok() {
                self.delivery.add(frame, self.tun, &mut written);
            }
        }
        self.delivery.flush(self.tun, &mut written);
        self.io.queued += written.taken;
        self.io.completed += written.taken;
        self.io.dropped += written.refused;
        count
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        self.gone().map(|()| Kick::Idle)
    }

    fn reclaim(&mut self) -> usize {
        0
    }

    fn refill(&mut self) -> usize {
        0
    }

    fn check(&mut self) -> Result<(), PortError> {
        self.gone()
    }

    fn umem(&self) -> &'u Umem {
        self.umem
    }

    fn statistics(&self) -> Result<Statistics, PortError> {
        Ok(Statistics::default())
    }

    fn counters(&self) -> PortCounters {
        self.io
    }

    fn outstanding(&self) -> Outstanding {
        Outstanding::default()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.tun.as_fd()
    }
}

/// One of the two ports of a host's worker.
pub(crate) enum HostPort<'a, 'u, S> {
    /// The wire.
    Outer(Box<S>),
    /// The stack.
    Edge(Box<EdgePort<'a, 'u>>),
}

impl<'u, S: Port<'u>> Port<'u> for HostPort<'_, 'u, S> {
    fn rx(&mut self, batch: &mut Batch<'u>) -> usize {
        match self {
            Self::Outer(port) => port.rx(batch),
            Self::Edge(port) => port.rx(batch),
        }
    }

    fn tx(&mut self, batch: &mut Batch<'u>) -> usize {
        match self {
            Self::Outer(port) => port.tx(batch),
            Self::Edge(port) => port.tx(batch),
        }
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        match self {
            Self::Outer(port) => port.kick(),
            Self::Edge(port) => port.kick(),
        }
    }

    fn reclaim(&mut self) -> usize {
        match self {
            Self::Outer(port) => port.reclaim(),
            Self::Edge(port) => port.reclaim(),
        }
    }

    fn refill(&mut self) -> usize {
        match self {
            Self::Outer(port) => port.refill(),
            Self::Edge(port) => port.refill(),
        }
    }

    fn check(&mut self) -> Result<(), PortError> {
        match self {
            Self::Outer(port) => port.check(),
            Self::Edge(port) => port.check(),
        }
    }

    fn umem(&self) -> &'u Umem {
        match self {
            Self::Outer(port) => port.umem(),
            Self::Edge(port) => port.umem(),
        }
    }

    fn statistics(&self) -> Result<Statistics, PortError> {
        match self {
            Self::Outer(port) => port.statistics(),
            Self::Edge(port) => port.statistics(),
        }
    }

    fn counters(&self) -> PortCounters {
        match self {
            Self::Outer(port) => port.counters(),
            Self::Edge(port) => port.counters(),
        }
    }

    fn outstanding(&self) -> Outstanding {
        match self {
            Self::Outer(port) => port.outstanding(),
            Self::Edge(port) => port.outstanding(),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Outer(port) => port.fd(),
            Self::Edge(port) => port.fd(),
        }
    }
}
