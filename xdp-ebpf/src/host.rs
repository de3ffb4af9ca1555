//! Host mode: from the stack to the edge, from the edge to the stack.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_redirect, bpf_skb_change_head};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use ravelin_xdp_common::{DropReason, Fate, Pass, decide_edge, decide_host_egress};

use crate::counters;
use crate::maps::{HOST_EDGE, INNER_SOCKETS, KernelTables, OUTER_SOCKETS};
use crate::packet::{self, SkbBytes, XdpBytes};

/// tcx egress on the outer device of a host.
#[classifier]
pub fn ravelin_host_egress(ctx: TcContext) -> i32 {
    let judgement = decide_host_egress(&SkbBytes::new(&ctx), &KernelTables);
    counters::matched_many(
        judgement.rule_id,
        packet::segments(&ctx),
        packet::length(&ctx, judgement.length),
    );
    match judgement.fate {
        Fate::Pass => {
            counters::passed(judgement.pass);
            if matches!(judgement.pass, Pass::Audit) {
                counters::audited(judgement.reason);
            }
            // The next program, then the device: TCX_NEXT.
            TC_ACT_UNSPEC
        }
        Fate::Drop => drop(judgement.reason),
        Fate::Redirect => match HOST_EDGE.get(0) {
            // The kernel empties the slot when the socket of the first worker closes. The device of the edge goes at the
            // same time, but nothing keeps its number from being given to another one.
            Some(host) if host.edge != 0 && OUTER_SOCKETS.get(0).is_some() => {
                // SAFETY: a helper without pointers.
                unsafe { bpf_redirect(host.edge, 0) as i32 }
            }
            _ => drop(DropReason::NoWorker),
        },
    }
}

/// tcx ingress on the host edge: what workers opened appears to arrive on the outer device, where the peer is routed. So it
/// passes any reverse path filter, and nobody has to know of the edge.
#[classifier]
pub fn ravelin_edge(ctx: TcContext) -> i32 {
    let Some(host) = HOST_EDGE.get(0) else {
        return drop(DropReason::NoWorker);
    };
    // SAFETY: the context is valid while the program runs. The protocol is in network order, as Ethernet wants it.
    let ether_type = unsafe { (*ctx.skb.skb).protocol } as u16;
    // SAFETY: a helper call on the program's own context.
    let framed = host.ethernet != 0
        || unsafe { bpf_skb_change_head(ctx.as_ptr().cast(), packet::ETHERNET as u32, 0) } == 0;
    if !framed || !packet::write_ethernet(&ctx, &host.mac, ether_type) {
        return drop(DropReason::NoHeadroom);
    }
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(host.outer, u64::from(BPF_F_INGRESS)) as i32 }
}

/// XDP on the workers' end of a veth edge: what the stack sent to be sealed.
#[xdp(frags)]
pub fn ravelin_edge_seal(ctx: XdpContext) -> u32 {
    crate::apply(
        &ctx,
        decide_edge(&XdpBytes::new(&ctx), &KernelTables),
        &INNER_SOCKETS,
    )
}

/// tcx egress on the workers' end of a veth edge. Workers send past this hook; what else is sent there would seem to have been opened.
#[classifier]
pub fn ravelin_edge_egress(_ctx: TcContext) -> i32 {
    drop(DropReason::ClearEgress)
}

#[inline(always)]
fn drop(reason: DropReason) -> i32 {
    counters::dropped(reason);
    TC_ACT_SHOT as i32
}
