//! What is in force: one generation of rules and connections, which workers take up whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use ravelin_classifier::RuleSet;
use ravelin_xdp_common::FrameMetadata;

use crate::adjacency::Adjacencies;
use crate::connection::{Connection, Inbound};
use crate::errand::Errands;
use crate::sighting::Sightings;
use crate::touched::Touched;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    regime: ArcSwap<Regime>,
    adjacencies: Arc<Adjacencies>,
    /// Whose outbound SA has sealed.
    pub(crate) sealed: Touched,
    /// Whose inbound SA has opened.
    pub(crate) opened: Touched,
    /// What workers are to send by themselves.
    pub(crate) errands: Errands,
    /// Peers that workers saw elsewhere.
    pub(crate) sightings: Sightings,
}

impl Shared {
    /// With a first regime.
    #[must_use]
    pub fn new(regime: Regime, adjacencies: Arc<Adjacencies>) -> Self {
        Self {
            regime: ArcSwap::from_pointee(regime),
            adjacencies,
            sealed: Touched::default(),
            opened: Touched::default(),
            errands: Errands::new(),
            sightings: Sightings::new(),
        }
    }

    /// What is in force now. Once per turn, not per packet.
    #[must_use]
    pub fn regime(&self) -> Guard<Arc<Regime>> {
        self.regime.load()
    }

    /// Puts another in force, from one thread; returns its edition. Workers take it up with their next turn.
    pub fn publish(&self, regime: Regime) -> u64 {
        let edition = self.regime().edition + 1;
        self.regime.store(Arc::new(Regime { edition, ..regime }));
        edition
    }

    /// Next hops.
    #[must_use]
    pub const fn adjacencies(&self) -> &Arc<Adjacencies> {
        &self.adjacencies
    }
}

/// One generation of rules and connections.
#[derive(Clone, Debug)]
pub struct Regime {
    generation: u32,
    /// Counts what was published: SAs change without rules.
    edition: u64,
    rules: Arc<RuleSet>,
    /// By slot.
    connections: Vec<Option<Arc<Connection>>>,
    /// By pair.
    inbound: Vec<Option<Arc<Inbound>>>,
}

impl Regime {
    /// `rules` name their connections by slot. `old` are inbound SAs beside those that the connections have.
    #[must_use]
    pub fn new(
        generation: u32,
        rules: Arc<RuleSet>,
        connections: impl IntoIterator<Item = Arc<Connection>>,
        old: impl IntoIterator<Item = Arc<Inbound>>,
    ) -> Self {
        let (mut by_slot, mut by_pair) = (Vec::new(), Vec::new());
        for connection in connections {
            if let Some(inbound) = &connection.inbound {
                put(&mut by_pair, inbound.pair, Arc::clone(inbound));
            }
            put(&mut by_slot, connection.slot, connection);
        }
        for inbound in old {
            put(&mut by_pair, inbound.pair, inbound);
        }
        Self {
            generation,
            edition: 1,
            rules,
            connections: by_slot,
            inbound: by_pair,
        }
    }

    /// The generation of the rule set.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Which of the regimes that were published this is, from 1.
    #[must_use]
    pub const fn edition(&self) -> u64 {
        self.edition
    }

    /// The rules that opened packets are held against.
    #[must_use]
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// All connections.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().flatten().map(|connection| &**connection)
    }

    /// The connection in a slot.
    #[must_use]
    pub fn connection(&self, slot: u32) -> Option<&Connection> {
        self.connections.get(slot as usize)?.as_deref()
    }

    /// As many places as the table of connections or that of inbound SAs has, whichever has more.
    pub(crate) fn places(&self) -> usize {
        self.connections.len().max(self.inbound.len())
    }

    /// Where the pointer to the connection in a slot is.
    #[inline]
    pub(crate) fn connection_place(&self, slot: u32) -> Option<&Option<Arc<Connection>>> {
        self.connections.get(slot as usize)
    }

    /// Where the pointer to the inbound SA of a pair is.
    #[inline]
    pub(crate) fn inbound_place(&self, pair: u32) -> Option<&Option<Arc<Inbound>>> {
        self.inbound.get(pair as usize)
    }

    /// The inbound SA of a pair: a connection's own, or one that stays for a while after a rekey.
    #[must_use]
    pub fn inbound(&self, pair: u32) -> Option<&Inbound> {
        self.inbound.get(pair as usize)?.as_deref()
    }

    /// The connection that the driver meant when it redirected a clear packet.
    ///
    /// The packet may have been decided under an earlier generation, when its slot was another connection's; then it is
    /// nobody's. It may also be from a later one, since the driver changes first.
    #[must_use]
    pub fn sealing(&self, metadata: &FrameMetadata) -> Option<&Connection> {
        // The low 16 bits tell 32,768 generations in either direction, and a packet waits for some milliseconds.
        let distance = metadata.generation.wrapping_sub(self.generation as u16) as i16;
        let decided = self.generation.wrapping_add_signed(distance.into());
        self.connection(metadata.slot)
            .filter(|connection| connection.since <= decided)
    }
}

fn put<T>(places: &mut Vec<Option<Arc<T>>>, place: u32, what: Arc<T>) {
    let place = place as usize;
    if places.len() <= place {
        places.resize(place + 1, None);
    }
    places[place] = Some(what);
}

/// The edition that a worker has taken up: what earlier ones had is out of its hands.
#[derive(Debug, Default)]
pub struct TakenUp(AtomicU64);

impl TakenUp {
    pub(crate) fn set(&self, edition: u64) {
        self.0.store(edition, Ordering::Release);
    }

    /// The edition.
    #[must_use]
    pub fn edition(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
