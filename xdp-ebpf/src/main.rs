//! The programs that decide every packet: XDP on the outer device (the wire), XDP on the inner device (the clear
//! side), and tcx egress on the outer device, the last line against clear packets. In host mode tcx egress takes the host's own
//! packets to the edge, and tcx ingress of the edge brings opened ones back: see `host`.
//!
//! What a packet deserves is decided in `ravelin-xdp-common`, which also runs on the host. Here are the maps, the
//! access to packet bytes, and one `match` from outcome to action per kind of program.
#![no_std]
#![no_main]

#[cfg(feature = "bench")]
mod bench;
#[cfg(feature = "bench")]
mod bench_wire;
mod counters;
mod host;
mod maps;
mod packet;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::btf_maps::XskMap;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use ravelin_xdp_common::{
    DropReason, Fate, FrameMetadata, Judgement, MAX_QUEUES, Pass, decide_egress, decide_inner, decide_outer,
};

use crate::maps::{INNER_SOCKETS, KernelTables, OUTER_SOCKETS};
use crate::packet::{SkbBytes, XdpBytes};

/// XDP on the device of the wire.
#[xdp(frags)]
pub fn ravelin_outer(ctx: XdpContext) -> u32 {
    apply(
        &ctx,
        decide_outer(&XdpBytes::new(&ctx), &KernelTables),
        &OUTER_SOCKETS,
    )
}

/// XDP on the device of the clear side.
#[xdp(frags)]
pub fn ravelin_inner(ctx: XdpContext) -> u32 {
    apply(
        &ctx,
        decide_inner(&XdpBytes::new(&ctx), &KernelTables),
        &INNER_SOCKETS,
    )
}

/// XDP that drops everything, for the moment in which a device is given its program anew: drivers take no notice of one they have.
#[xdp(frags)]
pub const fn ravelin_closed(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// tcx egress on the device of the wire.
#[classifier]
pub fn ravelin_egress(ctx: TcContext) -> i32 {
    let judgement = decide_egress(&SkbBytes::new(&ctx), &KernelTables);
    match judgement.fate {
        Fate::Drop => {
            counters::dropped(judgement.reason);
            #[cfg(feature = "log")]
            aya_log_ebpf::info!(&ctx, "egress drop {}", judgement.reason.name());
            TC_ACT_SHOT as i32
        }
        // The next program, then the device: TCX_NEXT.
        Fate::Pass | Fate::Redirect => {
            if matches!(judgement.pass, Pass::Audit) {
                counters::audited(judgement.reason);
            }
            TC_ACT_UNSPEC
        }
    }
}

/// From fate to action.
#[inline(always)]
fn apply(ctx: &XdpContext, judgement: Judgement, sockets: &XskMap<{ MAX_QUEUES as usize }>) -> u32 {
    counters::matched(judgement.rule_id, judgement.length);
    match judgement.fate {
        Fate::Pass => {
            counters::passed(judgement.pass);
            if matches!(judgement.pass, Pass::Audit) {
                counters::audited(judgement.reason);
            }
            xdp_action::XDP_PASS
        }
        Fate::Drop => drop(ctx, judgement.reason),
        Fate::Redirect => match redirect(ctx, judgement.metadata, sockets) {
            Ok(action) => action,
            Err(reason) => drop(ctx, reason),
        },
    }
}

#[inline(always)]
fn drop(_ctx: &XdpContext, reason: DropReason) -> u32 {
    counters::dropped(reason);
    #[cfg(feature = "log")]
    aya_log_ebpf::info!(_ctx, "drop {}", reason.name());
    xdp_action::XDP_DROP
}

/// Writes the metadata in front of the packet and hands it to the socket of its queue.
///
/// A queue without a socket drops: when the workers are gone, what must be protected does not pass.
#[inline(always)]
fn redirect(
    ctx: &XdpContext,
    metadata: FrameMetadata,
    sockets: &XskMap<{ MAX_QUEUES as usize }>,
) -> Result<u32, DropReason> {
    if u32::from(metadata.l3_offset) + u32::from(metadata.l3_length) > maps::longest_frame() {
        return Err(DropReason::FrameTooLong);
    }
    if !packet::write_metadata(ctx, &metadata) {
        return Err(DropReason::NoHeadroom);
    }
    sockets
        .redirect(ctx.rx_queue_index(), u64::from(xdp_action::XDP_DROP))
        .map_err(|_| DropReason::NoWorker)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics; the verifier would refuse an endless loop that could be reached.
    loop {}
}

/// The kernel lets only GPL-compatible programs call all helpers. The source is MIT OR Apache-2.0.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
