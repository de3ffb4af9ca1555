//! Access to packet bytes. The only raw pointers into packets are here.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::helpers::{bpf_xdp_adjust_meta, bpf_xdp_get_buff_len};
use aya_ebpf::programs::{TcContext, XdpContext};
use ravelin_xdp_common::{Family, FrameMetadata, IpPacket, Reader};

use crate::maps::{SCRATCH, SCRATCH_WORDS};

/// Address families (sys/socket.h).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The loopback device of every network namespace.
const LOOPBACK: u32 = 1;

/// A packet is for this machine (linux/if_packet.h); one that a bridge passes on is not.
const PACKET_HOST: u32 = 0;

/// Words of a question about a route.
const LOOKUP: usize = size_of::<bpf_fib_lookup>() / 8;

// It is asked in the place that a packet is carried through.
const _: () = assert!(SCRATCH_WORDS >= LOOKUP && size_of::<bpf_fib_lookup>() == LOOKUP * 8);

/// Offsets beyond this are refused, so that the verifier knows a bound.
const FARTHEST: usize = 0xffff;

/// The bytes of an XDP frame.
///
/// A packet may go on in further buffers, which cannot be read: headers stand in the first one. A driver that puts less there
/// has its packets dropped as truncated.
pub struct XdpBytes<'a> {
    ctx: &'a XdpContext,
    start: usize,
    end: usize,
}

impl<'a> XdpBytes<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self {
            ctx,
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Reader for XdpBytes<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        read_between(self.start, self.end, offset)
    }

    // Not `end - start`: LLVM would subtract in 32 bits, which the verifier forbids for pointers. And from the
    // context anew: what LLVM learns here must not remove a check in `read`, whose reason the verifier cannot see.
    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        // SAFETY: the context is valid while the program runs.
        let end = unsafe { (&raw const (*self.ctx.ctx).data_end).read_volatile() } as usize;
        if length <= FARTHEST && self.start + length <= end {
            return true;
        }
        // Of further buffers only the kernel knows.
        // SAFETY: a helper call on the program's own context.
        length as u64 <= unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) }
    }

    #[inline(always)]
    fn forget(&self, packet: &mut IpPacket) {
        forget(packet);
    }
}

/// Headers are looked for in this many bytes of a socket buffer.
const HEADERS: u32 = 256;

/// The headers of a socket buffer. Its payload may be spread over fragments and is of no interest.
pub struct SkbBytes<'a> {
    ctx: &'a TcContext,
    start: usize,
    end: usize,
}

impl<'a> SkbBytes<'a> {
    /// Makes the headers readable in place. Should the kernel fail to, the parser finds them truncated.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        if ctx.data() + HEADERS as usize > ctx.data_end() {
            let length = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
            let _ = ctx.pull_data(length);
        }
        Self {
            ctx,
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Reader for SkbBytes<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        read_between(self.start, self.end, offset)
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        length <= self.ctx.len() as usize
    }

    #[inline(always)]
    fn length_of_segments(&self) -> Option<usize> {
        // SAFETY: the context is valid while the program runs.
        match unsafe { (*self.ctx.skb.skb).gso_size } {
            0 => None,
            _ => Some(self.ctx.len() as usize),
        }
    }

    #[inline(always)]
    fn is_passed_on(&self, packet: &IpPacket) -> bool {
        // SAFETY: the context is valid while the program runs.
        let from = unsafe { (*self.ctx.skb.skb).ingress_ifindex };
        from != 0 && !is_own(self.ctx, packet, from)
    }

    #[inline(always)]
    fn forget(&self, packet: &mut IpPacket) {
        forget(packet);
    }
}

/// Whether the source of a packet that was received on a device is one of this machine's addresses, as the kernel's routes know at once:
/// what goes there is not forwarded. They say the same of an address to which there is no way back.
///
/// Routes may depend on the device, so the loopback device is asked as well: rules for packets of another come before the local addresses
/// on some machines. A device that does not forward says nothing, though the kernel may forward all the same (`net.ipv6.conf.all.forwarding`,
/// whatever the device's own); if neither does, what was routed is held to be our own, and what a bridge passes on is not.
#[inline(always)]
fn is_own(ctx: &TcContext, packet: &IpPacket, device: u32) -> bool {
    let found = way_to_source(ctx, packet, device);
    if is_local(found) {
        return true;
    }
    let again = way_to_source(ctx, packet, LOOPBACK);
    if is_local(again) {
        return true;
    }
    let disabled = i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED);
    // SAFETY: the context is valid while the program runs.
    found == disabled && again == disabled && unsafe { (*ctx.skb.skb).pkt_type } == PACKET_HOST
}

