//! The daemon, `ravelin run`, as a gateway against the kernel: a tunnel for each algorithm, which is then rekeyed.

mod engine;
mod moved;
mod policy;
mod rekey;

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use self::{
    engine::{Engine, Sa, Status},
    rekey::rekey,
};
use crate::{
    case::{Case, Direction, Generation},
    hosts::{Hosts, PATIENCE},
    report::Report,
    topology::Topology,
    traffic::{self, Sizes},
    xfrm::{self, State},
};

/// Bytes between our host and the gateway. Packets of the outer link's size do not fit it once sealed.
const CLEAR_MTU: usize = 1500;

/// Runs the cases whose names contain all of `wanted`.
pub(crate) fn run(wanted: &[String], report: &Report) -> Result<()> {
    let mut cases = Case::tunnels();
    cases.retain(|case| {
        let name = name(case);
        wanted.iter().all(|word| name.contains(word))
    });
    if cases.is_empty() {
        return Ok(());
    }
    let mut topology = Topology::create("daemon", CLEAR_MTU)?;
    topology.route()?;
    let lines = |case| xfrm::add_states(case, Generation::First) + &xfrm::policies(case, "add");
    topology.theirs.ip(&cases.iter().map(lines).collect::<String>())?;
    let mut engine = Engine::start(&topology, &cases)?;

    let outcomes = side_by_side(&topology, &cases);
    let (counted, _) = await_agreement(&topology, &engine, &cases, &outcomes, Generation::First)?;
    for ((case, outcome), counted) in cases.iter().zip(outcomes).zip(counted) {
        report.case(&name(case), outcome.and(counted))?;
    }
    let outcomes = rekey(&topology, &engine, &cases)?;
    let (counted, status) = await_agreement(&topology, &engine, &cases, &outcomes, Generation::Second)?;
    for ((case, outcome), counted) in cases.iter().zip(outcomes).zip(counted) {
        report.case(&format!("{}/rekey", name(case)), outcome.and(counted))?;
    }
    report.case(
        "daemon/nothing-dropped",
        nothing_dropped(&topology, &status.drops),
    )?;
    let moving = moved::cases(&cases);
    if !moving.is_empty() {
        moved::move_port(&mut topology, &moving)?;
        for case in &moving {
            let told = moved::is_told(&topology, &engine, case);
            report.case(&format!("{}/moved-told", name(case)), told)?;
        }
        engine.follow_ports(&cases, Generation::Second)?;
        for case in &moving {
            let followed = moved::is_followed(&topology, &engine, case);
            report.case(&format!("{}/moved-followed", name(case)), followed)?;
        }
    }
    report.case("daemon/stops", engine.stop())
}

fn name(case: &Case) -> String {
    format!("daemon/{case}")
}

fn side_by_side(topology: &Topology, cases: &[Case]) -> Vec<Result<()>> {
    let exercise = |case: &Case| {
        let hosts = Hosts::new(topology, case.addresses())?;
        traffic::exchange(&hosts, case, &Sizes::whole(case))
    };
    thread::scope(|scope| {
        let running: Vec<_> = cases.iter().map(|case| scope.spawn(|| exercise(case))).collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended
            .map(|ended| ended.unwrap_or_else(|_| Err(anyhow!("its thread panicked"))))
            .collect()
    })
}

/// Waits until the engine and the kernel count the same, in all cases that went well so far: the last packets may still
/// be on their way. Also the engine's last word.
fn await_agreement(
    topology: &Topology,
    engine: &Engine,
    cases: &[Case],
    outcomes: &[Result<()>],
    generation: Generation,
) -> Result<(Vec<Result<()>>, Status)> {
    let start = Instant::now();
    loop {
        let states = xfrm::states(&topology.theirs)?;
        let status = engine.status()?;
        let counted: Vec<_> = cases
            .iter()
            .map(|case| compare(case, generation, &states, &status.sas))
            .collect();
        let agreed = counted
            .iter()
            .zip(outcomes)
            .all(|(counted, outcome)| counted.is_ok() || outcome.is_err());
        if agreed || start.elapsed() > PATIENCE {
            return Ok((counted, status));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn compare(
    case: &Case,
    generation: Generation,
    states: &HashMap<u32, State>,
    sas: &HashMap<u32, Sa>,
) -> Result<()> {
    for direction in [Direction::ToTheirs, Direction::ToOurs] {
        let spi = case.spi(direction, generation);
        let kernel = states
            .get(&spi)
            .with_context(|| format!("the kernel has no SA {spi:#x}"))?;
        let Sa {
            packets, sequence, ..
        } = *sas.get(&spi).with_context(|| format!("we have no SA {spi:#x}"))?;
        let (sent, received) = match direction {
            Direction::ToTheirs => (0, sequence),
            Direction::ToOurs => (sequence, 0),
        };
        let expected = State {
            sent,
            received,
            packets,
            ..State::default()
        };
        ensure!(
            *kernel == expected,
            "{direction} the kernel counts {kernel:?}, but we {expected:?}"
        );
    }
    Ok(())
}

/// Nobody attacks here.
fn nothing_dropped(topology: &Topology, drops: &HashMap<String, u64>) -> Result<()> {
    ensure!(drops.is_empty(), "we dropped {drops:?}");
    let errors = xfrm::errors(&topology.theirs)?;
    ensure!(errors.is_empty(), "the kernel counts {errors:?}");
    Ok(())
}
