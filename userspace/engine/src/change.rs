//! Changes of the policy: what clients and SIGHUP want, prepared one after the other.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ravelin_policy::Surroundings;
use tokio::sync::oneshot;

use crate::difference::Difference;
use crate::engine::Engine;
use crate::held::{Comes, Held};
use crate::order::{Applied, ApplyRequest, Reply};
use crate::policy_file::PolicyFile;
use crate::prepare::{ApplyError, Prepared};
use crate::reading::Reading;
use crate::role::Role;
use crate::thread::in_thread;

/// Policies that may wait to be prepared.
pub(crate) const MOST_WAITING: usize = 16;

/// Threads that may be left behind with files that do not answer: each may hold a policy's text.
const MOST_STALLED: usize = 16;

/// Why a policy is not applied whose client has left.
const NOBODY_WAITS: &str = "nobody waited for it any more";

/// A change of the policy that somebody wants.
#[derive(Debug)]
pub(crate) enum Work {
    /// A client's.
    Apply(ApplyRequest, Reply<Applied>),
    /// The file in force, read again.
    Reload,
}

/// A policy that is being prepared.
#[derive(Debug)]
pub(crate) struct Job {
    work: Work,
    path: PathBuf,
    reading: Reading,
    result: oneshot::Receiver<Result<Prepared, ApplyError>>,
}

impl Engine {
    pub(crate) fn reload(&mut self) {
        let waiting = |work: &Work| matches!(work, Work::Reload);
        if !self.queue.iter().any(waiting) {
            self.queue.push_back(Work::Reload);
        }
    }

    pub(crate) fn roll_back(&mut self, why: &str) {
        let file = self.enforcement.current().file.path().display().to_string();
        match self.enforcement.roll_back(&self.workers) {
            Ok(()) => {
                self.is_back();
                self.fail(format!("{file} was rolled back: {why}"));
            }
            Err(error) => self.fail(format!("{file} could not be rolled back: {error}")),
        }
    }

    /// The policy before is in force again, with the lifeline that it had. The surroundings may be others meanwhile.
    pub(crate) fn is_back(&mut self) {
        self.nudge();
        self.moved = true;
        let back = self.enforcement.current().session.clone();
        self.watch.session = self.as_last_seen(back);
        self.record_session();
    }

    /// A session as it was taken to be some time ago, or inside ESP if it was seen to come so since. What else was seen, anybody may have sent.
    pub(crate) fn as_last_seen(&self, then: Option<Held>) -> Option<Held> {
        let now = self.watch.session.as_ref();
        match now.zip(then.as_ref()) {
            Some((now, then)) if now.session == then.session && matches!(now.comes, Comes::Inside(_)) => {
                Some(now.clone())
            }
            _ => then,
        }
    }

    /// Starts preparing what comes next, if nothing is being prepared and the swap before is done with.
    pub(crate) fn begin_next(&mut self) {
        while self.job.is_none() && !self.enforcement.is_unswept() {
            let Some(work) = self.queue.pop_front() else {
                return;
            };
            if let Work::Apply(_, reply) = &work
                && reply.is_closed()
            {
                self.refuse(work, NOBODY_WAITS.to_owned());
                continue;
            }
            if let Some(error) = self.unconfirmed() {
                self.refuse(work, error.to_string());
                continue;
            }
            let path = match &work {
                Work::Apply(request, _) if !request.file.is_absolute() => {
                    let file = request.file.display().to_string();
                    self.refuse(work, format!("{file}: the engine needs an absolute path"));
                    continue;
                }
                Work::Apply(request, _) => request.file.clone(),
                Work::Reload => self.enforcement.current().file.path().to_owned(),
            };
            if let Some(error) = self.still_stalled(&path) {
                self.refuse(work, error.to_string());
                continue;
            }
            let surroundings = self.watch.surroundings.clone();
            let mut session = self.watch.session.clone();
            let asking = match &work {
                Work::Apply(request, _) => request.session,
                Work::Reload => None,
            };
            let mut strange = None;
            match asking.map(|session| session.admit(&surroundings.own)) {
                Some(Ok(Some(asking))) => session = Some(Held::new(asking, self.comes(asking))),
                Some(Err(error)) => strange = Some(error.to_string()),
                Some(Ok(None)) | None => {}
            }
            let role = self.enforcement.role();
            let reading = Reading::default();
            let (file, watched) = (path.clone(), reading.clone());
            let started = in_thread("ravelin-prepare", move || {
                let mut prepared = load(&file, &watched, surroundings, session, role)?;
                prepared.warnings.extend(strange);
                Ok(prepared)
            });
            match started {
                Ok(result) => {
                    self.job = Some(Job {
                        work,
                        path,
                        reading,
                        result,
                    });
                }
                Err(error) => self.refuse(work, error.to_string()),
            }
        }
    }

