//! Why a packet gets the verdict it gets: which filter wins, what every other lost by, and what did not fit.
//!
//! This looks at every filter of the policy, one after the other, so that it can speak about each. It is neither
//! fast nor needs to be; tests hold its verdict against the compiled rule set's.

mod comparison;
mod words;

use std::collections::BinaryHeap;

use ravelin_xdp_common::Direction;

pub use comparison::{Mismatch, Mismatches};
pub use words::{in_words, rank_in_words, weight_in_words, why_it_lost};

use crate::filter::Filter;
use crate::order::{Definition, Rank};
use crate::packet::Packet;
use crate::policy::Policy;
use crate::rule::{Action, DefaultAction, Rule};
use comparison::Fit;

/// What the filters of a policy say about one packet, and why.
#[derive(Clone, Debug)]
pub struct Explanation<'p> {
    /// The packet.
    pub packet: Packet,
    /// Its direction.
    pub direction: Direction,
    /// What the filters say.
    pub verdict: Verdict,
    /// The filter that decides; `None` when the policy's default does.
    pub winner: Option<Candidate<'p>>,
    /// The other filters that match, best first.
    pub losers: Vec<Candidate<'p>>,
    /// How many more of them there are.
    pub more_losers: usize,
    /// Filters that do not match: those that fail on the fewest fields first, then the better ranked.
    pub misses: Vec<Miss<'p>>,
    /// How many more of them there are.
    pub more_misses: usize,
}

/// What the filters say about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Pass in the clear.
    Permit,
    /// Drop.
    Block,
    /// Only inside ESP.
    Protect {
        /// Index into [`Policy::connections`].
        connection: usize,
        /// Whether a clear packet from the remote side is accepted as well.
        accept_unsecured: bool,
    },
    /// Drop: a later fragment for which a filter with ports, or over IPv6 with a protocol, could have been the one.
    FragmentUnknown,
}

/// A filter that matches a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'p> {
    /// Its rule.
    pub rule: &'p Rule,
    /// The filter.
    pub filter: &'p Filter,
    /// Its place in the order.
    pub rank: Rank,
    /// Whether it matches as its reverse: addresses and ports swapped.
    pub reversed: bool,
    /// Whether it matches in all but what a later fragment does not show: ports, and over IPv6 the protocol.
    pub but_ports: bool,
}

/// A filter that does not match a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss<'p> {
    /// Its rule.
    pub rule: &'p Rule,
    /// The filter.
    pub filter: &'p Filter,
    /// Its place in the order.
    pub rank: Rank,
    /// Whether the reverse of the filter comes nearer than the filter itself.
    pub reversed: bool,
    /// The fields that do not fit.
    pub mismatches: Mismatches,
}

/// Explains the policy's verdict, with at most `limit` of the filters that lost and as many of those that did not fit.
#[must_use]
pub fn explain<'p>(
    policy: &'p Policy,
    packet: &Packet,
    direction: Direction,
    limit: usize,
) -> Explanation<'p> {
    let mut matching = Nearest::new(limit.saturating_add(1));
    let mut misses = Nearest::new(limit);
    for (rule_index, rule) in active_rules(policy) {
        for (filter_index, filter) in policy.filters(rule).iter().enumerate() {
            let definition = Definition {
                rule: rule_index,
                filter: filter_index,
            };
            let rank = || Rank::of(rule, filter, definition);
            let (fit, reversed) = comparison::compare(rule, filter, packet, direction);
            match fit {
                Fit::Match | Fit::ButPorts => matching.push(
                    rank(),
                    Candidate {
                        rule,
                        filter,
                        rank: rank(),
                        reversed,
                        but_ports: fit == Fit::ButPorts,
                    },
                ),
                Fit::Differs(mismatches) => misses.push(
                    (mismatches.distance(), rank()),
                    Miss {
                        rule,
                        filter,
                        rank: rank(),
                        reversed,
                        mismatches,
                    },
                ),
            }
        }
    }
    let (mut losers, more_losers) = matching.into_sorted();
    let winner = if losers.is_empty() {
        None
    } else {
        Some(losers.remove(0))
    };
    let (misses, more_misses) = misses.into_sorted();
    Explanation {
        packet: *packet,
        direction,
        verdict: verdict(policy, winner.as_ref()),
        winner,
        losers,
        more_losers,
        misses,
        more_misses,
    }
}

/// The policy's verdict alone, with the filter that decides.
#[must_use]
pub fn decide<'p>(
    policy: &'p Policy,
    packet: &Packet,
    direction: Direction,
) -> (Verdict, Option<Candidate<'p>>) {
    let explanation = explain(policy, packet, direction, 0);
    (explanation.verdict, explanation.winner)
}

/// Rules that match anything, with their indexes.
pub(crate) fn active_rules(policy: &Policy) -> impl Iterator<Item = (usize, &Rule)> {
    policy.rules().iter().enumerate().filter(|(_, rule)| rule.active)
}

fn verdict(policy: &Policy, winner: Option<&Candidate<'_>>) -> Verdict {
    let Some(winner) = winner else {
        return match policy.default_action() {
            DefaultAction::Permit => Verdict::Permit,
            DefaultAction::Block => Verdict::Block,
        };
    };
    if winner.but_ports {
        return Verdict::FragmentUnknown;
    }
    match winner.rule.action {
        Action::Permit => Verdict::Permit,
        Action::Block => Verdict::Block,
        Action::Protect {
            connection,
            accept_unsecured,
        } => Verdict::Protect {
            connection,
            accept_unsecured,
        },
    }
}

/// Keeps the few items with the smallest keys.
struct Nearest<K, T> {
    heap: BinaryHeap<Keyed<K, T>>,
    limit: usize,
    omitted: usize,
}

struct Keyed<K, T>(K, T);

impl<K: Ord, T> Nearest<K, T> {
    fn new(limit: usize) -> Self {
        Self {
            heap: BinaryHeap::new(),
            limit,
            omitted: 0,
        }
    }

    fn push(&mut self, key: K, item: T) {
        if self.heap.len() < self.limit {
            self.heap.push(Keyed(key, item));
            return;
        }
        self.omitted += 1;
        if let Some(mut worst) = self.heap.peek_mut()
            && key < worst.0
        {
            *worst = Keyed(key, item);
        }
    }

    /// The items, smallest key first, and how many were left out.
    fn into_sorted(self) -> (Vec<T>, usize) {
        let sorted = self.heap.into_sorted_vec();
        (
            sorted.into_iter().map(|Keyed(_, item)| item).collect(),
            self.omitted,
        )
    }
}

impl<K: Ord, T> PartialEq for Keyed<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K: Ord, T> Eq for Keyed<K, T> {}

impl<K: Ord, T> PartialOrd for Keyed<K, T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord, T> Ord for Keyed<K, T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
