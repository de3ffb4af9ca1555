//! What a policy says about a packet, straight from its filters: the truth that compiled rule sets are held against.
//!
//! Deliberately slow and plain. It shares no code with the compiler: it compares filters pair by pair, one field of
//! the order after the other, and never builds a line or a rank.

use std::cmp::Ordering;
use std::net::IpAddr;

use ravelin_policy::order::Priority;
use ravelin_policy::{Action, Address, DefaultAction, Filter, Policy, PortSet, Rule, Selector};
pub use ravelin_policy::{Packet, Transport};
use ravelin_xdp_common::line::{NO_CONNECTION, NO_RULE};
use ravelin_xdp_common::{Decision, Direction, Verdict};

/// What the policy says about a packet.
#[must_use]
pub fn classify(policy: &Policy, packet: &Packet, direction: Direction) -> Verdict {
    let mut best: Option<(usize, &Rule, &Filter, Match)> = None;
    for (id, rule) in policy.rules().iter().enumerate().filter(|(_, rule)| rule.active) {
        for filter in policy.filters(rule) {
            let found = match_rule(rule, filter, packet, direction);
            // A permit that cannot be seen to match lets nothing through, and stops nothing.
            if found == Match::No || (found == Match::Unseen && rule.action == Action::Permit) {
                continue;
            }
            // Rules and filters come in the order of definition, so an equal one does not replace the best.
            if best.is_none_or(|(_, r, f, _)| compare((rule, filter), (r, f)) == Ordering::Less) {
                best = Some((id, rule, filter, found));
            }
        }
    }
    let Some((id, rule, _, found)) = best else {
        let decision = match policy.default_action() {
            DefaultAction::Permit => Decision::Permit,
            DefaultAction::Block => Decision::Block,
        };
        return Verdict {
            rule_id: NO_RULE,
            connection: NO_CONNECTION,
            decision,
            accept_unsecured: false,
            audit: policy.audit(),
        };
    };
    let (decision, connection, accept_unsecured) = match rule.action {
        Action::Permit => {
            let inside = rule.inside.map_or(NO_CONNECTION, |connection| connection as u32);
            (Decision::Permit, inside, false)
        }
        Action::Block => (Decision::Block, NO_CONNECTION, false),
        Action::Protect {
            connection,
            accept_unsecured,
        } => (Decision::Protect, connection as u32, accept_unsecured),
    };
    let decision = if found == Match::Unseen {
        Decision::FragmentUnknown
    } else {
        decision
    };
    Verdict {
        rule_id: id as u32,
        connection,
        decision,
        accept_unsecured,
        audit: policy.audit() || rule.audit,
    }
}

