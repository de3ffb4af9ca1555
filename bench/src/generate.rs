//! A list of rules, and its texts.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt::Write as _;

use ravelin_classifier::arbitrary::Rng;
use ravelin_classifier::reference::Packet;
use ravelin_policy::Family;

use crate::prefix_tree::PrefixTree;
use crate::profile::{Statistics, port_range, weighted};
use crate::rule::ANY_PORT;
use crate::{PortClass, Profile, Rule};

/// Attempts per rule, on average, before the list stays shorter than asked.
const ATTEMPTS: usize = 64;

/// How the rules of a policy are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// As the list is: the first match decides. Every rule has its position as its priority.
    Position,
    /// As Ravelin does it: the most specific match decides. No rule has a priority.
    Specificity,
}

/// Rules without duplicates, in an order in which no rule hides a later one that it covers.
#[derive(Clone, Debug)]
pub struct RuleList {
    family: Family,
    rules: Vec<Rule>,
}

impl RuleList {
    /// `count` rules of a profile; the same arguments give the same rules everywhere.
    #[must_use]
    pub fn generate(profile: Profile, family: Family, count: usize, seed: u64) -> Self {
        let statistics = profile.statistics();
        let mut rng = Rng::new(seed);
        let trees = [rng.bits(), rng.bits()].map(|seed| PrefixTree::new(family, statistics, seed));
        let mut seen = HashSet::with_capacity(count);
        let mut rules = Vec::with_capacity(count);
        let (mut failures, mut left) = (0_u8, count.saturating_mul(ATTEMPTS));
        while rules.len() < count && left > 0 {
            left -= 1;
            let rule = draw(&mut rng, statistics, &trees, family, failures);
            // The action does not make a rule another rule: a list with both would hide one of them.
            if seen.insert(Rule {
                permit: false,
                ..rule
            }) {
                rules.push(rule);
                failures = 0;
            } else {
                failures = failures.saturating_add(1);
            }
        }
        // What covers another rule is less specific in some field and more in none.
        rules.sort_by_key(|rule| Reverse(specificity(rule)));
        Self { family, rules }
    }

    /// These rules in this order. Nothing is said about duplicates or about rules that hide others.
    #[must_use]
    pub fn from_rules(family: Family, rules: Vec<Rule>) -> Self {
        Self { family, rules }
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// The rules, in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Position of the first rule that matches.
    #[must_use]
    pub fn first_match(&self, packet: &Packet) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(packet))
    }

    /// The list as a ClassBench file. It has no place for actions.
    #[must_use]
    pub fn to_classbench(&self) -> String {
        let mut text = String::with_capacity(self.rules.len() * 80);
        for rule in &self.rules {
            rule.write_classbench(&mut text);
        }
        text
    }

    /// The list as a policy whose default is `block`.
    #[must_use]
    pub fn to_policy(&self, order: Order) -> String {
        let mut text = String::with_capacity(self.rules.len() * 180 + 256);
        text.push_str("default = \"block\"\n");
        match order {
            Order::Position => self.write_by_position(&mut text),
            Order::Specificity => self.write_by_specificity(&mut text),
        }
        text
    }

    /// A rule is a filter list and its action, so each has a list of its own.
    fn write_by_position(&self, text: &mut String) {
        text.push_str("rules = [\n");
        for (position, rule) in self.rules.iter().enumerate() {
            let action = rule.action();
            let _ = writeln!(
                text,
                "{{name=\"r{position}\",filter-list=\"f{position}\",action=\"{action}\",priority={position}}},"
            );
        }
        text.push_str("]\n[filter-lists]\n");
        for (position, rule) in self.rules.iter().enumerate() {
            let _ = write!(text, "f{position}={{filters=[");
            rule.write_filter(text);
            text.push_str("]}\n");
        }
    }

    fn write_by_specificity(&self, text: &mut String) {
        for action in ["permit", "block"] {
            let _ = writeln!(text, "[filter-lists.{action}]\nfilters = [");
            for rule in self.rules.iter().filter(|rule| rule.action() == action) {
                rule.write_filter(text);
                text.push_str(",\n");
            }
            let _ = writeln!(
                text,
                "]\n[[rules]]\nname = \"{action}\"\nfilter-list = \"{action}\"\naction = \"{action}\""
            );
        }
    }
}

