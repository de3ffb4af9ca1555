//! Access to packet bytes. The only raw pointers into packets are here.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_xdp_adjust_meta;
use aya_ebpf::programs::{TcContext, XdpContext};
use ravelin_xdp_common::{FrameMetadata, Reader};

/// Offsets beyond this are refused, so that the verifier knows a bound.
const FARTHEST: usize = 0x7fff;

/// The bytes of an XDP frame.
pub struct XdpBytes {
    start: usize,
    end: usize,
}

impl XdpBytes {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Reader for XdpBytes {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > FARTHEST {
            return None;
        }
        let start = self.start + offset;
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start..start + N` lies inside the frame, as just checked.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// The bytes of a socket buffer, which may be spread over fragments.
pub struct SkbBytes<'a>(&'a TcContext);

impl<'a> SkbBytes<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self(ctx)
    }
}

impl Reader for SkbBytes<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len() as usize
    }
}

/// Makes room in front of the packet and writes the metadata there; false if the driver leaves no room.
#[inline(always)]
pub fn write_metadata(ctx: &XdpContext, metadata: &FrameMetadata) -> bool {
    // SAFETY: a helper call on the program's own context.
    if unsafe { bpf_xdp_adjust_meta(ctx.as_ptr().cast(), -(FrameMetadata::LENGTH as i32)) } != 0 {
        return false;
    }
    let start = ctx.metadata();
    if start + FrameMetadata::LENGTH > ctx.metadata_end() {
        return false;
    }
    // SAFETY: the metadata area holds `LENGTH` bytes, as just checked.
    unsafe { (start as *mut [u32; 5]).write_unaligned(metadata.to_words()) };
    true
}
