//! The engine's account of itself: counters of the driver and of the workers, put together.

use std::time::Instant;

use ravelin_policy::{DefaultAction, Policy};
use ravelin_xdp_common::{DropReason, Pass};

use crate::engine::Engine;
use crate::filter::FilterError;
use crate::policy_file::PolicyFile;
use crate::status::{PendingStatus, PolicyStatus, RuleCount, RuleStatus, Status, WorkerStatus};
use crate::worker::Worker;

impl Engine {
    /// Everything the engine tells about itself, at this moment.
    pub(crate) fn status(&self) -> Result<Status, String> {
        let (filter, ledger) = (&self.enforcement.filter, &self.enforcement.ledger);
        let current = self.enforcement.current();
        let described = |error: FilterError| error.to_string();
        let driver_drops = filter.drops().map_err(described)?;
        let passes = filter.passes().map_err(described)?;
        let rules = filter
            .rules(current.rule_slots.iter().copied())
            .map_err(described)?;
        let audited = filter.audited().map_err(described)?;
        let workers = &self.workers;
        let removed = ledger.removed();
        let deadline = self.enforcement.deadline();
        let now = Instant::now();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            policy: self.policy_status(),
            pending: self
                .enforcement
                .previous()
                .zip(deadline)
                .map(|(previous, deadline)| PendingStatus {
                    seconds_left: deadline.saturating_duration_since(now).as_secs(),
                    previous: Self::status_of(&previous.file, &previous.policy, previous.generation),
                }),
            last_error: self.last_error.clone(),
            provider: self
                .enforcement
                .sas
                .provider()
                .map(|provider| provider.name().to_owned()),
            interfaces: self.interfaces.clone(),
            outcomes: Pass::ALL
                .iter()
                .zip(passes)
                .enumerate()
                .map(|(index, (pass, count))| (pass.name().to_owned(), count + ledger.passed(index)))
                .collect(),
            drops: DropReason::ALL
                .iter()
                .zip(driver_drops)
                .map(|(reason, at_driver)| (reason.name().to_owned(), at_driver + ledger.drops(*reason)))
                .collect(),
            unserved: DropReason::ALL
                .iter()
                .map(|reason| (reason.name().to_owned(), ledger.unserved(*reason)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            audited: DropReason::ALL
                .iter()
                .zip(audited)
                .map(|(reason, count)| (reason.name().to_owned(), count + ledger.audited(*reason)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            rules: current
                .policy
                .rules()
                .iter()
                .zip(current.rule_slots.iter().zip(rules))
                .map(|(rule, (slot, at_driver))| {
                    let elsewhere = ledger.rule(*slot);
                    RuleStatus {
                        name: rule.name.clone(),
                        action: rule.action.to_string(),
                        active: rule.active,
                        packets: at_driver.packets + elsewhere.packets,
                        bytes: at_driver.bytes + elsewhere.bytes,
                    }
                })
                .collect(),
            removed_rules: RuleCount {
                packets: removed.packets,
                bytes: removed.bytes,
            },
            connections: self.enforcement.connection_status(&self.peers),
            workers: workers
                .iter()
                .enumerate()
                .map(|(index, worker)| {
                    let counters = worker.counters();
                    WorkerStatus {
                        queue: worker.queue(),
                        zero_copy: worker.zero_copy(),
                        sealed: counters.sealed.value(),
                        opened: counters.opened.value(),
                        fragmented: counters.fragmented.value(),
                        reassembled: counters.reassembled.value(),
                        mss_clamped: counters.mss_clamped.value(),
                        path_mtus: counters.path_mtus.value(),
                        icmp_errors: counters.icmp_errors.value(),
                        keepalives: counters.keepalives.value(),
                        dummies: counters.dummies.value(),
                        waited: counters.waited.value(),
                        sleeps: counters.sleeps.value(),
                        shared: counters.shared.value(),
                        stuck_seconds: self.pulse.stuck(index, now).map(|stuck| stuck.as_secs()),
                        stuck_crypto_threads: self.stuck_crypto_threads(index, now),
                    }
                })
                .collect(),
        })
    }

    /// Which of a worker's crypto threads hang, by their numbers.
    fn stuck_crypto_threads(&self, worker: usize, now: Instant) -> Vec<usize> {
        let (before, rest) = self.workers.split_at(worker);
        let threads = |workers: &[Worker]| workers.iter().flat_map(Worker::crypto_turns).count();
        let first = self.workers.len() + threads(before);
        let own = 0..threads(&rest[..1]);
        own.filter(|number| self.pulse.stuck(first + number, now).is_some())
            .collect()
    }

    /// The policy in force.
    pub(crate) fn policy_status(&self) -> PolicyStatus {
        let current = self.enforcement.current();
        Self::status_of(&current.file, &current.policy, current.generation)
    }

    pub(crate) fn status_of(file: &PolicyFile, policy: &Policy, generation: u32) -> PolicyStatus {
        PolicyStatus {
            file: file.path().to_owned(),
            sha256: file.sha256().to_owned(),
            generation,
            rules: policy.rules().len(),
            connections: policy.connections().len(),
            default: match policy.default_action() {
                DefaultAction::Permit => "permit",
                DefaultAction::Block => "block",
            }
            .to_owned(),
        }
    }
}
