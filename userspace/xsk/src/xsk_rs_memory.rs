//! Packet memory that the crate xsk-rs maps and registers.

use std::error::Error as _;
use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;

use xsk_rs::FrameDesc;
use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};

use crate::error::UmemError;
use crate::umem::LARGE_FRAME;
use crate::{HugePages, Pages, PortOptions, UmemOptions, syscall};

/// What xsk-rs has of a UMEM. Chunks, and the large frames behind them, are frames of its own `Umem`; the ledger of ours says whose
/// they are.
#[derive(Debug)]
pub(crate) struct XskRsMemory {
    umem: xsk_rs::Umem,
    /// Of each chunk: it points to where the kernel puts a packet. The crate makes none that point elsewhere.
    descriptors: Box<[FrameDesc]>,
    fill_ring: u32,
    completion_ring: u32,
}

impl XskRsMemory {
    /// The memory, and its first byte. The options have been checked.
    pub(crate) fn new(
        options: &UmemOptions,
        port: &PortOptions,
    ) -> Result<(Self, NonNull<u8>, Pages), UmemError> {
        let frames = options.frame_count + options.large_frames * (LARGE_FRAME / options.frame_size);
        let (made, frames, pages) = match options.huge_pages {
            HugePages::Never => (make(options, port, frames, false), frames, Pages::Normal),
            wanted => {
                // The crate unmaps as much as it has asked for, which has to be whole pages.
                let rounded = frames.next_multiple_of((2 << 20) / options.frame_size);
                match make(options, port, rounded, true) {
                    Err(_) if wanted == HugePages::Prefer => {
                        (make(options, port, frames, false), frames, Pages::Normal)
                    }
                    made => (made, rounded, Pages::Huge),
                }
            }
        };
        let bytes = frames as usize * options.frame_size as usize;
        let failed = |source| UmemError::XskRs { bytes, source };
        let (umem, mut descriptors) = made.map_err(failed)?;
        let none = || failed(io::ErrorKind::InvalidData.into());
        let first = descriptors.first().ok_or_else(none)?;
        // SAFETY: the descriptor is of this memory, which nobody else knows yet.
        let data = unsafe { umem.data(first) }.contents().as_ptr();
        // The crate gave the start of all of it to C, as a pointer, and C gave it to the kernel, as a number: it is exposed.
        let start = data.addr() - first.addr();
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(start)).ok_or_else(none)?;
        syscall::keep_private(start, bytes);
        descriptors.truncate(options.frame_count as usize);
        let memory = Self {
            umem,
            descriptors: descriptors.into_boxed_slice(),
            fill_ring: port.fill_ring,
            completion_ring: port.completion_ring,
        };
        Ok((memory, start, pages))
    }

    pub(crate) fn umem(&self) -> &xsk_rs::Umem {
        &self.umem
    }

    /// Whether a port may have rings of these sizes.
    pub(crate) fn suits(&self, port: &PortOptions) -> bool {
        port.fill_ring <= self.fill_ring && port.completion_ring <= self.completion_ring
    }

    /// A chunk, for the fill ring.
    #[inline]
    pub(crate) fn chunk(&self, chunk: u32) -> FrameDesc {
        self.descriptors[chunk as usize]
    }

    /// The first `len` bytes of a chunk from where packets are received, for the transmit ring.
    ///
    /// # Safety
    /// The chunk is the caller's alone: there is no frame of it, nor has the kernel got it.
    #[inline]
    pub(crate) unsafe fn packet(&self, chunk: u32, len: usize, options: u32) -> FrameDesc {
        let mut descriptor = self.chunk(chunk);
        // SAFETY: a descriptor of this memory, to bytes that are the caller's alone.
        let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
        data.cursor().set_pos(len);
        descriptor.set_options(options);
        descriptor
    }
}

fn make(
    options: &UmemOptions,
    port: &PortOptions,
    frames: u32,
    huge: bool,
) -> io::Result<(xsk_rs::Umem, Vec<FrameDesc>)> {
    let ring = |size| QueueSize::new(size).map_err(io::Error::other);
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(options.frame_size).map_err(io::Error::other)?)
        .fill_queue_size(ring(port.fill_ring)?)
        .comp_queue_size(ring(port.completion_ring)?)
        .frame_headroom(options.headroom)
        .build()
        .map_err(io::Error::other)?;
    let frames = NonZeroU32::new(frames).ok_or(io::ErrorKind::InvalidInput)?;
    xsk_rs::Umem::new(config, frames, huge).map_err(|error| system_error(error.source(), &error))
}

/// What the system said, of an error that xsk-rs made of it.
pub(crate) fn system_error(
    source: Option<&(dyn std::error::Error + 'static)>,
    error: &dyn std::fmt::Display,
) -> io::Error {
    source
        .and_then(|source| source.downcast_ref::<io::Error>()?.raw_os_error())
        .map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        )
}
