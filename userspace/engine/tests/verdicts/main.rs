//! The kernel's programs, the host's decision and the plain reference say the same about every packet.
//!
//! The real BPF object is loaded and each frame runs through all three programs with `BPF_PROG_TEST_RUN`. Nothing is
//! attached and no device is touched. Needs root, and fails without.
//!
//! - What the kernel did: return code, metadata in front of the frame, and which counters moved.
//! - What the host says: the same `decide_*` over collections instead of maps.
//! - What the reference says, from what the frame was made to be: it sees neither the frame's bytes nor the parser.
//!
//! The kernel takes frames of 14 bytes and more only (shorter ones are refused with EINVAL before any program
//! runs); shorter frames are a matter of the parser's own tests.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod capture;
mod expected;
mod frame;
mod kernel;
mod traffic;
mod world;

use std::time::{SystemTime, UNIX_EPOCH};

use ravelin_classifier::arbitrary::Rng;
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{Decision, DropReason, FrameMetadata, Judgement, Kind, Outcome, Pass};

use crate::frame::Made;
use crate::kernel::{Hook, Kernel};
use crate::world::World;

/// Frames between two readings of the counters.
const BATCH: usize = 50;

#[test]
fn kernel_host_and_reference_agree() {
    let seen = agree(20_261, 640, 500);
    assert!(seen.frames >= 320_000, "{} frames", seen.frames);
    // The comparison is worth nothing if the generator only ever reaches a part of what can happen.
    for reason in REACHABLE {
        assert!(seen.drops[reason.index()] >= 20, "{}: {:?}", reason.name(), seen);
    }
    for pass in Pass::ALL {
        assert!(seen.passes[pass as usize] >= 200, "{}: {seen:?}", pass.name());
    }
    assert!(seen.reassembled.iter().all(|count| *count >= 1_000), "{seen:?}");
    assert!(seen.jumbo >= 2_000, "{seen:?}");
    assert!(seen.redirects >= 5_000 && seen.with_truth >= 50_000, "{seen:?}");
}

/// With the test above more than a million judgements.
#[test]
fn they_agree_on_hundreds_of_rules() {
    let mut rng = Rng::new(9);
    let mut kernel = Kernel::load();
    kernel.announce(&World::endpoints(), &World::own());
    let mut seen = Seen {
        drops: vec![0; DropReason::COUNT],
        ..Seen::default()
    };
    let mut steps = 0;
    for round in 0..30 {
        let world = World::large(&mut rng, 20 + 12 * round);
        steps = steps.max(world.rules().unwrap().0.steps());
        kernel.apply(&world);
        // Twice the same: the second time much of it comes from the flow cache.
        let made = traffic::frames(&mut rng, world.policy(), 700);
        compare(&mut kernel, &world, &made, 9, &mut seen);
        compare(&mut kernel, &world, &made, 9, &mut seen);
    }
    assert!(seen.frames >= 42_000 && steps >= 20, "{steps} steps, {seen:?}");
}

