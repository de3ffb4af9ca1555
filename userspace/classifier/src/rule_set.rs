//! The compiled policy.

use std::cmp::Reverse;
use std::collections::HashMap;

use ravelin_policy::order::{Definition, Rank};
use ravelin_policy::{Action as PolicyAction, DefaultAction, Policy, Rule, Selector};
use ravelin_xdp_common::line::{
    LINE_SLOTS, MAX_STEPS, NO_CONNECTION, NO_RULE, VERDICTS, entry_flags, header_flags,
};
use ravelin_xdp_common::{
    Action, Decision, Direction, Entry, Family, Flow, Header, Line, Roots, Verdict, walk,
};

use crate::expand::{Entries, entry_count, expand};
use crate::forest::{Forest, ForestError};

/// How many of the largest rules an error names.
const NAMED_RULES: usize = 5;

/// Most entries that the filters of a policy may expand to.
const MAX_ENTRIES: usize = 1 << 20;

/// A walk of at most this many steps is as fast as the flow cache in front of it.
const STEPS_WITHOUT_CACHE: u32 = 6;

/// A policy as decision trees and a table of verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    header: Header,
    /// The whole array: line 0 is the header's.
    lines: Vec<Line>,
    steps: u32,
}

/// Why a correct policy cannot be put in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The filters expand to too much.
    #[error(
        "the filters expand to {entries} combinations of prefixes and port ranges and {limit} are possible; write \
         prefixes instead of ranges or fewer ports per filter. The rules with most: {}", list(.largest)
    )]
    TooManyEntries {
        /// Entries needed.
        entries: usize,
        /// Entries possible.
        limit: usize,
        /// Names of the rules that need most, with their numbers of entries.
        largest: Vec<(String, usize)>,
    },
    /// More lines than the map holds.
    #[error(
        "the policy needs more than the {limit} lookup lines available: its filters overlap in too many ways. Split wide \
         port and address ranges less, or give overlapping filters common bounds. The rules that overlap most: {}",
        list(.largest)
    )]
    TooManyLines {
        /// Lines available.
        limit: usize,
        /// Names of the rules involved, with their numbers of entries.
        largest: Vec<(String, usize)>,
    },
    /// A packet could need more steps than the kernel's loop takes.
    #[error(
        "a packet could need {steps} look-ups and {limit} are possible: too many filters overlap in the same packets. \
         The rules that overlap most: {}", list(.largest)
    )]
    TooManySteps {
        /// Steps of the longest walk.
        steps: u32,
        /// Steps possible.
        limit: u32,
        /// Names of the rules involved, with their numbers of entries.
        largest: Vec<(String, usize)>,
    },
}

/// Places of the table that no rank leads to.
const UNUSED_VERDICTS: Line = Line([u32::MAX; 16]);

