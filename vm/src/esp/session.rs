//! One case at work: our SAs, and hosts to talk through them.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ravelin_esp::{InboundSa, OutboundSa};

use super::{
    association::Association,
    gateway::{Gateway, Inbound},
};
use crate::{
    case::{Case, Direction, Generation, TFC_LEN},
    hosts::{Hosts, PATIENCE},
    topology::Topology,
};

/// A case whose SAs are in place on our side.
#[derive(Debug)]
pub(crate) struct Session<'m> {
    pub(crate) case: Case,
    pub(crate) gateway: &'m Gateway,
    pub(crate) association: Arc<Association>,
    generations: [Pair; 2],
    pub(crate) hosts: Hosts<'m>,
}

/// Our two SAs of one generation.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) outbound: Arc<OutboundSa>,
    pub(crate) inbound: Arc<InboundSa>,
}

impl Pair {
    fn new(case: &Case, generation: Generation) -> Result<Self> {
        Ok(Self {
            outbound: Arc::new(case.outbound(generation)?),
            inbound: Arc::new(case.inbound(generation)?),
        })
    }

    /// Packets so far: outbound, inbound.
    pub(crate) fn packets(&self) -> [u64; 2] {
        [self.outbound.counters().packets, self.inbound.counters().packets]
    }
}

impl<'m> Session<'m> {
    pub(crate) fn new(case: Case, gateway: &'m Gateway, topology: &'m Topology) -> Result<Self> {
        let first = Pair::new(&case, Generation::First)?;
        let second = Pair::new(&case, Generation::Second)?;
        let association = Arc::new(Association::new(
            Arc::clone(&first.outbound),
            case.inbound(Generation::First)?,
        ));
        let addresses = case.addresses();
        gateway.add_flow(addresses, Arc::clone(&association));
        let session = Self {
            case,
            gateway,
            association,
            generations: [first, second],
            hosts: Hosts::new(topology, addresses)?,
        };
        session.arm(Generation::First);
        Ok(session)
    }

    /// Our SAs of one generation.
    pub(crate) fn pair(&self, generation: Generation) -> &Pair {
        &self.generations[generation as usize]
    }

    /// Has the gateway receive with the inbound SA of `generation`.
    pub(crate) fn arm(&self, generation: Generation) {
        self.gateway.arm(Inbound {
            sa: Arc::clone(&self.pair(generation).inbound),
            association: Arc::clone(&self.association),
        });
    }

    /// Sends a datagram and catches the ESP packet that carries it. Others pass.
    pub(crate) fn catch(&self, direction: Direction, payload: &[u8]) -> Result<Vec<u8>> {
        let held = self.association.hold(direction, payload);
        self.hosts.send(direction, payload)?;
        let packet = held
            .recv_timeout(PATIENCE)
            .with_context(|| format!("no ESP packet for a datagram {direction}"));
        self.association.release(direction);
        let packet = packet?;
        ensure!(
            !self.case.tfc || packet.len() > TFC_LEN.into(),
            "an ESP packet {direction} has only {} bytes",
            packet.len()
        );
        Ok(packet)
    }
}
