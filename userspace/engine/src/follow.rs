//! The policy in force follows its surroundings: addresses of the machine, and what names stand for.
//!
//! This needs no file and waits for none, so it happens beside whatever else is being prepared.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::installed::Installed;
use crate::prepare::{ApplyError, Prepared};
use crate::thread::in_thread;

/// The policy in force, being prepared for other surroundings.
#[derive(Debug)]
pub(crate) struct Renewal(oneshot::Receiver<Result<Option<Prepared>, ApplyError>>);

impl Engine {
    /// Starts preparing the policy in force for surroundings that have changed, if nothing of the kind is under way.
    pub(crate) fn follow(&mut self) {
        if !self.moved || self.renewal.is_some() || self.enforcement.is_unswept() {
            return;
        }
        self.moved = false;
        let Installed {
            file,
            policy,
            session,
            ..
        } = self.enforcement.current().clone();
        let next = self.watch.session.clone();
        if !file.policy().depends_on_surroundings() && next == session {
            return;
        }
        let surroundings = self.watch.surroundings.clone();
        let role = self.enforcement.role();
        let started = in_thread("ravelin-follow", move || {
            Prepared::again(file, surroundings, next, role, (&policy, session.as_ref()))
        });
        match started {
            Ok(result) => self.renewal = Some(Renewal(result)),
            Err(error) => self.does_not_follow(&error.to_string()),
        }
    }

    /// Puts the policy in force as it is in other surroundings.
    pub(crate) fn renew(&mut self, result: Result<Option<Prepared>, ApplyError>) {
        self.renewal = None;
        let prepared = match result {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return,
            Err(error) => return self.does_not_follow(&error.to_string()),
        };
        if !Arc::ptr_eq(prepared.file.policy(), self.enforcement.current().file.policy()) {
            // Another one came into force meanwhile.
            self.moved = true;
            return;
        }
        let warnings = prepared.warnings.clone();
        let note = prepared.hold.as_ref().map(|hold| hold.note.clone());
        let session = prepared.session.clone();
        let otherwise = session != self.enforcement.current().session;
        let result = self.enforcement.apply(prepared, None, &self.workers);
        self.nudge();
        match result {
            Ok(_) => {
                let policy = self.policy_status();
                eprintln!(
                    "ravelin: {} follows {}: generation {}",
                    policy.file.display(),
                    if otherwise {
                        "how the session comes"
                    } else {
                        "changed addresses"
                    },
                    policy.generation
                );
                self.watch.session = self.as_last_seen(session.clone());
                self.moved |= self.watch.session != session;
                self.record_session();
                if let Some(note) = note.filter(|_| otherwise) {
                    eprintln!("ravelin: {note}");
                }
                for warning in warnings {
                    eprintln!("{warning}");
                }
            }
            Err(error) => self.does_not_follow(&error.to_string()),
        }
    }

    fn does_not_follow(&mut self, why: &str) {
        let file = self.enforcement.current().file.path().display().to_string();
        self.fail(format!(
            "{file} does not follow changed addresses, and stays as it is: {why}"
        ));
    }
}

/// What the renewal comes to; never, without one.
pub(crate) async fn renewed(renewal: &mut Option<Renewal>) -> Result<Option<Prepared>, ApplyError> {
    match renewal {
        Some(Renewal(result)) => result.await.unwrap_or(Err(ApplyError::Panicked)),
        None => std::future::pending().await,
    }
}
