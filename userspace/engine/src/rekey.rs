//! Connections on their way from one pair of SAs to the next, make before break.
//!
//! Both ends get their new SAs by hand, one before the other. Until the peer has its own, it can neither open what the
//! new outbound SA seals nor stop using the old one. So the old inbound SA stays for the grace time of the connection, and the
//! old outbound SA seals until the peer has shown that it has the new pair, by the first packet under it; at the latest
//! until half of the grace time is over. Two ends that get their SAs within half of the grace time of each other lose
//! nothing, in whichever order: when one switches the other has the new inbound SA, and when the last packet under the
//! old SA arrives the old inbound SA is still there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::{Connection, Inbound, Outbound};
use crate::lifetime::has_stopped;

/// The connections on their way, by slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rekeys(BTreeMap<u32, Rekey>);

/// One connection on its way. Those that get another pair meanwhile have several steps in front of them.
#[derive(Clone, Debug, Default)]
struct Rekey {
    /// What seals in place of the connection's own outbound SA; there if and only if steps are.
    sealing: Option<Outbound>,
    /// The outbound SAs that are to seal after it, in order; the last is the connection's own.
    steps: Vec<Step>,
    /// Inbound SAs that stay for a while.
    old: Vec<Old>,
}

/// An outbound SA that is to seal. What was deleted is not kept here either: its key is to be erased.
#[derive(Clone, Debug)]
struct Step {
    /// `None` only if this is the last step.
    outbound: Option<Outbound>,
    /// The other one of its pair: its first packet shows that the peer has the pair.
    inbound: Option<Arc<Inbound>>,
    /// When to seal with it though no packet came.
    at: Instant,
}

/// An inbound SA that stays for a while.
#[derive(Clone, Debug)]
pub(crate) struct Old {
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) until: Instant,
    /// How long it stays after the policy is confirmed.
    grace: Duration,
}

/// What has come to its end.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Another outbound SA seals.
    pub(crate) switched: bool,
    /// Inbound SAs that go.
    pub(crate) gone: Vec<Arc<Inbound>>,
}

impl Progress {
    /// Whether workers have to know.
    pub(crate) fn is_some(&self) -> bool {
        self.switched || !self.gone.is_empty()
    }
}

impl Rekeys {
    /// Sets those connections on their way that are there before and after with different SAs, and forgets those that are
    /// not there any more. The old inbound SAs stay at least until `trial` is over.
    pub(crate) fn begin(
        &mut self,
        before: &[Arc<Connection>],
        after: &[Arc<Connection>],
        now: Instant,
        trial: Option<Instant>,
    ) {
        for (old, new) in self.continued(before, after) {
            let grace = new.settings.rekey_grace;
            let rekey = self.0.entry(new.slot).or_default();
            rekey.retire(old, now, grace, trial);
            if old.outbound.is_none() {
                // What leads to the connection's own outbound SA leads nowhere.
                rekey.steps.pop();
            }
            let sealing = rekey.sealing.take().or_else(|| old.outbound.clone());
            match (sealing, &new.outbound, &new.inbound) {
                (Some(sealing), Some(outbound), Some(inbound)) if !grace.is_zero() => {
                    rekey.sealing = Some(sealing);
                    rekey.steps.push(Step {
                        outbound: Some(outbound.clone()),
                        inbound: Some(Arc::clone(inbound)),
                        at: now + grace / 2,
                    });
                }
                _ => rekey.steps.clear(),
            }
        }
    }

    /// Goes back from `before` to `after`, which was in force before with these rekeys under way: what sealed then seals
    /// at once. Inbound SAs that `before` has brought stay for a while.
    pub(crate) fn back(
        mut self,
        before: &[Arc<Connection>],
        after: &[Arc<Connection>],
        now: Instant,
    ) -> Self {
        for (old, new) in self.continued(before, after) {
            let rekey = self.0.entry(new.slot).or_default();
            rekey.retire(old, now, old.settings.rekey_grace, None);
        }
        self.advance(now);
        self
    }