    /// Has a policy whose files do not answer fail. Its thread cannot be ended, and is left to itself.
    pub(crate) fn lose_patience(&mut self) {
        let Some(stalled) = self.job.as_ref().and_then(|job| job.reading.stalled()) else {
            return;
        };
        if let Some(job) = self.job.take() {
            self.stalled.push((job.path, job.reading));
            self.refuse(job.work, ApplyError::Stalled(stalled).to_string());
        }
    }

    /// Why it makes no sense to begin with a policy: it is waited for already, or so many are.
    fn still_stalled(&mut self, path: &Path) -> Option<ApplyError> {
        self.stalled.retain(|(_, reading)| !reading.is_over());
        let mut same = self.stalled.iter().filter(|(other, _)| other == path);
        if let Some(stalled) = same.find_map(|(_, reading)| reading.stalled()) {
            return Some(ApplyError::Stalled(stalled));
        }
        (self.stalled.len() >= MOST_STALLED).then(|| ApplyError::ManyStalled(self.stalled.len()))
    }

    fn unconfirmed(&self) -> Option<ApplyError> {
        let deadline = self.enforcement.deadline()?;
        Some(ApplyError::Unconfirmed {
            file: self.enforcement.current().file.path().display().to_string(),
            seconds: deadline.saturating_duration_since(Instant::now()).as_secs() + 1,
        })
    }

    /// Puts in force what was prepared.
    pub(crate) fn finish(&mut self, result: Result<Prepared, ApplyError>) {
        let Some(Job { work, .. }) = self.job.take() else {
            return;
        };
        let prepared = match result {
            Ok(prepared) => prepared,
            Err(error) => return self.refuse(work, error.to_string()),
        };
        match work {
            Work::Apply(request, reply) if reply.is_closed() => {
                self.refuse(Work::Apply(request, reply), NOBODY_WAITS.to_owned());
            }
            Work::Apply(request, reply) => match self.apply(prepared, &request) {
                Ok(applied) => drop(reply.send(Ok(applied))),
                Err(error) => self.refuse(Work::Apply(request, reply), error.to_string()),
            },
            Work::Reload => {
                let request = ApplyRequest {
                    file: prepared.file.path().to_owned(),
                    confirm_seconds: None,
                    dry_run: false,
                    session: None,
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

    fn apply(&mut self, mut prepared: Prepared, request: &ApplyRequest) -> Result<Applied, ApplyError> {
        let mut warnings = std::mem::take(&mut prepared.warnings);
        if prepared.policy.interfaces() != self.enforcement.current().policy.interfaces() {
            warnings.push(
                "`[interfaces]` has changed, which takes effect when Ravelin is started again".to_owned(),
            );
        }
        let mut policy = Self::status_of(&prepared.file, &prepared.policy, 0);
        let session = prepared.hold.as_ref().map(|hold| hold.note.clone());
        let difference = if request.dry_run {
            self.enforcement.check(&mut prepared)?
        } else {
            let trial = request
                .confirm_seconds
                .map(|seconds| Duration::from_secs(u64::from(seconds)));
            let surroundings = prepared.surroundings.clone();
            let held = prepared.session.clone();
            let result = self.enforcement.apply(prepared, trial, &self.workers);
            self.nudge();
            let difference = result?;
            // The machine's addresses may have changed since.
            self.moved |= self.watch.surroundings.own != surroundings.own;
            self.watch.surroundings.names.extend(surroundings.names);
            self.watch.session = self.as_last_seen(held);
            self.moved |= self.watch.session != self.enforcement.current().session;
            self.record_session();
            self.last_error = None;
            policy = self.policy_status();
            warnings.extend(self.enforcement.strangers(&self.watch.surroundings.own));
            warnings.extend(self.enforcement.missing_sas());
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
            rekeyed,
            stopped,
        } = difference;
        Ok(Applied {
            policy,
            dry_run: request.dry_run,
            confirm_seconds: request.confirm_seconds,
            rules_added,
            rules_removed,
            started,
            rekeyed,
            stopped,
            session,
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
        }
    }

    pub(crate) fn fail(&mut self, error: String) {
        eprintln!("ravelin: {error}");
        self.last_error = Some(error);
    }
}

/// What takes time, for a thread of its own.
fn load(
    path: &Path,
    reading: &Reading,
    surroundings: Surroundings,
    session: Option<Held>,
    role: Role,
) -> Result<Prepared, ApplyError> {
    let (file, warnings) = PolicyFile::load_watched(path, reading)?;
    let mut prepared = Prepared::new(file, surroundings, session, role, reading)?;
    let first = warnings.iter().map(ToString::to_string);
    prepared.warnings.splice(0..0, first);
    Ok(prepared)
}

/// What the job comes to; never, without one.
pub(crate) async fn prepared(job: &mut Option<Job>) -> Result<Prepared, ApplyError> {
    match job {
        Some(job) => (&mut job.result).await.unwrap_or(Err(ApplyError::Panicked)),
        None => std::future::pending().await,
    }
}
