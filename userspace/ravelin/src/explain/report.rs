//! An explanation in the user's terms: names instead of indexes, sentences instead of fields.

use ravelin_classifier::Host;
use ravelin_policy::explain::{self, Candidate, Explanation, Miss, Verdict};
use ravelin_policy::order::{Rank, RankField};
use ravelin_policy::{Action, DefaultAction, Filter, Packet, Rule};
use ravelin_xdp_common::Direction;
use serde::Serialize;

use super::next::{self, Next};
use crate::policy_file::PolicyFile;

/// What a policy does with a packet, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// As it can be given to the command again.
    pub(crate) packet: String,
    pub(crate) ways: Vec<Way>,
}

/// What it does in one direction.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Way {
    /// `in` or `out`.
    pub(crate) direction: &'static str,
    /// What the filters say: `permit`, `block`, `protect` or `fragment_unknown`.
    pub(crate) verdict: &'static str,
    /// The filter that decides; none when the policy's default does.
    pub(crate) winner: Option<Place>,
    /// The policy's default, where no filter matches.
    pub(crate) default: Option<&'static str>,
    pub(crate) next: Next,
    pub(crate) losers: Vec<Loser>,
    pub(crate) more_losers: usize,
    pub(crate) misses: Vec<Near>,
    pub(crate) more_misses: usize,
}

impl Way {
    fn without_filters(self) -> Self {
        Self {
            winner: None,
            default: None,
            losers: Vec::new(),
            more_losers: 0,
            misses: Vec::new(),
            more_misses: 0,
            ..self
        }
    }
}

/// A filter and its rule.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Place {
    pub(crate) rule: String,
    pub(crate) rule_at: String,
    pub(crate) action: &'static str,
    pub(crate) connection: Option<String>,
    pub(crate) filter_list: String,
    pub(crate) filter: String,
    pub(crate) filter_at: String,
    pub(crate) rank: String,
    /// It stands for both directions, and is meant the other way round here.
    pub(crate) reversed: bool,
    /// It matches in all but what a later fragment does not show: ports, and over IPv6 the protocol.
    pub(crate) but_ports: bool,
}

/// A filter that matches, and lost.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Loser {
    #[serde(flatten)]
    pub(crate) place: Place,
    /// The field of the order that decided.
    pub(crate) field: &'static str,
    pub(crate) why: String,
}

/// A filter that does not match.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Near {
    #[serde(flatten)]
    pub(crate) place: Place,
    pub(crate) fields: Vec<&'static str>,
    pub(crate) why: Vec<String>,
}

/// Explains the packet in each direction, with at most `limit` filters of each kind.
pub(crate) fn report(
    file: &PolicyFile,
    host: &mut Host,
    packet: &Packet,
    directions: &[Direction],
    limit: usize,
) -> Report {
    let ways = directions.iter().map(|direction| {
        let explanation = explain::explain(&file.policy, packet, *direction, limit);
        let way = way(file, host, &explanation);
        // There is no point in explaining what cannot happen.
        if way.next.what == next::IMPOSSIBLE {
            way.without_filters()
        } else {
            way
        }
    });
    Report {
        packet: packet.to_string(),
        ways: ways.collect(),
    }
}

fn way(file: &PolicyFile, host: &mut Host, explanation: &Explanation<'_>) -> Way {
    let winner = explanation.winner.as_ref();
    Way {
        direction: match explanation.direction {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        },
        verdict: match explanation.verdict {
            Verdict::Permit => "permit",
            Verdict::Block => "block",
            Verdict::Protect { .. } => "protect",
            Verdict::FragmentUnknown => "fragment_unknown",
        },
        winner: winner.map(|winner| candidate(file, winner)),
        default: winner.is_none().then(|| match file.policy.default_action() {
            DefaultAction::Permit => "permit",
            DefaultAction::Block => "block",
        }),
        next: next::next(&file.policy, host, explanation),
        losers: explanation
            .losers
            .iter()
            .filter_map(|loser| Some(self::loser(file, loser, winner?)))
            .collect(),
        more_losers: explanation.more_losers,
        misses: explanation
            .misses
            .iter()
            .map(|miss| near(file, miss, &explanation.packet))
            .collect(),
        more_misses: explanation.more_misses,
    }
}

fn candidate(file: &PolicyFile, candidate: &Candidate<'_>) -> Place {
    Place {
        but_ports: candidate.but_ports,
        ..place(
            file,
            candidate.rule,
            candidate.filter,
            &candidate.rank,
            candidate.reversed,
        )
    }
}

fn loser(file: &PolicyFile, loser: &Candidate<'_>, winner: &Candidate<'_>) -> Loser {
    Loser {
        place: candidate(file, loser),
        field: loser.rank.deciding_field(&winner.rank).map_or("none", field_name),
        why: explain::why_it_lost(loser, winner),
    }
}

fn near(file: &PolicyFile, miss: &Miss<'_>, packet: &Packet) -> Near {
    Near {
        place: place(file, miss.rule, miss.filter, &miss.rank, miss.reversed),
        fields: miss.mismatches.iter().map(explain::Mismatch::name).collect(),
        why: explain::in_words(miss, packet),
    }
}

fn place(file: &PolicyFile, rule: &Rule, filter: &Filter, rank: &Rank, reversed: bool) -> Place {
    let policy = &file.policy;
    let (action, connection) = match rule.action {
        Action::Permit => ("permit", None),
        Action::Block => ("block", None),
        Action::Protect { connection, .. } => (
            "protect",
            policy.connections().get(connection).map(|it| it.name.clone()),
        ),
    };
    Place {
        rule: rule.name.clone(),
        rule_at: file.place(rule.position),
        action,
        connection,
        filter_list: policy
            .filter_lists()
            .get(rule.filter_list)
            .map_or_else(String::new, |list| list.name.clone()),
        filter: filter.to_string(),
        filter_at: file.place(filter.position),
        rank: explain::rank_in_words(rank, filter),
        reversed,
        but_ports: false,
    }
}

fn field_name(field: RankField) -> &'static str {
    match field {
        RankField::Priority => "priority",
        RankField::ShorterPrefix => "shorter_prefix",
        RankField::LongerPrefix => "longer_prefix",
        RankField::ProtocolGiven => "protocol",
        RankField::PortsGiven => "ports_given",
        RankField::PortPairs => "port_pairs",
        RankField::Action => "action",
        RankField::Definition => "definition",
    }
}