    /// Pairs up those that are in both with different SAs; forgets those that are not in `after`.
    fn continued<'c>(
        &mut self,
        before: &'c [Arc<Connection>],
        after: &'c [Arc<Connection>],
    ) -> Vec<(&'c Connection, &'c Connection)> {
        let by_slot: BTreeMap<u32, &Connection> = after.iter().map(|one| (one.slot, &**one)).collect();
        self.0.retain(|slot, _| by_slot.contains_key(slot));
        before
            .iter()
            .filter_map(|old| Some((&**old, *by_slot.get(&old.slot)?)))
            .filter(|(old, new)| old.pair != new.pair)
            .collect()
    }

    /// The policy on trial stays: old inbound SAs need not wait for its end any more.
    pub(crate) fn confirm(&mut self, now: Instant) {
        for old in self.0.values_mut().flat_map(|rekey| &mut rekey.old) {
            old.until = old.until.min(now + old.grace);
        }
    }

    /// Takes the steps that are due.
    pub(crate) fn advance(&mut self, now: Instant) -> Progress {
        let mut progress = Progress::default();
        self.0.retain(|_, rekey| {
            let due = rekey.steps.iter().rposition(|step| step.is_due(now));
            let used_up =
                |sealing: &Outbound| sealing.sa.sequence().is_exhausted() || has_stopped(&sealing.sa, now);
            if let Some(due) = due.max(rekey.sealing.as_ref().filter(|one| used_up(one)).map(|_| 0)) {
                rekey.take_steps(due + 1);
                progress.switched = true;
            }
            progress.gone.extend(
                rekey
                    .old
                    .extract_if(.., |old| old.until <= now)
                    .map(|old| old.inbound),
            );
            !rekey.steps.is_empty() || !rekey.old.is_empty()
        });
        progress
    }

    /// Forgets the outbound SA of a pair: what was to follow it seals now.
    pub(crate) fn remove_outbound(&mut self, pair: u32) {
        for rekey in self.0.values_mut() {
            if rekey.sealing.as_ref().is_some_and(|sealing| sealing.pair == pair) {
                rekey.take_steps(1);
            }
            let leads_to = |step: &Step| step.outbound.as_ref().is_some_and(|one| one.pair == pair);
            // The last step stays: it leads to the connection as it is by then, which has no outbound SA.
            if let Some((last, before)) = rekey.steps.split_last_mut() {
                if leads_to(last) {
                    last.outbound = None;
                }
                let at = before.iter().position(leads_to);
                at.map(|at| rekey.steps.remove(at));
            }
        }
    }

    /// Forgets the inbound SA of a pair.
    pub(crate) fn remove_inbound(&mut self, pair: u32) {
        for rekey in self.0.values_mut() {
            rekey.old.retain(|old| old.inbound.pair != pair);
            for step in &mut rekey.steps {
                step.inbound.take_if(|inbound| inbound.pair == pair);
            }
        }
    }

    /// The connection with the outbound SA that seals now.
    pub(crate) fn as_it_is(&self, connection: &Arc<Connection>) -> Arc<Connection> {
        match self.sealing(connection.slot) {
            Some(sealing) => Arc::new(Connection {
                outbound: Some(sealing.clone()),
                ..Connection::clone(connection)
            }),
            None => Arc::clone(connection),
        }
    }

    /// What seals in place of a connection's own outbound SA.
    pub(crate) fn sealing(&self, slot: u32) -> Option<&Outbound> {
        self.0.get(&slot)?.sealing.as_ref()
    }

    /// The outbound SAs that are to seal after it, in order.
    pub(crate) fn next(&self, slot: u32) -> impl Iterator<Item = &Outbound> {
        let steps = self.0.get(&slot).map_or(&[][..], |rekey| &rekey.steps);
        steps.iter().filter_map(|step| step.outbound.as_ref())
    }

    /// When the next of them is to seal.
    pub(crate) fn switch_at(&self, slot: u32) -> Option<Instant> {
        Some(self.0.get(&slot)?.steps.first()?.at)
    }

    /// A connection's inbound SAs that stay for a while.
    pub(crate) fn old(&self, slot: u32) -> &[Old] {
        self.0.get(&slot).map_or(&[], |rekey| &rekey.old)
    }

    /// All inbound SAs that stay for a while.
    pub(crate) fn all_old(&self) -> impl Iterator<Item = &Old> {
        self.0.values().flat_map(|rekey| &rekey.old)
    }

    /// Pairs whose outbound SAs seal or are to seal.
    pub(crate) fn sealing_pairs(&self) -> impl Iterator<Item = u32> {
        self.0.values().flat_map(|rekey| {
            let steps = rekey.steps.iter().filter_map(|step| step.outbound.as_ref());
            rekey.sealing.iter().chain(steps).map(|outbound| outbound.pair)
        })
    }
}

impl Rekey {
    /// Keeps the inbound SA of `connection` for a while.
    fn retire(&mut self, connection: &Connection, now: Instant, grace: Duration, trial: Option<Instant>) {
        let until = trial.map_or(now + grace, |trial| trial.max(now + grace));
        if let Some(inbound) = connection.inbound.as_ref().filter(|_| until > now) {
            self.old.push(Old {
                inbound: Arc::clone(inbound),
                until,
                grace,
            });
        }
    }

    /// Goes so many steps.
    fn take_steps(&mut self, count: usize) {
        let last = self.steps.drain(..count.min(self.steps.len())).next_back();
        // After the last step the connection's own SA seals.
        self.sealing = last
            .and_then(|step| step.outbound)
            .filter(|_| !self.steps.is_empty());
    }
}

impl Step {
    fn is_due(&self, now: Instant) -> bool {
        let shown = |inbound: &Arc<Inbound>| inbound.sa.counters().packets > 0;
        now >= self.at || self.inbound.as_ref().is_some_and(shown)
    }
}

#[cfg(test)]
mod tests;
