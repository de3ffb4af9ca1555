//! The SAs that there are: of the connections in force, of those that may come back, and those on their way out.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use ravelin_esp::{Counts, InboundSa, OutboundSa};
use ravelin_policy::Spi;

use crate::connection::Connection;
use crate::enforcement::Enforcement;
use crate::lifetime::SaLifetime;
use crate::peers::Peers;
use crate::status::{ConnectionStatus, SaDirection, SaEntry, SaState, SaStatus};

/// An SA and the number of its pair.
pub(crate) type Numbered = (u32, SaStatus);

/// What one connection has.
struct Line {
    outbound: Numbered,
    next: Vec<Numbered>,
    inbound: Numbered,
    old: Vec<Numbered>,
}

impl Enforcement {
    /// The connections in force, in the order of the policy.
    pub(crate) fn connection_status(&self, peers: &Peers) -> Vec<ConnectionStatus> {
        let now = Instant::now();
        let described = |connection: &Connection| {
            let Line {
                outbound,
                next,
                inbound,
                old,
            } = self.line(connection, now);
            let without_number = |sas: Vec<Numbered>| sas.into_iter().map(|(_, sa)| sa).collect();
            ConnectionStatus {
                name: connection.name.clone(),
                remote: connection.remote.to_string(),
                learned_path_mtu: connection.path.learned(now),
                outbound: outbound.1,
                next: without_number(next),
                inbound: inbound.1,
                old: without_number(old),
                unexpected_ecn: connection
                    .inbound
                    .as_ref()
                    .map_or(0, |inbound| inbound.sa.unexpected_ecn()),
                peer: peers.status(connection),
            }
        };
        let connections = self.current().connections.iter();
        connections.map(|connection| described(connection)).collect()
    }

    /// All SAs, or those with one SPI, each with the number of its pair.
    pub(crate) fn sas(&self, spi: Option<u32>) -> Vec<(u32, SaEntry)> {
        let now = Instant::now();
        let mut entries = Vec::new();
        let mut add = |connection: &Connection, direction, sas: &mut dyn Iterator<Item = Numbered>| {
            let wanted = sas.filter(|(_, sa)| spi.is_none_or(|spi| spi == sa.spi));
            entries.extend(wanted.map(|(pair, sa)| {
                let entry = SaEntry {
                    connection: connection.name.clone(),
                    remote: connection.remote.to_string(),
                    direction,
                    sa,
                };
                (pair, entry)
            }));
        };
        let mut listed = HashSet::new();
        for connection in &*self.current().connections {
            let line = self.line(connection, now);
            let outbound = std::iter::once(line.outbound).chain(line.next);
            let inbound = std::iter::once(line.inbound).chain(line.old);
            listed.insert(connection.pair);
            add(connection, SaDirection::Outbound, &mut outbound.into_iter());
            add(connection, SaDirection::Inbound, &mut inbound.into_iter());
        }
        let sealing: HashSet<u32> = self.rekeys.sealing_pairs().collect();
        let old: HashSet<u32> = self.rekeys.all_old().map(|old| old.inbound.pair).collect();
        let previous = self.previous().map(|previous| &*previous.connections);
        for connection in previous.unwrap_or_default() {
            if listed.contains(&connection.pair) {
                continue;
            }
            if let Some(one) = connection
                .outbound
                .as_ref()
                .filter(|one| !sealing.contains(&one.pair))
            {
                let mut kept = std::iter::once((one.pair, outbound(&one.sa, SaState::Kept, None)));
                add(connection, SaDirection::Outbound, &mut kept);
            }
            if let Some(one) = connection.inbound.as_ref().filter(|one| !old.contains(&one.pair)) {
                let mut kept = std::iter::once((one.pair, inbound(&one.sa, SaState::Kept, None)));
                add(connection, SaDirection::Inbound, &mut kept);
            }
        }
        entries
    }

