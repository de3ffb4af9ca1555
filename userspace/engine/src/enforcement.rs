//! Policies in force, one after the other: maps, SAs, and what workers share change together.
//!
//! A swap is ordered so that every packet meets one policy whole, and nothing leaks meanwhile:
//!
//! 1. New SAs start; workers get to know them beside the old ones. When all have, the driver learns the new SPIs.
//! 2. The driver's rule set changes, for all packets at once. From here on clear packets are decided by the new one.
//! 3. Workers take up the new rules, against which opened packets are held, and forget connections that are gone. A packet
//!    that was redirected to one of those before is dropped.
//! 4. The driver forgets SPIs that are gone.
//! 5. When every worker has taken that up, SAs that are gone stop and counters of rules that are gone may be used again.
//!
//! What fails before the end of step 2 is undone. A connection that only gets other SAs keeps its slot; its old ones stay
//! for a while (`rekey.rs`).

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adjacency::Adjacencies;
use crate::boot_pages;
use crate::bpffs::BpffsError;
use crate::connection::{Connection, Inbound};
use crate::difference::Difference;
use crate::filter::{Filter, FilterError};
use crate::installed::{Armed, Installed, armed_of, names};
use crate::ledger::{Ledger, add};
use crate::peer_ports::PeerPorts;
use crate::preflight::check_mtu;
use crate::prepare::{ApplyError, Prepared};
use crate::regime::{Regime, Shared};
use crate::rekey::Rekeys;
use crate::role::Role;
use crate::sas::{Needed, Sas};
use crate::slots::Slots;
use crate::worker::Worker;
use ravelin_esp::Provider;
use ravelin_keying::KeyingError;

/// How many rules' counters are read out at a time: the engine has other things to do.
const SWEEP: usize = 4096;

/// How long to wait before another attempt to roll back.
const RETRY: Duration = Duration::from_secs(1);

/// How long to wait for workers to get to know new SAs. One that needs longer has no packets, or loses them anyway.
const PATIENCE: Duration = Duration::from_millis(500);

/// A policy that is in force on trial.
#[derive(Debug)]
struct Trial {
    previous: Installed,
    /// As they were when it began.
    rekeys: Rekeys,
    deadline: Instant,
}

/// How an enforcement is to work.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) filter: Filter,
    /// The counters that outlive the process.
    pub(crate) ledger: Ledger,
    /// The folder of sequence marks.
    pub(crate) state: PathBuf,
    /// Names what outlives the process.
    pub(crate) instance: String,
    pub(crate) provider: Provider,
    pub(crate) adjacencies: Arc<Adjacencies>,
    /// Name of the outer device.
    pub(crate) outer: String,
    pub(crate) role: Role,
}

