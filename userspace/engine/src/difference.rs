//! What a swap changes, in names.

use std::collections::{HashMap, HashSet};

use ravelin_policy::{self as policy, Policy};

use crate::installed::{Installed, names};
use crate::sas::Sas;

/// What a swap changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) rules_added: usize,
    pub(crate) rules_removed: usize,
    pub(crate) started: Vec<String>,
    /// Connections between the same ends that get other SAs.
    pub(crate) rekeyed: Vec<String>,
    pub(crate) stopped: Vec<String>,
}

impl Difference {
    /// Between what is in force and another policy. Without a clear side connections never start, and `sas` is `None`.
    pub(crate) fn new(current: &Installed, policy: &Policy, sas: Option<&Sas>) -> Self {
        let before: HashSet<&str> = names(&current.policy).collect();
        let after: HashSet<&str> = names(policy).collect();
        let mut difference = Self {
            rules_added: after.difference(&before).count(),
            rules_removed: before.difference(&after).count(),
            ..Self::default()
        };
        if let Some(sas) = sas {
            difference.compare_connections(current, policy, sas);
        }
        for names in [
            &mut difference.started,
            &mut difference.rekeyed,
            &mut difference.stopped,
        ] {
            names.sort_unstable();
        }
        difference
    }

    fn compare_connections(&mut self, current: &Installed, policy: &Policy, sas: &Sas) {
        let mut new: HashMap<&str, &policy::Connection> = policy
            .connections()
            .iter()
            .map(|one| (one.name.as_str(), one))
            .collect();
        for connection in &*current.connections {
            let name = connection.name.clone();
            let before = sas.definition(connection.pair);
            match (new.remove(name.as_str()), before) {
                (Some(after), Some(before)) if sas.is_rekey(connection, after) => {
                    if spis(before) != spis(after) {
                        self.rekeyed.push(name);
                    }
                }
                (Some(_), _) => {
                    self.stopped.push(name.clone());
                    self.started.push(name);
                }
                (None, _) => self.stopped.push(name),
            }
        }
        self.started.extend(new.into_keys().map(str::to_owned));
    }
}

fn spis(connection: &policy::Connection) -> [policy::Spi; 2] {
    [connection.keys.outbound.spi, connection.keys.inbound.spi]
}
