//! The two SAs of a statically keyed connection, and what keeps their sequence numbers safe.

use std::sync::Arc;
use std::time::Instant;

use ravelin_esp::{
    InboundSa, NatOriginal, OutboundSa, Provider, SaParameters, Secret, SequenceCounter, TfcPadding,
};
use ravelin_policy::{self as policy, Connection, StaticSa};

use crate::byte_mark::ByteMark;
use crate::fingerprint::Fingerprint;
use crate::keying_error::KeyingError;
use crate::lifetime::{lifetime, limits_bytes};
use crate::mark_record::Kind;
use crate::marks::MarkFileError;
use crate::outer_options::outer_options;
use crate::received_mark::ReceivedMark;
use crate::sequence_mark::{MarkError, SequenceMark};
use crate::state_folder::StateFolder;

/// A connection's two SAs and what keeps its sequence numbers safe. Each can go before the other: then its key is gone
/// from here, and erased when the last has let go of the SA.
#[derive(Debug)]
pub struct StaticConnection {
    definition: Connection,
    /// Of the outbound and the inbound key.
    keys: [Fingerprint; 2],
    outbound: Option<Sealing>,
    inbound: Option<Opening>,
}

#[derive(Debug)]
struct Sealing {
    sa: Arc<OutboundSa>,
    mark: SequenceMark,
    /// Where the policy limits them.
    bytes: Option<ByteMark>,
}

#[derive(Debug)]
struct Opening {
    sa: Arc<InboundSa>,
    mark: ReceivedMark,
    /// Where the policy limits them.
    bytes: Option<ByteMark>,
}

/// The keys of one connection.
#[derive(Debug)]
pub(crate) struct KeyPair {
    outbound: Secret,
    inbound: Secret,
    fingerprints: [Fingerprint; 2],
}

impl KeyPair {
    pub(crate) fn new(outbound: Secret, inbound: Secret) -> Self {
        Self {
            fingerprints: [Fingerprint::of(&outbound), Fingerprint::of(&inbound)],
            outbound,
            inbound,
        }
    }

    /// Of the outbound and the inbound key.
    pub(crate) fn fingerprints(&self) -> [Fingerprint; 2] {
        self.fingerprints
    }
}

