//! The total order of filters: most specific first, whatever their place in the file.

use std::cmp::{Ordering, Reverse};
use std::fmt;

use crate::filter::{Filter, Selector};
use crate::rule::{Action, Rule};

/// How specific a filter is. Fields are compared in the order they stand here; the smaller weight wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight {
    /// Whether it is the lifeline, or the rule's explicit priority.
    pub priority: Priority,
    /// Bits of the shorter of the two prefixes; longer wins. `10.1.0.0/16 -> 10.2.0.0/16` wins over `10.1.0.1 -> any`.
    pub shorter_prefix: Reverse<u8>,
    /// Bits of the longer of the two prefixes; longer wins.
    pub longer_prefix: Reverse<u8>,
    /// Whether a protocol is given; given wins.
    pub protocol_given: Reverse<bool>,
    /// How many of the two ports (or ICMP type and code) are limited, 0 to 2; more wins.
    pub ports_given: Reverse<u8>,
    /// Pairs of source and destination port that match, 1 to 2^32; fewer wins.
    pub port_pairs: u64,
}

/// What comes before how specific a filter is; the first of these that differs decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// The lifeline: before every rule.
    Lifeline,
    /// What a session answers inside ESP: behind what arrives for it, before every rule.
    Session,
    /// A rule with this `priority`; smaller wins.
    Given(u32),
    /// A rule without.
    None,
}

/// The place of a filter in the total order of a policy: no two filters have the same. The smaller rank wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rank {
    /// How specific the filter is.
    pub weight: Weight,
    /// Of two filters of equal weight the stricter action wins.
    pub strictness: Strictness,
    /// Where it stands in the policy.
    pub definition: Definition,
}

/// Actions, strictest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strictness {
    /// Block.
    Block,
    /// Protect.
    Protect,
    /// Permit.
    Permit,
}

/// The order of definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Definition {
    /// Index of the rule in [`Policy::rules`](crate::Policy::rules).
    pub rule: usize,
    /// Index of the filter in the rule's list.
    pub filter: usize,
}

/// The field by which one of two ranks wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RankField {
    /// [`Weight::priority`]
    Priority,
    /// [`Weight::shorter_prefix`]
    ShorterPrefix,
    /// [`Weight::longer_prefix`]
    LongerPrefix,
    /// [`Weight::protocol_given`]
    ProtocolGiven,
    /// [`Weight::ports_given`]
    PortsGiven,
    /// [`Weight::port_pairs`]
    PortPairs,
    /// [`Rank::strictness`]
    Action,
    /// [`Rank::definition`]
    Definition,
}

impl Weight {
    /// The weight of one of a rule's filters.
    #[must_use]
    pub fn of(rule: &Rule, filter: &Filter) -> Self {
        let source = filter.source.covering_length();
        let destination = filter.destination.covering_length();
        let (ports_given, port_pairs) = match &filter.selector {
            Selector::Any => (0, 1 << 32),
            Selector::Ports { source, destination } => (
                u8::from(!source.is_any()) + u8::from(!destination.is_any()),
                u64::from(source.width()) * u64::from(destination.width()),
            ),
            Selector::Icmp { code: None, .. } => (1, 1 << 16),
            Selector::Icmp { code: Some(_), .. } => (2, 1),
        };
        Self {
            priority: rule.priority,
            shorter_prefix: Reverse(source.min(destination)),
            longer_prefix: Reverse(source.max(destination)),
            protocol_given: Reverse(filter.protocol.is_some()),
            ports_given: Reverse(ports_given),
            port_pairs,
        }
    }
}

impl Rank {
    /// The rank of the rule's filter at `definition`.
    #[must_use]
    pub fn of(rule: &Rule, filter: &Filter, definition: Definition) -> Self {
        Self {
            weight: Weight::of(rule, filter),
            strictness: match rule.action {
                Action::Block => Strictness::Block,
                Action::Protect { .. } => Strictness::Protect,
                Action::Permit => Strictness::Permit,
            },
            definition,
        }
    }

