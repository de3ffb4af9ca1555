//! Rule sets of every kind and size, by themselves: compiled, swapped in, and asked about traces.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ravelin_bench::samples::Samples;
use ravelin_bench::{Kind, Order, Profile, RuleList, Trace};
use ravelin_classifier::reference::{self, Packet};
use ravelin_classifier::{RuleSet, compile};
use ravelin_policy::{Family, Policy};
use ravelin_xdp_common::Direction;
use ravelin_xdp_common::line::NO_RULE;

use crate::Plan;
use crate::kernel::{Kernel, Loop, Segment, Single};
use crate::report::{Report, SetRow, TraceRow};

/// Flows that stay in every cache.
pub(crate) const FEW_FLOWS: usize = 1 << 11;

/// Packets of a trace of few flows.
const FEW_FLOWS_PACKETS: usize = 1 << 14;

/// How often a set is compiled and swapped in.
const TIMES: usize = 5;

/// Packets of each trace that the plain reference judges as well, if there is time.
const REFERENCED: usize = 1000;

/// Time for the plain reference per rule set.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everything in the plan, size by size.
pub(crate) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut kernel = Kernel::load(plan.rules.iter().copied().max().unwrap_or(1))?;
    for &count in &plan.rules {
        for &family in &plan.families {
            for &profile in &plan.profiles {
                let name = format!("{} {family} {count} rules", profile.name());
                eprintln!("{name}: compiling");
                let row = one(plan, &mut kernel, (profile, family, count)).with_context(|| name)?;
                report.sets.push(row);
                report.save()?;
            }
        }
    }
    Ok(())
}

fn one(
    plan: &Plan,
    kernel: &mut Kernel,
    (profile, family, count): (Profile, Family, usize),
) -> Result<SetRow> {
    let list = RuleList::generate(profile, family, count, 1);
    let mut row = SetRow::new(profile, family, list.rules().len());
    let text = list.to_policy(Order::Position);
    let start = Instant::now();
    let (policy, _) = Policy::parse(&text, "generated.toml")?;
    row.read = milliseconds(start.elapsed());

    let mut rules = None;
    for _ in 0..TIMES {
        let start = Instant::now();
        match compile(&policy) {
            Ok(compiled) => rules = Some(compiled),
            // A figure as well: how large a set of this kind may be.
            Err(error) => {
                eprintln!("  refused: {error}");
                row.refused = Some(error.to_string());
                return Ok(row);
            }
        }
        row.compile.push(milliseconds(start.elapsed()));
    }
    let rules = rules.context("a compiled set")?;
    row.lines = rules.lines().len();
    row.steps = rules.steps();
    for _ in 0..TIMES {
        let start = Instant::now();
        kernel.apply(&rules)?;
        row.swap.push(milliseconds(start.elapsed()));
    }
    row.memory = kernel.apply_and_weigh(&rules)?;

    let traces = traces(plan, kernel, &list)?;
    eprint!("  checking");
    row.checked = check(kernel, (&list, &policy, &rules), &traces)?;
    eprintln!(": {} packets agree", row.checked);
    run(plan, kernel, family, &traces, &mut row)?;
    Ok(row)
}

/// A trace in the kernel.
struct Loaded {
    kind: Kind,
    flows: usize,
    packets: Vec<Packet>,
    segment: Segment,
}

/// Every kind with many flows and with few.
fn traces(plan: &Plan, kernel: &mut Kernel, list: &RuleList) -> Result<Vec<Loaded>> {
    kernel.clear();
    let mut traces = Vec::new();
    for (kind, seed) in Kind::ALL.into_iter().zip(100..) {
        for (flows, packets) in [(plan.flows, plan.flows), (FEW_FLOWS, FEW_FLOWS_PACKETS)] {
            let trace = Trace::generate(kind, list, flows, packets, seed);
            let packets = trace.packets().to_vec();
            let segment = kernel.add(&packets)?;
            traces.push(Loaded {
                kind,
                flows,
                packets,
                segment,
            });
        }
    }
    Ok(traces)
}

/// Kernel, host, the plain reference and the generated rules say the same; returns how often they were asked.
fn check(
    kernel: &mut Kernel,
    (list, policy, rules): (&RuleList, &Policy, &RuleSet),
    traces: &[Loaded],
) -> Result<usize> {
    let mut checked = 0;
    for trace in traces {
        let patience = PATIENCE / traces.len() as u32;
        let start = Instant::now();
        let verdicts = kernel.verdicts(trace.segment)?;
        for (index, packet) in trace.packets.iter().enumerate() {
            let host = rules.classify(&packet.flow(), Direction::Inbound);
            ensure!(
                verdicts[index] == [host.rule_id, host.decision as u32],
                "the kernel says {:?} about {packet:?}, the host {host:?}",
                verdicts[index]
            );
            checked += 1;
        }
        // An odd step, so that these are spread over the trace and none comes twice.
        let step = (trace.packets.len() / 256) | 1;
        for index in (0..REFERENCED).map(|index| index * step % trace.packets.len()) {
            if start.elapsed() > patience {
                break;
            }
            let packet = &trace.packets[index];
            let host = rules.classify(&packet.flow(), Direction::Inbound);
            let expected = reference::classify(policy, packet, Direction::Inbound);
            ensure!(
                host == expected,
                "{packet:?} gets {host:?}, by the reference {expected:?}"
            );
            let first = list
                .first_match(packet)
                .map_or(NO_RULE, |position| position as u32);
            ensure!(
                host.rule_id == first,
                "{packet:?} gets {host:?}, but rule {first} is the first that matches"
            );
        }
    }
    Ok(checked)
}

/// Rounds over all traces, one after the other, so that a slow moment of the machine hits all alike.
fn run(plan: &Plan, kernel: &mut Kernel, family: Family, traces: &[Loaded], row: &mut SetRow) -> Result<()> {
    row.traces = traces
        .iter()
        .map(|trace| TraceRow {
            kind: trace.kind,
            flows: trace.flows,
            walk: Samples::default(),
            classify: Samples::default(),
            frames: Samples::default(),
        })
        .collect();
    for round in 0..plan.rounds {
        eprint!("\r  round {} of {}", round + 1, plan.rounds);
        for (trace, row) in traces.iter().zip(&mut row.traces) {
            if trace.flows == FEW_FLOWS {
                // Established flows: seen before.
                kernel.time(Loop::Classify, trace.segment)?;
            }
            let read = kernel.time(Loop::Read, trace.segment)?;
            row.classify
                .push(kernel.time(Loop::Classify, trace.segment)? - read);
            row.walk.push(kernel.time(Loop::Walk, trace.segment)? - read);
            let rewrite = kernel.time_frames(Single::Rewrite, family, trace.segment)?;
            row.frames
                .push(kernel.time_frames(Single::Frames, family, trace.segment)? - rewrite);
        }
        row.one_frame.push(kernel.time_one_frame(&traces[0].packets[0])?);
    }
    eprintln!();
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
