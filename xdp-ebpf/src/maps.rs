//! The maps, and the decision's view of them. Their names are those of `ravelin_xdp_common::map_names`.

use core::ffi::c_void;

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, XskMap};
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::btf_map;
use ravelin_xdp_common::line::{LINE_SLOTS, MAX_LINES};
use ravelin_xdp_common::{
    Address, Direction, DropReason, Flow, Header, InboundEndpoint, Line, MAX_QUEUES, MAX_RULES, Pass,
    RuleCounter, Tables, Verdict, step,
};

/// Line 0 is the header.
pub type Lines = Array<Line, LINE_SLOTS>;

/// Room for inbound SAs.
const MAX_INBOUND: usize = 4096;

/// Room for this machine's own addresses.
const MAX_LOCAL: usize = 1024;

#[btf_map]
pub static RULE_SET: ArrayOfMaps<Lines, 1> = ArrayOfMaps::new();

#[btf_map]
pub static INBOUND: HashMap<u32, InboundEndpoint, MAX_INBOUND> = HashMap::new();

#[btf_map]
pub static LOCAL: HashMap<Address, u32, MAX_LOCAL> = HashMap::new();

#[btf_map]
pub static OUTER_SOCKETS: XskMap<{ MAX_QUEUES as usize }> = XskMap::new();

#[btf_map]
pub static INNER_SOCKETS: XskMap<{ MAX_QUEUES as usize }> = XskMap::new();

#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::COUNT }> = PerCpuArray::new();

#[btf_map]
pub static PASSES: PerCpuArray<u64, { Pass::ALL.len() }> = PerCpuArray::new();

#[btf_map]
pub static RULES: PerCpuArray<RuleCounter, { MAX_RULES as usize }> = PerCpuArray::new();

/// The decision's tables, in BPF maps.
pub struct KernelTables;

impl Tables for KernelTables {
    type RuleSet = &'static Lines;

    #[inline(always)]
    fn rule_set(&self) -> Option<&'static Lines> {
        RULE_SET.get(0)
    }

    #[inline(always)]
    fn header(&self, lines: &'static Lines) -> Option<Header> {
        lines.get(0).map(Header::from_line)
    }

    #[inline(always)]
    fn classify(
        &self,
        lines: &'static Lines,
        header: &Header,
        flow: &Flow,
        direction: Direction,
    ) -> Option<Verdict> {
        let mut walk = Walk {
            lines,
            flow,
            direction,
            verdict: Verdict::default(header),
            complete: true,
        };
        let count = header.line_count.min(MAX_LINES as u32);
        // SAFETY: the helper calls `on_line` with indices below `count` and the pointer given here, which lives
        // until the helper returns.
        let taken = unsafe {
            bpf_loop(
                count,
                on_line as *mut c_void,
                core::ptr::from_mut(&mut walk).cast(),
                0,
            )
        };
        (taken >= 0 && walk.complete).then_some(walk.verdict)
    }

    #[inline(always)]
    fn inbound(&self, spi: u32) -> Option<InboundEndpoint> {
        // SAFETY: entries are written whole before their SPI is announced to a peer and removed long after; a
        // torn read would fail the endpoint check, and user space checks the SA again.
        unsafe { INBOUND.get(spi) }.copied()
    }

    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        LOCAL.get_ptr(address).is_some()
    }
}

/// The state of a walk over the lines.
struct Walk<'a> {
    lines: &'static Lines,
    flow: &'a Flow,
    direction: Direction,
    verdict: Verdict,
    complete: bool,
}

/// One step of `bpf_loop`: 0 goes on, 1 stops.
unsafe extern "C" fn on_line(index: u64, walk: *mut c_void) -> i64 {
    // SAFETY: `classify` passes a `Walk` that outlives the loop, and nothing else refers to it meanwhile.
    let walk = unsafe { &mut *walk.cast::<Walk<'_>>() };
    let Some(line) = walk.lines.get(index as u32 + 1) else {
        walk.complete = false;
        return 1;
    };
    match step(line, walk.flow, walk.direction) {
        Some(verdict) => {
            walk.verdict = verdict;
            1
        }
        None => 0,
    }
}
