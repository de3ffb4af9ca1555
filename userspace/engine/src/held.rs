//! The SSH connection whose lifeline belongs to the policy in force, and the way in which it comes.
//!
//! Somebody works over this connection while the rules change, so it must go on; but one that comes inside ESP must not come to be in the clear by
//! that. So its lifeline depends on how it comes, which is known from the policy before: whatever has the command typed has passed that.
//! Where it is not known (a start where a filter stands already), and where it may change because the peer begins to protect, either way is
//! accepted, and the packets that arrive tell. What was opened under a key outweighs what anybody can send.

use std::fmt;

use ravelin_classifier::RuleSet;
use ravelin_policy::order::Priority;
use ravelin_policy::{Answers, Management, Packet, Policy, Protocol, SessionPath, Transport};
use ravelin_xdp_common::{Decision, Direction};
use serde::{Deserialize, Serialize};

use crate::role::Role;
use crate::session::Session;

/// Ports that clients connect from (all that Linux, BSD and RFC 6056 use).
const CLIENT_PORTS: std::ops::RangeInclusive<u16> = 1024..=u16::MAX;

/// An SSH connection that must go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    pub(crate) session: Session,
    pub(crate) comes: Comes,
}

/// How it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Comes {
    /// In the clear.
    Clear,
    /// One way or the other.
    Unknown,
    /// Inside ESP of the connection of this name.
    Inside(String),
}

/// What has arrived for it since it was looked at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) clear: bool,
    pub(crate) inside: bool,
}

/// What rules say about what its server answers, on some port of its client or other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// The written lifeline decides.
    Lifeline,
    Permits,
    Blocks,
    /// With the connection of this index, or in this slot.
    Protects(u32),
}

/// How it is held under a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Its lifeline; `None` leaves it to the rules.
    pub(crate) path: Option<SessionPath>,
    /// In a sentence.
    pub(crate) note: String,
}

impl Held {
    pub(crate) fn new(management: Management, comes: Comes) -> Self {
        Self {
            session: management.into(),
            comes,
        }
    }

    pub(crate) fn management(&self) -> Management {
        let Session { client, own, port } = self.session;
        Management { client, own, port }
    }

    /// How it is held under a policy, of which `rules` is made, without it.
    pub(crate) fn under(&self, policy: &Policy, rules: &RuleSet, role: Role) -> Hold {
        // What a gateway itself sends is never sealed.
        let view = match role {
            Role::Host => Some(View::of(self.management(), rules, |rule| {
                let rule = policy.rules().get(rule as usize);
                rule.is_some_and(|rule| rule.priority == Priority::Lifeline)
            })),
            Role::Filter | Role::Gateway => None,
        };
        let named = |connection: usize| &policy.connections()[connection].name;
        let either = |inside, answers| Some(SessionPath::Either { inside, answers });
        let (path, how) = match (&self.comes, view) {
            (_, Some(View::Lifeline)) => (None, "passes in the clear by the written lifeline".to_owned()),
            (Comes::Clear, Some(View::Protects(connection))) => {
                let connection = connection as usize;
                (
                    either(Some(connection), Answers::Clear),
                    format!(
                        "passes in the clear, until it comes through connection `{}`",
                        named(connection)
                    ),
                )
            }
            (Comes::Clear, _) | (_, None) => (
                Some(SessionPath::Clear),
                "passes in the clear, whatever the rules say".to_owned(),
            ),
            (Comes::Unknown, Some(View::Protects(connection))) => {
                let connection = connection as usize;
                (
                    either(Some(connection), Answers::ByRules),
                    format!(
                        "passes as it comes, in the clear or through connection `{}`",
                        named(connection)
                    ),
                )
            }
            (Comes::Unknown, _) => (
                either(None, Answers::ByRules),
                "passes as soon as it is seen to come in the clear".to_owned(),
            ),
            (Comes::Inside(_), Some(View::Protects(connection))) => (
                None,
                format!(
                    "comes through ESP and stays in connection `{}`; it has no lifeline in the clear",
                    named(connection as usize)
                ),
            ),
            (Comes::Inside(name), Some(view)) => {
                let at = policy.connections().iter().position(|one| one.name == *name);
                match at {
                    Some(connection) if view == View::Permits => (
                        either(Some(connection), Answers::Inside(connection)),
                        format!(
                            "stays in connection `{name}` until it comes in the clear, which the rules permit"
                        ),
                    ),
                    Some(connection) => (
                        Some(SessionPath::Inside(connection)),
                        format!("stays in connection `{name}`, whatever the rules say"),
                    ),
                    None => (
                        None,
                        format!(
                            "came through connection `{name}`, which is not in this policy, and is not let into the clear: it is left to the rules"
                        ),
                    ),
                }
            }
        };
        Hold {
            path,
            note: format!("{self} {how}"),
        }
    }

    /// How it comes after something has arrived for it; `inside` is the connection that the packets were accepted in.
    pub(crate) fn after(&self, arrived: Arrived, inside: Option<&str>) -> Comes {
        match (arrived, inside) {
            (Arrived { inside: true, .. }, Some(name)) => Comes::Inside(name.to_owned()),
            // Where clear packets are no proof of anything, their rule does not accept them.
            (Arrived { clear: true, .. }, _) => Comes::Clear,
            _ => self.comes.clone(),
        }
    }
}

