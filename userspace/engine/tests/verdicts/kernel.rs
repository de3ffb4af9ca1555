//! The BPF programs in the kernel, run on one frame at a time.

use std::net::IpAddr;

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use ravelin_engine::{Edge, Filter, Role, Side};
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{
    DropReason, FrameMetadata, InboundEndpoint, Judgement, Outcome, Pass, RULE_COUNTERS, RuleCounter,
};

use crate::world::World;

/// `enum xdp_action`, include/uapi/linux/bpf.h.
pub(crate) const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// include/uapi/linux/pkt_cls.h; as the kernel returns them, in 32 bits.
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;

/// More rules than a generated policy has.
const RULES: usize = 400;

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    Outer,
    Inner,
    Egress,
    /// tcx egress in host mode.
    HostEgress,
    /// XDP on the workers' end of a host's veth edge.
    Edge,
}

impl Hook {
    pub(crate) const ALL: [Self; 5] = [
        Self::Outer,
        Self::Inner,
        Self::Egress,
        Self::HostEgress,
        Self::Edge,
    ];

    /// Whether it sees socket buffers.
    const fn is_tcx(self) -> bool {
        matches!(self, Self::Egress | Self::HostEgress)
    }
}

/// The loaded object.
pub(crate) struct Kernel {
    filter: Filter,
}

/// What one run did, apart from the counters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) code: u32,
    /// What stands in front of the frame afterwards.
    metadata: Option<FrameMetadata>,
    /// The frame's own bytes are untouched.
    unchanged: bool,
}

impl Run {
    /// What a judgement means at a hook where no worker has a socket.
    pub(crate) fn expected(hook: Hook, judgement: &Judgement, _frame: &[u8]) -> Self {
        let (drop, pass) = match hook {
            Hook::Outer | Hook::Inner | Hook::Edge => (XDP_DROP, XDP_PASS),
            Hook::Egress | Hook::HostEgress => (TC_ACT_SHOT, TC_ACT_UNSPEC),
        };
        let (code, metadata) = match judgement.outcome() {
            Outcome::Pass(_) => (pass, None),
            Outcome::Drop(_) => (drop, None),
            Outcome::Redirect(_) if hook.is_tcx() => (drop, None),
            Outcome::Redirect(metadata) => (drop, Some(metadata)),
        };
        Self {
            code,
            metadata,
            unchanged: true,
        }
    }

    /// For comparing with a machine that counts its rule sets otherwise.
    pub(crate) fn without_generation(self) -> Self {
        Self {
            metadata: self.metadata.map(|metadata| FrameMetadata {
                generation: 0,
                ..metadata
            }),
            ..self
        }
    }
}

/// The sums of all counters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) drops: Vec<u64>,
    audited: Vec<u64>,
    passes: Vec<u64>,
    rules: Vec<RuleCounter>,
}

impl Counters {
    /// Adds what a judgement moves.
    pub(crate) fn add(&mut self, hook: Hook, judgement: &Judgement) {
        match judgement.outcome() {
            Outcome::Drop(reason) => self.drops[reason.index()] += 1,
            Outcome::Redirect(_) => self.drops[DropReason::NoWorker.index()] += 1,
            Outcome::Pass(kind) if hook != Hook::Egress => self.passes[kind as usize] += 1,
            Outcome::Pass(_) => {}
        }
        if let Some(reason) = judgement.audited() {
            self.audited[reason.index()] += 1;
        }
        if hook != Hook::Egress && judgement.rule_id != NO_RULE {
            let rule = &mut self.rules[judgement.rule_id as usize];
            rule.packets += 1;
            rule.bytes += u64::from(judgement.length);
        }
    }
}

/// Bytes of a page less head and tail room: what a packet in one buffer has at most in a test.
pub(crate) const ONE_BUFFER: usize = 3400;

impl Kernel {
    pub(crate) fn load() -> Self {
        let mut filter = Filter::load(RULE_COUNTERS, u32::MAX).expect("run this test as root");
        filter.load_host(Edge::Veth).unwrap();
        Self { filter }
    }

    pub(crate) fn announce(&mut self, endpoints: &[(u32, InboundEndpoint)], own: &[IpAddr]) {
        for (spi, endpoint) in endpoints {
            self.filter.add_inbound(*spi, endpoint).unwrap();
            let key = World::outbound_key(*spi, endpoint);
            self.filter.add_quoted(&key, endpoint.slot).unwrap();
        }
        self.filter.set_spoken_of(own).unwrap();
        self.filter.set_local(own).unwrap();
    }

    pub(crate) fn apply(&mut self, world: &World) {
        let (rules, generation) = world.rules().expect("a world with rules");
        self.filter.apply(rules, generation).unwrap();
    }

    /// What the kernel's program does with a frame; `None` for a socket buffer too short for the IP header that its
    /// EtherType promises, or longer than a page, either of which the kernel refuses to test with (`bpf_prog_test_run_skb`).
    pub(crate) fn run(&mut self, hook: Hook, frame: &[u8]) -> Option<Run> {
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = match hook {
            Hook::Outer => self.filter.xdp(Side::Outer).unwrap().test_run(options),
            Hook::Inner => self.filter.xdp(Side::Inner).unwrap().test_run(options),
            Hook::Egress => self.filter.egress(Role::Gateway).unwrap().test_run(options),
            Hook::HostEgress => self.filter.egress(Role::Host).unwrap().test_run(options),
            Hook::Edge => self.filter.edge_seal().unwrap().test_run(options),
        };
        let result = match result {
            Ok(result) => result,
            Err(ProgramError::SyscallError(error))
                if hook.is_tcx()
                    && !(14 + 40..ONE_BUFFER).contains(&frame.len())
                    && error.io_error.kind() == std::io::ErrorKind::InvalidInput =>
            {
                return None;
            }
            Err(error) => panic!("{hook:?} {} bytes: {error:?}", frame.len()),
        };
        // The kernel hands back all from the start of the metadata on (bpf_prog_test_run_xdp).
        let out = &out[..result.data_size_out as usize];
        let (front, rest) = out.split_at(out.len() - frame.len());
        Some(Run {
            code: result.return_value,
            metadata: FrameMetadata::from_bytes(front),
            unchanged: rest == frame,
        })
    }

    pub(crate) fn counters(&self) -> Counters {
        let counters = Counters {
            drops: self.filter.drops().unwrap(),
            audited: self.filter.audited().unwrap(),
            passes: self.filter.passes().unwrap(),
            rules: self.filter.rules(0..RULES as u32).unwrap(),
        };
        assert_eq!(counters.passes.len(), Pass::ALL.len());
        counters
    }
}
