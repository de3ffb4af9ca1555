//! Whether both sides counted the same.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    attack,
    session::{Pair, Session},
};
use crate::{
    case::{Direction, Generation},
    hosts::PATIENCE,
    namespace::Namespace,
    xfrm::{self, State},
};

/// Waits until each session agrees with the kernel: the last packets may still be on their way.
pub(crate) fn await_agreement(
    theirs: &Namespace,
    sessions: &[Session<'_>],
    generation: Generation,
) -> Result<Vec<Result<()>>> {
    let start = Instant::now();
    loop {
        let states = xfrm::states(theirs)?;
        let outcomes: Vec<_> = sessions
            .iter()
            .map(|session| compare(session, generation, &states))
            .collect();
        if outcomes.iter().all(Result::is_ok) || start.elapsed() > PATIENCE {
            return Ok(outcomes);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn compare(session: &Session<'_>, generation: Generation, states: &HashMap<u32, State>) -> Result<()> {
    let case = &session.case;
    let Pair { outbound, inbound } = session.pair(generation);
    let state = |direction| {
        let spi = case.spi(direction, generation);
        let state = states.get(&spi).copied();
        state.with_context(|| format!("the kernel has no SA {spi:#x}"))
    };
    let sent = outbound.sequence().last_used();
    let received = inbound.highest_sequence().context("we have no replay window")?;
    let (replayed, failed) = match generation {
        Generation::First => (attack::REPEATED, attack::CHANGED),
        Generation::Second => (0, 0),
    };
    let (kernel, expected) = (
        state(Direction::ToTheirs)?,
        State {
            received: sent,
            packets: outbound.counters().packets,
            replayed,
            failed,
            ..State::default()
        },
    );
    ensure!(
        kernel == expected,
        "to theirs the kernel counts {kernel:?}, but we {expected:?}"
    );
    let (kernel, expected) = (
        state(Direction::ToOurs)?,
        State {
            sent: received,
            packets: inbound.counters().packets,
            ..State::default()
        },
    );
    ensure!(
        kernel == expected,
        "to ours the kernel counts {kernel:?}, but we {expected:?}"
    );
    // Else the case would show nothing about the number's upper half.
    if case.start(generation) != 0 {
        ensure!(
            sent.min(received) > u64::from(u32::MAX),
            "the numbers never crossed 2^32: {sent:#x} sent, {received:#x} received"
        );
    }
    Ok(())
}
