//! Packet memory: one mapping, cut into chunks of one size.

use std::cell::Cell;
use std::fmt;
use std::os::fd::RawFd;
use std::ptr::NonNull;

use crate::Frame;
use crate::error::UmemError;
use crate::if_xdp::{Descriptor, XDP_PACKET_HEADROOM};
use crate::ledger::{FrameCounts, Ledger, MAX_PORTS, Owner};
use crate::memory::Memory;
#[cfg(feature = "xsk-rs")]
use crate::{PortOptions, xsk_rs_memory::XskRsMemory};

/// Ethernet header and two VLAN tags, bytes: what a packet has beyond the device's MTU.
const LINK_HEADER: usize = 14 + 2 * 4;

/// Bytes of a large frame: room for a jumbo packet with what ESP adds.
pub(crate) const LARGE_FRAME: u32 = 1 << 14;

/// Size and kind of the packet memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UmemOptions {
    /// Bytes of a chunk: 2048 or 4096.
    pub frame_size: u32,
    /// Number of chunks. Each port takes as many as its fill and transmit rings have entries, besides the batches in
    /// the engine's hands.
    pub frame_count: u32,
    /// Bytes that the kernel leaves free in front of a received packet, in addition to its own 256.
    pub headroom: u32,
    /// Whether to use huge pages.
    pub huge_pages: HugePages,
    /// Number of frames of 16 KiB for packets that need several chunks, at most 65,536. With 0 there are no such packets, and
    /// the ports do not ask for them (`XDP_USE_SG`), which would keep some drivers from zero-copy.
    pub large_frames: u32,
}

impl Default for UmemOptions {
    /// 16 MiB: enough for two ports with rings of 2048 entries.
    fn default() -> Self {
        Self {
            frame_size: 2048,
            frame_count: 8192 + 512,
            headroom: 0,
            huge_pages: HugePages::Prefer,
            large_frames: 0,
        }
    }
}

impl UmemOptions {
    /// The longest packet, in bytes from its Ethernet header on, that can be received: what the kernel can place in a chunk,
    /// or with large frames what fits into one. Longer ones are dropped and counted as
    /// [`Statistics::rx_dropped`](crate::Statistics::rx_dropped) or [`PortCounters::too_long`](crate::PortCounters::too_long).
    #[must_use]
    pub const fn largest_packet(&self) -> usize {
        let room = if self.large_frames == 0 {
            self.frame_size
        } else {
            LARGE_FRAME
        };
        (room as usize).saturating_sub((self.headroom + XDP_PACKET_HEADROOM) as usize)
    }

    /// Whether every packet of a device with this MTU fits into a frame, two VLAN tags included, with `tailroom` bytes
    /// to spare behind it (for an ESP trailer, say).
    #[must_use]
    pub const fn fits_mtu(&self, mtu: usize, tailroom: usize) -> bool {
        mtu.saturating_add(LINK_HEADER).saturating_add(tailroom) <= self.largest_packet()
    }
}

/// Whether packet memory shall be in huge pages (fewer TLB misses).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// If the system has some to spare (`vm.nr_hugepages`), else transparent ones where the kernel likes.
    Prefer,
    /// Or fail.
    Require,
    /// Ordinary pages.
    Never,
}

/// The pages that a UMEM got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Reserved huge pages of the system's default size.
    Huge,
    /// Ordinary pages, which the kernel was asked to merge into huge ones.
    Transparent,
    /// Ordinary pages.
    Normal,
}

impl fmt::Display for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Huge => "huge pages",
            Self::Transparent => "transparent huge pages",
            Self::Normal => "normal pages",
        })
    }
}

/// The packet memory of one worker, and the ledger of its chunks.
///
/// Behind the chunks there may be large frames: the kernel does not know of them, since its chunks are a page at most (it
/// answers EINVAL to 8192 bytes, huge pages or not). A packet that came in several chunks is gathered in one, and scattered
/// over chunks to be sent.
///
/// It may be made on one thread and moved to another, but not shared; ports and frames borrow it. Its memory is left
/// out of core dumps and of forked children: it holds clear text.
#[derive(Debug)]
pub struct Umem {
    memory: Memory,
    ledger: Ledger,
    /// Of the large frames.
    large: Ledger,
    frame_size: u32,
    frame_shift: u32,
    frame_count: u32,
    headroom: u32,
    pages: Pages,
    ports: [Cell<PortSlot>; MAX_PORTS],
}

