//! userspace/esp, in a small gateway, against the kernel: the whole matrix.

mod agreement;
mod association;
mod attack;
mod fragments;
mod gateway;
mod port;
mod reassembly;
mod rekey;
mod session;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Result, anyhow, ensure};
use ravelin_esp::DropReason;

use self::{
    agreement::await_agreement,
    attack::attack,
    gateway::{CLEAR_MTU, Gateway},
    rekey::rekey,
    session::Session,
};
use crate::{
    case::{Case, Direction, Generation},
    report::Report,
    topology::Topology,
    traffic::{self, Sizes},
    xfrm,
};

/// Algorithms whose cases run at the same time: while one waits, another has work.
const AT_ONCE: usize = 2;

/// Runs the cases whose names contain all of `wanted`.
pub(crate) fn run(wanted: &[String], report: &Report) -> Result<()> {
    let mut groups = Case::all();
    for group in &mut groups {
        group.retain(|case| {
            let name = name(case);
            wanted.iter().all(|word| name.contains(word))
        });
    }
    groups.retain(|group| !group.is_empty());
    if groups.is_empty() {
        return Ok(());
    }
    let topology = Topology::create("esp", CLEAR_MTU)?;
    let gateway = Gateway::start(&topology)?;
    let left = Mutex::new(groups.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || -> Result<u64> {
        let mut attacked = 0;
        while let Some(cases) = next() {
            for (case, outcome) in cases.iter().zip(group(&topology, &gateway, &cases)) {
                attacked += u64::from(outcome.is_ok());
                report.case(&name(case), outcome)?;
            }
        }
        Ok(attacked)
    };
    let attacked = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
            .sum::<Result<u64>>()
    })?;
    report.case("esp/nothing-else-dropped", no_other_errors(&topology, attacked))
}

fn name(case: &Case) -> String {
    format!("esp/{case}/{}", case.provider)
}

/// Takes the cases of one algorithm through everything; an outcome for each.
fn group(topology: &Topology, gateway: &Gateway, cases: &[Case]) -> Vec<Result<()>> {
    let mut group = Group::default();
    let ended = group.run(topology, gateway, cases);
    let outcome = |case: &Case| match (group.failed.remove(&case.number), &ended) {
        (Some(error), _) => Err(error),
        // What concerns them all fails each.
        (None, Err(error)) => Err(anyhow!("{error:#}")),
        (None, Ok(())) => Ok(()),
    };
    cases.iter().map(outcome).collect()
}

/// The cases of one algorithm.
#[derive(Debug, Default)]
struct Group<'m> {
    /// Those that have not failed. Each step builds on the one before, so a failed case goes no further.
    sessions: Vec<Session<'m>>,
    /// Why the others have, by number.
    failed: HashMap<u16, anyhow::Error>,
}

impl<'m> Group<'m> {
    fn run(&mut self, topology: &'m Topology, gateway: &'m Gateway, cases: &[Case]) -> Result<()> {
        let theirs = &topology.theirs;
        let first = |case| xfrm::add_states(case, Generation::First) + &xfrm::policies(case, "add");
        theirs.ip(&cases.iter().map(first).collect::<String>())?;
        let added = Instant::now();
        for case in cases {
            self.sessions.push(Session::new(*case, gateway, topology)?);
        }
        self.settle(side_by_side(&self.sessions));
        self.settle(await_agreement(theirs, &self.sessions, Generation::First)?);
        self.settle(rekey(&self.sessions, theirs, added)?);
        self.settle(await_agreement(theirs, &self.sessions, Generation::Second)?);
        self.settle(self.sessions.iter().map(nothing_dropped).collect());
        let last = |session: &Session<'_>| {
            let states = [Direction::ToTheirs, Direction::ToOurs]
                .map(|direction| xfrm::delete_state(&session.case, direction, Generation::Second));
            xfrm::policies(&session.case, "delete") + &states.concat()
        };
        theirs.ip(&self.sessions.iter().map(last).collect::<String>())
    }

    /// Sets those aside that have failed. `outcomes` are the sessions', in their order.
    fn settle(&mut self, outcomes: Vec<Result<()>>) {
        let mut outcomes = outcomes.into_iter();
        self.sessions.retain(|session| match outcomes.next() {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                let error = match session.association.dropped().as_slice() {
                    [] => error,
                    dropped => anyhow!("{error:#}; we dropped {}", listed(dropped)),
                };
                self.failed.insert(session.case.number, error);
                false
            }
            None => unreachable!("there is an outcome for each session"),
        });
    }
}

/// Traffic and attacks, all sessions at once.
fn side_by_side(sessions: &[Session<'_>]) -> Vec<Result<()>> {
    thread::scope(|scope| {
        let running: Vec<_> = sessions
            .iter()
            .map(|session| scope.spawn(|| exercise(session)))
            .collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended
            .map(|ended| ended.unwrap_or_else(|_| Err(anyhow!("its thread panicked"))))
            .collect()
    })
}

fn exercise(session: &Session<'_>) -> Result<()> {
    let case = &session.case;
    traffic::exchange(&session.hosts, case, &Sizes::all(case))?;
    attack(session)
}

/// What is not attacked must never be dropped.
fn nothing_dropped(session: &Session<'_>) -> Result<()> {
    ensure!(session.association.dropped().is_empty(), "not everything arrived");
    Ok(())
}

fn listed(dropped: &[(Direction, DropReason)]) -> String {
    let listed = dropped
        .iter()
        .map(|(direction, reason)| format!("{} {direction}", reason.name()));
    listed.collect::<Vec<_>>().join(", ")
}

/// The kernel's own sum/// The kernel's own sum of what went wrong: the attacks, and nothing else.
fn no_other_errors(topology: &Topology, attacked: u64) -> Result<()> {
    let mut expected = BTreeMap::from([
        ("XfrmInStateProtoError".to_owned(), attacked * attack::CHANGED),
        ("XfrmInStateSeqError".to_owned(), attacked * attack::REPEATED),
    ]);
    expected.retain(|_, count| *count != 0);
    let errors = xfrm::errors(&topology.theirs)?;
    ensure!(
        errors == expected,
        "the kernel counts {errors:?}, expected {expected:?}"
    );
    Ok(())
}
