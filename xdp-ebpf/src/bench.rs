//! Programs that measure the others over a trace of packets (feature `bench`; never in a shipped object).
//!
//! Running one packet again and again flatters: its lines stay in the first-level cache and every branch is foreseen.
//! So the packets come from a map. `BENCH_TRACE` holds them, five words each: source and destination address as in
//! [`Flow`], then source port, destination port (16 bits each), protocol, family and [`Ports`] (8 bits each).

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_loop, bpf_redirect};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use ravelin_xdp_common::line::header_flags;
use ravelin_xdp_common::{Direction, Family, Flow, Ports, Tables as _, Verdict, decide_outer};

use crate::maps::{KernelTables, OUTER_SOCKETS};
use crate::packet::XdpBytes;

/// Room for packets.
const TRACE: usize = 1 << 20;

type Packet = [u64; 5];

#[btf_map]
pub static BENCH_TRACE: Array<Packet, TRACE> = Array::new();

/// Rule id and decision, by packet.
#[btf_map]
pub static BENCH_VERDICTS: Array<[u32; 2], TRACE> = Array::new();

/// For programs that take one packet per run: which is next, after which comes which, and the device to send by.
#[btf_map]
pub static BENCH_CURSOR: Array<[u32; 4], 1> = Array::new();

/// What a loop over the trace is told, at the start of its test packet, and what it answers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Order {
    /// The next packet.
    next: u32,
    /// Packets to take.
    count: u32,
    /// Nanoseconds it took.
    time: u64,
    /// Sum over the rule ids, so that nothing is left out as unused.
    sum: u64,
}

/// Lets every packet pass: what any program at all costs the traffic of a device.
#[xdp(frags)]
pub fn bench_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Only reads the packets: what to subtract from the others.
#[xdp]
pub fn bench_read(ctx: XdpContext) -> u32 {
    measure(&ctx, on_read)
}

/// Classifies every packet as one that arrives from the wire.
#[xdp]
pub fn bench_classify(ctx: XdpContext) -> u32 {
    measure(&ctx, on_classify)
}

/// As `bench_classify`, but never out of the flow cache.
#[xdp]
pub fn bench_walk(ctx: XdpContext) -> u32 {
    measure(&ctx, on_walk)
}

/// As `bench_classify`, and writes the verdicts down.
#[xdp]
pub fn bench_verdicts(ctx: XdpContext) -> u32 {
    measure(&ctx, on_verdict)
}

/// Turns the frame into the next packet's and does all that `ravelin_outer` does with it.
#[xdp]
pub fn bench_frames(ctx: XdpContext) -> u32 {
    if next_frame(&ctx).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    crate::apply(
        &ctx,
        decide_outer(&XdpBytes::new(&ctx), &KernelTables),
        &OUTER_SOCKETS,
    )
}

