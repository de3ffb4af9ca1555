//! A rekey while datagrams run in both directions, of which none may be lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::session::Session;
use crate::{
    case::{Case, Direction, Generation},
    hosts::PATIENCE,
    namespace::Namespace,
    pump::{Pumps, under_traffic},
    xfrm,
};

/// Rekeys all `sessions` at once, make before break; an outcome for each.
///
/// `added` is when the first SAs had been added.
pub(crate) fn rekey(sessions: &[Session<'_>], theirs: &Namespace, added: Instant) -> Result<Vec<Result<()>>> {
    let before: Vec<_> = sessions
        .iter()
        .map(|session| session.pair(Generation::First).packets())
        .collect();
    let hosts: Vec<_> = sessions.iter().map(|session| &session.hosts).collect();
    let outcomes = under_traffic(&hosts, |pumps| change(sessions, theirs, added, pumps))?;
    Ok(outcomes
        .into_iter()
        .zip(sessions.iter().zip(before))
        .map(|(lost, (session, before))| {
            lost?;
            all_carried_traffic(session, before)
        })
        .collect())
}

/// Else the traffic ran before or after the change, and nothing was shown.
fn all_carried_traffic(session: &Session<'_>, before: [u64; 2]) -> Result<()> {
    let old = session.pair(Generation::First).packets();
    let new = session.pair(Generation::Second).packets();
    ensure!(
        old[0] > before[0] && old[1] > before[1] && !new.contains(&0),
        "not all SAs carried traffic during the rekey: old {before:?} to {old:?} packets, new {new:?}"
    );
    Ok(())
}

/// The steps of the change, each with traffic before and after it.
fn change(sessions: &[Session<'_>], theirs: &Namespace, added: Instant, pumps: &Pumps) -> Result<()> {
    let all = |lines: &dyn Fn(&Case) -> String| {
        sessions
            .iter()
            .map(|session| lines(&session.case))
            .collect::<String>()
    };
    // Of two SAs that fit the kernel sends with the younger, by its clock's seconds (xfrm_state_look_at).
    pumps.await_round()?;
    while added.elapsed() < Duration::from_secs(1) {
        pumps.await_round()?;
    }
    for session in sessions {
        session.arm(Generation::Second);
    }
    theirs.ip(&all(&|case| xfrm::add_states(case, Generation::Second)))?;
    // Both sides can receive with the new SAs. The kernel sends with its own at once; had it not done so when the old
    // one goes, it could lose a packet by itself. A session that never gets there fails later.
    let start = Instant::now();
    let switched = || {
        let mut pairs = sessions.iter().map(|session| session.pair(Generation::Second));
        pairs.all(|pair| pair.packets()[1] > 0)
    };
    while !switched() && start.elapsed() < PATIENCE {
        pumps.await_round()?;
    }
    for session in sessions {
        let second = session.pair(Generation::Second);
        session.association.switch(Arc::clone(&second.outbound));
    }
    pumps.await_round()?;
    theirs.ip(&all(&|case| {
        xfrm::delete_state(case, Direction::ToOurs, Generation::First)
    }))?;
    // Nothing sent with the old SAs is still on its way: a round ends when all it sent has arrived.
    theirs.ip(&all(&|case| {
        xfrm::delete_state(case, Direction::ToTheirs, Generation::First)
    }))?;
    for session in sessions {
        session
            .gateway
            .disarm(session.case.spi(Direction::ToOurs, Generation::First));
    }
    pumps.await_round()
}
