//! Whether workers go on: one that hangs drops all protected packets of its queue, and nobody else would tell.

use std::time::{Duration, Instant};

/// After so long without a turn a worker is stuck: it never sleeps longer than a second. With the engine's own interval
/// of 100 ms it is told within two seconds.
const STUCK: Duration = Duration::from_millis(1800);

/// The turns of every worker, and since when they have not changed.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    workers: Vec<Beat>,
}

#[derive(Clone, Copy, Debug)]
struct Beat {
    turns: u64,
    since: Instant,
    stuck: bool,
}

/// What has become of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It takes no turns any more.
    Stuck,
    /// It takes turns again, after so long.
    GoesOn(Duration),
}

impl Pulse {
    /// Takes the number of turns of every worker, always in the same order; which have changed, by their index.
    pub(crate) fn take(&mut self, turns: impl Iterator<Item = u64>, now: Instant) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        for (index, turns) in turns.enumerate() {
            let Some(beat) = self.workers.get_mut(index) else {
                self.workers.push(Beat {
                    turns,
                    since: now,
                    stuck: false,
                });
                continue;
            };
            let still = now.duration_since(beat.since);
            if beat.turns != turns {
                if beat.stuck {
                    changes.push((index, Change::GoesOn(still)));
                }
                *beat = Beat {
                    turns,
                    since: now,
                    stuck: false,
                };
            } else if !beat.stuck && still >= STUCK {
                beat.stuck = true;
                changes.push((index, Change::Stuck));
            }
        }
        changes
    }

    /// How long the worker has been stuck, if it is.
    pub(crate) fn stuck(&self, index: usize, now: Instant) -> Option<Duration> {
        let beat = self.workers.get(index).filter(|beat| beat.stuck)?;
        Some(now.duration_since(beat.since))
    }

    /// Whether none is stuck.
    pub(crate) fn is_regular(&self) -> bool {
        self.workers.iter().all(|beat| !beat.stuck)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Change, Pulse};

    #[test]
    fn a_worker_without_turns_is_stuck_until_it_takes_one() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut pulse = Pulse::default();
        assert_eq!(pulse.take([7, 1].into_iter(), at(0)), []);
        // The longest sleep.
        assert_eq!(pulse.take([7, 2].into_iter(), at(1000)), []);
        assert_eq!(pulse.take([7, 3].into_iter(), at(1700)), []);
        assert!(pulse.is_regular());
        assert_eq!(pulse.take([7, 4].into_iter(), at(1800)), [(0, Change::Stuck)]);
        assert!(!pulse.is_regular());
        assert_eq!(pulse.take([7, 5].into_iter(), at(2500)), []);
        assert_eq!(pulse.stuck(0, at(3000)), Some(Duration::from_secs(3)));
        assert_eq!(pulse.stuck(1, at(3000)), None);
        let again = Change::GoesOn(Duration::from_millis(3100));
        assert_eq!(pulse.take([8, 6].into_iter(), at(3100)), [(0, again)]);
        assert!(pulse.is_regular());
        assert_eq!(pulse.stuck(0, at(3200)), None);
        assert_eq!(pulse.take([8, 6].into_iter(), at(4899)), []);
        let both = [(0, Change::Stuck), (1, Change::Stuck)];
        assert_eq!(pulse.take([8, 6].into_iter(), at(4900)), both);
    }
}
