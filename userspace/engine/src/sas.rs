//! The pairs of SAs that there are, by number, with what keeps their sequence numbers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ravelin_esp::Provider;
use ravelin_keying::{Holder, KeyingError, KeyingErrors, StateFolder, StaticConnection, StaticKeys};
use ravelin_policy::{self as policy, Policy};

use crate::boot_pages::PinnedPages;
use crate::connection::{Connection, Settings};
use crate::lifetime::Reached;
use crate::path_mtu::PathMtu;
use crate::prepare::ApplyError;
use crate::regime::Shared;
use crate::rekey::Rekeys;
use crate::status::SaDirection;
use crate::touched::MOST_PAIRS;

/// Pairs of SAs: of the connections in force, of those that may come into force again, and those on their way out.
#[derive(Debug)]
pub(crate) struct Sas {
    state: PathBuf,
    /// Names memory that outlives the process.
    instance: String,
    /// Opened with the first connection.
    folder: Option<Arc<StateFolder>>,
    provider: Provider,
    /// By number.
    pairs: Vec<Option<Pair>>,
    /// Pairs whose outbound SA has used numbers, and is to be given others.
    spent: BTreeSet<u32>,
    /// Pairs whose inbound SA has seen numbers that are to be recorded.
    seen: BTreeSet<u32>,
    /// Pairs of which either SA was used since bytes were recorded last.
    used: BTreeSet<u32>,
}

#[derive(Debug)]
struct Pair {
    sas: StaticConnection,
    /// Of the connection.
    slot: u32,
}

/// Which SAs are still needed, by the number of their pair.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// Pairs of connections in force, with or without their SAs.
    pub(crate) connections: HashSet<u32>,
    pub(crate) outbound: HashSet<u32>,
    pub(crate) inbound: HashSet<u32>,
}

impl Sas {
    pub(crate) fn new(state: PathBuf, instance: String, provider: Provider) -> Self {
        Self {
            state,
            instance,
            folder: None,
            provider,
            pairs: Vec::new(),
            spent: BTreeSet::new(),
            seen: BTreeSet::new(),
            used: BTreeSet::new(),
        }
    }

    /// The AEAD implementation, if there is anything to do for one.
    pub(crate) fn provider(&self) -> Option<Provider> {
        self.pairs.iter().any(Option::is_some).then_some(self.provider)
    }

    /// Finds out which connections of a policy go on as they are, and whether the others may start. `current` are those
    /// in force.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Keying`], [`ApplyError::TooManyConnections`].
    pub(crate) fn check(
        &self,
        policy: &Policy,
        keys: &mut StaticKeys,
        current: &[Arc<Connection>],
        rekeys: &Rekeys,
    ) -> Result<(), ApplyError> {
        let now = Instant::now();
        let current: HashSet<u32> = current.iter().map(|connection| connection.pair).collect();
        let old: HashMap<u32, Duration> = rekeys
            .all_old()
            .map(|old| (old.inbound.pair, old.until.saturating_duration_since(now)))
            .collect();
        let holders = self.numbered().map(|(number, pair)| {
            if current.contains(&number) {
                Holder::Current(&pair.sas)
            } else {
                Holder::Old(&pair.sas, old.get(&number).copied().unwrap_or_default())
            }
        });
        keys.keep(policy, holders)?;
        if self.numbered().count() + keys.count() > MOST_PAIRS as usize {
            return Err(ApplyError::TooManyConnections(MOST_PAIRS));
        }
        Ok(())
    }

