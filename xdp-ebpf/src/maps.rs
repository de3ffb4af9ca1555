//! The maps, and the decision's view of them. Their names are those of `ravelin_xdp_common::map_names`.

use core::ffi::c_void;

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, XskMap};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_loop};
use aya_ebpf::macros::btf_map;
use ravelin_xdp_common::line::{LINE_SLOTS, MAX_STEPS, header_flags};
use ravelin_xdp_common::{
    Address, CachedVerdict, Decision, Direction, DropReason, FLOW_CACHE_SLOTS, FRAGMENT_SLOTS, Flow,
    FragmentKey, FragmentRecord, Header, HostEdge, INBOUND_FLAGS, INBOUND_SAS, InboundEndpoint, IpPacket,
    Line, MAX_QUEUES, OutboundKey, Pass, Ports, RULE_COUNTERS, RULE_SET_FLAGS, RuleCounter, Tables,
    TunnelEnds, Verdict, Walk, local_bits,
};

/// Line 0 is the header.
pub type Lines = Array<Line, LINE_SLOTS, { RULE_SET_FLAGS as usize }>;

/// Room for this machine's own addresses.
const MAX_LOCAL: usize = 1024;

#[btf_map]
pub static RULE_SET: ArrayOfMaps<Lines, 1> = ArrayOfMaps::new();

#[btf_map]
pub static INBOUND: HashMap<u32, InboundEndpoint, { INBOUND_SAS as usize }, { INBOUND_FLAGS as usize }> =
    HashMap::new();

#[btf_map]
pub static TUNNELS: HashMap<TunnelEnds, u32, { INBOUND_SAS as usize }, { INBOUND_FLAGS as usize }> =
    HashMap::new();

#[btf_map]
pub static OUTBOUND: HashMap<OutboundKey, u32, { INBOUND_SAS as usize }, { INBOUND_FLAGS as usize }> =
    HashMap::new();

#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentRecord, FRAGMENT_SLOTS> = LruHashMap::new();

#[btf_map]
pub static LOCAL: HashMap<Address, u32, MAX_LOCAL> = HashMap::new();

#[btf_map]
pub static OUTER_SOCKETS: XskMap<{ MAX_QUEUES as usize }> = XskMap::new();

#[btf_map]
pub static INNER_SOCKETS: XskMap<{ MAX_QUEUES as usize }> = XskMap::new();

#[btf_map]
pub static HOST_EDGE: Array<HostEdge, 1> = Array::new();

#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::COUNT }> = PerCpuArray::new();

#[btf_map]
pub static AUDITED: PerCpuArray<u64, { DropReason::COUNT }> = PerCpuArray::new();

#[btf_map]
pub static PASSES: PerCpuArray<u64, { Pass::ALL.len() }> = PerCpuArray::new();

#[btf_map]
pub static RULES: PerCpuArray<RuleCounter, { RULE_COUNTERS as usize }> = PerCpuArray::new();

#[btf_map]
pub static FLOW_CACHE: PerCpuArray<CachedVerdict, FLOW_CACHE_SLOTS> = PerCpuArray::new();

/// Room for one parsed packet.
#[btf_map]
pub static SCRATCH: PerCpuArray<[u64; SCRATCH_WORDS], 1> = PerCpuArray::new();

/// Words of it.
pub const SCRATCH_WORDS: usize = size_of::<IpPacket>().div_ceil(8);

/// Set when the object is loaded.
#[unsafe(no_mangle)]
static LONGEST_FRAME: u32 = u32::MAX;