/// Turns the frame into the next packet's: what to subtract from `bench_frames`.
#[xdp]
pub fn bench_rewrite(ctx: XdpContext) -> u32 {
    match next_frame(&ctx) {
        Some(_) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Turns the frame into the next packet's and sends it by the device of the cursor.
#[xdp]
pub fn bench_send(ctx: XdpContext) -> u32 {
    match next_frame(&ctx) {
        // SAFETY: a helper call on plain numbers.
        Some(device) => unsafe { bpf_redirect(device, 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

/// Drops: what the path costs up to the first instruction of a program.
#[xdp]
pub fn bench_drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Runs `step` for as many packets as the order says, and answers in the same place.
#[inline(always)]
fn measure(ctx: &XdpContext, step: unsafe extern "C" fn(u64, *mut c_void) -> i64) -> u32 {
    let start = ctx.data();
    if start + size_of::<Order>() > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the test packet holds an order, as just checked.
    let mut order = unsafe { (start as *const Order).read_unaligned() };
    // SAFETY: the helper calls `step` with the pointer given here, which lives until the helper returns.
    unsafe {
        let before = bpf_ktime_get_ns();
        bpf_loop(
            order.count,
            step as *mut c_void,
            core::ptr::from_mut(&mut order).cast(),
            0,
        );
        order.time = bpf_ktime_get_ns() - before;
    }
    let start = ctx.data();
    if start + size_of::<Order>() > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: as above.
    unsafe { (start as *mut Order).write_unaligned(order) };
    xdp_action::XDP_PASS
}

unsafe extern "C" fn on_read(_: u64, order: *mut c_void) -> i64 {
    // SAFETY: `measure` passes an order that outlives the loop, and nothing else refers to it meanwhile.
    let order = unsafe { &mut *order.cast::<Order>() };
    let Some((_, flow)) = next_flow(order) else {
        return 1;
    };
    order.sum +=
        flow.source[1] ^ flow.destination[1] ^ u64::from(flow.source_port) ^ u64::from(flow.protocol);
    0
}

unsafe extern "C" fn on_classify(_: u64, order: *mut c_void) -> i64 {
    // SAFETY: as in `on_read`.
    let order = unsafe { &mut *order.cast::<Order>() };
    let Some((_, flow)) = next_flow(order) else {
        return 1;
    };
    let Some(verdict) = classify(&flow, u8::MAX) else {
        return 1;
    };
    order.sum += u64::from(verdict.rule_id) + verdict.decision as u64;
    0
}

unsafe extern "C" fn on_walk(_: u64, order: *mut c_void) -> i64 {
    // SAFETY: as in `on_read`.
    let order = unsafe { &mut *order.cast::<Order>() };
    let Some((_, flow)) = next_flow(order) else {
        return 1;
    };
    let Some(verdict) = classify(&flow, !header_flags::CACHE) else {
        return 1;
    };
    order.sum += u64::from(verdict.rule_id) + verdict.decision as u64;
    0
}

unsafe extern "C" fn on_verdict(_: u64, order: *mut c_void) -> i64 {
    // SAFETY: as in `on_read`.
    let order = unsafe { &mut *order.cast::<Order>() };
    let Some((at, flow)) = next_flow(order) else {
        return 1;
    };
    let Some(verdict) = classify(&flow, u8::MAX) else {
        return 1;
    };
    let _ = BENCH_VERDICTS.set(at, [verdict.rule_id, verdict.decision as u32], 0);
    0
}

/// What the filter asks for every packet, with these flags of the rule set's only.
#[inline(always)]
fn classify(flow: &Flow, flags: u8) -> Option<Verdict> {
    let rule_set = KernelTables.rule_set()?;
    let mut header = KernelTables.header(rule_set)?;
    header.flags &= flags;
    Some(KernelTables.classify(rule_set, &header, flow, Direction::Inbound))
}

/// The next packet's number and flow; moves on.
#[inline(always)]
fn next_flow(order: &mut Order) -> Option<(u32, Flow)> {
    let at = order.next;
    let packet = BENCH_TRACE.get(at)?;
    order.next = at + 1;
    let (_, protocol, family, ports) = bytes(packet);
    let flow = Flow {
        source: [packet[0], packet[1]],
        destination: [packet[2], packet[3]],
        source_port: packet[4] as u16,
        destination_port: (packet[4] >> 16) as u16,
        family: if family == 6 { Family::V6 } else { Family::V4 },
        protocol,
        ports: if ports == 0 { Ports::Known } else { Ports::Absent },
    };
    Some((at, flow))
}

/// Both ports, the protocol, the family and what is known of the ports.
#[inline(always)]
fn bytes(packet: &Packet) -> (u32, u8, u8, u8) {
    let word = packet[4];
    (
        word as u32,
        (word >> 32) as u8,
        (word >> 40) as u8,
        (word >> 48) as u8,
    )
}

/// Writes the next packet's values over those in the frame; returns the cursor's device.
#[inline(always)]
fn next_frame(ctx: &XdpContext) -> Option<u32> {
    let cursor = BENCH_CURSOR.get_ptr_mut(0)?;
    // SAFETY: only one CPU runs these programs.
    let [at, last, first, device] = unsafe { *cursor };
    let packet = BENCH_TRACE.get(at)?;
    // SAFETY: as above.
    unsafe { (*cursor)[0] = if at == last { first } else { at + 1 } };
    let (ports, protocol, family, known) = bytes(packet);
    let transport = if known != 0 {
        // Neither ports nor type: an SPI, if anything.
        [0, 0, 0x10, 0]
    } else if matches!(protocol, 1 | 58) {
        [ports as u8, (ports >> 16) as u8, 0, 0]
    } else {
        let (from, to) = ((ports as u16).to_be_bytes(), ((ports >> 16) as u16).to_be_bytes());
        [from[0], from[1], to[0], to[1]]
    };
    if family == 6 {
        write(ctx, 20, [protocol])?;
        write(ctx, 22, packet[0].to_be_bytes())?;
        write(ctx, 30, packet[1].to_be_bytes())?;
        write(ctx, 38, packet[2].to_be_bytes())?;
        write(ctx, 46, packet[3].to_be_bytes())?;
        write(ctx, 54, transport)?;
    } else {
        let (source, destination) = (packet[1] as u32, packet[3] as u32);
        write(ctx, 23, [protocol])?;
        write(ctx, 24, [0, 0])?;
        write(ctx, 26, source.to_be_bytes())?;
        write(ctx, 30, destination.to_be_bytes())?;
        let sum = !checksum(ctx)?;
        write(ctx, 24, sum.to_be_bytes())?;
        write(ctx, 34, transport)?;
    }
    Some(device)
}

/// RFC 1071 over an IPv4 header without options.
#[inline(always)]
fn checksum(ctx: &XdpContext) -> Option<u16> {
    let start = ctx.data();
    if start + 34 > ctx.data_end() {
        return None;
    }
    // SAFETY: inside the frame, as just checked.
    let words = unsafe { ((start + 14) as *const [u16; 10]).read_unaligned() };
    let mut sum = 0u32;
    let mut index = 0;
    while index < 10 {
        sum += u32::from(u16::from_be(words[index]));
        index += 1;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    Some(sum as u16)
}

#[inline(always)]
fn write<const N: usize>(ctx: &XdpContext, offset: usize, value: [u8; N]) -> Option<()> {
    let start = ctx.data() + offset;
    if start + N > ctx.data_end() {
        return None;
    }
    // SAFETY: inside the frame, as just checked.
    unsafe { (start as *mut [u8; N]).write_unaligned(value) };
    Some(())
}
