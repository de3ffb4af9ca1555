//! Policies in force, one after the other: maps, SAs, and what workers share change together.
//!
//! A swap is ordered so that every packet meets one policy whole, and nothing leaks meanwhile:
//!
//! 1. New SAs start; workers get to know them beside the old ones; the driver learns their SPIs.
//! 2. The driver's rule set changes, for all packets at once. From here on clear packets are decided by the new one.
//! 3. Workers take up the new rules, against which opened packets are held, and forget connections that are gone. A packet
//!    that was redirected to one of those before is dropped.
//! 4. The driver forgets SPIs that are gone.
//! 5. When every worker has taken up the new generation, connections that are gone stop and counters of rules that are
//!    gone may be used again.
//!
//! What fails before the end of step 2 is undone.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ravelin_esp::Provider;
use ravelin_keying::KeyingError;
use ravelin_policy::{Policy, Spi};
use ravelin_xdp_common::RuleCounter;

use crate::adjacency::Adjacencies;
use crate::connection::Connection;
use crate::filter::{Filter, FilterError};
use crate::installed::{Installed, names};
use crate::preflight::{check_connections, check_mtu};
use crate::prepare::{ApplyError, Prepared};
use crate::regime::{Regime, Shared};
use crate::sas::Sas;
use crate::slots::Slots;
use crate::worker::Worker;

/// How many rules' counters are read out at a time: the engine has other things to do.
const SWEEP: usize = 4096;

/// How long to wait before another attempt to roll back.
const RETRY: Duration = Duration::from_secs(1);

/// A policy that is in force on trial.
#[derive(Debug)]
struct Trial {
    previous: Installed,
    deadline: Instant,
}

/// What a swap changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) rules_added: usize,
    pub(crate) rules_removed: usize,
    pub(crate) started: Vec<String>,
    pub(crate) stopped: Vec<String>,
}

/// How an enforcement is to work.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) filter: Filter,
    /// How many rule counters the filter has.
    pub(crate) max_rules: u32,
    /// The folder of sequence marks.
    pub(crate) state: PathBuf,
    pub(crate) provider: Provider,
    pub(crate) adjacencies: Arc<Adjacencies>,
    /// Name of the outer device.
    pub(crate) outer: String,
    /// Whether there is a clear side.
    pub(crate) gateway: bool,
}

/// The policy in force and everything that puts it there.
#[derive(Debug)]
pub(crate) struct Enforcement {
    pub(crate) filter: Filter,
    pub(crate) sas: Sas,
    shared: Arc<Shared>,
    slots: Slots,
    outer: String,
    gateway: bool,
    current: Installed,
    trial: Option<Trial>,
    /// The generation given out last.
    generation: u32,
    /// What rules have counted that are gone.
    removed: RuleCounter,
    /// Connections and counters of earlier generations are to be taken down.
    unswept: bool,
}

impl Enforcement {
    /// Puts a first policy in force.
    ///
    /// # Errors
    ///
    /// [`ApplyError`].
    pub(crate) fn start(means: Means, mut prepared: Prepared) -> Result<Self, ApplyError> {
        let Means {
            filter,
            max_rules,
            state,
            provider,
            adjacencies,
            outer,
            gateway,
        } = means;
        check_connections(&prepared.policy, gateway)?;
        let mut slots = Slots::new(max_rules);
        let mut sas = Sas::new(state, provider);
        let generation = 1;
        let connections = match prepared.keys.take().filter(|_| gateway) {
            Some(mut keys) => {
                sas.check(&prepared.policy, &mut keys)?;
                sas.start(&prepared.policy, keys, &[], generation)?
            }
            None => Vec::new(),
        };
        check_mtu(
            &prepared.policy,
            &connections,
            &outer,
            adjacencies.current().outer.mtu,
        )?;
        let current = Installed::new(prepared, &mut slots, connections, generation)?;
        let mut enforcement = Self {
            filter,
            sas,
            shared: Arc::new(Shared::new(current.regime(), adjacencies)),
            slots,
            outer,
            gateway,
            current,
            trial: None,
            generation,
            removed: RuleCounter::default(),
            unswept: false,
        };
        let first = &enforcement.current;
        enforcement.filter.apply(&first.rules, generation)?;
        announce(&mut enforcement.filter, &first.connections)?;
        Ok(enforcement)
    }

