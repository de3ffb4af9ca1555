//! What a verdict comes to, so that those of two policies can be compared.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::connection::Connection;
use crate::diagnostic::Position;
use crate::policy::Policy;
use crate::rule::{Action, DefaultAction, Rule};
use crate::space::{Arrangement, Entry, Plane};

/// What becomes of a packet, in words that mean the same in both policies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consequence {
    /// Passes in the clear.
    Permit,
    /// Is dropped.
    Block,
    /// Would be dropped, but is only counted.
    AuditedBlock,
    /// Only inside ESP of this connection; in audit mode the clear packet is counted and passes.
    Protect {
        /// Its name.
        connection: String,
        /// Whether a clear packet from the remote side is accepted.
        accept_unsecured: bool,
        /// Whether outbound packets may go in the clear when the peer gives no answer.
        fallback_clear: bool,
        /// Whether clear packets are only counted.
        audit: bool,
    },
    /// A later fragment, which shows no ports and over IPv6 proves no protocol, is dropped, because a filter with those could
    /// have been the one.
    InDoubt,
    /// The same, but only counted.
    AuditedDoubt,
}

impl fmt::Display for Consequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permit => f.write_str("permit"),
            Self::Block => f.write_str("block"),
            Self::AuditedBlock => f.write_str("block in audit mode"),
            Self::InDoubt => f.write_str("block in doubt"),
            Self::AuditedDoubt => f.write_str("block in doubt in audit mode"),
            Self::Protect {
                connection,
                accept_unsecured,
                fallback_clear,
                audit,
            } => {
                write!(f, "protect with `{connection}`")?;
                for (given, words) in [
                    (accept_unsecured, ", unsecured accepted"),
                    (fallback_clear, ", falling back to clear"),
                    (audit, ", in audit mode"),
                ] {
                    if *given {
                        f.write_str(words)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// What of a rule makes its consequences differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Effect {
    Permit,
    Block {
        audit: bool,
    },
    Protect {
        /// Index into [`Effects::connections`].
        connection: usize,
        accept_unsecured: bool,
        fallback_clear: Option<Duration>,
        audit: bool,
    },
}

/// Numbers for the effects of several policies. Doubt is not among them: it is told by [`in_plane`].
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Different connections, without their places in a file.
    connections: Vec<Connection>,
    numbers: HashMap<Effect, u32>,
}

/// Added to the effect of a filter that stands in doubt.
const IN_DOUBT: u32 = 1 << 30;
const AUDITED_DOUBT: u32 = 1 << 31;

/// The number of what becomes of a packet of this plane that the filter decides.
pub(super) fn in_plane(entry: &Entry<'_>, plane: Plane) -> u32 {
    match (entry.is_in_doubt(plane), entry.audit) {
        (false, _) => entry.effect,
        (true, false) => IN_DOUBT,
        (true, true) => AUDITED_DOUBT,
    }
}

impl Effects {
    pub(super) fn arrange<'p>(&mut self, policy: &'p Policy) -> Arrangement<'p> {
        let connections: Vec<usize> = policy
            .connections()
            .iter()
            .map(|connection| self.connection(connection))
            .collect();
        Arrangement::new(policy, &mut self.numbers, |rule: &Rule| {
            let audit = rule.audit || policy.audit();
            match rule.action {
                Action::Permit => Effect::Permit,
                Action::Block => Effect::Block { audit },
                Action::Protect {
                    connection,
                    accept_unsecured,
                } => Effect::Protect {
                    connection: connections.get(connection).copied().unwrap_or(usize::MAX),
                    accept_unsecured,
                    fallback_clear: rule.fallback_clear,
                    audit,
                },
            }
        })
    }

    /// The number of the policy's default.
    pub(super) fn of_default(&mut self, policy: &Policy) -> u32 {
        let effect = match policy.default_action() {
            DefaultAction::Permit => Effect::Permit,
            DefaultAction::Block => Effect::Block {
                audit: policy.audit(),
            },
        };
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(effect).or_insert(next)
    }

    /// What a number stands for.
    pub(super) fn consequence(&self, number: u32) -> Consequence {
        match number {
            IN_DOUBT => return Consequence::InDoubt,
            AUDITED_DOUBT => return Consequence::AuditedDoubt,
            _ => {}
        }
        let effect = self.numbers.iter().find(|(_, known)| **known == number);
        match effect.map(|(effect, _)| *effect) {
            None | Some(Effect::Permit) => Consequence::Permit,
            Some(Effect::Block { audit: false }) => Consequence::Block,
            Some(Effect::Block { audit: true }) => Consequence::AuditedBlock,
            Some(Effect::Protect {
                connection,
                accept_unsecured,
                fallback_clear,
                audit,
            }) => Consequence::Protect {
                connection: self.name(connection),
                accept_unsecured,
                fallback_clear: fallback_clear.is_some(),
                audit,
            },
        }
    }

    /// The connection's name; one of the same name that came later is told apart.
    fn name(&self, index: usize) -> String {
        let Some(connection) = self.connections.get(index) else {
            return String::new();
        };
        let earlier = &self.connections[..index];
        if earlier.iter().any(|it| it.name == connection.name) {
            format!("{} (redefined)", connection.name)
        } else {
            connection.name.clone()
        }
    }

    fn connection(&mut self, connection: &Connection) -> usize {
        let mut bare = connection.clone();
        bare.position = Position::default();
        bare.keys.outbound.position = Position::default();
        bare.keys.inbound.position = Position::default();
        if let Some(known) = self.connections.iter().position(|known| *known == bare) {
            return known;
        }
        self.connections.push(bare);
        self.connections.len() - 1
    }
}