/// Whether a verdict can be right as far as one filter and the rule that it names know: if the filter matches, that rule
/// must match too, by a filter that is no worse. Unlike [`classify`] this looks at no other rule, so all filters of a
/// large policy can be gone through.
#[must_use]
pub fn is_plausible(
    policy: &Policy,
    (rule, filter): (&Rule, &Filter),
    packet: &Packet,
    direction: Direction,
    verdict: &Verdict,
) -> bool {
    let counts = |rule: &Rule, found: Match| {
        found == Match::Yes || (found == Match::Unseen && rule.action != Action::Permit)
    };
    if !counts(rule, match_rule(rule, filter, packet, direction)) {
        return true;
    }
    let Some(winner) = policy.rules().get(verdict.rule_id as usize) else {
        return false;
    };
    policy.filters(winner).iter().any(|best| {
        let found = match_rule(winner, best, packet, direction);
        let decision = match (found, winner.action) {
            (Match::Unseen, _) => Decision::FragmentUnknown,
            (_, Action::Permit) => Decision::Permit,
            (_, Action::Block) => Decision::Block,
            (_, Action::Protect { .. }) => Decision::Protect,
        };
        winner.active
            && counts(winner, found)
            && decision == verdict.decision
            && compare((winner, best), (rule, filter)) != Ordering::Greater
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    /// In all that the packet shows.
    Unseen,
    Yes,
}

fn match_rule(rule: &Rule, filter: &Filter, packet: &Packet, direction: Direction) -> Match {
    let forward = match_filter(filter, packet);
    let backward = match_filter(filter, &packet.reversed());
    match (rule.action, direction) {
        (Action::Protect { .. }, Direction::Outbound) => forward,
        (Action::Protect { .. }, Direction::Inbound) => backward,
        _ if filter.mirrored => forward.max(backward),
        _ => forward,
    }
}

fn match_filter(filter: &Filter, packet: &Packet) -> Match {
    if !filter.source.contains(packet.source) || !filter.destination.contains(packet.destination) {
        return Match::No;
    }
    // Protocol numbers 1 and 58 are the ICMP of one version of IP each; a filter that names one means that version.
    if let Some(protocol) = filter.protocol
        && ((protocol.0 == 1 && packet.source.is_ipv6()) || (protocol.0 == 58 && packet.source.is_ipv4()))
    {
        return Match::No;
    }
    // What protocol a later IPv6 fragment names says nothing about the packet that it is part of (RFC 8200 section 4.5).
    if packet.transport == Transport::LaterFragment && packet.source.is_ipv6() {
        return if filter.protocol.is_some() {
            Match::Unseen
        } else {
            Match::Yes
        };
    }
    if filter
        .protocol
        .is_some_and(|protocol| protocol.0 != packet.protocol)
    {
        return Match::No;
    }
    let matches = |found: bool| if found { Match::Yes } else { Match::No };
    match (&filter.selector, packet.transport) {
        (Selector::Any, _) => Match::Yes,
        (_, Transport::LaterFragment) => Match::Unseen,
        (_, Transport::Absent) => Match::No,
        (Selector::Ports { source, destination }, Transport::Ports(from, to)) => {
            matches(source.contains(from) && destination.contains(to))
        }
        (Selector::Icmp { kind, code }, Transport::Ports(from, to)) => {
            matches(u16::from(*kind) == from && code.is_none_or(|code| u16::from(code) == to))
        }
    }
}

/// `Less` if `a` wins over `b`.
fn compare(a: (&Rule, &Filter), b: (&Rule, &Filter)) -> Ordering {
    let before = |priority| match priority {
        Priority::Lifeline => (0, 0),
        Priority::Session => (1, 0),
        Priority::Given(priority) => (2, priority),
        Priority::None => (3, 0),
    };
    let priority = before(a.0.priority).cmp(&before(b.0.priority));
    let shorter = |f: &Filter| common_bits(&f.source).min(common_bits(&f.destination));
    let longer = |f: &Filter| common_bits(&f.source).max(common_bits(&f.destination));
    priority
        .then(shorter(b.1).cmp(&shorter(a.1)))
        .then(longer(b.1).cmp(&longer(a.1)))
        .then(b.1.protocol.is_some().cmp(&a.1.protocol.is_some()))
        .then(ports_given(b.1).cmp(&ports_given(a.1)))
        .then(pairs(a.1).cmp(&pairs(b.1)))
        .then(strictness(a.0).cmp(&strictness(b.0)))
}

/// The number of leading bits that all addresses have in common.
fn common_bits(address: &Address) -> usize {
    let (first, last) = match address {
        Address::Any => return 0,
        Address::Prefix(prefix) => (prefix.network(), prefix.broadcast()),
        Address::Range(first, last) => (*first, *last),
    };
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        octets
            .iter()
            .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1))
            .collect()
    };
    bits(first)
        .iter()
        .zip(bits(last))
        .take_while(|(a, b)| **a == *b)
        .count()
}

fn ports_given(filter: &Filter) -> usize {
    match &filter.selector {
        Selector::Any => 0,
        Selector::Ports { source, destination } => {
            [source, destination].iter().filter(|s| !s.is_any()).count()
        }
        Selector::Icmp { code, .. } => 1 + code.iter().count(),
    }
}

/// How many pairs of ports match.
fn pairs(filter: &Filter) -> u64 {
    let count = |set: &PortSet| match set.ranges() {
        [] => 65_536,
        ranges => ranges.iter().map(|range| range.clone().count() as u64).sum(),
    };
    match &filter.selector {
        Selector::Any => 65_536 * 65_536,
        Selector::Ports { source, destination } => count(source) * count(destination),
        Selector::Icmp { code: None, .. } => 65_536,
        Selector::Icmp { code: Some(_), .. } => 1,
    }
}

fn strictness(rule: &Rule) -> usize {
    match rule.action {
        Action::Block => 0,
        Action::Protect { .. } => 1,
        Action::Permit => 2,
    }
}
