//! The engine at work: it looks after workers and sequence numbers, and changes policies when somebody wants that.
//!
//! Preparing a policy takes up to seconds and happens in a thread of its own, one policy after the other; meanwhile
//! everything else goes on. Only the swap itself happens here.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ravelin_policy::Surroundings;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::enforcement::{Difference, Installed};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::names::Lookup;
use crate::order::{Applied, ApplyRequest, Order, Reply};
use crate::policy_file::PolicyFile;
use crate::prepare::{ApplyError, Prepared};
use crate::resolver::News;
use crate::thread::in_thread;
use crate::worker::{Worker, WorkerError};

/// How often the engine looks after sequence numbers, workers and addresses.
const TICK: Duration = Duration::from_millis(100);

/// How often it looks whether workers have taken up what was swapped in.
const SWEEP: Duration = Duration::from_millis(2);

/// How often the highest sequence numbers received go to disk. After a crash packets of this long can be replayed once.
const RECORD: Duration = Duration::from_secs(1);

/// Policies that may wait to be prepared.
const MOST_WAITING: usize = 16;

/// A change of the policy that somebody wants.
#[derive(Debug)]
pub(crate) enum Work {
    /// A client's.
    Apply(ApplyRequest, Reply<Applied>),
    /// The file in force, read again.
    Reload,
    /// The policy in force, in surroundings that have changed.
    Renew,
}

/// A policy that is being prepared.
#[derive(Debug)]
pub(crate) struct Job {
    work: Work,
    result: oneshot::Receiver<Result<Option<Prepared>, ApplyError>>,
}

impl Engine {
    /// Serves until `stop` is ready, and reads the policy file in force again for each message in `reloads`. The programs
    /// stay attached: see [`Engine::detach`]. A policy that was not confirmed is taken back.
    ///
    /// # Errors
    ///
    /// [`EngineError::Worker`] when a worker ended by itself.
    pub fn run(
        &mut self,
        stop: impl Future<Output = ()>,
        reloads: UnboundedReceiver<()>,
    ) -> Result<(), EngineError> {
        let Some(runtime) = self.runtime.take() else {
            return Ok(());
        };
        let result = runtime.block_on(self.serve(stop, reloads));
        self.runtime = Some(runtime);
        if self.enforcement.deadline().is_some() {
            self.roll_back("the engine stops");
        }
        result
    }

