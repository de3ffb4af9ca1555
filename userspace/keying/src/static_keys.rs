//! The keys of a policy's statically keyed connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ravelin_esp::{Provider, Secret};
use ravelin_policy::{Connection, Policy, Spi, StaticSa};

use crate::fingerprint::Fingerprint;
use crate::key_file;
use crate::keying_error::{KeyingError, KeyingErrors, SaField};
use crate::state_folder::StateFolder;
use crate::static_connection::{KeyPair, StaticConnection};

/// The keys of every connection of a policy, each used once.
#[derive(Debug)]
pub struct StaticKeys {
    /// By index of the connection in the policy; `None` for those that run already.
    pairs: Vec<Option<KeyPair>>,
}

/// Who has keys and SPIs that a new connection cannot have.
#[derive(Clone, Copy, Debug)]
pub enum Holder<'r> {
    /// A connection in force.
    Current(&'r StaticConnection),
    /// SAs of a connection that has others by now; they stay for so long.
    Old(&'r StaticConnection, Duration),
}

impl<'r> Holder<'r> {
    fn sas(self) -> &'r StaticConnection {
        match self {
            Self::Current(sas) | Self::Old(sas, _) => sas,
        }
    }

    fn seconds(self) -> Option<u64> {
        match self {
            Self::Current(_) => None,
            Self::Old(_, left) => Some(left.as_secs() + 1),
        }
    }
}

impl StaticKeys {
    /// Reads the key files of every connection. Changes nothing, so that a check can call it.
    ///
    /// # Errors
    /// Every file that cannot be used, and every key that stands in two files.
    pub fn read(policy: &Policy) -> Result<Self, KeyingErrors> {
        let (mut pairs, mut errors) = (Vec::new(), Vec::new());
        let mut seen: HashMap<Fingerprint, &Path> = HashMap::new();
        for connection in policy.connections() {
            let keys = &connection.keys;
            let place = |sa: &StaticSa| format!("{}:{}", policy.file(sa.position), sa.position);
            let mut read = |sa: &StaticSa| -> Option<Secret> {
                let read = key_file::read(&sa.key_file, keys.algorithm);
                let failed = |error| KeyingError::KeyFile {
                    place: place(sa),
                    error,
                };
                read.map_err(|error| errors.push(failed(error))).ok()
            };
            let (Some(outbound), Some(inbound)) = (read(&keys.outbound), read(&keys.inbound)) else {
                continue;
            };
            let pair = KeyPair::new(outbound, inbound);
            for (key, sa) in pair
                .fingerprints()
                .into_iter()
                .zip([&keys.outbound, &keys.inbound])
            {
                match seen.entry(key) {
                    Entry::Vacant(entry) => {
                        entry.insert(&sa.key_file);
                    }
                    Entry::Occupied(entry) => {
                        let (first, second) = (entry.get().to_path_buf(), sa.key_file.clone());
                        let place = place(sa);
                        errors.push(KeyingError::SameKey { place, first, second });
                    }
                }
            }
            pairs.push(Some(pair));
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
            match StaticConnection::new(connection, keys, folder, provider) {
                Ok(connection) => started.push(connection),
                Err(error) => errors.push(error),
            }
        }
        // All have noted their keys by now, and none can use a number before it has more of them.
        if errors.is_empty() {
            errors.extend(held_elsewhere(&started, folder));
        }
        if errors.is_empty() {
            errors.extend(StaticConnection::extend(folder, &mut started).err());
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
    /// Every connection that would need new SAs with a key or an inbound SPI that somebody has.
    pub fn keep<'r>(
        &mut self,
        policy: &Policy,
        holders: impl IntoIterator<Item = Holder<'r>>,
    ) -> Result<(), KeyingErrors> {
        let (mut by_name, mut by_key, mut by_spi) = (HashMap::new(), HashMap::new(), HashMap::new());
        for holder in holders {
            let sas = holder.sas();
            if let Holder::Current(sas) = holder {
                by_name.insert(sas.name(), sas);
            }
            by_key.extend(sas.keys().map(|key| (key, holder)));
            if sas.inbound().is_some() {
                by_spi.insert(sas.definition().keys.inbound.spi, holder);
            }
        }
        let mut errors = Vec::new();
        for (connection, pair) in policy.connections().iter().zip(&mut self.pairs) {
            let Some(keys) = pair.as_ref().map(KeyPair::fingerprints) else {
                continue;
            };
            let same = by_name
                .get(connection.name.as_str())
                .is_some_and(|one| one.keys() == keys && needs_same_sas(one.definition(), connection));
            if same {
                *pair = None;
            } else {
                errors.extend(taken(connection, keys, &by_key, &by_spi));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(KeyingErrors(errors))
        }
    }
}

/// Keys to seal with that somebody else on this machine has begun with.
fn held_elsewhere(started: &[StaticConnection], folder: &StateFolder) -> Vec<KeyingError> {
    let keys = started.iter().map(|connection| connection.keys()[0]).collect();
    let holders = match folder.holders(&keys) {
        Ok(holders) => holders,
        Err(error) => return vec![KeyingError::OthersUnknown(error)],
    };
    let held = started.iter().filter_map(|connection| {
        let instance = holders.get(&connection.keys()[0])?;
        Some(KeyingError::KeyElsewhere {
            connection: connection.name().to_owned(),
            file: connection.definition().keys.outbound.key_file.clone(),
            instance: instance.clone(),
        })
    });
    held.collect()
}

/// What a new connection wants that others have.
fn taken(
    connection: &Connection,
    keys: [Fingerprint; 2],
    by_key: &HashMap<Fingerprint, Holder<'_>>,
    by_spi: &HashMap<Spi, Holder<'_>>,
) -> Vec<KeyingError> {
    let wanted = &connection.keys;
    let fields = [
        (SaField::OutboundKey, &wanted.outbound),
        (SaField::InboundKey, &wanted.inbound),
    ];
    let mut errors = Vec::new();
    for (key, (field, sa)) in keys.iter().zip(fields) {
        if let Some(holder) = by_key.get(key) {
            errors.push(KeyingError::KeyTaken {
                connection: connection.name.clone(),
                field,
                file: sa.key_file.clone(),
                holder: holder.sas().name().to_owned(),
                seconds: holder.seconds(),
            });
        }
    }
    if let Some(holder) = by_spi.get(&wanted.inbound.spi) {
        errors.push(KeyingError::SpiTaken {
            connection: connection.name.clone(),
            spi: wanted.inbound.spi,
            holder: holder.sas().name().to_owned(),
            seconds: holder.seconds(),
        });
    }
    errors
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
                connection.nat.original,
                connection.nat.udp_zero_checksum,
                connection.tfc_padding,
            ),
            (connection.protocol, keys.algorithm, keys.implicit_iv),
            (keys.esn, keys.replay_window, keys.lifetime),
            (keys.outbound.spi, keys.inbound.spi),
        )
    };
    comparable(a) == comparable(b)
}