    /// What connections in force lack because it was deleted.
    pub(crate) fn missing_sas(&self) -> Vec<String> {
        let connections = self.current().connections.iter();
        let missing = connections.flat_map(|connection| {
            let [outbound, inbound] = self.spis(connection);
            let gone = [
                (connection.outbound.is_none(), "outbound", outbound),
                (connection.inbound.is_none(), "inbound", inbound),
            ];
            gone.into_iter()
                .filter(|(is_gone, ..)| *is_gone)
                .map(|(_, direction, spi)| {
                    format!(
                        "connection `{}`: its {direction} SA {spi:#010x} was deleted and stays so; give the connection new SPIs and \
                         new key files on both ends, or start Ravelin again",
                        connection.name
                    )
                })
        });
        missing.collect()
    }

    fn line(&self, connection: &Connection, now: Instant) -> Line {
        let (slot, pair) = (connection.slot, connection.pair);
        let [outbound_spi, inbound_spi] = self.spis(connection);
        let sealing = self.rekeys.sealing(slot).or(connection.outbound.as_ref());
        let mut switch_in = self.rekeys.switch_at(slot).map(|at| seconds(at, now));
        Line {
            outbound: sealing.map_or((pair, deleted(outbound_spi)), |one| {
                (one.pair, outbound(&one.sa, SaState::InUse, None))
            }),
            next: self
                .rekeys
                .next(slot)
                .map(|one| (one.pair, outbound(&one.sa, SaState::Next, switch_in.take())))
                .collect(),
            inbound: connection
                .inbound
                .as_ref()
                .map_or((pair, deleted(inbound_spi)), |one| {
                    (one.pair, inbound(&one.sa, SaState::InUse, None))
                }),
            old: self
                .rekeys
                .old(slot)
                .iter()
                .map(|old| {
                    let left = Some(seconds(old.until, now));
                    (old.inbound.pair, inbound(&old.inbound.sa, SaState::Old, left))
                })
                .collect(),
        }
    }

    /// The SPIs that a connection's own SAs have or had: outbound, inbound.
    fn spis(&self, connection: &Connection) -> [u32; 2] {
        let definition = self.sas.definition(connection.pair);
        let keys = definition.map(|definition| &definition.keys);
        [
            keys.map(|keys| keys.outbound.spi),
            keys.map(|keys| keys.inbound.spi),
        ]
        .map(|spi| spi.map_or(0, Spi::value))
    }
}

/// Whole seconds that are left, rounded up.
fn seconds(until: Instant, now: Instant) -> u64 {
    let left = until.saturating_duration_since(now);
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

fn outbound(sa: &OutboundSa, state: SaState, seconds_left: Option<u64>) -> SaStatus {
    SaStatus {
        seconds_left,
        lifetime: Some(SaLifetime::new(&sa.lifetime(Instant::now()))),
        ..counted(sa.spi(), state, &sa.counters(), sa.sequence().last_used())
    }
}

fn inbound(sa: &InboundSa, state: SaState, seconds_left: Option<u64>) -> SaStatus {
    SaStatus {
        seconds_left,
        lifetime: Some(SaLifetime::new(&sa.lifetime(Instant::now()))),
        ..counted(
            sa.spi(),
            state,
            &sa.counters(),
            sa.highest_sequence().unwrap_or(0),
        )
    }
}

fn counted(spi: u32, state: SaState, counts: &Counts, sequence: u64) -> SaStatus {
    SaStatus {
        packets: counts.packets,
        bytes: counts.bytes,
        sequence,
        idle_seconds: counts.last_used.map(|last| last.elapsed().as_secs()),
        drops: counts
            .drops()
            .map(|(reason, packets)| (reason.name().to_owned(), packets))
            .collect(),
        state,
        ..deleted(spi)
    }
}

fn deleted(spi: u32) -> SaStatus {
    SaStatus {
        spi,
        state: SaState::Deleted,
        seconds_left: None,
        packets: 0,
        bytes: 0,
        sequence: 0,
        idle_seconds: None,
        drops: BTreeMap::new(),
        lifetime: None,
    }
}