/// Whether the answer of a look-up says that packets would not be forwarded. Below zero the kernel could not look.
#[inline(always)]
fn is_local(found: i64) -> bool {
    found < 0 || found == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED)
}

/// What the kernel's routes say about a packet to this packet's source that comes in on a device.
#[inline(always)]
fn way_to_source(ctx: &TcContext, packet: &IpPacket, device: u32) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return -1;
    };
    let [high, low] = packet.flow.source;
    let lookup = scratch.cast::<bpf_fib_lookup>();
    // SAFETY: the slot is large enough and aligned for the question, all of whose values may be zero, and it is this CPU's. The helper
    // writes no farther than the length that it is told.
    unsafe {
        scratch.cast::<[u64; LOOKUP]>().write([0; LOOKUP]);
        (*lookup).ifindex = device;
        if matches!(packet.flow.family, Family::V4) {
            (*lookup).family = AF_INET;
            (*lookup).__bindgen_anon_4.ipv4_dst = (low as u32).to_be();
        } else {
            (*lookup).family = AF_INET6;
            let halves = [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32];
            (*lookup).__bindgen_anon_4.ipv6_dst = halves.map(u32::to_be);
        }
        bpf_fib_lookup(
            ctx.as_ptr(),
            lookup,
            size_of::<bpf_fib_lookup>() as i32,
            BPF_FIB_LOOKUP_SKIP_NEIGH,
        )
    }
}

/// Carries a packet through a map: of what is read from one the verifier knows nothing. That cuts what it has to follow to
/// a third, for some nanoseconds.
#[inline(always)]
fn forget(packet: &mut IpPacket) {
    if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
        let scratch = scratch.cast::<IpPacket>();
        // SAFETY: the slot is large enough and aligned for an `IpPacket`, which holds no pointer, and it is this CPU's:
        // what is read is what was just written. Volatile, so that LLVM does not see that.
        unsafe {
            scratch.write_volatile(*packet);
            *packet = scratch.read_volatile();
        }
    }
}

/// The `N` bytes at `offset` from `start`, if they end before `end`.
#[inline(always)]
fn read_between<const N: usize>(start: usize, end: usize, offset: usize) -> Option<[u8; N]> {
    // With what is read: the verifier follows no pointer that may reach farther.
    if offset > FARTHEST - N {
        return None;
    }
    let start = start + offset;
    if start + N > end {
        return None;
    }
    // SAFETY: `start..start + N` lies inside the packet, as just checked.
    Some(unsafe { (start as *const [u8; N]).read_unaligned() })
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

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Writes an Ethernet header at the start of a socket buffer, from and to the same device; false if it does not hold one.
#[inline(always)]
pub fn write_ethernet(ctx: &TcContext, mac: &[u8; 6], ether_type: u16) -> bool {
    let start = ctx.data();
    if start + ETHERNET > ctx.data_end() {
        return false;
    }
    let header = start as *mut u8;
    let mut index = 0;
    while index < 6 {
        // SAFETY: 14 bytes from `start` on lie inside the packet, as just checked.
        unsafe {
            *header.add(index) = mac[index];
            *header.add(6 + index) = mac[index];
        }
        index += 1;
    }
    let [first, second] = ether_type.to_ne_bytes();
    // SAFETY: as above.
    unsafe {
        *header.add(12) = first;
        *header.add(13) = second;
    }
    true
}

/// Bytes of the IP packet in a socket buffer that was judged as one of `length` bytes: segments that are not cut yet may be more than that
/// can say.
#[inline(always)]
pub fn length(ctx: &TcContext, length: u16) -> u64 {
    match length {
        u16::MAX => u64::from(ctx.len()) - ETHERNET as u64,
        _ => u64::from(length),
    }
}

/// How many packets of the wire a socket buffer stands for.
#[inline(always)]
pub fn segments(ctx: &TcContext) -> u64 {
    // SAFETY: the context is valid while the program runs.
    match unsafe { (*ctx.skb.skb).gso_segs } {
        0 => 1,
        several => u64::from(several),
    }
}