    async fn serve(
        &mut self,
        stop: impl Future<Output = ()>,
        mut reloads: UnboundedReceiver<()>,
    ) -> Result<(), EngineError> {
        let mut stop = std::pin::pin!(stop);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut recorded = Instant::now();
        let mut complaint = None;
        loop {
            self.begin_next();
            let deadline = self.enforcement.deadline();
            let unswept = self.enforcement.is_unswept();
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some(order) = self.orders.recv() => self.obey(order),
                Some(()) = reloads.recv() => self.reload(),
                result = prepared(&mut self.job) => self.finish(result),
                lookup = self.watch.finished() => self.look_up(lookup),
                () = at(deadline) => self.roll_back("it was not confirmed in time"),
                () = tokio::time::sleep(SWEEP), if unswept => self.sweep(),
                _ = tick.tick() => {
                    self.look_after()?;
                    let record = recorded.elapsed() >= RECORD;
                    if record {
                        recorded = Instant::now();
                    }
                    let failure = self.enforcement.keep_marks(record).err().map(|error| error.to_string());
                    if let Some(text) = failure.as_ref().filter(|_| failure != complaint) {
                        eprintln!("ravelin: {text}");
                    }
                    complaint = failure;
                }
            }
        }
    }

    /// # Errors
    ///
    /// When a thread has ended that never should.
    fn look_after(&mut self) -> Result<(), EngineError> {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.is_finished()) {
            let queue = worker.queue();
            let error = worker.join().err();
            return Err(error.unwrap_or(WorkerError::Panicked { queue }).into());
        }
        if self.resolver.is_finished() {
            return Err(EngineError::ResolverPanicked);
        }
        #[cfg(feature = "log")]
        self.enforcement.filter.flush_log();
        if let Err(error) = self.take_news() {
            eprintln!("ravelin: own addresses: {error}");
        }
        self.watch();
        Ok(())
    }

    /// Follows the machine's own addresses and routes.
    ///
    /// # Errors
    ///
    /// [`EngineError::Filter`].
    fn take_news(&mut self) -> Result<(), EngineError> {
        for news in self.news.try_iter() {
            match news {
                News::Addresses(addresses) => {
                    self.enforcement.filter.set_local(&addresses)?;
                    self.watch.surroundings.own = addresses;
                    self.moved = true;
                }
                // Whether the policy speaks of gateways is seen when it comes to looking.
                News::DefaultRoute => self.watch.hurry(),
            }
        }
        Ok(())
    }

    /// Looks names up when it is time, and has the policy follow what has changed.
    fn watch(&mut self) {
        let written = self.enforcement.current().file.policy();
        if self.watch.is_due() {
            self.watch
                .begin(&written.names(), self.enforcement.previous().is_some());
        }
        let waits = |work: &Work| matches!(work, Work::Renew);
        if std::mem::take(&mut self.moved)
            && written.depends_on_surroundings()
            && !self.queue.iter().any(waits)
        {
            self.queue.push_back(Work::Renew);
        }
    }

    fn look_up(&mut self, lookup: Lookup) {
        let (changed, said) = self.watch.take(lookup);
        for text in said {
            eprintln!("ravelin: {text}");
        }
        self.moved |= changed;
    }

    fn obey(&mut self, order: Order) {
        // Whoever has left does not want the answer.
        match order {
            Order::Status(reply) => drop(reply.send(self.status())),
            Order::Apply(request, reply) if self.queue.len() >= MOST_WAITING => {
                drop(request);
                drop(reply.send(Err(ApplyError::Busy.to_string())));
            }
            Order::Apply(request, reply) => self.queue.push_back(Work::Apply(request, reply)),
            Order::Confirm(reply) => {
                let result = self.enforcement.confirm().map_err(|error| error.to_string());
                if result.is_ok() {
                    eprintln!("ravelin: the policy is confirmed");
                }
                drop(reply.send(result.map(|()| self.policy_status())));
            }
            Order::RollBack(reply) => {
                let result = self.enforcement.roll_back().map_err(|error| error.to_string());
                if result.is_ok() {
                    self.nudge();
                    self.moved = true;
                    eprintln!("ravelin: the policy is rolled back");
                }
                drop(reply.send(result.map(|()| self.policy_status())));
            }
        }
    }

    fn reload(&mut self) {
        let waiting = |work: &Work| matches!(work, Work::Reload);
        if !self.queue.iter().any(waiting) {
            self.queue.push_back(Work::Reload);
        }
    }

    fn roll_back(&mut self, why: &str) {
        let file = self.enforcement.current().file.path().display().to_string();
        match self.enforcement.roll_back() {
            Ok(()) => {
                self.nudge();
                self.moved = true;
                self.fail(format!("{file} was rolled back: {why}"));
            }
            Err(error) => self.fail(format!("{file} could not be rolled back: {error}")),
        }
    }

    /// Starts preparing what comes next, if nothing is being prepared and the swap before is done with.
    fn begin_next(&mut self) {
        while self.job.is_none() && !self.enforcement.is_unswept() {
            let Some(work) = self.queue.pop_front() else {
                return;
            };
            // What is in force on trial may change with its surroundings, but not for another policy.
            if let Some(error) = self.unconfirmed().filter(|_| !matches!(work, Work::Renew)) {
                self.refuse(work, error.to_string());
                continue;
            }
            let path = match &work {
                Work::Apply(request, _) if !request.file.is_absolute() => {
                    let file = request.file.display().to_string();
                    self.refuse(work, format!("{file}: the engine needs an absolute path"));
                    continue;
                }
                Work::Apply(request, _) => Some(request.file.clone()),
                Work::Reload => Some(self.enforcement.current().file.path().to_owned()),
                Work::Renew => None,
            };
            let surroundings = self.watch.surroundings.clone();
            let with_keys = self.enforcement.is_gateway();
            let started = if let Some(path) = path {
                in_thread("ravelin-prepare", move || {
                    load(&path, surroundings, with_keys).map(Some)
                })
            } else {
                let Installed { file, policy, .. } = self.enforcement.current().clone();
                in_thread("ravelin-prepare", move || {
                    Prepared::again(file, surroundings, &policy)
                })
            };
            match started {
                Ok(result) => self.job = Some(Job { work, result }),
                Err(error) => self.refuse(work, error.to_string()),
            }
        }
    }

    fn unconfirmed(&self) -> Option<ApplyError> {
        let deadline = self.enforcement.deadline()?;
        Some(ApplyError::Unconfirmed {
            file: self.enforcement.current().file.path().display().to_string(),
            seconds: deadline.saturating_duration_since(Instant::now()).as_secs() + 1,
        })
    }

    /// Puts in force what was prepared.
    fn finish(&mut self, result: Result<Option<Prepared>, ApplyError>) {
        let Some(Job { work, .. }) = self.job.take() else {
            return;
        };
        let prepared = match result {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return,
            Err(error) => return self.refuse(work, error.to_string()),
        };
        match work {
            Work::Apply(request, reply) if reply.is_closed() => self.refuse(
                Work::Apply(request, reply),
                "nobody waited for it any more".to_owned(),
            ),
            Work::Apply(request, reply) => match self.apply(prepared, &request) {
                Ok(applied) => drop(reply.send(Ok(applied))),
                Err(error) => self.refuse(Work::Apply(request, reply), error.to_string()),
            },
            Work::Renew => self.renew(prepared),
            Work::Reload => {
                let request = ApplyRequest {
                    file: prepared.file.path().to_owned(),
                    confirm_seconds: None,
                    dry_run: false,
                };
                match self.apply(prepared, &request) {
                    Ok(applied) => {
                        for warning in applied.warnings {
                            eprintln!("ravelin: warning: {warning}");
                        }
                    }
                    Err(error) => self.refuse(Work::Reload, error.to_string()),
                }
            }
        }
    }

    /// Puts the policy in force as it is in other surroundings.
    fn renew(&mut self, prepared: Prepared) {
        if !Arc::ptr_eq(prepared.file.policy(), self.enforcement.current().file.policy()) {
            // It was rolled back meanwhile.
            self.moved = true;
            return;
        }
        let warnings = prepared.warnings.clone();
        let result = self.enforcement.apply(prepared, None);
        self.nudge();
        match result {
            Ok(_) => {
                let policy = self.policy_status();
                eprintln!(
                    "ravelin: {} follows changed addresses: generation {}",
                    policy.file.display(),
                    policy.generation
                );
                for warning in warnings {
                    eprintln!("{warning}");
                }
            }
            Err(error) => self.refuse(Work::Renew, error.to_string()),
        }
    }

    fn apply(&mut self, mut prepared: Prepared, request: &ApplyRequest) -> Result<Applied, ApplyError> {
        let mut warnings = std::mem::take(&mut prepared.warnings);
        if prepared.policy.interfaces() != self.enforcement.current().policy.interfaces() {
            warnings.push(
                "`[interfaces]` has changed, which takes effect when Ravelin is started again".to_owned(),
            );
        }
        let mut policy = Self::status_of(&prepared.file, &prepared.policy, 0);
        let difference = if request.dry_run {
            self.enforcement.check(&mut prepared)?
        } else {
            let trial = request
                .confirm_seconds
                .map(|seconds| Duration::from_secs(u64::from(seconds)));
            let surroundings = prepared.surroundings.clone();
            let result = self.enforcement.apply(prepared, trial);
            self.nudge();
            let difference = result?;
            // The machine's addresses may have changed since.
            self.moved |= self.watch.surroundings.own != surroundings.own;
            self.watch.surroundings.names.extend(surroundings.names);
            self.last_error = None;
            policy = self.policy_status();
            warnings.extend(self.enforcement.strangers(&self.watch.surroundings.own));
            eprintln!(
                "ravelin: {} is in force: {} rules, {} connections, generation {}",
                policy.file.display(),
                policy.rules,
                policy.connections,
                policy.generation
            );
            difference
        };
        let Difference {
            rules_added,
            rules_removed,
            started,
            stopped,
        } = difference;
        Ok(Applied {
            policy,
            dry_run: request.dry_run,
            confirm_seconds: request.confirm_seconds,
            rules_added,
            rules_removed,
            started,
            stopped,
            warnings,
        })
    }

    fn refuse(&mut self, work: Work, error: String) {
        match work {
            Work::Apply(request, reply) => {
                if !request.dry_run {
                    self.fail(format!("{} was not applied: {error}", request.file.display()));
                }
                drop(reply.send(Err(error)));
            }
            Work::Reload => {
                let file = self.enforcement.current().file.path().display().to_string();
                self.fail(format!("{file} was not read again: {error}"));
            }
            Work::Renew => {
                let file = self.enforcement.current().file.path().display().to_string();
                self.fail(format!(
                    "{file} does not follow changed addresses, and stays as it is: {error}"
                ));
            }
        }
    }

    fn fail(&mut self, error: String) {
        eprintln!("ravelin: {error}");
        self.last_error = Some(error);
    }

    fn nudge(&self) {
        self.workers.iter().for_each(Worker::nudge);
    }

    fn sweep(&mut self) {
        if let Err(error) = self.enforcement.sweep(&self.workers) {
            self.fail(error.to_string());
        }
    }
}

/// What takes time, for a thread of its own.
fn load(path: &Path, surroundings: Surroundings, with_keys: bool) -> Result<Prepared, ApplyError> {
    let (file, warnings) = PolicyFile::load(path)?;
    let mut prepared = Prepared::new(file, surroundings, with_keys)?;
    let first = warnings.iter().map(ToString::to_string);
    prepared.warnings.splice(0..0, first);
    Ok(prepared)
}

/// What the job comes to; never, without one.
async fn prepared(job: &mut Option<Job>) -> Result<Option<Prepared>, ApplyError> {
    match job {
        Some(job) => (&mut job.result).await.unwrap_or(Err(ApplyError::Panicked)),
        None => std::future::pending().await,
    }
}

/// Ready at `deadline`; never, without one.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