    /// The first field in which the two differ: the one that decides which of them wins.
    #[must_use]
    pub fn deciding_field(&self, other: &Self) -> Option<RankField> {
        let (a, b) = (&self.weight, &other.weight);
        [
            (a.priority.cmp(&b.priority), RankField::Priority),
            (a.shorter_prefix.cmp(&b.shorter_prefix), RankField::ShorterPrefix),
            (a.longer_prefix.cmp(&b.longer_prefix), RankField::LongerPrefix),
            (a.protocol_given.cmp(&b.protocol_given), RankField::ProtocolGiven),
            (a.ports_given.cmp(&b.ports_given), RankField::PortsGiven),
            (a.port_pairs.cmp(&b.port_pairs), RankField::PortPairs),
            (self.strictness.cmp(&other.strictness), RankField::Action),
            (self.definition.cmp(&other.definition), RankField::Definition),
        ]
        .into_iter()
        .find(|(ordering, _)| *ordering != Ordering::Equal)
        .map(|(_, field)| field)
    }
}

impl fmt::Display for Strictness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Protect => "protect",
            Self::Permit => "permit",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Definition, Rank, RankField};
    use crate::Policy;

    /// The ranks of the filters of a policy's rules, one filter each.
    fn ranks(text: &str) -> Vec<Rank> {
        let (policy, _) = Policy::parse(text, "p").unwrap();
        let rules = policy.rules().iter().enumerate();
        rules
            .map(|(rule, it)| Rank::of(it, &policy.filters(it)[0], Definition { rule, filter: 0 }))
            .collect()
    }

    fn rule(name: &str, action: &str, filter: &str) -> String {
        format!(
            "[filter-lists.{name}]\nfilters = [{{ {filter} }}]\n[[rules]]\nname = \"{name}\"\nfilter-list = \"{name}\"\n\
             {action}\n"
        )
    }

    /// Each field decides where all before it are equal, and the winner is the one that the documentation names.
    #[test]
    fn every_field_decides_in_its_turn() {
        let permit = "action = \"permit\"";
        let any = "source = \"any\", destination = \"any\"";
        for (field, winner, loser) in [
            (
                RankField::Priority,
                ("action = \"permit\"\npriority = 9", any),
                (permit, any),
            ),
            (
                RankField::Priority,
                ("action = \"permit\"\npriority = 1", any),
                ("action = \"permit\"\npriority = 2", any),
            ),
            (
                RankField::ShorterPrefix,
                (permit, "source = \"10.0.0.0/16\", destination = \"10.0.0.0/16\""),
                (permit, "source = \"10.0.0.1\", destination = \"any\""),
            ),
            (
                RankField::LongerPrefix,
                (permit, "source = \"any\", destination = \"10.0.0.0/9\""),
                (permit, "source = \"10.0.0.0/8\", destination = \"any\""),
            ),
            (
                RankField::ProtocolGiven,
                (
                    permit,
                    "source = \"any\", destination = \"any\", protocol = \"tcp\"",
                ),
                (permit, any),
            ),
            (
                RankField::PortsGiven,
                (
                    permit,
                    "source = \"any\", destination = \"any\", protocol = \"tcp\", source-port = \"1-65535\", \
                     destination-port = \"1-65535\"",
                ),
                (
                    permit,
                    "source = \"any\", destination = \"any\", protocol = \"tcp\", source-port = 1",
                ),
            ),
            (
                RankField::PortPairs,
                (
                    permit,
                    "source = \"any\", destination = \"any\", protocol = \"tcp\", source-port = 1",
                ),
                (
                    permit,
                    "source = \"any\", destination = \"any\", protocol = \"tcp\", source-port = \"1-2\"",
                ),
            ),
            (RankField::Action, ("action = \"block\"", any), (permit, any)),
            (RankField::Definition, (permit, any), (permit, any)),
        ] {
            let text = rule("a", winner.0, winner.1) + &rule("b", loser.0, loser.1);
            let ranks = ranks(&text);
            assert!(ranks[0] < ranks[1], "{field:?}");
            assert_eq!(ranks[0].deciding_field(&ranks[1]), Some(field));
            assert_eq!(ranks[1].deciding_field(&ranks[0]), Some(field));
            assert_eq!(ranks[0].deciding_field(&ranks[0]), None);
            // Where the field is not the place in the file, the place in the file does not matter.
            if field != RankField::Definition {
                let text = rule("b", loser.0, loser.1) + &rule("a", winner.0, winner.1);
                let ranks = super::tests::ranks(&text);
                assert!(ranks[1] < ranks[0], "{field:?}");
            }
        }
    }
}