    /// Starts the connections of a policy that do not run yet, or not with these SAs; returns all of them, in the order of
    /// the policy. `keys` was checked. `since` is the generation that they start with.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Keying`], [`ApplyError::State`]; then none was started.
    pub(crate) fn start(
        &mut self,
        policy: &Policy,
        keys: StaticKeys,
        current: &[Arc<Connection>],
        since: u32,
    ) -> Result<Vec<Arc<Connection>>, ApplyError> {
        if policy.connections().is_empty() {
            return Ok(Vec::new());
        }
        let folder = match &self.folder {
            Some(folder) => Arc::clone(folder),
            None => {
                let mut folder = StateFolder::open(&self.state)?;
                let pages = PinnedPages::open(&self.instance);
                let remembered = pages.and_then(|pages| folder.remember_in(Box::new(pages)));
                // Neither would others know what is used here, nor this one what others use.
                remembered.map_err(|error| KeyingErrors::from(KeyingError::OthersUnknown(error)))?;
                Arc::clone(self.folder.insert(Arc::new(folder)))
            }
        };
        let mut started = keys.start(policy, &folder, self.provider)?.into_iter().peekable();
        let current: HashMap<&str, &Arc<Connection>> =
            current.iter().map(|one| (one.name.as_str(), one)).collect();
        let taken: HashSet<u32> = self.numbered().map(|(_, pair)| pair.slot).collect();
        let mut slots = (0..).filter(|slot| !taken.contains(slot));
        let mut number = 0;
        let mut connections = Vec::with_capacity(policy.connections().len());
        for definition in policy.connections() {
            let before = current.get(definition.name.as_str()).copied();
            let Some(sas) = started.next_if(|sas| sas.name() == definition.name) else {
                connections.extend(before.map(|one| goes_on(one, definition)));
                continue;
            };
            while self.pair(number).is_some() {
                number += 1;
            }
            let before = before.filter(|one| self.is_rekey(one, definition));
            let place = before
                .map(|one| ((one.slot, one.since), Arc::clone(&one.path)))
                .or_else(|| Some(((slots.next()?, since), Arc::new(PathMtu::new(Instant::now())))));
            // Not reached: there are as many slots as numbers.
            let Some((place, path)) = place else { continue };
            let slot = place.0;
            let (outbound, inbound) = (sas.outbound().cloned(), sas.inbound().cloned());
            let connection = Connection::new(definition, place, path, number, outbound, inbound);
            connections.push(Arc::new(connection));
            if self.pairs.len() <= number as usize {
                self.pairs.resize_with(number as usize + 1, || None);
            }
            self.pairs[number as usize] = Some(Pair { sas, slot });
        }
        Ok(connections)
    }

    /// Whether a connection gets other SAs between the same ends, so that those it has may stay for a while.
    pub(crate) fn is_rekey(&self, before: &Connection, after: &policy::Connection) -> bool {
        self.pair(before.pair).is_some_and(|pair| {
            let ends = |one: &policy::Connection| (one.mode, one.local, one.remote);
            before.name == after.name && ends(pair.sas.definition()) == ends(after)
        })
    }

    /// The connection that a pair was made for, as the policy had it then.
    pub(crate) fn definition(&self, pair: u32) -> Option<&policy::Connection> {
        Some(self.pair(pair)?.sas.definition())
    }

    fn pair(&self, number: u32) -> Option<&Pair> {
        self.pairs.get(number as usize)?.as_ref()
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &Pair)> + Clone {
        let numbered = (0..).zip(&self.pairs);
        numbered.filter_map(|(number, pair)| Some((number, pair.as_ref()?)))
    }

    /// Where their marks are kept; `None` before there was any.
    pub(crate) fn folder(&self) -> Option<&StateFolder> {
        self.folder.as_deref()
    }

