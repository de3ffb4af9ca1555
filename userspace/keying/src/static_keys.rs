//! The SAs of a policy's statically keyed connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ravelin_esp::{InboundSa, OutboundSa, Provider, SaParameters, Secret};
use ravelin_policy::{self as policy, Connection, Policy, Spi, StaticSa};

use crate::fingerprint::Fingerprint;
use crate::key_file;
use crate::keying_error::{KeyingError, KeyingErrors};
use crate::mark_file::MarkFileError;
use crate::outer_options::outer_options;
use crate::received_mark::ReceivedMark;
use crate::sequence_mark::{MarkError, SequenceMark};
use crate::state_folder::StateFolder;

/// The keys of every connection of a policy, each used once.
#[derive(Debug)]
pub struct StaticKeys {
    /// By index of the connection in the policy; `None` for those that run already.
    pairs: Vec<Option<KeyPair>>,
}

#[derive(Debug)]
struct KeyPair {
    outbound: Secret,
    inbound: Secret,
}

impl KeyPair {
    fn fingerprints(&self) -> [Fingerprint; 2] {
        [Fingerprint::of(&self.outbound), Fingerprint::of(&self.inbound)]
    }
}

/// A connection's two SAs and what keeps its sequence numbers safe.
#[derive(Debug)]
pub struct StaticConnection {
    definition: Connection,
    /// Of the outbound and the inbound key.
    keys: [Fingerprint; 2],
    outbound: Arc<OutboundSa>,
    inbound: Arc<InboundSa>,
    sent: SequenceMark,
    received: ReceivedMark,
}

impl StaticKeys {
    /// Reads the key files of every connection. Changes nothing, so that a check can call it.
    ///
    /// # Errors
    /// Every file that cannot be used, and every key that stands in two files.
    pub fn read(policy: &Policy) -> Result<Self, KeyingErrors> {
        let (mut pairs, mut errors) = (Vec::new(), Vec::new());
        let mut seen: HashMap<Fingerprint, PathBuf> = HashMap::new();
        for connection in policy.connections() {
            let keys = &connection.keys;
            let mut read = |sa: &StaticSa| -> Option<Secret> {
                let secret = match key_file::read(&sa.key_file, keys.algorithm) {
                    Ok(secret) => secret,
                    Err(error) => {
                        errors.push(error.into());
                        return None;
                    }
                };
                match seen.entry(Fingerprint::of(&secret)) {
                    Entry::Vacant(entry) => {
                        entry.insert(sa.key_file.clone());
                    }
                    Entry::Occupied(entry) => {
                        let (first, second) = (entry.get().clone(), sa.key_file.clone());
                        errors.push(KeyingError::SameKey { first, second });
                    }
                }
                Some(secret)
            };
            if let (Some(outbound), Some(inbound)) = (read(&keys.outbound), read(&keys.inbound)) {
                pairs.push(Some(KeyPair { outbound, inbound }));
            }
        }
        if errors.is_empty() {
            Ok(Self { pairs })
        } else {
            Err(KeyingErrors(errors))
        }
    }

    /// Builds the SAs of every connection, each ready to send: its first block of sequence numbers is on disk.
    /// `policy` is the one the keys were read for.
    ///
    /// # Errors
    /// Every connection that cannot be started; then none is.
    pub fn start(
        self,
        policy: &Policy,
        folder: &Arc<StateFolder>,
        provider: Provider,
    ) -> Result<Vec<StaticConnection>, KeyingErrors> {
        let (mut started, mut errors) = (Vec::new(), Vec::new());
        for (connection, keys) in policy.connections().iter().zip(self.pairs) {
            let Some(keys) = keys else { continue };
            match StaticConnection::start(connection, keys, folder, provider) {
                Ok(connection) => started.push(connection),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(started)
        } else {
            Err(KeyingErrors(errors))
        }
    }

    /// How many connections [`StaticKeys::start`] would start.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pairs.iter().flatten().count()
    }

