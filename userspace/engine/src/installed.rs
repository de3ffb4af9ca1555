//! One policy as it is, was, or will be in force.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ravelin_classifier::RuleSet;
use ravelin_policy::{Policy, SessionPath};
use ravelin_xdp_common::InboundEndpoint;

use crate::connection::{Connection, Inbound};
use crate::held::Held;
use crate::peer_ports::PeerPorts;
use crate::policy_file::PolicyFile;
use crate::prepare::{ApplyError, Prepared};
use crate::regime::Regime;
use crate::rekey::Rekeys;
use crate::slots::Slots;

/// An inbound SA that the driver knows.
#[derive(Clone, Debug)]
pub(crate) struct Armed {
    pub(crate) inbound: Arc<Inbound>,
    /// What the driver checks about its packets.
    pub(crate) endpoint: InboundEndpoint,
}

/// One policy as it is, was, or will be in force.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) file: PolicyFile,
    pub(crate) policy: Arc<Policy>,
    /// The addresses that `me` stands for in it.
    pub(crate) own: Arc<[IpAddr]>,
    pub(crate) generation: u32,
    /// The SSH connection that has a lifeline.
    pub(crate) session: Option<Held>,
    /// How that passes, if not by the rules.
    pub(crate) session_path: Option<SessionPath>,
    /// By slot.
    pub(crate) rules: Arc<RuleSet>,
    /// By index of the rule in the policy.
    pub(crate) rule_slots: Arc<[u32]>,
    /// In the order of the policy; none without a clear side.
    pub(crate) connections: Arc<[Arc<Connection>]>,
}

impl Installed {
    /// Gives rules their slots and connections theirs.
    pub(crate) fn new(
        prepared: Prepared,
        slots: &mut Slots,
        connections: Vec<Arc<Connection>>,
        generation: u32,
    ) -> Result<Self, ApplyError> {
        let Prepared {
            file,
            policy,
            surroundings,
            session,
            hold,
            mut rules,
            ..
        } = prepared;
        let rule_slots = slots.assign(names(&policy))?;
        let mut connection_slots: Vec<u32> = connections.iter().map(|connection| connection.slot).collect();
        // Without a clear side nothing is sealed; slots that nobody has keep the verdicts what they are.
        connection_slots.extend((0..).take(policy.connections().len() - connections.len()));
        rules.renumber(&rule_slots, &connection_slots);
        Ok(Self {
            file,
            policy,
            own: surroundings.own.into(),
            generation,
            session,
            session_path: hold.and_then(|hold| hold.path),
            rules: Arc::new(rules),
            rule_slots: rule_slots.into(),
            connections: connections.into(),
        })
    }

    /// What workers need of it, with rekeys under way.
    pub(crate) fn regime(&self, rekeys: &Rekeys) -> Regime {
        Regime::new(
            self.generation,
            Arc::clone(&self.rules),
            self.connections.iter().map(|one| rekeys.as_it_is(one)),
            rekeys.all_old().map(|old| Arc::clone(&old.inbound)),
        )
    }

    /// The inbound SAs that are armed, by the number of their pair.
    pub(crate) fn armed(&self, rekeys: &Rekeys, ports: &PeerPorts) -> BTreeMap<u32, Armed> {
        self.connections
            .iter()
            .flat_map(|connection| armed_of(connection, rekeys, ports))
            .map(|armed| (armed.inbound.pair, armed))
            .collect()
    }

    /// Lets go of an outbound SA.
    pub(crate) fn remove_outbound(&mut self, pair: u32) {
        self.change(pair, |connection| connection.outbound = None);
    }

    /// Lets go of an inbound SA.
    pub(crate) fn remove_inbound(&mut self, pair: u32) {
        self.change(pair, |connection| connection.inbound = None);
    }

    /// Changes the connection that has a pair, if there is one.
    fn change(&mut self, pair: u32, change: impl FnOnce(&mut Connection)) {
        if let Some(at) = self.connections.iter().position(|one| one.pair == pair) {
            let mut connection = Connection::clone(&self.connections[at]);
            change(&mut connection);
            let mut connections = self.connections.to_vec();
            connections[at] = Arc::new(connection);
            self.connections = connections.into();
        }
    }
}

/// The inbound SAs of a connection that are armed.
pub(crate) fn armed_of<'a>(
    connection: &'a Connection,
    rekeys: &'a Rekeys,
    ports: &'a PeerPorts,
) -> impl Iterator<Item = Armed> + 'a {
    let old = rekeys.old(connection.slot).iter().map(|old| &old.inbound);
    connection.inbound.iter().chain(old).map(|inbound| Armed {
        inbound: Arc::clone(inbound),
        endpoint: ports.endpoint(connection, inbound),
    })
}

/// Names of the rules.
pub(crate) fn names(policy: &Policy) -> impl Iterator<Item = &str> + Clone {
    policy.rules().iter().map(|rule| rule.name.as_str())
}