    /// What workers share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Warnings about connections whose own end is none of these addresses.
    pub(crate) fn strangers(&self, own: &[IpAddr]) -> Vec<String> {
        let connections = self.current.policy.connections().iter();
        connections
            .filter(|connection| !own.contains(&connection.local))
            .map(|connection| {
                format!(
                    "connection `{}`: {} is not an address of this machine, so the peer's answers will not find it",
                    connection.name, connection.local
                )
            })
            .collect()
    }

    /// Whether there is a clear side.
    pub(crate) fn is_gateway(&self) -> bool {
        self.gateway
    }

    /// The policy in force.
    pub(crate) fn current(&self) -> &Installed {
        &self.current
    }

    /// What rules have counted that are gone.
    pub(crate) fn removed(&self) -> RuleCounter {
        self.removed
    }

    /// Until when the policy in force may be confirmed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.deadline)
    }

    /// The policy that comes back unless the one in force is confirmed.
    pub(crate) fn previous(&self) -> Option<&Installed> {
        self.trial.as_ref().map(|trial| &trial.previous)
    }

    /// What would change; that it could be done is checked as far as that is possible without doing it.
    ///
    /// # Errors
    ///
    /// [`ApplyError`].
    pub(crate) fn check(&self, prepared: &mut Prepared) -> Result<Difference, ApplyError> {
        check_connections(&prepared.policy, self.gateway)?;
        if let Some(keys) = prepared.keys.as_mut().filter(|_| self.gateway) {
            self.sas.check(&prepared.policy, keys)?;
        }
        self.slots.check(names(&prepared.policy))?;
        Ok(self.difference(&prepared.policy))
    }

    /// Puts another policy in force; with `trial` it has to be confirmed within that time.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; the policy before stays in force.
    pub(crate) fn apply(
        &mut self,
        mut prepared: Prepared,
        trial: Option<Duration>,
    ) -> Result<Difference, ApplyError> {
        let difference = self.check(&mut prepared)?;
        let result = self.replace(prepared);
        // Of what was begun for a swap that failed, nothing is used.
        self.unswept = true;
        let previous = result?;
        if let Some(time) = trial {
            self.trial = Some(Trial {
                previous,
                deadline: Instant::now() + time,
            });
        }
        Ok(difference)
    }

    /// Lets the policy on trial stay.
    ///
    /// # Errors
    ///
    /// [`ApplyError::NothingPending`].
    pub(crate) fn confirm(&mut self) -> Result<(), ApplyError> {
        self.trial.take().ok_or(ApplyError::NothingPending)?;
        self.unswept = true;
        Ok(())
    }

    /// Takes the policy on trial back. Needs no file: all that the one before needs has been kept.
    ///
    /// # Errors
    ///
    /// [`ApplyError::NothingPending`]; [`ApplyError::Filter`], and the trial goes on a little.
    pub(crate) fn roll_back(&mut self) -> Result<(), ApplyError> {
        let mut trial = self.trial.take().ok_or(ApplyError::NothingPending)?;
        self.generation += 1;
        let previous = Installed {
            generation: self.generation,
            ..trial.previous.clone()
        };
        if let Err(error) = self.swap(previous) {
            trial.deadline = trial.deadline.max(Instant::now() + RETRY);
            self.trial = Some(trial);
            return Err(error.into());
        }
        self.unswept = true;
        Ok(())
    }

    /// Whether something of earlier generations is still to be taken down.
    pub(crate) fn is_unswept(&self) -> bool {
        self.unswept
    }

    /// Takes down what no policy uses any more, once every worker has taken up the policy in force.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Filter`] when counters cannot be read; they are kept for another time.
    pub(crate) fn sweep(&mut self, workers: &[Worker]) -> Result<(), ApplyError> {
        let generation = self.current.generation;
        let taken_up = |worker: &Worker| worker.counters().taken_up.generation() >= generation;
        if !self.unswept || !workers.iter().all(taken_up) {
            return Ok(());
        }
        let kept = || [Some(&self.current), self.previous()].into_iter().flatten();
        let connections = kept()
            .flat_map(|one| one.connections.iter().map(|connection| connection.slot))
            .collect();
        let rules = kept().flat_map(|one| one.rule_slots.iter().copied()).collect();
        self.sas.stop_all_but(&connections);
        let (filter, removed) = (&mut self.filter, &mut self.removed);
        let mut result = Ok(());
        let mut budget = SWEEP;
        self.slots.release(&rules, |slot| {
            if budget == 0 || result.is_err() {
                return false;
            }
            budget -= 1;
            match read_out(filter, workers, slot) {
                Ok(counter) => {
                    removed.packets += counter.packets;
                    removed.bytes += counter.bytes;
                }
                Err(error) => result = Err(error),
            }
            result.is_ok()
        });
        self.unswept = budget == 0 || result.is_err();
        Ok(result?)
    }

    /// Keeps sequence numbers ready to be used, and on disk those that were used and seen.
    ///
    /// # Errors
    ///
    /// The first [`KeyingError`].
    pub(crate) fn keep_marks(&mut self, record: bool) -> Result<(), KeyingError> {
        self.sas.keep_marks(record)
    }

    fn replace(&mut self, mut prepared: Prepared) -> Result<Installed, ApplyError> {
        self.generation += 1;
        let current = &self.current.connections;
        let connections = match prepared.keys.take().filter(|_| self.gateway) {
            Some(keys) => self.sas.start(&prepared.policy, keys, current, self.generation)?,
            None => current.to_vec(),
        };
        let mtu = self.shared.adjacencies().current().outer.mtu;
        check_mtu(&prepared.policy, &connections, &self.outer, mtu)?;
        let next = Installed::new(prepared, &mut self.slots, connections, self.generation)?;
        Ok(self.swap(next)?)
    }

    /// Steps 1 to 4; returns what was in force.
    fn swap(&mut self, next: Installed) -> Result<Installed, FilterError> {
        let current = &self.current;
        let added = missing_in(&next.connections, &current.connections);
        let gone = missing_in(&current.connections, &next.connections);
        let both = current.connections.iter().chain(&added).cloned();
        self.shared
            .publish(Regime::new(current.generation, Arc::clone(&current.rules), both));
        let swapped =
            announce(&mut self.filter, &added).and_then(|()| self.filter.apply(&next.rules, next.generation));
        if let Err(error) = swapped {
            withdraw(&mut self.filter, &added);
            self.shared.publish(current.regime());
            return Err(error);
        }
        self.shared.publish(next.regime());
        withdraw(&mut self.filter, &gone);
        Ok(std::mem::replace(&mut self.current, next))
    }

    fn difference(&self, policy: &Policy) -> Difference {
        let before: HashSet<&str> = names(&self.current.policy).collect();
        let after: HashSet<&str> = names(policy).collect();
        let connections = |policy: &Policy| -> HashMap<String, [Spi; 2]> {
            policy
                .connections()
                .iter()
                .filter(|_| self.gateway)
                .map(|one| (one.name.clone(), [one.keys.outbound.spi, one.keys.inbound.spi]))
                .collect()
        };
        let (old, new) = (connections(&self.current.policy), connections(policy));
        let others = |these: &HashMap<String, [Spi; 2]>, those: &HashMap<String, [Spi; 2]>| {
            let mut names: Vec<String> = these
                .iter()
                .filter(|(name, spis)| those.get(*name) != Some(spis))
                .map(|(name, _)| name.clone())
                .collect();
            names.sort_unstable();
            names
        };
        Difference {
            rules_added: after.difference(&before).count(),
            rules_removed: before.difference(&after).count(),
            started: others(&new, &old),
            stopped: others(&old, &new),
        }
    }
}