    /// Takes out the connections that run already with the same keys and parameters: they go on as they are, and
    /// [`StaticKeys::start`] starts the others. `policy` is the one the keys were read for.
    ///
    /// # Errors
    /// Every connection that would need new SAs with a key or an inbound SPI that a running one has.
    pub fn keep<'r>(
        &mut self,
        policy: &Policy,
        running: impl IntoIterator<Item = &'r StaticConnection>,
    ) -> Result<(), KeyingErrors> {
        let running: Vec<&StaticConnection> = running.into_iter().collect();
        let by_name: HashMap<&str, &StaticConnection> =
            running.iter().map(|one| (one.name(), *one)).collect();
        let by_key: HashMap<Fingerprint, &StaticConnection> = running
            .iter()
            .flat_map(|one| one.keys.map(|key| (key, *one)))
            .collect();
        let by_spi: HashMap<Spi, &StaticConnection> = running
            .iter()
            .map(|one| (one.definition.keys.inbound.spi, *one))
            .collect();
        let mut errors = Vec::new();
        for (connection, pair) in policy.connections().iter().zip(&mut self.pairs) {
            let Some(keys) = pair.as_ref().map(KeyPair::fingerprints) else {
                continue;
            };
            let same = by_name
                .get(connection.name.as_str())
                .is_some_and(|one| one.keys == keys && needs_same_sas(&one.definition, connection));
            if same {
                *pair = None;
                continue;
            }
            let wanted = &connection.keys;
            for (key, sa) in keys.iter().zip([&wanted.outbound, &wanted.inbound]) {
                if let Some(one) = by_key.get(key) {
                    errors.push(KeyingError::Running {
                        connection: connection.name.clone(),
                        file: sa.key_file.clone(),
                        running: one.name().to_owned(),
                    });
                }
            }
            if let Some(one) = by_spi.get(&wanted.inbound.spi) {
                errors.push(KeyingError::RunningSpi {
                    connection: connection.name.clone(),
                    spi: wanted.inbound.spi,
                    running: one.name().to_owned(),
                });
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(KeyingErrors(errors))
        }
    }
}

/// Whether SAs made for one definition serve another. The path MTU is not theirs to know, and where a key file lies does
/// not matter as long as it holds the same key.
fn needs_same_sas(a: &Connection, b: &Connection) -> bool {
    let comparable = |connection: &Connection| {
        let keys = &connection.keys;
        (
            (
                connection.mode,
                connection.local,
                connection.remote,
                connection.encapsulation,
                connection.outer_header,
            ),
            (keys.algorithm, keys.esn, keys.replay_window),
            (keys.outbound.spi, keys.inbound.spi),
        )
    };
    comparable(a) == comparable(b)
}

impl StaticConnection {
    fn start(
        connection: &Connection,
        keys: KeyPair,
        folder: &Arc<StateFolder>,
        provider: Provider,
    ) -> Result<Self, KeyingError> {
        let name = connection.name.clone();
        let failed_sa = |error| KeyingError::Sa {
            connection: name.clone(),
            error,
        };
        let failed_mark = |error| KeyingError::Mark {
            connection: name.clone(),
            error,
        };

        let (outbound_spi, inbound_spi) = (
            connection.keys.outbound.spi.value(),
            connection.keys.inbound.spi.value(),
        );
        let fingerprints = keys.fingerprints();
        let sent = SequenceMark::open(folder, outbound_spi, &keys.outbound).map_err(failed_mark)?;
        let received = ReceivedMark::open(folder, inbound_spi, &keys.inbound)
            .map_err(|error| failed_mark(MarkError::File(error)))?;
        let now = Instant::now();
        let outbound = outbound_parameters(connection, keys.outbound);
        let outbound = OutboundSa::new(outbound, provider, sent.last_used(), now).map_err(failed_sa)?;
        let inbound = inbound_parameters(connection, keys.inbound);
        let inbound = InboundSa::new(inbound, provider, received.highest(), now).map_err(failed_sa)?;
        let mut started = Self {
            definition: connection.clone(),
            keys: fingerprints,
            outbound: Arc::new(outbound),
            inbound: Arc::new(inbound),
            sent,
            received,
        };
        started.extend()?;
        Ok(started)
    }

