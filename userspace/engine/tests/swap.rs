//! Two opposite rule sets in turn while packets are judged: each packet gets the verdict of one of them, and every one is
//! counted once. Needs root.
//!
//! `RAVELIN_SWAP_RULES=100000 RAVELIN_SWAP_SECONDS=60` makes it as large and as long as anybody will want.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::programs::Xdp;
use aya::{TestRun as _, TestRunOptions};
use aya_obj::programs::XdpAttachType;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use ravelin_classifier::{RuleSet, compile};
use ravelin_engine::{Filter, Side};
use ravelin_policy::Policy;
use ravelin_xdp_common::{DropReason, Pass};

/// How often the rule set changes.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs of the program for one system call, of which each costs the kernel some 25 ms of preparation.
const REPEAT: u32 = 200_000;

/// Flows that packets are of, each another rule's.
const FLOWS: usize = 16;

/// A rule for each of `size` hosts, with this action. Rules count from `first` on.
fn rule_set(action: &str, size: usize, first: u32) -> RuleSet {
    let mut text = String::new();
    for number in 0..size {
        let [_, a, b, c] = (number as u32).to_be_bytes();
        write!(
            text,
            "[filter-lists.f{number}]\nfilters = [{{ source = \"10.{a}.{b}.{c}\", destination = \"172.16.0.0/12\", \
             protocol = \"udp\", destination-port = 53, mirrored = false }}]\n[[rules]]\nname = \"r{number}\"\nfilter-list = \"f{number}\"\n\
             action = \"{action}\"\n"
        )
        .unwrap();
    }
    let (policy, _) = Policy::parse(&text, "swap.toml").unwrap();
    let mut rules = compile(&policy).unwrap();
    let slots: Vec<u32> = (first..).take(size).collect();
    rules.renumber(&slots, &[]);
    rules
}

/// A UDP datagram from the host of a rule.
fn frame(rule: usize) -> Vec<u8> {
    let [_, a, b, c] = (rule as u32).to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([
        0x45, 0, 0, 50, 0, 1, 0, 0, 64, 17, 0, 0, 10, a, b, c, 172, 16, 0, 1,
    ]);
    frame.extend([0x9c, 0x40, 0, 53, 0, 30, 0, 0]);
    frame.extend([0; 22]);
    frame
}

/// Has packets judged until told to stop; counts them.
fn generate(program: &Path, size: usize, stop: &AtomicBool, judged: &AtomicU64) {
    let program = Xdp::from_pin(program, XdpAttachType::Interface).unwrap();
    let frames: Vec<Vec<u8>> = (0..FLOWS).map(|flow| frame(flow * (size / FLOWS))).collect();
    for frame in frames.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: REPEAT,
            ..TestRunOptions::new()
        };
        program.test_run(options).unwrap();
        judged.fetch_add(REPEAT.into(), Ordering::Relaxed);
    }
}

fn setting(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn opposite_rule_sets_swapped_under_load_judge_and_count_every_packet_once() {
    let size = setting("RAVELIN_SWAP_RULES", 2000);
    let time = Duration::from_secs(setting("RAVELIN_SWAP_SECONDS", 3) as u64);
    let folder = tempfile::tempdir().unwrap();
    // A BPF filesystem that goes with this thread.
    unshare(CloneFlags::CLONE_NEWNS).expect("run this test as root");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .unwrap();
    mount(
        Some("bpf"),
        folder.path(),
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();

    let sets = [rule_set("permit", size, 0), rule_set("block", size, size as u32)];
    let mut filter = Filter::load(2 * size as u32, u32::MAX).unwrap();
    let program = folder.path().join("inner");
    filter.xdp(Side::Inner).unwrap().pin(&program).unwrap();
    filter.apply(&sets[0], 1).unwrap();

    let (stop, judged) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut generation, mut longest) = (1, Duration::ZERO);
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| generate(&program, size, &stop, &judged));
        while started.elapsed() < time {
            std::thread::sleep((started + INTERVAL * generation).saturating_duration_since(Instant::now()));
            generation += 1;
            let swap = Instant::now();
            filter
                .apply(&sets[(generation as usize + 1) % 2], generation)
                .unwrap();
            longest = longest.max(swap.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let judged = judged.load(Ordering::Relaxed);
    let passed = filter.passes().unwrap()[Pass::Rule as usize];
    let blocked = filter.drops().unwrap()[DropReason::RuleBlock.index()];
    let counted = |rules: std::ops::Range<u32>| -> u64 {
        filter.rules(rules).unwrap().iter().map(|rule| rule.packets).sum()
    };
    let (by_permit, by_block) = (counted(0..size as u32), counted(size as u32..2 * size as u32));
    eprintln!(
        "{generation} generations of {size} rules, longest swap {longest:?}; {judged} packets, {:.2} Mpps: {passed} passed, \
         {blocked} blocked",
        judged as f64 / started.elapsed().as_micros() as f64
    );
    assert_eq!(passed + blocked, judged);
    assert_eq!((by_permit, by_block), (passed, blocked));
    assert!(passed > 0 && blocked > 0);
    let elsewhere: u64 =
        filter.passes().unwrap().iter().sum::<u64>() + filter.drops().unwrap().iter().sum::<u64>();
    assert_eq!(elsewhere, judged);
}