/// Those of `these` whose slot none of `those` has.
fn missing_in(these: &[Arc<Connection>], those: &[Arc<Connection>]) -> Vec<Arc<Connection>> {
    let slots: HashSet<u32> = those.iter().map(|connection| connection.slot).collect();
    these
        .iter()
        .filter(|connection| !slots.contains(&connection.slot))
        .cloned()
        .collect()
}

fn announce(filter: &mut Filter, connections: &[Arc<Connection>]) -> Result<(), FilterError> {
    connections
        .iter()
        .try_for_each(|one| filter.add_inbound(one.inbound.spi(), &one.endpoint))
}

fn withdraw(filter: &mut Filter, connections: &[Arc<Connection>]) {
    for one in connections {
        // Should it stay, its packets find no connection in the workers and are dropped.
        let _ = filter.remove_inbound(one.inbound.spi());
    }
}

/// What the rule in a slot has counted, once; the slot then counts from zero.
fn read_out(filter: &mut Filter, workers: &[Worker], slot: u32) -> Result<RuleCounter, FilterError> {
    let mut sum = filter.rules([slot])?.first().copied().unwrap_or_default();
    filter.reset_rule(slot)?;
    for counters in workers.iter().map(Worker::counters) {
        let one = counters.rule(slot);
        sum.packets += one.packets;
        sum.bytes += one.bytes;
        counters.reset_rule(slot);
    }
    Ok(sum)
}
