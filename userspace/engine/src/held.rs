//! The SSH connection whose lifeline belongs to the policy in force, and the way in which it comes.
//!
//! Somebody works over this connection while the rules change, so it must go on; but one that comes inside ESP must not come to be in the clear by
//! that. So its lifeline depends on how it comes, which is known from the policy before: whatever has the command typed has passed that.
//! Where it is not known (a start where a filter stands already), the rules alone decide. Where it may change, either way is accepted, and the
//! packets that arrive tell: what was opened under a key takes it into ESP at once. What anybody can send takes it out only where the rules
//! permit it in the clear, and never beyond recall.

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
    /// In the clear as far as can be seen, which the rules permitted when it came to that; but anybody can make it look so.
    Left {
        /// The connection that it came inside before.
        inside: String,
        /// Whether a command was typed in it since, as far as its caller says.
        vouched: bool,
    },
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
    /// How it comes if it is to come at all.
    pub(crate) comes: Comes,
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
        let position = |name: &str| policy.connections().iter().position(|one| one.name == name);
        let either = |inside, answers| Some(SessionPath::Either { inside, answers });
        let mut comes = self.comes.clone();
        let (path, how) = match (&self.comes, view) {
            (_, Some(View::Lifeline)) => (None, "passes in the clear by the written lifeline".to_owned()),
            (Comes::Clear, Some(View::Protects(connection))) => {
                let connection = connection as usize;
                (
                    either(connection, Answers::Clear),
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
                let name = named(connection as usize);
                comes = Comes::Inside(name.clone());
                (
                    None,
                    format!(
                        "stays in connection `{name}`, as the rules say: nobody knows how it has come, and if that was in the clear, it is cut"
                    ),
                )
            }
            (Comes::Unknown, Some(View::Permits)) => {
                (None, "passes in the clear, as the rules say".to_owned())
            }
            (Comes::Unknown, Some(View::Blocks)) => (
                None,
                "is blocked, as the rules say: nobody knows how it has come".to_owned(),
            ),
            (Comes::Left { inside, vouched }, Some(view)) if *vouched || view == View::Permits => {
                let connection = match view {
                    View::Protects(connection) => Some(connection as usize),
                    _ => position(inside),
                };
                match connection {
                    Some(connection) => (
                        either(connection, Answers::Clear),
                        format!(
                            "passes in the clear, until it comes through connection `{}`",
                            named(connection)
                        ),
                    ),
                    None => (
                        Some(SessionPath::Clear),
                        "passes in the clear, whatever the rules say".to_owned(),
                    ),
                }
            }
            (Comes::Inside(_) | Comes::Left { .. }, Some(View::Protects(connection))) => (
                None,
                format!(
                    "comes through ESP and stays in connection `{}`; it has no lifeline in the clear",
                    named(connection as usize)
                ),
            ),
            (Comes::Inside(name) | Comes::Left { inside: name, .. }, Some(view)) => match position(name) {
                Some(connection) if view == View::Permits => (
                    either(connection, Answers::Inside),
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
            },
        };
        Hold {
            path,
            comes,
            note: format!("{self} {how}"),
        }
    }

    /// How it comes after something has arrived for it, where either way is accepted; `inside` is the connection that the packets were accepted
    /// in.
    pub(crate) fn after(&self, arrived: Arrived, inside: &str) -> Comes {
        match (arrived, &self.comes) {
            (Arrived { inside: true, .. }, _) => Comes::Inside(inside.to_owned()),
            // Clear packets of what comes inside ESP are accepted only where the rules permit them.
            (Arrived { clear: true, .. }, Comes::Inside(name)) => Comes::Left {
                inside: name.clone(),
                vouched: false,
            },
            (_, comes) => comes.clone(),
        }
    }

    /// How it comes if a command was typed in it just now, which has passed `rules`.
    pub(crate) fn typed(&self, rules: &RuleSet, name: impl FnOnce(u32) -> Option<String>) -> Comes {
        match &self.comes {
            Comes::Left { inside, .. } => Comes::Left {
                inside: inside.clone(),
                vouched: true,
            },
            Comes::Unknown => match View::of(self.management(), rules, |_| false) {
                View::Protects(slot) => name(slot).map_or(Comes::Unknown, Comes::Inside),
                View::Permits | View::Lifeline => Comes::Clear,
                View::Blocks => Comes::Unknown,
            },
            known => known.clone(),
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
        let left = |vouched| Comes::Left {
            inside: "c".to_owned(),
            vouched,
        };
        for (comes, text, expected) in [
            (Comes::Clear, &*protects, either(0, Answers::Clear)),
            (Comes::Clear, &blocks, clear),
            (Comes::Clear, &permits, clear),
            // What anybody can send is not even accepted.
            (Comes::Unknown, &protects, None),
            (Comes::Unknown, &blocks, None),
            (Comes::Unknown, &permits, None),
            (inside(), &protects, None),
            (inside(), &blocks, Some(SessionPath::Inside(0))),
            (inside(), &permits, either(0, Answers::Inside)),
            (inside(), gone, None),
            // The next packet that is opened takes it back; until then it is not let into the clear where the rules forbid that.
            (left(false), &permits, either(0, Answers::Clear)),
            (left(false), &protects, None),
            (left(false), &blocks, Some(SessionPath::Inside(0))),
            (left(false), gone, None),
            (left(true), &permits, either(0, Answers::Clear)),
            (left(true), &protects, either(0, Answers::Clear)),
            (left(true), &blocks, either(0, Answers::Clear)),
            (left(true), gone, clear),
            // Which port its client has is not known.
            (inside(), &some(65_535), None),
            (inside(), &some(1023), either(0, Answers::Inside)),
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
        let inside = Comes::Inside("c".to_owned());
        let left = Comes::Left {
            inside: "c".to_owned(),
            vouched: false,
        };
        for (comes, after_clear) in [
            (Comes::Clear, &Comes::Clear),
            (Comes::Unknown, &Comes::Unknown),
            (inside.clone(), &left),
            (left.clone(), &left),
        ] {
            let held = held(comes.clone());
            assert_eq!(held.after(arrived(false, false), "c"), comes);
            assert_eq!(held.after(arrived(true, false), "c"), *after_clear);
            for clear in [false, true] {
                assert_eq!(held.after(arrived(clear, true), "c"), inside);
            }
        }
    }

    #[test]
    fn what_a_command_was_typed_in_has_passed_the_rules() {
        let permits = format!("default = \"permit\"\n{CONNECTION}");
        let blocks = format!("default = \"block\"\n{CONNECTION}");
        let inside = || Comes::Inside("c".to_owned());
        let left = |vouched| Comes::Left {
            inside: "c".to_owned(),
            vouched,
        };
        for (comes, text, expected) in [
            (Comes::Unknown, &format!("{PEER}{CONNECTION}"), inside()),
            (Comes::Unknown, &permits, Comes::Clear),
            (Comes::Unknown, &blocks, Comes::Unknown),
            (inside(), &permits, inside()),
            (left(false), &permits, left(true)),
        ] {
            let (policy, _) = Policy::parse(text, "p").unwrap();
            let rules = compile(&policy).unwrap();
            let typed = held(comes.clone()).typed(&rules, |_| Some("c".to_owned()));
            assert_eq!(typed, expected, "{comes:?} {text}");
        }
    }

    #[test]
    fn what_is_not_known_and_protected_counts_as_protected() {
        let (policy, _) = Policy::parse(&format!("{PEER}{CONNECTION}"), "p").unwrap();
        let hold = held(Comes::Unknown).under(&policy, &compile(&policy).unwrap(), Role::Host);
        assert_eq!(hold.comes, Comes::Inside("c".to_owned()));
        assert!(
            hold.note.contains("if that was in the clear, it is cut"),
            "{}",
            hold.note
        );
    }
}
