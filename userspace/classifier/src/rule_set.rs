//! The compiled policy.

use std::cmp::Reverse;

use ravelin_policy::{DefaultAction, Policy};
use ravelin_xdp_common::line::{MAX_LINES, NO_CONNECTION};
use ravelin_xdp_common::{Action, Direction, Flow, Header, Line, MAX_RULES, Verdict, walk};

use crate::expand::{expand, line_count};
use crate::rank::RankKey;

/// How many of the largest rules an error names.
const NAMED_RULES: usize = 5;

/// A policy as lines, in the order in which they are to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    header: Header,
    lines: Vec<Line>,
}

/// Why a correct policy cannot be put in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More lines than the map holds.
    #[error(
        "the policy needs {lines} lookup lines and {limit} are available; write prefixes instead of ranges or fewer \
         ports per filter. The rules with most lines: {}", list(.largest)
    )]
    TooManyLines {
        /// Lines needed.
        lines: usize,
        /// Lines available.
        limit: usize,
        /// Names of the rules that need most, with their numbers of lines.
        largest: Vec<(String, usize)>,
    },
    /// More rules than there are counters.
    #[error(
        "the policy has {rules} rules and {limit} are possible; rules with the same action can share one filter list"
    )]
    TooManyRules {
        /// Rules in the policy.
        rules: usize,
        /// Rules possible.
        limit: usize,
    },
}

fn list(rules: &[(String, usize)]) -> String {
    rules
        .iter()
        .map(|(name, lines)| format!("`{name}` ({lines})"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Compiles a policy.
///
/// # Errors
/// [`CompileError`] when it is larger than the maps.
pub fn compile(policy: &Policy) -> Result<RuleSet, CompileError> {
    let counted = check_size(policy)?;
    let mut filters = Vec::new();
    for (rule_id, rule) in policy.rules().iter().enumerate().filter(|(_, rule)| rule.active) {
        for (index, filter) in policy.filters(rule).iter().enumerate() {
            filters.push((
                RankKey::new(rule, filter, (rule_id, index)),
                rule_id,
                rule,
                filter,
            ));
        }
    }
    filters.sort_unstable_by_key(|(key, ..)| *key);

    let mut lines = Vec::new();
    for (rank, (_, rule_id, rule, filter)) in (0..).zip(filters) {
        let rule_id = u32::try_from(rule_id).expect("check_size bounds the number of rules");
        expand(filter, rule.action, rule_id, rank, &mut lines);
    }
    debug_assert_eq!(
        lines.len(),
        counted,
        "a filter expands to as many lines as were counted for it"
    );
    let header = Header {
        line_count: u32::try_from(lines.len()).expect("check_size bounds the number of lines"),
        generation: 0,
        default_action: to_action(policy.default_action()),
        non_ip: to_action(policy.non_ip()),
    };
    Ok(RuleSet { header, lines })
}

impl RuleSet {
    /// Line 0, with generation 0, which no loaded rule set may have: whoever loads it sets the generation.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// The lines after the header: at most [`MAX_LINES`], sorted by rank.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Gives rules and connections other numbers: `rules[i]` and `connections[i]` for those at index `i` of the
    /// policy, so that counters and SAs keep their places when policies change.
    ///
    /// # Panics
    /// If a number is missing.
    pub fn renumber(&mut self, rules: &[u32], connections: &[u32]) {
        for line in &mut self.lines {
            line.rule_id = rules[line.rule_id as usize];
            if line.connection != NO_CONNECTION {
                line.connection = connections[line.connection as usize];
            }
        }
    }

    /// What the rule set says about a packet, by the kernel's own step.
    #[must_use]
    pub fn classify(&self, flow: &Flow, direction: Direction) -> Verdict {
        walk(&self.header, &self.lines, flow, direction)
    }
}

/// The number of lines, counted without making them: a hostile policy could ask for billions.
fn check_size(policy: &Policy) -> Result<usize, CompileError> {
    let limit = MAX_RULES as usize;
    if policy.rules().len() > limit {
        return Err(CompileError::TooManyRules {
            rules: policy.rules().len(),
            limit,
        });
    }
    let mut sizes: Vec<(String, usize)> = Vec::new();
    for rule in policy.rules().iter().filter(|rule| rule.active) {
        let lines = policy
            .filters(rule)
            .iter()
            .map(|filter| line_count(filter, rule.action))
            .sum();
        sizes.push((rule.name.clone(), lines));
    }
    let lines = sizes.iter().map(|(_, lines)| lines).sum();
    if lines > MAX_LINES {
        sizes.sort_by_key(|(_, lines)| Reverse(*lines));
        sizes.truncate(NAMED_RULES);
        return Err(CompileError::TooManyLines {
            lines,
            limit: MAX_LINES,
            largest: sizes,
        });
    }
    Ok(lines)
}

fn to_action(default: DefaultAction) -> Action {
    match default {
        DefaultAction::Permit => Action::Permit,
        DefaultAction::Block => Action::Block,
    }
}