/// One rule; after `failures` that were duplicates, from a wider choice.
fn draw(
    rng: &mut Rng,
    statistics: &Statistics,
    [sources, destinations]: &[PrefixTree; 2],
    family: Family,
    failures: u8,
) -> Rule {
    let effort = failures.saturating_mul(5).min(100);
    let fresh = failures > 3;
    let (source_length, destination_length) = weighted(
        rng,
        statistics
            .prefixes
            .iter()
            .map(|&(source, destination, weight)| ((source, destination), weight)),
    );
    let source_length = length(rng, family, source_length);
    let destination_length = length(rng, family, destination_length);
    let source = sources.draw(rng, source_length, effort, None);
    // Two sides of one network, when neither is everything.
    let shares = source_length.min(destination_length) > 0 && rng.chance(statistics.correlated);
    let like = shares.then(|| (source, source_length.min(destination_length) / 4 * 3));
    let destination = destinations.draw(rng, destination_length, effort, like);

    let protocol = weighted(rng, statistics.protocols.iter().copied()).map(|number| match (number, family) {
        // ICMP is ICMPv6, and IGMP went into it.
        (1 | 2, Family::V6) => 58,
        (number, _) => number,
    });
    let (source_ports, destination_ports) = if matches!(protocol, Some(6 | 17)) {
        let (from, to) = weighted(
            rng,
            statistics
                .ports
                .iter()
                .map(|&(from, to, weight)| ((from, to), weight)),
        );
        // A service has one well-known side; only the other may be anything.
        let fresh_source = fresh || from == PortClass::Range;
        (port_range(rng, from, fresh_source), port_range(rng, to, fresh))
    } else {
        (ANY_PORT, ANY_PORT)
    };
    Rule {
        source,
        destination,
        source_ports,
        destination_ports,
        protocol,
        permit: rng.chance(statistics.permits),
    }
}

/// The length for this family, now and then one more or less: real sets have a bit of everything.
fn length(rng: &mut Rng, family: Family, v4: u8) -> u8 {
    let usual = match (family, v4) {
        (_, 0) => return 0,
        (Family::V4, length) => length,
        (Family::V6, 1..=8) => 20,
        (Family::V6, 9..=16) => 32,
        (Family::V6, 17..=23) => 44,
        (Family::V6, 24..=26) => 48,
        (Family::V6, 27..=28) => 56,
        (Family::V6, 29..=30) => 64,
        // Hosts, but where there are privacy addresses only their network can be named.
        (Family::V6, _) if rng.chance(25) => 64,
        (Family::V6, _) => 128,
    };
    match rng.below(24) {
        0 => usual - 1,
        1 if v4 < 32 => usual + 1,
        _ => usual,
    }
}

/// A number that is larger for a rule than for any that covers it.
fn specificity(rule: &Rule) -> u32 {
    let ports = |[low, high]: [u16; 2]| 16 - (u32::from(high - low) + 1).ilog2();
    let width = |[low, high]: [u16; 2]| u32::from(u16::MAX - (high - low));
    let coarse = u32::from(rule.source.length())
        + u32::from(rule.destination.length())
        + if rule.protocol.is_some() { 8 } else { 0 }
        + ports(rule.source_ports)
        + ports(rule.destination_ports);
    // Ranges of one magnitude can still cover each other.
    coarse << 18 | (width(rule.source_ports) + width(rule.destination_ports))
}

/// Whether `a` matches all that `b` matches.
#[cfg(test)]
fn covers(a: &Rule, b: &Rule) -> bool {
    let holds = |outer: [u16; 2], inner: [u16; 2]| outer[0] <= inner[0] && inner[1] <= outer[1];
    a.source.covers(&b.source)
        && a.destination.covers(&b.destination)
        && (a.protocol.is_none() || a.protocol == b.protocol)
        && holds(a.source_ports, b.source_ports)
        && holds(a.destination_ports, b.destination_ports)
}