/// A port that is attached to the UMEM, as far as others need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortSlot {
    Vacant,
    /// Attached, but not a socket that another could share with.
    Private,
    /// A bound socket.
    Bound {
        fd: RawFd,
        interface: u32,
        queue: u32,
    },
}

impl Umem {
    /// Maps the memory. Needs no privilege; the kernel learns of it when the first [`Socket`](crate::Socket) is opened.
    ///
    /// # Errors
    /// [`UmemError`]: a size that AF_XDP does not allow, or no memory.
    pub fn new(options: &UmemOptions) -> Result<Self, UmemError> {
        check(options)?;
        let bytes = options.frame_size as usize * options.frame_count as usize
            + LARGE_FRAME as usize * options.large_frames as usize;
        let (memory, pages) = Memory::map(bytes, options.huge_pages)?;
        Ok(Self::of(memory, pages, options))
    }

    /// The same for the sockets of [`XskRs`](crate::XskRs), mapped and registered by the crate.
    #[cfg(feature = "xsk-rs")]
    pub(crate) fn of_xsk_rs(options: &UmemOptions, port: &PortOptions) -> Result<Self, UmemError> {
        check(options)?;
        let (memory, pages) = Memory::of_xsk_rs(options, port)?;
        Ok(Self::of(memory, pages, options))
    }

    fn of(memory: Memory, pages: Pages, options: &UmemOptions) -> Self {
        Self {
            memory,
            ledger: Ledger::new(options.frame_count),
            large: Ledger::new(options.large_frames),
            frame_size: options.frame_size,
            frame_shift: options.frame_size.trailing_zeros(),
            frame_count: options.frame_count,
            headroom: options.headroom,
            pages,
            ports: [const { Cell::new(PortSlot::Vacant) }; MAX_PORTS],
        }
    }

