//! What the service manager is told (sd_notify(3)), if one has started this process.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The service manager's end.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// How often it wants to hear that all is well, and when it heard so last.
    watchdog: Option<(Duration, Instant)>,
}

impl Supervisor {
    /// Learns from the environment who started this process.
    pub(crate) fn new() -> Self {
        Self {
            // Twice in the time that the manager allows, as sd_watchdog_enabled(3) advises, and some to spare.
            watchdog: sd_notify::watchdog_enabled().map(|longest| (longest / 3, Instant::now())),
        }
    }

    /// The policy is in force.
    pub(crate) fn ready(&self, summary: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(summary)]);
    }

    /// What an operator should see in `systemctl status`.
    pub(crate) fn status(&self, text: &str) {
        tell(&[NotifyState::Status(text)]);
    }

    /// All workers go on. Silence has the manager start the process anew.
    pub(crate) fn alive(&mut self, now: Instant) {
        if let Some((interval, last)) = &mut self.watchdog
            && now.duration_since(*last) >= *interval
        {
            *last = now;
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// The engine ends in order.
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// Without a manager this does nothing; one that does not listen loses what it could have known.
fn tell(state: &[NotifyState<'_>]) {
    drop(sd_notify::notify(state));
}