/// The policy in force and everything that puts it there.
#[derive(Debug)]
pub(crate) struct Enforcement {
    pub(crate) filter: Filter,
    pub(crate) ledger: Ledger,
    shared: Arc<Shared>,
    slots: Slots,
    outer: String,
    role: Role,
    current: Installed,
    pub(crate) rekeys: Rekeys,
    ports: PeerPorts,
    trial: Option<Trial>,
    /// The generation given out last.
    generation: u32,
    /// The edition published last.
    edition: u64,
    /// Connections and counters of earlier generations are to be taken down.
    unswept: bool,
    /// Dropped last: whoever still had an SA could use numbers up to its mark, and the next process would have to begin there.
    pub(crate) sas: Sas,
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
            ledger,
            state,
            instance,
            provider,
            adjacencies,
            outer,
            role,
        } = means;
        let mut slots = ledger.slots();
        let mut sas = Sas::new(state, instance, provider);
        // Where the process before has got to.
        let generation = ledger.generation() + 1;
        let connections = match prepared.keys.take().filter(|_| role.seals()) {
            Some(mut keys) => {
                sas.check(&prepared.policy, &mut keys, &[], &Rekeys::default())?;
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
        enter(&ledger, &current);
        let mut enforcement = Self {
            filter,
            ledger,
            sas,
            shared: Arc::new(Shared::new(current.regime(&Rekeys::default()), adjacencies)),
            slots,
            outer,
            role,
            current,
            rekeys: Rekeys::default(),
            ports: PeerPorts::default(),
            trial: None,
            generation,
            edition: 1,
            // Rules that are gone since the process before.
            unswept: true,
        };
        let first = &enforcement.current;
        enforcement.filter.apply(&first.rules, generation)?;
        enforcement.filter.set_spoken_of(&first.own)?;
        enforcement.ledger.set_generation(generation);
        announce(
            &mut enforcement.filter,
            first.armed(&Rekeys::default(), &PeerPorts::default()).values(),
        )?;
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

    /// Makes pins of counters and of used sequence numbers anew that are gone.
    ///
    /// # Errors
    ///
    /// [`BpffsError::Pin`].
    pub(crate) fn pin_again(&self) -> Result<(), BpffsError> {
        self.ledger.pin_again(&self.filter)?;
        let numbers = self.sas.pin_again();
        numbers.map_err(|error| BpffsError::pin(Path::new(boot_pages::FOLDER), error))
    }

    /// What the engine is for.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The policy in force.
    pub(crate) fn current(&self) -> &Installed {
        &self.current
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
        if let Some(keys) = prepared.keys.as_mut().filter(|_| self.role.seals()) {
            self.sas
                .check(&prepared.policy, keys, &self.current.connections, &self.rekeys)?;
        }
        self.slots.check(names(&prepared.policy))?;
        let sas = self.role.seals().then_some(&self.sas);
        Ok(Difference::new(&self.current, &prepared.policy, sas))
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
        workers: &[Worker],
    ) -> Result<Difference, ApplyError> {
        let difference = self.check(&mut prepared)?;
        let deadline = trial.map(|time| Instant::now() + time);
        let rekeys = deadline.map(|_| self.rekeys.clone());
        let result = self.replace(prepared, deadline, workers);
        // Of what was begun for a swap that failed, nothing is used.
        self.unswept = true;
        let previous = result?;
        if let Some((deadline, rekeys)) = deadline.zip(rekeys) {
            self.trial = Some(Trial {
                previous,
                rekeys,
                deadline,
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
        self.rekeys.confirm(Instant::now());
        self.unswept = true;
        Ok(())
    }

    /// Takes the policy on trial back. Needs no file: all that the one before needs has been kept.
    ///
    /// # Errors
    ///
    /// [`ApplyError::NothingPending`]; [`ApplyError::Filter`], and the trial goes on a little.
    pub(crate) fn roll_back(&mut self, workers: &[Worker]) -> Result<(), ApplyError> {
        let mut trial = self.trial.take().ok_or(ApplyError::NothingPending)?;
        self.generation += 1;
        let previous = Installed {
            generation: self.generation,
            ..trial.previous.clone()
        };
        let (before, after) = (&self.current.connections, &previous.connections);
        let rekeys = trial.rekeys.clone().back(before, after, Instant::now());
        if let Err(error) = self.swap(previous, rekeys, workers) {
            trial.deadline = trial.deadline.max(Instant::now() + RETRY);
            self.trial = Some(trial);
            return Err(error.into());
        }
        self.unswept = true;
        Ok(())
    }

    /// Goes on with rekeys under way: outbound SAs switch when it is time for them, old inbound SAs go. Whether there was
    /// anything to do.
    pub(crate) fn advance(&mut self) -> bool {
        let progress = self.rekeys.advance(Instant::now());
        let some = progress.is_some();
        if some {
            self.withdraw(&progress.gone);
        }
        some
    }

    /// Follows the peer of a connection to another port than the one of its policy, with all its SAs.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`]: the driver goes on taking what comes from there for something to look at.
    pub(crate) fn follow_peer(
        &mut self,
        slot: u32,
        from: NonZero<u16>,
        to: NonZero<u16>,
    ) -> Result<(), FilterError> {
        let Some(connection) = self.current.connections.iter().find(|one| one.slot == slot) else {
            return Ok(());
        };
        let was = self.ports.clone();
        self.ports.follow(connection, from, to);
        let armed: Vec<_> = armed_of(connection, &self.rekeys, &self.ports).collect();
        self.steer(&was);
        announce(&mut self.filter, &armed)
    }

    /// Deletes an outbound SA. What is to follow it after a rekey seals now; else the connection is closed.
    pub(crate) fn delete_outbound(&mut self, pair: u32) {
        self.current.remove_outbound(pair);
        self.rekeys.remove_outbound(pair);
        if let Some(trial) = &mut self.trial {
            trial.previous.remove_outbound(pair);
            trial.rekeys.remove_outbound(pair);
        }
        self.withdraw(&[]);
    }

    /// Deletes an inbound SA.
    pub(crate) fn delete_inbound(&mut self, pair: u32) {
        let armed = self.current.armed(&self.rekeys, &self.ports).remove(&pair);
        self.current.remove_inbound(pair);
        self.rekeys.remove_inbound(pair);
        if let Some(trial) = &mut self.trial {
            trial.previous.remove_inbound(pair);
            trial.rekeys.remove_inbound(pair);
        }
        let inbound = armed.map(|armed| armed.inbound);
        self.withdraw(inbound.as_slice());
    }

    /// Takes inbound SAs from driver and workers, and has workers take up what has changed.
    fn withdraw(&mut self, gone: &[Arc<Inbound>]) {
        withdraw(&mut self.filter, gone);
        self.edition = self.shared.publish(self.current.regime(&self.rekeys));
        self.unswept = true;
    }

    /// Whether every worker has taken up what was published last.
    pub(crate) fn is_taken_up(&self, workers: &[Worker]) -> bool {
        workers
            .iter()
            .all(|worker| worker.counters().taken_up.edition() >= self.edition)
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
        if !self.unswept || !self.is_taken_up(workers) {
            return Ok(());
        }
        let kept = || [Some(&self.current), self.previous()].into_iter().flatten();
        let rules = kept().flat_map(|one| one.rule_slots.iter().copied()).collect();
        self.sas.stop_all_but(&self.needed());
        let (filter, ledger) = (&mut self.filter, &self.ledger);
        let mut result = Ok(());
        let mut budget = SWEEP;
        self.slots.release(&rules, |slot| {
            if budget == 0 || result.is_err() {
                return false;
            }
            budget -= 1;
            result = read_out(filter, ledger, slot);
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
        self.sas.keep_marks(&self.shared, record)
    }

    /// The SAs of the policy in force and of the one that may come back, and those of rekeys under way.
    fn needed(&self) -> Needed {
        let trial = self.trial.as_ref();
        let connections = [Some(&self.current), self.previous()].into_iter().flatten();
        let rekeys = [Some(&self.rekeys), trial.map(|trial| &trial.rekeys)];
        let mut needed = Needed::default();
        for connection in connections.flat_map(|one| &*one.connections) {
            needed.connections.insert(connection.pair);
            needed
                .outbound
                .extend(connection.outbound.as_ref().map(|one| one.pair));
            needed
                .inbound
                .extend(connection.inbound.as_ref().map(|one| one.pair));
        }
        for rekeys in rekeys.into_iter().flatten() {
            needed.outbound.extend(rekeys.sealing_pairs());
            needed
                .inbound
                .extend(rekeys.all_old().map(|old| old.inbound.pair));
        }
        needed
    }

    /// Whether a pair's outbound SA seals, or may yet.
    pub(crate) fn seals_with(&self, pair: u32) -> bool {
        self.needed().outbound.contains(&pair)
    }

    fn replace(
        &mut self,
        mut prepared: Prepared,
        trial: Option<Instant>,
        workers: &[Worker],
    ) -> Result<Installed, ApplyError> {
        self.generation += 1;
        let current = &self.current.connections;
        let connections = match prepared.keys.take().filter(|_| self.role.seals()) {
            Some(keys) => self.sas.start(&prepared.policy, keys, current, self.generation)?,
            None => current.to_vec(),
        };
        let mtu = self.shared.adjacencies().current().outer.mtu;
        check_mtu(&prepared.policy, &connections, &self.outer, mtu)?;
        let next = Installed::new(prepared, &mut self.slots, connections, self.generation)?;
        enter(&self.ledger, &next);
        let mut rekeys = self.rekeys.clone();
        let (before, after) = (&self.current.connections, &next.connections);
        rekeys.begin(before, after, Instant::now(), trial);
        Ok(self.swap(next, rekeys, workers)?)
    }

    /// Steps 1 to 4; returns what was in force.
    fn swap(
        &mut self,
        next: Installed,
        rekeys: Rekeys,
        workers: &[Worker],
    ) -> Result<Installed, FilterError> {
        let ports = self.ports.among(next.connections.iter().map(|one| &**one));
        let before = self.current.armed(&self.rekeys, &self.ports);
        let after = next.armed(&rekeys, &ports);
        let missing_in = |these: &BTreeMap<u32, Armed>, those: &BTreeMap<u32, Armed>| {
            let missing = these.iter().filter(|(pair, _)| !those.contains_key(pair));
            missing.map(|(_, armed)| Arc::clone(&armed.inbound)).collect()
        };
        let added: Vec<_> = missing_in(&after, &before);
        let gone: Vec<_> = missing_in(&before, &after);
        self.introduce(&next.connections, &added, workers);
        let swapped = announce(
            &mut self.filter,
            after
                .iter()
                .filter(|(pair, _)| !before.contains_key(pair))
                .map(|(_, armed)| armed),
        )
        .and_then(|()| {
            // Of no address the driver may believe that rules speak of it while they do not.
            let both = |address: &&IpAddr| next.own.contains(*address);
            let both: Vec<IpAddr> = self.current.own.iter().filter(both).copied().collect();
            self.filter.set_spoken_of(&both)?;
            self.filter.apply(&next.rules, next.generation)?;
            self.filter.set_spoken_of(&next.own)
        });
        if let Err(error) = swapped {
            self.withdraw(&added);
            // The rules before are still in force, and what they speak of with them. If that fails as well, too much is
            // dropped until the next swap, and never too little.
            let _ = self.filter.set_spoken_of(&self.current.own);
            return Err(error);
        }
        self.ledger.set_generation(next.generation);
        self.rekeys = rekeys;
        let previous = std::mem::replace(&mut self.current, next);
        let was = std::mem::replace(&mut self.ports, ports);
        self.steer(&was);
        // Workers first: what they do not know any more they drop.
        self.edition = self.shared.publish(self.current.regime(&self.rekeys));
        withdraw(&mut self.filter, &gone);
        // Those that go on may be told apart from their peers in another way. The places are there, so nothing can fail.
        let changed = after.iter().filter(|(pair, armed)| {
            before
                .get(pair)
                .is_some_and(|before| before.endpoint != armed.endpoint)
        });
        let _ = announce(&mut self.filter, changed.map(|(_, armed)| armed));
        Ok(previous)
    }

    /// Has the SAs of connections send to where their peers are, which were elsewhere before.
    fn steer(&self, was: &PeerPorts) {
        let slots: HashSet<u32> = self.ports.slots().chain(was.slots()).collect();
        if slots.is_empty() {
            return;
        }
        for connection in self
            .current
            .connections
            .iter()
            .filter(|one| slots.contains(&one.slot))
        {
            let rekey = self.rekeys.sealing(connection.slot).into_iter();
            rekey
                .chain(self.rekeys.next(connection.slot))
                .chain(&connection.outbound)
                .for_each(|outbound| self.ports.steer(was, connection, outbound));
        }
    }

    /// Has workers know what is to come beside what is in force: connections in slots of their own, and inbound SAs. Waits
    /// for it, because the driver is to know them only then.
    fn introduce(&mut self, next: &[Arc<Connection>], armed: &[Arc<Inbound>], workers: &[Worker]) {
        let current = &self.current;
        let slots: HashSet<u32> = current.connections.iter().map(|one| one.slot).collect();
        let added = next.iter().filter(|one| !slots.contains(&one.slot));
        let mut added = added.cloned().peekable();
        if armed.is_empty() && added.peek().is_none() {
            return;
        }
        self.edition = self.shared.publish(Regime::new(
            current.generation,
            Arc::clone(&current.rules),
            current
                .connections
                .iter()
                .map(|one| self.rekeys.as_it_is(one))
                .chain(added),
            self.rekeys
                .all_old()
                .map(|old| &old.inbound)
                .chain(armed)
                .cloned(),
        ));
        workers.iter().for_each(Worker::nudge);
        let started = Instant::now();
        while !self.is_taken_up(workers) && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn announce<'a>(filter: &mut Filter, armed: impl IntoIterator<Item = &'a Armed>) -> Result<(), FilterError> {
    armed.into_iter().try_for_each(|one| {
        filter.add_inbound(one.inbound.sa.spi(), &one.endpoint)?;
        filter.add_quoted(&one.inbound.quoted, one.inbound.pair)
    })
}

fn withdraw(filter: &mut Filter, inbound: &[Arc<Inbound>]) {
    for one in inbound {
        // Should it stay, its packets find no SA in the workers and are dropped.
        let _ = filter.remove_inbound(one.sa.spi());
        let _ = filter.remove_quoted(&one.quoted, one.pair);
    }
}

/// Writes down which slots the rules of a policy have.
fn enter(ledger: &Ledger, installed: &Installed) {
    ledger.enter(names(&installed.policy).zip(installed.rule_slots.iter().copied()));
}

/// Frees a slot: what its rule has counted goes to those that are gone.
fn read_out(filter: &mut Filter, ledger: &Ledger, slot: u32) -> Result<(), FilterError> {
    let sum = filter.rules([slot])?.into_iter().fold(ledger.rule(slot), add);
    filter.reset_rule(slot)?;
    ledger.remove(slot, sum);
    Ok(())
}