    /// A free chunk as an empty frame, with the headroom that a received one has; `None` if there is none.
    #[inline]
    pub fn frame(&self) -> Option<Frame<'_>> {
        let chunk = self.ledger.take()?;
        // At most 2048 + 256.
        let start = self.data_offset() as u16;
        // SAFETY: the ledger has just moved the chunk from free to held; the offset is checked in `new`.
        Some(unsafe { Frame::new(self, chunk, start, start) })
    }

    /// An empty frame, large if need be, with room for `bytes` behind its headroom; `None` if there is none, or none can have
    /// as many.
    #[inline]
    pub fn frame_for(&self, bytes: usize) -> Option<Frame<'_>> {
        let needed = self.data_offset() as usize + bytes;
        if needed <= self.frame_size() {
            return self.frame();
        }
        if needed > LARGE_FRAME as usize {
            return None;
        }
        let chunk = self.large_chunk(self.large.take()?);
        // At most 2048 + 256.
        let start = self.data_offset() as u16;
        // SAFETY: the ledger of large frames has just moved it from free to held; the offset is below the size.
        Some(unsafe { Frame::new(self, chunk, start, start) })
    }

    /// Bytes of a chunk.
    #[must_use]
    #[inline]
    pub fn frame_size(&self) -> usize {
        self.frame_size as usize
    }

    /// Number of chunks.
    #[must_use]
    pub fn frame_count(&self) -> u32 {
        self.frame_count
    }

    /// Number of free chunks.
    #[must_use]
    pub fn free_frames(&self) -> usize {
        self.ledger.free()
    }

    /// Where all chunks are. Walks the ledger: for status and tests, not for every packet.
    #[must_use]
    pub fn counts(&self) -> FrameCounts {
        self.ledger.counts()
    }

    /// Where all large frames are: free or held.
    #[must_use]
    pub fn large_counts(&self) -> FrameCounts {
        self.large.counts()
    }

    /// Whether packets may have several chunks.
    #[must_use]
    #[inline]
    pub fn has_large_frames(&self) -> bool {
        !self.large.is_empty()
    }

    /// The kind of pages in use.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Offset of a received packet in its chunk when no program moved its start, bytes.
    pub(crate) fn data_offset(&self) -> u32 {
        XDP_PACKET_HEADROOM + self.headroom
    }

    /// What `XDP_UMEM_REG` wants to know: (address, bytes, bytes of a chunk, headroom).
    pub(crate) fn registration(&self) -> (u64, u64, u32, u32) {
        let bytes = u64::from(self.frame_size) * u64::from(self.frame_count);
        (
            self.memory.start().addr().get() as u64,
            bytes,
            self.frame_size,
            self.headroom,
        )
    }

    /// What xsk-rs has of it, if it made it.
    #[cfg(feature = "xsk-rs")]
    pub(crate) fn xsk_rs(&self) -> Option<&XskRsMemory> {
        self.memory.xsk_rs()
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Byte offset of a chunk, as descriptors have it.
    #[inline]
    pub(crate) fn address(&self, chunk: u32) -> u64 {
        u64::from(chunk) << self.frame_shift
    }

    /// The chunk that a descriptor's address lies in, if there is one.
    #[inline]
    pub(crate) fn chunk_at(&self, address: u64) -> Option<u32> {
        u32::try_from(address >> self.frame_shift)
            .ok()
            .filter(|chunk| *chunk < self.frame_count)
    }

    /// Bytes of the frame whose first chunk this is.
    #[inline]
    pub(crate) fn size_from(&self, chunk: u32) -> usize {
        if chunk < self.frame_count {
            self.frame_size as usize
        } else {
            LARGE_FRAME as usize
        }
    }

    #[inline]
    pub(crate) fn is_large(&self, chunk: u32) -> bool {
        chunk >= self.frame_count
    }

    /// Large frames have the numbers behind the chunks' that chunks in their places would have.
    fn large_chunk(&self, number: u32) -> u32 {
        self.frame_count + number * (LARGE_FRAME >> self.frame_shift)
    }

    /// Returns what a descriptor names to the free list, if `from` had it; false if not.
    #[must_use]
    pub(crate) fn reclaim(&self, address: u64, from: Owner) -> bool {
        self.chunk_at(address)
            .is_some_and(|chunk| self.ledger.reclaim(chunk, from))
    }

    /// Makes a frame of a received descriptor, if its bytes lie within one chunk that `from` had. Its options are the caller's
    /// affair.
    #[inline]
    pub(crate) fn receive(&self, descriptor: Descriptor, from: Owner) -> Option<Frame<'_>> {
        let start = (descriptor.addr & u64::from(self.frame_size - 1)) as u32;
        let end = start.checked_add(descriptor.len)?;
        if end > self.frame_size {
            return None;
        }
        let chunk = self.chunk_at(descriptor.addr)?;
        if !self.ledger.claim(chunk, from) {
            return None;
        }
        // SAFETY: the ledger has just moved the chunk from the port to held; `start <= end <= frame_size <= 4096`.
        Some(unsafe { Frame::new(self, chunk, start as u16, end as u16) })
    }

    #[inline]
    pub(crate) fn release(&self, chunk: u32) {
        if self.is_large(chunk) {
            self.large
                .release((chunk - self.frame_count) / (LARGE_FRAME >> self.frame_shift));
        } else {
            self.ledger.release(chunk);
        }
    }

    /// First byte of a chunk.
    #[inline]
    pub(crate) fn chunk_start(&self, chunk: u32) -> NonNull<u8> {
        // SAFETY: chunk numbers come from the ledger and are below `frame_count`, or those of large frames. The mapping has
        // `frame_count * frame_size` bytes, and behind them the large frames.
        unsafe { self.memory.start().add((chunk as usize) << self.frame_shift) }
    }

    /// A number for a new port, if fewer than eight are attached.
    pub(crate) fn attach(&self) -> Option<u8> {
        let slot = self
            .ports
            .iter()
            .position(|port| port.get() == PortSlot::Vacant)?;
        self.ports[slot].set(PortSlot::Private);
        // Below MAX_PORTS.
        Some(slot as u8)
    }

    pub(crate) fn set_port(&self, slot: u8, port: PortSlot) {
        self.ports[usize::from(slot)].set(port);
    }

    /// The ports attached now.
    pub(crate) fn ports(&self) -> impl Iterator<Item = PortSlot> {
        self.ports.iter().map(Cell::get)
    }
}

