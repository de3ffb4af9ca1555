//! A rekey while datagrams run in both directions, of which none may be lost.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::session::Session;
use crate::{
    case::{Case, Direction, Generation},
    hosts::PATIENCE,
    namespace::Namespace,
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
    let pumps = [Pump::new(Direction::ToTheirs), Pump::new(Direction::ToOurs)];
    let lost = thread::scope(|scope| {
        let running = pumps.each_ref().map(|pump| scope.spawn(|| pump.run(sessions)));
        let changed = change(sessions, theirs, added, &pumps);
        for pump in &pumps {
            pump.stop.store(true, Ordering::Relaxed);
        }
        let lost = running.map(finished);
        changed.map(|()| lost)
    })?;
    let [to_theirs, to_ours] = lost;
    let outcomes = to_theirs?
        .into_iter()
        .zip(to_ours?)
        .map(|(to_theirs, to_ours)| to_theirs.and(to_ours));
    Ok(outcomes
        .zip(sessions.iter().zip(before))
        .map(|(lost, (session, before))| {
            lost.context("rekey under traffic")?;
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
fn change(sessions: &[Session<'_>], theirs: &Namespace, added: Instant, pumps: &[Pump; 2]) -> Result<()> {
    let all = |lines: &dyn Fn(&Case) -> String| {
        sessions
            .iter()
            .map(|session| lines(&session.case))
            .collect::<String>()
    };
    // Of two SAs that fit the kernel sends with the younger, by its clock's seconds (xfrm_state_look_at).
    await_round(pumps)?;
    while added.elapsed() < Duration::from_secs(1) {
        await_round(pumps)?;
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
        await_round(pumps)?;
    }
    for session in sessions {
        let second = session.pair(Generation::Second);
        session.association.switch(Arc::clone(&second.outbound));
    }
    await_round(pumps)?;
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
    await_round(pumps)
}

/// Waits until both pumps have done a whole round from now on.
fn await_round(pumps: &[Pump; 2]) -> Result<()> {
    // The round that runs now may have sent its datagrams already.
    let targets = pumps.each_ref().map(|pump| pump.rounds() + 2);
    for (pump, target) in pumps.iter().zip(targets) {
        let rounds = pump.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        // A round in which all is lost takes one patience, and a glance for each.
        let (_rounds, waited) = pump
            .turned
            .wait_timeout_while(rounds, 4 * PATIENCE, |rounds| *rounds < target)
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(!waited.timed_out(), "the datagrams {} stopped", pump.direction);
    }
    Ok(())
}

/// Datagrams of all sessions in one direction, one of each on the way at a time.
#[derive(Debug)]
struct Pump {
    direction: Direction,
    rounds: Mutex<u64>,
    turned: Condvar,
    stop: AtomicBool,
}

impl Pump {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            rounds: Mutex::new(0),
            turned: Condvar::new(),
            stop: AtomicBool::new(false),
        }
    }

    fn rounds(&self) -> u64 {
        *self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends and receives until told to stop; what was lost, by session.
    fn run(&self, sessions: &[Session<'_>]) -> Vec<Result<()>> {
        let mut outcomes: Vec<Result<()>> = sessions.iter().map(|_| Ok(())).collect();
        while !self.stop.load(Ordering::Relaxed) {
            let payload = format!("round {}", self.rounds());
            let mut running = |action: &dyn Fn(&Session<'_>) -> Result<()>| {
                for (session, outcome) in sessions.iter().zip(&mut outcomes) {
                    if outcome.is_ok() {
                        *outcome = action(session);
                    }
                }
            };
            running(&|session| session.hosts.send(self.direction, payload.as_bytes()));
            let deadline = Instant::now() + PATIENCE;
            running(&|session| {
                session
                    .hosts
                    .expect_until(self.direction, payload.as_bytes(), deadline)
            });
            *self.rounds.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.turned.notify_all();
        }
        outcomes
    }
}

fn finished(pump: ScopedJoinHandle<'_, Vec<Result<()>>>) -> Result<Vec<Result<()>>> {
    pump.join().map_err(|_| anyhow!("a thread with traffic panicked"))
}
