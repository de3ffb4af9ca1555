//! What a thread that prepares a policy reads at the moment, and how long the files have kept it waiting.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the files of a policy may keep the engine waiting, all together. A disk that has to spin up takes some ten
/// seconds, a file server that does not answer for ever.
const PATIENCE: Duration = Duration::from_secs(15);

/// Shared with the thread that reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What is being read, and since when.
    now: Option<(String, Instant)>,
    /// What came before took so long.
    spent: Duration,
}

/// What does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled(String);

impl Reading {
    pub(crate) fn begin(&self, what: String) {
        self.state().now = Some((what, Instant::now()));
    }

    pub(crate) fn end(&self) {
        let mut state = self.state();
        if let Some((_, since)) = state.now.take() {
            state.spent += since.elapsed();
        }
    }

    /// What is waited for longer than is good. Time that is spent computing does not count: that ends by itself.
    pub(crate) fn stalled(&self) -> Option<Stalled> {
        let state = self.state();
        let (what, since) = state.now.as_ref()?;
        (state.spent + since.elapsed() > PATIENCE).then(|| Stalled(what.clone()))
    }

    /// Whether nobody else has it any more: the thread has ended.
    pub(crate) fn is_over(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment; a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} does not answer: {} s were waited for it; is its file system there?",
            self.0,
            PATIENCE.as_secs()
        )
    }
}