fn check(options: &UmemOptions) -> Result<(), UmemError> {
    let &UmemOptions {
        frame_size,
        frame_count,
        headroom,
        large_frames,
        ..
    } = options;
    if !matches!(frame_size, 2048 | 4096) {
        return Err(UmemError::FrameSize { frame_size });
    }
    if headroom > frame_size / 2 {
        return Err(UmemError::Headroom {
            headroom,
            limit: frame_size / 2,
        });
    }
    // The upper bound (16 GiB) keeps chunk numbers and page counts within the kernel's 32 bits.
    if frame_count == 0 || frame_count > 1 << 22 {
        return Err(UmemError::FrameCount { frame_count });
    }
    if large_frames > 1 << 16 {
        return Err(UmemError::LargeFrames { large_frames });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> UmemOptions {
        UmemOptions {
            frame_count: 4,
            ..UmemOptions::default()
        }
    }

    #[test]
    fn sizes_that_af_xdp_refuses_are_refused() {
        for frame_size in [0, 1024, 2047, 3000, 8192] {
            let error = Umem::new(&UmemOptions {
                frame_size,
                ..small()
            })
            .unwrap_err();
            assert!(matches!(error, UmemError::FrameSize { .. }), "{error}");
        }
        for frame_count in [0, (1 << 22) + 1] {
            let error = Umem::new(&UmemOptions {
                frame_count,
                ..small()
            })
            .unwrap_err();
            assert!(matches!(error, UmemError::FrameCount { .. }), "{error}");
        }
        let error = Umem::new(&UmemOptions {
            headroom: 1025,
            ..small()
        })
        .unwrap_err();
        assert!(matches!(error, UmemError::Headroom { .. }), "{error}");
    }

    #[test]
    fn mtu_fits_when_the_kernel_could_place_it() {
        let options = small();
        assert_eq!(options.largest_packet(), 1792);
        assert!(options.fits_mtu(1500, 64));
        assert!(options.fits_mtu(1770, 0));
        assert!(!options.fits_mtu(1771, 0));
        assert!(!options.fits_mtu(9000, 0));
        assert!(!options.fits_mtu(usize::MAX, usize::MAX));
        assert!(
            UmemOptions {
                frame_size: 4096,
                ..small()
            }
            .fits_mtu(3498, 0)
        );
    }

    #[test]
    fn hostile_descriptors_make_no_frame() {
        let umem = Umem::new(&small()).unwrap();
        let owner = Owner::fill(0);
        for _ in 0..4 {
            umem.ledger().take_as(owner).unwrap();
        }
        let descriptor = |addr, len, options| Descriptor { addr, len, options };
        let bad = [
            descriptor(4 * 2048, 64, 0),
            descriptor(u64::MAX, 1, 0),
            descriptor(u64::MAX - 2047, 0, 0),
            descriptor(1 << 43, 64, 0),
            descriptor(256, 1793, 0),
            descriptor(256, u32::MAX, 0),
            descriptor(2047, 2, 0),
        ];
        for bad in bad {
            assert!(umem.receive(bad, owner).is_none(), "{bad:?}");
        }
        assert_eq!(
            umem.counts().receiving,
            4,
            "a refused descriptor changes no owner"
        );
        let frame = umem.receive(descriptor(2048 + 256, 1792, 0), owner).unwrap();
        assert_eq!((frame.headroom(), frame.len(), frame.tailroom()), (256, 1792, 0));
        assert!(
            umem.receive(descriptor(2048 + 300, 10, 0), owner).is_none(),
            "the chunk is held already"
        );
        assert!(
            umem.receive(descriptor(0, 0, 0), Owner::fill(1)).is_none(),
            "another port's chunk"
        );
    }

    #[test]
    fn eight_ports_and_no_more() {
        let umem = Umem::new(&small()).unwrap();
        let slots: Vec<_> = std::iter::from_fn(|| umem.attach()).collect();
        assert_eq!(slots, (0..8).collect::<Vec<_>>());
        umem.set_port(3, PortSlot::Vacant);
        assert_eq!(umem.attach(), Some(3));
    }

    #[test]
    fn pages_are_what_was_asked_for() {
        let umem = Umem::new(&UmemOptions {
            huge_pages: HugePages::Never,
            ..small()
        })
        .unwrap();
        assert_eq!(umem.pages(), Pages::Normal);
        let prefer = Umem::new(&small()).unwrap();
        match Umem::new(&UmemOptions {
            huge_pages: HugePages::Require,
            ..small()
        }) {
            Ok(umem) => assert_eq!(umem.pages(), Pages::Huge),
            Err(error) => {
                assert!(error.to_string().contains("vm.nr_hugepages"), "{error}");
                assert_ne!(prefer.pages(), Pages::Huge);
            }
        }
    }
}