#[test]
fn they_agree_with_a_seed_of_today() {
    let seed = match std::env::var("RAVELIN_SEED") {
        Ok(seed) => seed.parse().expect("RAVELIN_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
    };
    agree(seed, 60, 500);
}

/// All that a driver or the egress hook can drop for in these tests. Left out: what only a device can bring
/// about (no headroom), and what workers drop for.
const REACHABLE: [DropReason; 23] = [
    DropReason::EthernetTruncated,
    DropReason::VlanTooDeep,
    DropReason::IpTruncated,
    DropReason::IpBadVersion,
    DropReason::IpBadHeaderLength,
    DropReason::IpBadTotalLength,
    DropReason::Ipv6ExtensionTruncated,
    DropReason::Ipv6TooManyExtensions,
    DropReason::TransportTruncated,
    DropReason::TransportBadLength,
    DropReason::FragmentTiny,
    DropReason::FragmentUnknown,
    DropReason::FragmentOverlap,
    DropReason::NonIp,
    DropReason::RuleBlock,
    DropReason::DefaultBlock,
    DropReason::ClearNotAllowed,
    DropReason::ClearEgress,
    DropReason::NoRuleSet,
    DropReason::NoWorker,
    DropReason::SpiReserved,
    DropReason::SpiWrongEndpoint,
    DropReason::EspTruncated,
];

/// What a run has seen.
#[derive(Debug, Default)]
struct Seen {
    frames: usize,
    with_truth: usize,
    redirects: usize,
    /// Fragments of ESP: first ones, later ones.
    reassembled: [usize; 2],
    /// Runs of packets in several buffers.
    jumbo: usize,
    /// Runs that the kernel refuses: see `Kernel::run`.
    refused: usize,
    drops: Vec<usize>,
    passes: [usize; Pass::ALL.len()],
}

impl Seen {
    fn judgement(&mut self, judgement: &Judgement) {
        match judgement.outcome() {
            Outcome::Pass(kind) => self.passes[kind as usize] += 1,
            Outcome::Drop(reason) => self.drops[reason.index()] += 1,
            Outcome::Redirect(metadata) => {
                if metadata.kind == Kind::Reassemble {
                    self.reassembled[usize::from(metadata.slot == FrameMetadata::NO_SLOT)] += 1;
                }
                self.redirects += 1;
                self.drops[DropReason::NoWorker.index()] += 1;
            }
        }
    }
}

fn agree(seed: u64, policies: usize, frames: usize) -> Seen {
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut kernel = Kernel::load();
    let mut seen = Seen {
        drops: vec![0; DropReason::COUNT],
        ..Seen::default()
    };
    kernel.announce(&World::endpoints(), &World::own());
    // Before the first rule set is in force, nothing that rules would have to judge gets by.
    let empty = World::without_rules();
    compare(
        &mut kernel,
        &empty,
        &traffic::frames(&mut rng, None, 200),
        seed,
        &mut seen,
    );
    for _ in 0..policies {
        let world = World::arbitrary(&mut rng);
        kernel.apply(&world);
        let made = traffic::frames(&mut rng, world.policy(), frames);
        compare(&mut kernel, &world, &made, seed, &mut seen);
    }
    seen
}

/// Runs every frame through every hook and holds the three answers against each other.
fn compare(kernel: &mut Kernel, world: &World, frames: &[Made], seed: u64, seen: &mut Seen) {
    for batch in frames.chunks(BATCH) {
        let mut expected = kernel.counters();
        for made in batch {
            for hook in Hook::ALL {
                if world.is_late(hook, &made.bytes) {
                    continue;
                }
                // First: what the kernel does not see, neither side may remember.
                let Some(run) = kernel.run(hook, &made.bytes) else {
                    seen.refused += 1;
                    continue;
                };
                let context = || format!("seed {seed}, {hook:?}, {made:?}\n{:#?}", world.policy());
                let judgement = world.decide(hook, &made.bytes);
                let truth = made.truth.as_ref();
                if let Some(expected) = truth.and_then(|truth| expected::judgement(hook, truth, world)) {
                    assert_eq!(judgement, expected, "{}", context());
                    seen.with_truth += 1;
                } else {
                    world.unsure(hook, &made.bytes);
                }
                if let Some(verdict) = world.reference(hook, &made.bytes) {
                    check_against_reference(hook, &judgement, verdict, &context);
                }
                assert_eq!(
                    run,
                    kernel::Run::expected(hook, &judgement, &made.bytes),
                    "{}",
                    context()
                );
                seen.jumbo += usize::from(made.bytes.len() > kernel::ONE_BUFFER);
                expected.add(hook, &judgement);
                seen.judgement(&judgement);
            }
        }
        let counted = kernel.counters();
        if counted != expected {
            blame(kernel, world, batch, seed);
            panic!("seed {seed}: counters differ over a batch\n{counted:?}\n{expected:?}");
        }
        seen.frames += batch.len();
    }
}

/// A judgement that names a rule names the one that the reference names, mangled frames included.
fn check_against_reference(
    hook: Hook,
    judgement: &Judgement,
    verdict: ravelin_xdp_common::Verdict,
    context: &impl Fn() -> String,
) {
    if judgement.rule_id != NO_RULE {
        assert_eq!(judgement.rule_id, verdict.rule_id, "{}", context());
    }
    let fits = match judgement.outcome() {
        Outcome::Pass(Pass::Audit) => verdict.audit,
        Outcome::Pass(Pass::Rule) => {
            verdict.decision == Decision::Permit
                || (verdict.decision == Decision::Protect && verdict.accept_unsecured)
        }
        Outcome::Drop(DropReason::RuleBlock | DropReason::DefaultBlock) => {
            verdict.decision == Decision::Block
        }
        // Nothing but what is protected has business there; nor has that, where it is exempt.
        Outcome::Drop(DropReason::ClearEgress) if hook == Hook::Edge => true,
        Outcome::Redirect(_) if hook == Hook::Edge => verdict.decision == Decision::Protect,
        Outcome::Drop(DropReason::ClearNotAllowed | DropReason::ClearEgress) => {
            verdict.decision == Decision::Protect
        }
        _ => true,
    };
    assert!(fits, "{judgement:?} {verdict:?} {}", context());
}

/// Finds the frame whose counters differ.
fn blame(kernel: &mut Kernel, world: &World, batch: &[Made], seed: u64) {
    for made in batch {
        for hook in Hook::ALL {
            let mut expected = kernel.counters();
            let judgement = world.decide(hook, &made.bytes);
            if kernel.run(hook, &made.bytes).is_none() {
                continue;
            }
            expected.add(hook, &judgement);
            assert_eq!(
                kernel.counters(),
                expected,
                "seed {seed}, {hook:?}, {judgement:?}, {made:?}\n{:#?}",
                world.policy()
            );
        }
    }
}

#[test]
fn every_truncation_is_judged_alike() {
    let mut rng = Rng::new(7);
    let mut kernel = Kernel::load();
    kernel.announce(&World::endpoints(), &World::own());
    let world = World::arbitrary(&mut rng);
    kernel.apply(&world);
    let mut seen = Seen {
        drops: vec![0; DropReason::COUNT],
        ..Seen::default()
    };
    for whole in traffic::whole_frames(&mut rng, world.policy(), 120) {
        let cuts: Vec<Made> = (14..whole.bytes.len())
            .map(|length| Made {
                bytes: whole.bytes[..length].to_vec(),
                truth: None,
            })
            .collect();
        compare(&mut kernel, &world, &cuts, 7, &mut seen);
    }
    assert!(seen.frames > 5_000, "{seen:?}");
}

#[test]
fn a_rule_set_takes_effect_with_the_next_packet() {
    let mut rng = Rng::new(11);
    let mut kernel = Kernel::load();
    kernel.announce(&World::endpoints(), &World::own());
    let worlds = [World::arbitrary(&mut rng), World::arbitrary(&mut rng)];
    let frames = traffic::whole_frames(&mut rng, worlds[0].policy(), 60);
    let mut differ = 0;
    for made in &frames {
        let judgements = worlds.each_ref().map(|world| {
            kernel.apply(world);
            let judgement = world.decide(Hook::Inner, &made.bytes);
            let run = kernel.run(Hook::Inner, &made.bytes).unwrap();
            assert_eq!(run, kernel::Run::expected(Hook::Inner, &judgement, &made.bytes));
            judgement.outcome()
        });
        differ += usize::from(judgements[0] != judgements[1]);
    }
    assert!(differ >= 10, "the two rule sets hardly differ: {differ}");
}

#[test]
fn an_array_that_was_never_filled_lets_no_ip_and_no_unknown_protocol_in() {
    let mut kernel = Kernel::load();
    kernel.announce(&World::endpoints(), &World::own());
    kernel.apply(&World::never_filled());
    let mut counters = kernel.counters();
    let frames = [traffic::tcp_v4(), traffic::lldp()];
    for frame in &frames {
        for hook in [Hook::Outer, Hook::Inner] {
            assert_eq!(
                kernel.run(hook, frame).unwrap().code,
                kernel::XDP_DROP,
                "{hook:?} {frame:02x?}"
            );
            counters.drops[DropReason::NoRuleSet.index()] += 1;
        }
    }
    assert_eq!(kernel.counters(), counters);
}