fn list(rules: &[(String, usize)]) -> String {
    rules
        .iter()
        .map(|(name, count)| format!("`{name}` ({count})"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Compiles a policy.
///
/// # Errors
/// [`CompileError`] when it is larger than the maps, or when a packet could need too many steps.
pub fn compile(policy: &Policy) -> Result<RuleSet, CompileError> {
    check_size(policy)?;
    let mut filters = Vec::new();
    for (rule_id, rule) in policy.rules().iter().enumerate().filter(|(_, rule)| rule.active) {
        for (index, filter) in policy.filters(rule).iter().enumerate() {
            let definition = Definition {
                rule: rule_id,
                filter: index,
            };
            filters.push((Rank::of(rule, filter, definition), rule, filter));
        }
    }
    filters.sort_unstable_by_key(|(rank, ..)| *rank);

    // Filters next to each other in the order, with the same verdict, share one rank; but not one with ports or a protocol and
    // one without, which differ for fragments.
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut last_asks = (false, false);
    let mut entries = Entries::default();
    for (rank, rule, filter) in filters {
        let verdict = verdict(policy, rule, rank.definition.rule);
        let asks = (filter.protocol.is_some(), filter.selector != Selector::Any);
        if verdicts.last() != Some(&verdict) || asks != last_asks {
            verdicts.push(verdict);
        }
        last_asks = asks;
        let rank = u32::try_from(verdicts.len() - 1).expect("check_size bounds the number of filters");
        expand(filter, rule.action, rank, &mut entries);
    }

    let fragments_v4 = of_fragments(&entries.v4, &verdicts, Family::V4);
    let fragments_v6 = of_fragments(&entries.v6, &verdicts, Family::V6);
    let sets: [(&[Entry], Family); 4] = [
        (&entries.v4, Family::V4),
        (&fragments_v4, Family::V4),
        (&entries.v6, Family::V6),
        (&fragments_v6, Family::V6),
    ];
    let limit = LINE_SLOTS - verdicts.len().div_ceil(VERDICTS);
    let forest = Forest::plant(&sets, limit).map_err(|error| name(&error, policy, &verdicts))?;
    let (mut lines, steps) = (forest.lines, forest.steps);
    let roots = Roots {
        v4: forest.roots[0],
        v4_fragment: forest.roots[1],
        v6: forest.roots[2],
        v6_fragment: forest.roots[3],
    };
    let table = u32::try_from(lines.len()).expect("no more than LINE_SLOTS lines");
    for chunk in verdicts.chunks(VERDICTS) {
        let mut line = UNUSED_VERDICTS;
        for (verdict, words) in chunk.iter().zip(line.0.chunks_exact_mut(2)) {
            words.copy_from_slice(&verdict.to_words());
        }
        lines.push(line);
    }
    let header = Header {
        generation: 0,
        verdicts: table,
        roots,
        default_action: to_action(policy.default_action()),
        non_ip: to_action(policy.non_ip()),
        exemptions: policy.exemptions().level(),
        flags: flags(policy, steps),
    };
    lines[0] = header.to_line();
    Ok(RuleSet { header, lines, steps })
}

impl RuleSet {
    /// Line 0, with generation 0, which no loaded rule set may have: whoever loads it sets the generation.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// All lines, that of the header (with generation 0) first: at most [`LINE_SLOTS`].
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Steps of the longest walk.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// What the rule set says about a packet, by the kernel's own step.
    #[must_use]
    pub fn classify(&self, flow: &Flow, direction: Direction) -> Verdict {
        walk(&self.header, &self.lines, flow, direction)
    }

    /// Gives rules and connections other numbers: `rules[i]` and `connections[i]` for those at index `i` of the
    /// policy, so that counters and SAs keep their places when policies change.
    ///
    /// # Panics
    /// If a number is missing.
    pub fn renumber(&mut self, rules: &[u32], connections: &[u32]) {
        let table = &mut self.lines[self.header.verdicts as usize..];
        for words in table.iter_mut().flat_map(|line| line.0.chunks_exact_mut(2)) {
            let verdict = Verdict::from_words(words[0], words[1], false);
            let moved = Verdict {
                rule_id: rules.get(verdict.rule_id as usize).copied().unwrap_or(NO_RULE),
                connection: if verdict.connection == NO_CONNECTION {
                    NO_CONNECTION
                } else {
                    connections[verdict.connection as usize]
                },
                ..verdict
            };
            words.copy_from_slice(&moved.to_words());
        }
    }
}

/// Entries for fragments whose ports nobody knows, and in IPv6 not even the protocol (RFC 8200 section 4.5). A permit that asks
/// for what is not known lets nothing through and stops nothing. One with block or protect cannot be checked, so it stops all
/// that it could match (semantics of RFC 4301 section 7.3 without memory). Of entries that only differed in that the best stays.
fn of_fragments(entries: &[Entry], verdicts: &[Verdict], family: Family) -> Vec<Entry> {
    let mut best: HashMap<_, usize> = HashMap::new();
    let mut kept: Vec<Entry> = Vec::new();
    for entry in entries {
        let mut entry = *entry;
        let asks_protocol = family == Family::V6 && entry.flags & entry_flags::ANY_PROTOCOL == 0;
        if asks_protocol {
            entry.flags |= entry_flags::ANY_PROTOCOL;
            entry.protocol = 0;
        }
        if asks_protocol || entry.flags & entry_flags::PORTS != 0 {
            if verdicts[(entry.rank >> 1) as usize].decision == Decision::Permit {
                continue;
            }
            entry.flags &= !entry_flags::PORTS;
            entry.source_port = [0, u16::MAX];
            entry.destination_port = [0, u16::MAX];
            entry.rank |= 1;
        }
        let key = (
            entry.source,
            entry.destination,
            entry.source_length,
            entry.destination_length,
            entry.protocol,
            entry.flags,
        );
        match best.get(&key) {
            Some(index) if kept[*index].rank <= entry.rank => {}
            Some(index) => kept[*index] = entry,
            None => {
                best.insert(key, kept.len());
                kept.push(entry);
            }
        }
    }
    kept
}

fn verdict(policy: &Policy, rule: &Rule, rule_id: usize) -> Verdict {
    let (decision, connection, accept_unsecured) = match rule.action {
        PolicyAction::Permit => {
            let inside = rule.inside.and_then(|connection| u32::try_from(connection).ok());
            (Decision::Permit, inside.unwrap_or(NO_CONNECTION), false)
        }
        PolicyAction::Block => (Decision::Block, NO_CONNECTION, false),
        PolicyAction::Protect {
            connection,
            accept_unsecured,
        } => (
            Decision::Protect,
            u32::try_from(connection).unwrap_or(NO_CONNECTION),
            accept_unsecured,
        ),
    };
    Verdict {
        rule_id: u32::try_from(rule_id).unwrap_or(NO_RULE),
        connection,
        decision,
        accept_unsecured,
        audit: policy.audit() || rule.audit,
    }
}

/// The number of entries, counted without making them: a hostile policy could ask for billions.
fn check_size(policy: &Policy) -> Result<(), CompileError> {
    let mut sizes: Vec<(&str, usize)> = Vec::new();
    for rule in policy.rules().iter().filter(|rule| rule.active) {
        let entries = policy
            .filters(rule)
            .iter()
            .map(|filter| entry_count(filter, rule.action))
            .fold(0, usize::saturating_add);
        sizes.push((&rule.name, entries));
    }
    let entries = sizes
        .iter()
        .map(|(_, entries)| entries)
        .fold(0, |sum: usize, one| sum.saturating_add(*one));
    if entries <= MAX_ENTRIES {
        return Ok(());
    }
    Err(CompileError::TooManyEntries {
        entries,
        limit: MAX_ENTRIES,
        largest: largest(sizes),
    })
}

fn largest(mut sizes: Vec<(&str, usize)>) -> Vec<(String, usize)> {
    sizes.sort_by_key(|(_, size)| Reverse(*size));
    sizes
        .into_iter()
        .take(NAMED_RULES)
        .map(|(name, size)| (name.to_owned(), size))
        .collect()
}

/// Says which rules a refusal is about.
fn name(error: &ForestError, policy: &Policy, verdicts: &[Verdict]) -> CompileError {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    let (ForestError::Lines { ranks } | ForestError::Steps { ranks, .. }) = error;
    for rank in ranks {
        if let Some(verdict) = verdicts.get((rank >> 1) as usize) {
            *counts.entry(verdict.rule_id).or_default() += 1;
        }
    }
    let mut sizes: Vec<(&str, usize)> = counts
        .into_iter()
        .filter_map(|(id, count)| Some((policy.rules().get(id as usize)?.name.as_str(), count)))
        .collect();
    sizes.sort_unstable();
    let largest = largest(sizes);
    match error {
        ForestError::Lines { .. } => CompileError::TooManyLines {
            limit: LINE_SLOTS,
            largest,
        },
        ForestError::Steps { steps, .. } => CompileError::TooManySteps {
            steps: *steps,
            limit: MAX_STEPS,
            largest,
        },
    }
}

fn flags(policy: &Policy, steps: u32) -> u8 {
    let mut flags = 0;
    if steps > STEPS_WITHOUT_CACHE {
        flags |= header_flags::CACHE;
    }
    if policy.audit() {
        flags |= header_flags::AUDIT;
    }
    if policy.restricts_own_addresses() {
        flags |= header_flags::OWN;
    }
    flags
}

fn to_action(default: DefaultAction) -> Action {
    match default {
        DefaultAction::Permit => Action::Permit,
        DefaultAction::Block => Action::Block,
    }
}