    /// The connection as the policy that started it has it.
    #[must_use]
    pub fn definition(&self) -> &Connection {
        &self.definition
    }

    /// The connection's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// The SA to send with.
    #[must_use]
    pub fn outbound(&self) -> &Arc<OutboundSa> {
        &self.outbound
    }

    /// The SA to receive with.
    #[must_use]
    pub fn inbound(&self) -> &Arc<InboundSa> {
        &self.inbound
    }

    /// Keeps sequence numbers ready; to be called about every 100 ms as long as the SA sends. Writes to disk, so never
    /// from a worker.
    ///
    /// # Errors
    /// [`KeyingError::Mark`]: the SA stops when the numbers it has are used up. Calling again tries again.
    pub fn extend(&mut self) -> Result<(), KeyingError> {
        let extended = self
            .sent
            .extend(self.outbound.sequence(), self.definition.keys.esn);
        extended.map_err(|error| KeyingError::Mark {
            connection: self.name().to_owned(),
            error,
        })
    }

    /// Records how far receiving has come; to be called about every second. Dropping this does it once more. Writes to
    /// disk, so never from a worker.
    ///
    /// # Errors
    /// [`KeyingError::Mark`]; receiving goes on, but after a crash more packets could be replayed.
    pub fn record_received(&mut self) -> Result<(), KeyingError> {
        let recorded = self.received.record(self.inbound.highest_sequence().unwrap_or(0));
        recorded.map_err(|error: MarkFileError| KeyingError::Mark {
            connection: self.name().to_owned(),
            error: error.into(),
        })
    }
}

impl Drop for StaticConnection {
    fn drop(&mut self) {
        // A clean stop leaves nothing to replay. There is nobody left to tell if it fails.
        let _ = self.record_received();
    }
}

fn outbound_parameters(connection: &Connection, keymat: Secret) -> SaParameters {
    let encapsulation = match connection.encapsulation {
        policy::Encapsulation::None => ravelin_esp::Encapsulation::None,
        policy::Encapsulation::Udp {
            local_port,
            remote_port,
        } => ravelin_esp::Encapsulation::Udp {
            source_port: local_port,
            destination_port: remote_port,
        },
    };
    SaParameters {
        encapsulation,
        path_mtu: connection.path_mtu.map(u32::from),
        ..parameters(connection, &connection.keys.outbound, keymat)
    }
}

fn inbound_parameters(connection: &Connection, keymat: Secret) -> SaParameters {
    let encapsulation = match connection.encapsulation {
        policy::Encapsulation::None => ravelin_esp::Encapsulation::None,
        policy::Encapsulation::Udp {
            local_port,
            remote_port,
        } => ravelin_esp::Encapsulation::Udp {
            source_port: remote_port,
            destination_port: local_port,
        },
    };
    SaParameters {
        encapsulation,
        ..parameters(connection, &connection.keys.inbound, keymat)
    }
}

/// What both directions have in common.
fn parameters(connection: &Connection, sa: &StaticSa, keymat: Secret) -> SaParameters {
    let mode = match connection.mode {
        policy::Mode::Tunnel => ravelin_esp::Mode::Tunnel {
            local: connection.local,
            remote: connection.remote,
        },
        policy::Mode::Transport => ravelin_esp::Mode::Transport,
    };
    SaParameters {
        extended_sequence_numbers: connection.keys.esn,
        replay_window: connection.keys.replay_window,
        outer: outer_options(connection.outer_header),
        ..SaParameters::new(sa.spi.value(), mode, connection.keys.algorithm, keymat)
    }
}
