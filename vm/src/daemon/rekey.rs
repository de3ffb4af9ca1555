//! The daemon gets other SAs under traffic, and the kernel after it; then the old ones are deleted by their SPIs.

use std::{collections::HashMap, time::Instant};

use anyhow::{Context as _, Result, ensure};

use super::engine::{Engine, Sa};
use crate::{
    case::{Case, Direction, Generation},
    hosts::{Hosts, PATIENCE},
    pump::{Pumps, under_traffic},
    topology::Topology,
    xfrm,
};

/// Rekeys all `cases` at once; an outcome for each.
pub(super) fn rekey(topology: &Topology, engine: &Engine, cases: &[Case]) -> Result<Vec<Result<()>>> {
    let hosts = cases.iter().map(|case| Hosts::new(topology, case.addresses()));
    let hosts = hosts.collect::<Result<Vec<_>>>()?;
    let hosts: Vec<_> = hosts.iter().collect();
    under_traffic(&hosts, |pumps| change(topology, engine, cases, pumps))
}

/// The steps of the change, each with traffic before and after it.
fn change(topology: &Topology, engine: &Engine, cases: &[Case], pumps: &Pumps) -> Result<()> {
    let all = |lines: &dyn Fn(&Case) -> String| cases.iter().map(lines).collect::<String>();
    pumps.await_round()?;
    // The daemon is first. Until the kernel has the new SAs it must send with the old one, and open what comes under it.
    engine.rekey(cases, Generation::Second)?;
    pumps.await_round()?;
    expect(engine, cases, &|case, sas| {
        let is = |direction, generation, state: &str| {
            let sa = sas.get(&case.spi(direction, generation));
            sa.is_some_and(|sa| sa.state == state)
        };
        is(Direction::ToTheirs, Generation::First, "in_use")
            && is(Direction::ToTheirs, Generation::Second, "next")
            && is(Direction::ToOurs, Generation::First, "old")
            && is(Direction::ToOurs, Generation::Second, "in_use")
    })
    .context("after the daemon was rekeyed")?;

    // The kernel sends with the younger SA at once, which shows the daemon that it has the pair.
    topology
        .theirs
        .ip(&all(&|case| xfrm::add_states(case, Generation::Second)))?;
    let start = Instant::now();
    while !switched(engine, cases)? && start.elapsed() < PATIENCE {
        pumps.await_round()?;
    }
    expect(engine, cases, &|case, sas| {
        let sa = sas.get(&case.spi(Direction::ToTheirs, Generation::Second));
        sa.is_some_and(|sa| sa.state == "in_use")
    })
    .context("after the kernel was rekeyed")?;
    pumps.await_round()?;

    for case in cases {
        engine.delete(case.spi(Direction::ToOurs, Generation::First))?;
    }
    topology.theirs.ip(&all(&|case| {
        xfrm::delete_state(case, Direction::ToOurs, Generation::First)
            + &xfrm::delete_state(case, Direction::ToTheirs, Generation::First)
    }))?;
    pumps.await_round()?;
    expect(engine, cases, &|case, sas| {
        [Direction::ToTheirs, Direction::ToOurs]
            .iter()
            .all(|direction| !sas.contains_key(&case.spi(*direction, Generation::First)))
    })
    .context("after the old SAs were deleted")
}

/// Whether the daemon sends with the new SAs only.
fn switched(engine: &Engine, cases: &[Case]) -> Result<bool> {
    let sas = engine.status()?.sas;
    let old = |case: &Case| sas.contains_key(&case.spi(Direction::ToTheirs, Generation::First));
    Ok(!cases.iter().any(old))
}

/// Something must hold of the daemon's SAs of every case.
fn expect(engine: &Engine, cases: &[Case], holds: &dyn Fn(&Case, &HashMap<u32, Sa>) -> bool) -> Result<()> {
    let sas = engine.status()?.sas;
    for case in cases {
        let own = [Direction::ToTheirs, Direction::ToOurs].map(|direction| {
            [Generation::First, Generation::Second]
                .map(|generation| sas.get(&case.spi(direction, generation)))
        });
        ensure!(
            holds(case, &sas),
            "{case}: the SAs to theirs and to ours, first and second, are {own:?}"
        );
    }
    Ok(())
}