/// The slot of the connection inside which a session comes that has passed these rules; `None` for one in the clear.
pub(crate) fn sealed_by(management: Management, rules: &RuleSet) -> Option<u32> {
    match View::of(management, rules, |_| false) {
        View::Protects(slot) => Some(slot),
        View::Lifeline | View::Permits | View::Blocks => None,
    }
}

impl View {
    fn of(management: Management, rules: &RuleSet, is_lifeline: impl Fn(u32) -> bool) -> Self {
        let Management { client, own, port } = management;
        let mut seen = None;
        for from in CLIENT_PORTS {
            let answer = Packet {
                source: own,
                destination: client,
                protocol: Protocol::TCP.0,
                transport: Transport::Ports(port, from),
            };
            let verdict = rules.classify(&answer.flow(), Direction::Outbound);
            seen = match verdict.decision {
                // If it may be that port.
                Decision::Protect => return Self::Protects(verdict.connection),
                Decision::Permit | Decision::Exempt if is_lifeline(verdict.rule_id) => {
                    seen.or(Some(Self::Lifeline))
                }
                Decision::Permit | Decision::Exempt if seen != Some(Self::Blocks) => Some(Self::Permits),
                Decision::Permit | Decision::Exempt => seen,
                _ => Some(Self::Blocks),
            };
        }
        seen.unwrap_or(Self::Blocks)
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Session { client, own, port } = self.session;
        write!(f, "the SSH session from {client} to {own}, port {port},")
    }
}

#[cfg(test)]
mod tests {
    use ravelin_classifier::compile;

    use super::*;

    const PEER: &str = r#"
[filter-lists.peer]
filters = [{ source = "192.0.2.1", destination = "192.0.2.2" }]
[[rules]]
name = "peer"
filter-list = "peer"
action = "protect"
connection = "c"
"#;

    const CONNECTION: &str = r#"
[connections.c]
mode = "transport"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.c.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1001, key-file = "a" }
inbound = { spi = 0x2001, key-file = "b" }
"#;

    fn held(comes: Comes) -> Held {
        let session = Management::of_ssh_connection("192.0.2.2 50000 192.0.2.1 22").unwrap();
        Held::new(session, comes)
    }

    fn path(comes: Comes, text: &str, role: Role) -> Option<SessionPath> {
        let (policy, _) = Policy::parse(text, "p").unwrap();
        held(comes).under(&policy, &compile(&policy).unwrap(), role).path
    }

    #[test]
    fn what_comes_inside_esp_is_never_let_into_the_clear_and_what_comes_in_the_clear_is_not_cut() {
        let protects = format!("{PEER}{CONNECTION}");
        let blocks = format!("default = \"block\"\n{CONNECTION}");
        let permits = format!("default = \"permit\"\n{CONNECTION}");
        let gone = "default = \"block\"\n";
        let some = |port: u16| {
            let narrow = format!("protocol = \"tcp\", source-port = 22, destination-port = {port} }}]");
            protects.replace(" }]", &format!(", {narrow}"))
        };
        let clear = Some(SessionPath::Clear);
        let either = |inside, answers| Some(SessionPath::Either { inside, answers });
        let inside = || Comes::Inside("c".to_owned());
        for (comes, text, expected) in [
            (Comes::Clear, &*protects, either(Some(0), Answers::Clear)),
            (Comes::Clear, &blocks, clear),
            (Comes::Clear, &permits, clear),
            (Comes::Unknown, &protects, either(Some(0), Answers::ByRules)),
            (Comes::Unknown, &blocks, either(None, Answers::ByRules)),
            (inside(), &protects, None),
            (inside(), &blocks, Some(SessionPath::Inside(0))),
            (inside(), &permits, either(Some(0), Answers::Inside(0))),
            (inside(), gone, None),
            // Which port its client has is not known.
            (inside(), &some(65_535), None),
            (inside(), &some(1023), either(Some(0), Answers::Inside(0))),
        ] {
            assert_eq!(
                path(comes.clone(), text, Role::Host),
                expected,
                "{comes:?} {text}"
            );
        }
        for role in [Role::Gateway, Role::Filter] {
            assert_eq!(path(Comes::Clear, &protects, role), clear);
        }
        let (policy, _) = Policy::parse(&protects, "p").unwrap();
        let session = held(Comes::Clear).management();
        assert_eq!(sealed_by(session, &compile(&policy).unwrap()), Some(0));
        let (policy, _) = Policy::parse(&permits, "p").unwrap();
        assert_eq!(sealed_by(session, &compile(&policy).unwrap()), None);
    }

    #[test]
    fn what_was_opened_outweighs_what_anybody_can_send() {
        let arrived = |clear, inside| Arrived { clear, inside };
        let unknown = held(Comes::Unknown);
        assert_eq!(unknown.after(arrived(false, false), Some("c")), Comes::Unknown);
        assert_eq!(unknown.after(arrived(true, false), Some("c")), Comes::Clear);
        assert_eq!(
            unknown.after(arrived(true, true), Some("c")),
            Comes::Inside("c".to_owned())
        );
    }
}