    /// By number.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (u32, &StaticConnection)> + Clone {
        self.numbered().map(|(number, pair)| (number, &pair.sas))
    }

    /// Stops SAs that nobody needs any more: marks are written, keys go with the last worker that has them.
    pub(crate) fn stop_all_but(&mut self, needed: &Needed) {
        // What inbound SAs have seen is recorded together; each would do it for itself otherwise, and does if this fails.
        if let Some(folder) = &self.folder {
            let gone = (0..).zip(&mut self.pairs).filter_map(|(number, pair)| {
                let pair = pair.as_mut()?;
                (!needed.inbound.contains(&number)).then_some(&mut pair.sas)
            });
            let _ = StaticConnection::record_received(folder, gone);
            let gone = (0..).zip(&mut self.pairs).filter_map(|(number, pair)| {
                let pair = pair.as_mut()?;
                let kept = needed.inbound.contains(&number) && needed.outbound.contains(&number);
                (!kept).then_some(&mut pair.sas)
            });
            let _ = StaticConnection::record_bytes(folder, gone);
        }
        for (number, place) in (0..).zip(&mut self.pairs) {
            let Some(Pair { sas, .. }) = place else { continue };
            if !needed.inbound.contains(&number) {
                sas.remove_inbound();
            }
            if !needed.outbound.contains(&number) {
                sas.remove_outbound();
            }
            let none = sas.inbound().is_none() && sas.outbound().is_none();
            if none && !needed.connections.contains(&number) {
                *place = None;
            }
        }
    }

    /// Has the memory of used numbers be found again, if somebody has taken its names away.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn pin_again(&self) -> io::Result<()> {
        self.folder
            .as_ref()
            .map_or(Ok(()), |folder| folder.name_memory_again())
    }

    /// Limits that SAs have reached since this was asked last.
    pub(crate) fn lifetime_events(&self, now: Instant) -> impl Iterator<Item = Reached> {
        self.numbered().flat_map(move |(pair, Pair { sas, .. })| {
            let outbound = sas.outbound().and_then(|sa| {
                let event = sa.lifetime_event(now)?;
                Some((SaDirection::Outbound, sa.spi(), event))
            });
            let inbound = sas.inbound().and_then(|sa| {
                let event = sa.lifetime_event(now)?;
                Some((SaDirection::Inbound, sa.spi(), event))
            });
            let events = outbound.into_iter().chain(inbound);
            events.map(move |(direction, spi, event)| Reached {
                pair,
                connection: sas.name().to_owned(),
                direction,
                spi,
                event,
            })
        })
    }

    /// Keeps sequence numbers ready to be used by the SAs that have used some, and with `record` on disk those that were seen.
    ///
    /// # Errors
    ///
    /// The first [`KeyingError`]; all connections had their turn.
    pub(crate) fn keep_marks(&mut self, shared: &Shared, record: bool) -> Result<(), KeyingError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        for pair in shared.sealed.take() {
            self.used.insert(pair);
            self.spent.insert(pair);
        }
        let extended = StaticConnection::extend(folder, among(&mut self.pairs, &self.spent));
        match &extended {
            // Those of which one could not be recorded at all come again; one that sends no more does not.
            Err(KeyingError::Marks(_)) => {}
            _ => self.spent.clear(),
        }
        if record {
            for pair in shared.opened.take() {
                self.used.insert(pair);
                self.seen.insert(pair);
            }
            StaticConnection::record_received(folder, among(&mut self.pairs, &self.seen))?;
            self.seen.clear();
            StaticConnection::record_bytes(folder, among(&mut self.pairs, &self.used))?;
            self.used.clear();
        }
        extended
    }
}

impl Drop for Sas {
    fn drop(&mut self) {
        // Together; each does it for itself if this fails.
        if let Some(folder) = &self.folder {
            let all = self.pairs.iter_mut().flatten().map(|pair| &mut pair.sas);
            let _ = StaticConnection::record_received(folder, all);
            let all = self.pairs.iter_mut().flatten().map(|pair| &mut pair.sas);
            let _ = StaticConnection::record_bytes(folder, all);
        }
    }
}

/// Those of the pairs that have these numbers.
fn among<'p>(
    mut pairs: &'p mut [Option<Pair>],
    numbers: &BTreeSet<u32>,
) -> impl Iterator<Item = &'p mut StaticConnection> {
    let mut first = 0;
    numbers.iter().filter_map(move |number| {
        let skipped = *number as usize - first;
        let (pair, rest) = std::mem::take(&mut pairs).get_mut(skipped..)?.split_first_mut()?;
        (pairs, first) = (rest, first + skipped + 1);
        Some(&mut pair.as_mut()?.sas)
    })
}

/// The same SAs in the same slot, with what the policy now says beside.
fn goes_on(connection: &Arc<Connection>, definition: &policy::Connection) -> Arc<Connection> {
    let settings = Settings::of(definition);
    if connection.settings == settings {
        return Arc::clone(connection);
    }
    Arc::new(Connection {
        settings,
        ..Connection::clone(connection)
    })
}