/// The share of rules, in percent, for which `test` holds.
#[cfg(test)]
fn percent(rules: &[Rule], test: impl Fn(&Rule) -> bool) -> usize {
    rules.iter().filter(|rule| test(rule)).count() * 100 / rules.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prefix;

    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

    #[test]
    fn rules_are_as_many_as_asked_and_none_twice() {
        for profile in Profile::ALL {
            for family in FAMILIES {
                let list = RuleList::generate(profile, family, 20_000, 1);
                let distinct: HashSet<Rule> = list
                    .rules()
                    .iter()
                    .map(|rule| Rule {
                        permit: false,
                        ..*rule
                    })
                    .collect();
                assert_eq!(
                    (list.rules().len(), distinct.len()),
                    (20_000, 20_000),
                    "{profile:?} {family:?}"
                );
                assert!(list.rules().iter().all(|rule| rule.source.family() == family
                    && rule.destination.family() == family
                    && (!rule.names_ports() || matches!(rule.protocol, Some(6 | 17)))));
            }
        }
    }

    #[test]
    fn a_seed_gives_one_list() {
        let text = |seed| RuleList::generate(Profile::Acl, Family::V4, 300, seed).to_classbench();
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn no_rule_hides_a_later_one() {
        for profile in Profile::ALL {
            let list = RuleList::generate(profile, Family::V4, 1500, 2);
            let mut nested = 0;
            for (index, rule) in list.rules().iter().enumerate() {
                let (before, after) = list.rules().split_at(index);
                assert!(
                    !before.iter().any(|earlier| covers(earlier, rule)),
                    "{profile:?} {rule:?}"
                );
                nested += usize::from(after.iter().skip(1).any(|later| covers(later, rule)));
            }
            assert!(nested > 30, "{profile:?}: only {nested} rules lie inside another");
        }
    }

    /// What tells the kinds of rule set apart in the literature.
    #[test]
    fn profiles_differ_as_they_should() {
        for family in FAMILIES {
            let [acl, firewall, chains] =
                Profile::ALL.map(|profile| RuleList::generate(profile, family, 10_000, 3).rules);
            let any = |prefix: &Prefix| prefix.length() == 0;
            let one_sided = |rule: &Rule| any(&rule.source) != any(&rule.destination);
            assert!(
                percent(&firewall, one_sided) > 50,
                "{}",
                percent(&firewall, one_sided)
            );
            assert!(percent(&acl, one_sided) < 20 && percent(&chains, one_sided) < 35);

            let names_source = |rule: &Rule| rule.source_ports != ANY_PORT;
            assert_eq!(percent(&acl, names_source), 0);
            assert!((10..40).contains(&percent(&firewall, names_source)));

            let service = |rule: &Rule| PortClass::of(rule.destination_ports) == PortClass::Exact;
            assert!(percent(&acl, service) > 45, "{}", percent(&acl, service));
            assert!(percent(&acl, service) > percent(&firewall, service));
            assert!(percent(&firewall, service) > percent(&chains, service));

            let any_protocol = |rule: &Rule| rule.protocol.is_none();
            assert!(percent(&chains, any_protocol) > percent(&firewall, any_protocol));
            assert!(percent(&firewall, any_protocol) > percent(&acl, any_protocol));

            let bits = u32::from(crate::prefix::width(family)) / 4;
            let related = |rule: &Rule| {
                !any(&rule.source)
                    && !any(&rule.destination)
                    && (rule.source.first() ^ rule.destination.first()) << (128 - bits * 4) >> (128 - bits)
                        == 0
            };
            assert!(percent(&chains, related) > 10 + percent(&acl, related));

            for class in [PortClass::Any, PortClass::High, PortClass::Low, PortClass::Range] {
                let found = chains
                    .iter()
                    .any(|rule| PortClass::of(rule.destination_ports) == class);
                assert!(found, "{class:?}");
            }
        }
    }

    /// Few leading bits hold most rules: sets of addresses in use are skewed.
    #[test]
    fn prefixes_are_skewed() {
        for profile in Profile::ALL {
            let list = RuleList::generate(profile, Family::V4, 10_000, 4);
            let mut sizes = vec![0_usize; 1 << 12];
            let mut total = 0;
            for rule in list.rules().iter().filter(|rule| rule.destination.length() >= 12) {
                sizes[(rule.destination.first() >> 20) as usize] += 1;
                total += 1;
            }
            sizes.sort_unstable_by_key(|size| Reverse(*size));
            let used = sizes.iter().filter(|size| **size > 0).count();
            let top: usize = sizes[..used.div_ceil(10)].iter().sum();
            assert!(
                used > 20 && top * 100 > total * 25,
                "{profile:?}: {top} of {total} in a tenth of {used}"
            );
        }
    }

    #[test]
    fn texts_are_as_the_readers_want_them() {
        let list = RuleList::generate(Profile::Firewall, Family::V4, 50, 5);
        let line = list.to_classbench().lines().next().unwrap().to_owned();
        let fields: Vec<&str> = line.split('\t').collect();
        assert!(
            fields.len() == 6 && fields[0].starts_with('@') && fields[2].contains(" : "),
            "{line}"
        );
        assert_eq!(list.to_classbench().lines().count(), 50);
        for order in [Order::Position, Order::Specificity] {
            let text = list.to_policy(order);
            let policy = ravelin_policy::Policy::parse(&text, "generated.toml");
            let (policy, _) = policy.unwrap_or_else(|error| panic!("{error}\n{text}"));
            let filters: usize = policy.filter_lists().iter().map(|list| list.filters.len()).sum();
            assert_eq!(filters, 50);
        }
    }
}