impl StaticConnection {
    /// Builds both SAs. Nothing can be sent before [`StaticConnection::extend`] was called.
    ///
    /// # Errors
    /// [`KeyingError::Mark`], [`KeyingError::Sa`].
    pub(crate) fn new(
        connection: &Connection,
        keys: KeyPair,
        folder: &Arc<StateFolder>,
        provider: Provider,
    ) -> Result<Self, KeyingError> {
        let failed_sa = |error| KeyingError::Sa {
            connection: connection.name.clone(),
            error,
        };
        let failed_mark = |error| KeyingError::Mark {
            connection: connection.name.clone(),
            error,
        };
        let (outbound, inbound) = (&connection.keys.outbound, &connection.keys.inbound);
        let fingerprints = keys.fingerprints();
        let sent = SequenceMark::open(folder, outbound.spi.value(), fingerprints[0]).map_err(failed_mark)?;
        let received =
            ReceivedMark::open(folder, inbound.spi.value(), fingerprints[1]).map_err(failed_mark)?;
        let limits = connection.keys.lifetime;
        let bytes = |kind, sa: &StaticSa, key| {
            let mark = limits_bytes(limits)
                .then(|| ByteMark::open(folder, kind, sa.spi.value(), key).map_err(MarkError::from));
            mark.transpose().map_err(failed_mark)
        };
        let sealed = bytes(Kind::Sent, outbound, fingerprints[0])?;
        let opened = bytes(Kind::Received, inbound, fingerprints[1])?;
        let before = |mark: &Option<ByteMark>| mark.as_ref().map_or(0, ByteMark::before);
        let now = Instant::now();
        let mut outbound = outbound_parameters(connection, keys.outbound);
        // Numbers may have been lost, but not one packet was sent that had none.
        outbound.lifetime = lifetime(limits, sent.last_used(), before(&sealed));
        let outbound = OutboundSa::new(outbound, provider, sent.start(), now).map_err(failed_sa)?;
        let mut inbound = inbound_parameters(connection, keys.inbound);
        inbound.lifetime = lifetime(limits, received.highest(), before(&opened));
        let inbound = InboundSa::new(inbound, provider, received.highest(), now).map_err(failed_sa)?;
        Ok(Self {
            definition: connection.clone(),
            keys: fingerprints,
            outbound: Some(Sealing {
                sa: Arc::new(outbound),
                mark: sent,
                bytes: sealed,
            }),
            inbound: Some(Opening {
                sa: Arc::new(inbound),
                mark: received,
                bytes: opened,
            }),
        })
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

    /// Fingerprints of the outbound and the inbound key, which tell them apart even when they are gone.
    pub(crate) fn keys(&self) -> [Fingerprint; 2] {
        self.keys
    }

    /// The SA to send with; `None` once it is gone.
    #[must_use]
    pub fn outbound(&self) -> Option<&Arc<OutboundSa>> {
        self.outbound.as_ref().map(|sealing| &sealing.sa)
    }

    /// The SA to receive with; `None` once it is gone.
    #[must_use]
    pub fn inbound(&self) -> Option<&Arc<InboundSa>> {
        self.inbound.as_ref().map(|opening| &opening.sa)
    }

    /// Lets go of the SA to send with. Nobody else may use it any more: its mark goes as well.
    pub fn remove_outbound(&mut self) {
        self.outbound = None;
    }

    /// Lets go of the SA to receive with, and records how far it has come.
    pub fn remove_inbound(&mut self) {
        self.inbound = None;
    }

    /// Those of `connections` that seal with a key with which somebody else on this machine may have sealed since they began, by what they are
    /// named here, and who that is. Costs little where nothing has changed since this was asked last.
    ///
    /// # Errors
    /// [`KeyingError::OthersUnknown`]; the next call looks again.
    pub fn held_elsewhere<'c, N>(
        folder: &StateFolder,
        connections: impl Iterator<Item = (N, &'c Self)> + Clone,
    ) -> Result<Vec<(N, String)>, KeyingError> {
        let sealing = connections.filter(|(_, one)| one.outbound.is_some());
        let holders = folder.newcomers(|| sealing.clone().map(|(_, one)| one.keys[0]).collect());
        let holders = holders.map_err(KeyingError::OthersUnknown)?;
        if holders.is_empty() {
            return Ok(Vec::new());
        }
        let held = sealing.filter_map(|(name, one)| Some((name, holders.get(&one.keys[0])?.clone())));
        Ok(held.collect())
    }

    /// Keeps sequence numbers ready; to be called about every 100 ms for SAs that send. One write to disk for all that
    /// need it, so never from a worker.
    ///
    /// # Errors
    /// The first error; all connections had their turn. [`KeyingError::Marks`]: these SAs stop when the numbers they
    /// have are used up, and calling again tries again. [`KeyingError::Mark`]: that SA sends no more.
    pub fn extend<'c>(
        folder: &StateFolder,
        connections: impl IntoIterator<Item = &'c mut Self>,
    ) -> Result<(), KeyingError> {
        let mut result = Ok(());
        let (mut batch, mut due) = (Vec::new(), Vec::new());
        for connection in connections {
            let Some(Sealing { sa, mark, .. }) = &mut connection.outbound else {
                continue;
            };
            let sequence = sa.sequence();
            // At the end of a lifetime, unlike that of the numbers, the SA is what says so.
            let space = SequenceCounter::limit_of(connection.definition.keys.esn);
            if sequence.is_exhausted() && sequence.limit() < space {
                continue;
            }
            match mark.wanted(sequence) {
                Ok(Some(wanted)) => {
                    batch.push(wanted);
                    due.push((sa, mark));
                }
                Ok(None) => mark.raise(sa.sequence()),
                Err(error) => {
                    result = result.and(Err(KeyingError::Mark {
                        connection: connection.definition.name.clone(),
                        error,
                    }));
                }
            }
        }
        folder.record(&batch)?;
        for ((sa, mark), wanted) in due.into_iter().zip(&batch) {
            mark.recorded(wanted);
            mark.raise(sa.sequence());
        }
        result
    }

