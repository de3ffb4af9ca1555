//! One policy as it is, was, or will be in force.

use std::sync::Arc;

use ravelin_classifier::RuleSet;
use ravelin_policy::Policy;

use crate::connection::Connection;
use crate::policy_file::PolicyFile;
use crate::prepare::{ApplyError, Prepared};
use crate::regime::Regime;
use crate::slots::Slots;

/// One policy as it is, was, or will be in force.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) file: PolicyFile,
    pub(crate) policy: Arc<Policy>,
    pub(crate) generation: u32,
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
            generation,
            rules: Arc::new(rules),
            rule_slots: rule_slots.into(),
            connections: connections.into(),
        })
    }

    /// What workers need of it.
    pub(crate) fn regime(&self) -> Regime {
        Regime::new(
            self.generation,
            Arc::clone(&self.rules),
            self.connections.iter().cloned(),
        )
    }
}

/// Names of the rules.
pub(crate) fn names(policy: &Policy) -> impl Iterator<Item = &str> + Clone {
    policy.rules().iter().map(|rule| rule.name.as_str())
}
