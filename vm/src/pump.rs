//! Datagrams that run while something changes, of which none may be lost.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    case::Direction,
    hosts::{Hosts, PATIENCE},
};

/// Has datagrams run between all `hosts`, in both directions, while `change` runs; what was lost, by place in `hosts`.
pub(crate) fn under_traffic(
    hosts: &[&Hosts<'_>],
    change: impl FnOnce(&Pumps) -> Result<()>,
) -> Result<Vec<Result<()>>> {
    let pumps = Pumps([Pump::new(Direction::ToTheirs), Pump::new(Direction::ToOurs)]);
    let lost = thread::scope(|scope| {
        let running = pumps.0.each_ref().map(|pump| scope.spawn(|| pump.run(hosts)));
        let changed = change(&pumps);
        for pump in &pumps.0 {
            pump.stop.store(true, Ordering::Relaxed);
        }
        let lost = running.map(finished);
        changed.map(|()| lost)
    })?;
    let [to_theirs, to_ours] = lost;
    let both = to_theirs?.into_iter().zip(to_ours?);
    Ok(both
        .map(|(to_theirs, to_ours)| to_theirs.and(to_ours).context("under traffic"))
        .collect())
}

/// Both directions.
#[derive(Debug)]
pub(crate) struct Pumps([Pump; 2]);

impl Pumps {
    /// Waits until all hosts have sent and received in both directions from now on.
    pub(crate) fn await_round(&self) -> Result<()> {
        // The round that runs now may have sent its datagrams already.
        let targets = self.0.each_ref().map(|pump| pump.rounds() + 2);
        for (pump, target) in self.0.iter().zip(targets) {
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
}

/// Datagrams of all hosts in one direction, one of each on the way at a time.
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

    /// Sends and receives until told to stop; what was lost, by place in `hosts`.
    fn run(&self, hosts: &[&Hosts<'_>]) -> Vec<Result<()>> {
        let mut outcomes: Vec<Result<()>> = hosts.iter().map(|_| Ok(())).collect();
        while !self.stop.load(Ordering::Relaxed) {
            let payload = format!("round {}", self.rounds());
            let mut running = |action: &dyn Fn(&Hosts<'_>) -> Result<()>| {
                for (hosts, outcome) in hosts.iter().zip(&mut outcomes) {
                    if outcome.is_ok() {
                        *outcome = action(hosts);
                    }
                }
            };
            running(&|hosts| hosts.send(self.direction, payload.as_bytes()));
            let deadline = Instant::now() + PATIENCE;
            running(&|hosts| hosts.expect_until(self.direction, payload.as_bytes(), deadline));
            *self.rounds.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.turned.notify_all();
        }
        outcomes
    }
}

fn finished(pump: ScopedJoinHandle<'_, Vec<Result<()>>>) -> Result<Vec<Result<()>>> {
    pump.join().map_err(|_| anyhow!("a thread with traffic panicked"))
}
