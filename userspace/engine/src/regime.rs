//! What is in force: one generation of rules and connections, which workers take up whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwap, Guard};
use ravelin_classifier::RuleSet;
use ravelin_xdp_common::FrameMetadata;

use crate::adjacency::Adjacencies;
use crate::connection::Connection;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    regime: ArcSwap<Regime>,
    adjacencies: Arc<Adjacencies>,
}

impl Shared {
    /// With a first regime.
    #[must_use]
    pub fn new(regime: Regime, adjacencies: Arc<Adjacencies>) -> Self {
        Self {
            regime: ArcSwap::from_pointee(regime),
            adjacencies,
        }
    }

    /// What is in force now. Once per turn, not per packet.
    #[must_use]
    pub fn regime(&self) -> Guard<Arc<Regime>> {
        self.regime.load()
    }

    /// Puts another in force. Workers take it up with their next turn.
    pub fn publish(&self, regime: Regime) {
        self.regime.store(Arc::new(regime));
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
    rules: Arc<RuleSet>,
    /// By slot.
    connections: Vec<Option<Arc<Connection>>>,
}

impl Regime {
    /// `rules` name their connections by slot.
    #[must_use]
    pub fn new(
        generation: u32,
        rules: Arc<RuleSet>,
        connections: impl IntoIterator<Item = Arc<Connection>>,
    ) -> Self {
        let mut slots = Vec::new();
        for connection in connections {
            let slot = connection.slot as usize;
            if slots.len() <= slot {
                slots.resize(slot + 1, None);
            }
            slots[slot] = Some(connection);
        }
        Self {
            generation,
            rules,
            connections: slots,
        }
    }

    /// The generation of the rule set.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The rules that opened packets are held against.
    #[must_use]
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// All connections.
    pub fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections.iter().flatten()
    }

    /// The connection in a slot.
    #[must_use]
    pub fn connection(&self, slot: u32) -> Option<&Connection> {
        self.connections.get(slot as usize)?.as_deref()
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

/// The generation that a worker has taken up: packets of earlier ones are out of its hands.
#[derive(Debug, Default)]
pub struct TakenUp(AtomicU32);

impl TakenUp {
    pub(crate) fn set(&self, generation: u32) {
        self.0.store(generation, Ordering::Release);
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}