    /// Records how many bytes were sealed and opened, where the policy limits them; to be called about every second for SAs that were used,
    /// and before they are dropped. One write to disk for all that need it, so never from a worker.
    ///
    /// # Errors
    /// [`MarkFileError`]; everything goes on, but the next process does not count these bytes.
    pub fn record_bytes<'c>(
        folder: &StateFolder,
        connections: impl IntoIterator<Item = &'c mut Self>,
    ) -> Result<(), MarkFileError> {
        let now = Instant::now();
        let (mut batch, mut due) = (Vec::new(), Vec::new());
        for connection in connections {
            let sealing = connection.outbound.as_mut();
            let sealed = sealing.and_then(|one| Some((one.bytes.as_mut()?, one.sa.lifetime(now).bytes)));
            let opening = connection.inbound.as_mut();
            let opened = opening.and_then(|one| Some((one.bytes.as_mut()?, one.sa.lifetime(now).bytes)));
            for (mark, used) in sealed.into_iter().chain(opened) {
                if let Some(wanted) = mark.wanted(used) {
                    batch.push(wanted);
                    due.push(mark);
                }
            }
        }
        folder.record_bytes(&batch)?;
        for (mark, wanted) in due.into_iter().zip(&batch) {
            mark.recorded(wanted);
        }
        Ok(())
    }

    /// Records how far receiving has come; to be called about every second for SAs that receive, and before many are
    /// dropped: each does it once more by itself. One write to disk for all that need it, so never from a worker.
    ///
    /// # Errors
    /// [`MarkFileError::Write`]; receiving goes on, but after a crash more packets could be replayed.
    pub fn record_received<'c>(
        folder: &StateFolder,
        connections: impl IntoIterator<Item = &'c mut Self>,
    ) -> Result<(), MarkFileError> {
        let (mut batch, mut due) = (Vec::new(), Vec::new());
        for connection in connections {
            let Some(Opening { sa, mark, .. }) = &mut connection.inbound else {
                continue;
            };
            if let Some(wanted) = mark.wanted(sa.highest_sequence().unwrap_or(0)) {
                batch.push(wanted);
                due.push(mark);
            }
        }
        folder.record(&batch)?;
        for (mark, wanted) in due.into_iter().zip(&batch) {
            mark.recorded(wanted);
        }
        Ok(())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        // A clean stop leaves nothing to replay. There is nobody left to tell if it fails.
        let _ = self.mark.record(self.sa.highest_sequence().unwrap_or(0));
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
        udp_zero_checksum: connection.nat.udp_zero_checksum,
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
        nat_original: connection.nat.original.map(|ends| NatOriginal {
            source: ends.remote,
            destination: ends.local,
        }),
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
        protocol: match connection.protocol {
            policy::IpsecProtocol::Esp => ravelin_esp::Protocol::Esp,
            policy::IpsecProtocol::Ah => ravelin_esp::Protocol::Ah,
        },
        implicit_iv: connection.keys.implicit_iv,
        extended_sequence_numbers: connection.keys.esn,
        replay_window: connection.keys.replay_window,
        tfc_padding: match connection.tfc_padding {
            policy::TfcPadding::None => TfcPadding::None,
            policy::TfcPadding::To(len) => TfcPadding::To(len),
            policy::TfcPadding::PathMtu => TfcPadding::PathMtu,
        },
        outer: outer_options(connection.outer_header),
        ..SaParameters::new(sa.spi.value(), mode, connection.keys.algorithm, keymat)
    }
}
