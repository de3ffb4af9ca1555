//! The connections that run, by slot, with what keeps their sequence numbers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use ravelin_esp::Provider;
use ravelin_keying::{Holder, KeyingError, StateFolder, StaticConnection, StaticKeys};
use ravelin_policy::Policy;

use crate::address::to_address;
use crate::connection::Connection;
use crate::prepare::ApplyError;

/// Room for inbound SAs at the driver.
const MOST: u32 = 4096;

/// Connections in their slots: those in force, and those that may come into force again or are still under way out.
#[derive(Debug)]
pub(crate) struct Sas {
    state: PathBuf,
    /// Opened with the first connection.
    folder: Option<Arc<StateFolder>>,
    provider: Provider,
    running: BTreeMap<u32, StaticConnection>,
}

impl Sas {
    pub(crate) fn new(state: PathBuf, provider: Provider) -> Self {
        Self {
            state,
            folder: None,
            provider,
            running: BTreeMap::new(),
        }
    }

    /// The AEAD implementation, if there is anything to do for one.
    pub(crate) fn provider(&self) -> Option<Provider> {
        (!self.running.is_empty()).then_some(self.provider)
    }

    /// Finds out which connections of a policy go on as they are, and whether the others may start.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Keying`], [`ApplyError::TooManyConnections`].
    pub(crate) fn check(&self, policy: &Policy, keys: &mut StaticKeys) -> Result<(), ApplyError> {
        keys.keep(policy, self.running.values().map(Holder::Current))?;
        if self.running.len() + keys.count() > MOST as usize {
            return Err(ApplyError::TooManyConnections(MOST));
        }
        Ok(())
    }

    /// Starts the connections of a policy that do not run yet; returns all of them, in the order of the policy. `keys`
    /// was checked. `since` is the generation that they start with.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Keying`], [`ApplyError::State`].
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
            None => Arc::clone(self.folder.insert(Arc::new(StateFolder::open(&self.state)?))),
        };
        let mut started = keys.start(policy, &folder, self.provider)?.into_iter().peekable();
        let current: HashMap<&str, &Arc<Connection>> =
            current.iter().map(|one| (one.name.as_str(), one)).collect();
        let mut free = 0;
        let mut connections = Vec::with_capacity(policy.connections().len());
        for definition in policy.connections() {
            let path_mtu = definition.path_mtu.map(u32::from);
            let Some(sas) = started.next_if(|sas| sas.name() == definition.name) else {
                // Goes on: the same SAs in the same slot.
                connections.extend(current.get(definition.name.as_str()).map(|one| {
                    if one.path_mtu == path_mtu {
                        Arc::clone(one)
                    } else {
                        Arc::new(one.with_path_mtu(path_mtu))
                    }
                }));
                continue;
            };
            let (Some(outbound), Some(inbound)) = (sas.outbound(), sas.inbound()) else {
                continue;
            };
            while self.running.contains_key(&free) {
                free += 1;
            }
            connections.push(Arc::new(Connection {
                slot: free,
                since,
                name: definition.name.clone(),
                remote: definition.remote,
                remote_address: to_address(definition.remote),
                path_mtu,
                endpoint: Connection::inbound_endpoint(definition, free),
                outbound: Arc::clone(outbound),
                inbound: Arc::clone(inbound),
            }));
            self.running.insert(free, sas);
        }
        Ok(connections)
    }

    /// Stops all connections but those in `used`: marks are written, keys go with the last worker that has them.
    pub(crate) fn stop_all_but(&mut self, used: &HashSet<u32>) {
        self.running.retain(|slot, _| used.contains(slot));
    }

    /// Keeps sequence numbers ready to be used, and on disk those that were used and seen.
    ///
    /// # Errors
    ///
    /// The first [`KeyingError`]; all connections had their turn.
    pub(crate) fn keep_marks(&mut self, record: bool) -> Result<(), KeyingError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let extended = StaticConnection::extend(folder, self.running.values_mut());
        if record {
            extended.and(Ok(StaticConnection::record_received(
                folder,
                self.running.values_mut(),
            )?))
        } else {
            extended
        }
    }
}