/// Bytes of the longest frame, from its Ethernet header on, that packet memory takes.
#[inline(always)]
pub fn longest_frame() -> u32 {
    // SAFETY: a static of this program. Volatile, since what LLVM sees here is not what it holds.
    unsafe { (&raw const LONGEST_FRAME).read_volatile() }
}

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
    fn classify(&self, lines: &'static Lines, header: &Header, flow: &Flow, direction: Direction) -> Verdict {
        if header.flags & header_flags::CACHE == 0 || matches!(flow.ports, Ports::Unknown) {
            return walk(lines, header, flow, direction);
        }
        let words = CachedVerdict::flow(flow, direction);
        let slot = CachedVerdict::slot(&words);
        let (Some(first), Some(second)) = (FLOW_CACHE.get_ptr_mut(slot), FLOW_CACHE.get_ptr_mut(slot | 1))
        else {
            return Verdict::NONE;
        };
        // SAFETY: the pointers are to two entries of this CPU, which no other CPU writes, and programs of one CPU do not
        // interrupt each other.
        let (first, second) = unsafe { (&mut *first, &mut *second) };
        for cached in [&*first, &*second] {
            if let Some(verdict) = cached.verdict(header.generation, &words) {
                return verdict;
            }
        }
        let verdict = walk(lines, header, flow, direction);
        if !matches!(verdict.decision, Decision::NoRuleSet) {
            *second = *first;
            *first = CachedVerdict::new(header.generation, &words, &verdict);
        }
        verdict
    }

    #[inline(always)]
    fn inbound(&self, spi: u32) -> Option<InboundEndpoint> {
        // SAFETY: entries are written whole before their SPI is announced to a peer and removed long after; a
        // torn read would fail the endpoint check, and user space checks the SA again.
        unsafe { INBOUND.get(spi) }.copied()
    }

    #[inline(always)]
    fn is_tunnel(&self, ends: &TunnelEnds) -> bool {
        TUNNELS.get_ptr(ends).is_some()
    }

    #[inline(always)]
    fn outbound(&self, key: &OutboundKey) -> Option<u32> {
        // SAFETY: a slot is written whole and read whole; the worker checks what it finds there.
        unsafe { OUTBOUND.get(key) }.copied()
    }

    #[inline(always)]
    fn recall(&self, key: &FragmentKey) -> FragmentRecord {
        // SAFETY: a record that changes while it is read is one of this datagram too: another first fragment, of
        // which either verdict could have come first.
        match unsafe { FRAGMENTS.get(key) } {
            Some(record) => *record,
            None => FragmentRecord::EMPTY,
        }
    }

    #[inline(always)]
    fn remember(&self, key: &FragmentKey, record: &FragmentRecord) {
        // Without a record the fragments that follow are judged without their ports, which only drops more.
        let _ = FRAGMENTS.insert(key, record, 0);
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        LOCAL.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn is_spoken_of(&self, address: &Address) -> bool {
        // SAFETY: a word is written and read whole.
        unsafe { LOCAL.get(address) }.is_some_and(|bits| bits & local_bits::SPOKEN_OF != 0)
    }
}

/// Walks the trees of a rule set; [`Verdict::NONE`] if it is damaged.
#[inline(always)]
fn walk(lines: &'static Lines, header: &Header, flow: &Flow, direction: Direction) -> Verdict {
    let mut progress = Progress {
        walk: Walk::new(header, flow, direction),
        lines,
        damaged: false,
    };
    if progress.walk.cursor().is_some() {
        // SAFETY: the helper calls `on_step` with the pointer given here, which lives until the helper returns.
        unsafe {
            bpf_loop(
                MAX_STEPS,
                on_step as *mut c_void,
                core::ptr::from_mut(&mut progress).cast(),
                0,
            )
        };
        // The loop ended without the walk: more steps than the compiler promised.
        if progress.damaged || progress.walk.cursor().is_some() {
            return Verdict::NONE;
        }
    }
    let Some((line, place)) = progress.walk.found(header) else {
        return Verdict::default(header);
    };
    let Some(line) = lines.get(line) else {
        return Verdict::NONE;
    };
    progress.walk.verdict(line, place)
}

/// A walk under way.
struct Progress {
    walk: Walk,
    lines: &'static Lines,
    damaged: bool,
}

/// One step of `bpf_loop`: 0 goes on, 1 stops.
unsafe extern "C" fn on_step(_index: u64, progress: *mut c_void) -> i64 {
    // SAFETY: `walk` passes a `Progress` that outlives the loop, and nothing else refers to it meanwhile.
    let progress = unsafe { &mut *progress.cast::<Progress>() };
    let Some(line) = progress
        .walk
        .cursor()
        .and_then(|cursor| progress.lines.get(cursor))
    else {
        progress.damaged = true;
        return 1;
    };
    if !progress.walk.step(line) {
        progress.damaged = true;
        return 1;
    }
    i64::from(progress.walk.cursor().is_none())
}
