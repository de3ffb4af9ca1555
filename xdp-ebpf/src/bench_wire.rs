//! Programs at the ends of the wires of `cargo xtask bench veth` (feature `bench`; never in a shipped object): what sends, what counts,
//! and what hands over packets as they are.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_tail};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use crate::maps::OUTER_SOCKETS;

const ETHERNET: usize = 14;

/// Headers of Ethernet, IPv4 and UDP.
const HEADERS: usize = 42;

/// Sizes that packets have in turn.
const SIZES: usize = 12;

/// What an IPv4 header adds up to without length and the low half of the destination: no options, DF, TTL 64, UDP, from
/// 172.16.0.5 to 10.0/16.
const SUM: u32 = 0x4500 + 0x4000 + 0x4011 + 0xac10 + 0x0005 + 0x0a00;

/// The device to send by, the number of the next packet, whose turn it is of the sizes, the length of every frame as it
/// comes, then the sizes of IPv4 packets in turn, all in bytes.
#[btf_map]
pub static BENCH_GENERATOR: Array<[u32; 4 + SIZES], 1> = Array::new();

/// Packets, those of them that are ESP over IPv4, and bytes, by CPU.
#[btf_map]
pub static BENCH_ARRIVED: PerCpuArray<[u64; 3], 1> = PerCpuArray::new();

/// Makes of a frame as long as the longest the next packet of 4,096 flows, and sends it.
#[xdp]
pub fn bench_generate(ctx: XdpContext) -> u32 {
    match generate(&ctx) {
        // SAFETY: a helper call on plain numbers.
        Some(device) => unsafe { bpf_redirect(device, 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn generate(ctx: &XdpContext) -> Option<u32> {
    let orders = BENCH_GENERATOR.get_ptr_mut(0)?;
    // SAFETY: the pointer is to an entry of a map, and one program on one CPU uses it.
    let orders = unsafe { &mut *orders };
    let number = orders[1];
    orders[1] = number.wrapping_add(1);
    let turn = orders[2] as usize;
    orders[2] = if turn + 1 < SIZES { turn as u32 + 1 } else { 0 };
    // Not by the remainder of the number: the verifier does not know what that can be, and LLVM takes out a check.
    let size = *orders.get(4 + turn)? & 0x7ff;
    let longer = (ETHERNET as u32 + size).wrapping_sub(orders[3]) as i32;
    // SAFETY: the helper checks the length; what points into the packet is made anew below.
    if longer != 0 && unsafe { bpf_xdp_adjust_tail(ctx.ctx, longer) } != 0 {
        return None;
    }
    let start = ctx.data();
    if start + HEADERS > ctx.data_end() {
        return None;
    }
    let host = 1 + (number & 63);
    let port = 1024 + ((number >> 6) & 63);
    let sum = SUM + size + host;
    let sum = !((sum & 0xffff) + (sum >> 16)) & 0xffff;
    // SAFETY: the headers are within the packet, as just checked.
    unsafe {
        let write = |offset: usize, word: u32| {
            ((start + offset) as *mut u16).write_unaligned((word as u16).to_be());
        };
        write(ETHERNET + 2, size);
        write(ETHERNET + 10, sum);
        write(ETHERNET + 18, host);
        write(ETHERNET + 20, port);
        write(ETHERNET + 24, size - 20);
    }
    Some(orders[0])
}

/// Counts and drops.
#[xdp]
pub fn bench_sink(ctx: XdpContext) -> u32 {
    const PROTOCOL: usize = ETHERNET + 9;
    const ESP: u8 = 50;
    let (start, end) = (ctx.data(), ctx.data_end());
    if let Some(arrived) = BENCH_ARRIVED.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's entry of a map.
        let arrived = unsafe { &mut *arrived };
        arrived[0] += 1;
        arrived[2] += (end - start) as u64;
        // SAFETY: the byte is within the packet, which is checked first.
        if start + PROTOCOL < end && unsafe { *((start + PROTOCOL) as *const u8) } == ESP {
            arrived[1] += 1;
        }
    }
    xdp_action::XDP_DROP
}

/// Hands each packet to the socket of its queue.
#[xdp]
pub fn bench_forward(ctx: XdpContext) -> u32 {
    let redirected = OUTER_SOCKETS.redirect(ctx.rx_queue_index(), u64::from(xdp_action::XDP_DROP));
    redirected.unwrap_or(xdp_action::XDP_DROP)
}
