//! Which of two tunnel rules is the outbound half.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use crate::netsh::address::Side;
use crate::netsh::builtin::builtin_list;
use crate::netsh::store::{Filter, FilterList, Policy};
use crate::netsh::translate::Translation;

/// A tunnel rule's part in a tunnel.
pub(super) enum Half<'a> {
    /// To a remote end, from a local one if that is known.
    Outbound(Option<IpAddr>),
    /// What the connection of another rule brings in.
    Inbound(Option<&'a str>),
}

impl<'s> Translation<'s> {
    /// Which half of a tunnel each tunnel rule of a policy is, by the rule's line.
    ///
    /// Windows has a rule for each direction, which names the end that packets go to. Which one is here, the script does
    /// not say unless a filter says `me`.
    pub(super) fn tunnels(&mut self, policy: &'s Policy) -> HashMap<u32, Half<'s>> {
        let mut rules = Vec::new();
        let mut by_filters: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
        let mut prints: HashMap<&str, Print> = HashMap::new();
        for (name, rule) in policy.rules.iter() {
            let (Some(end), Some(list)) = (
                rule.tunnel.as_ref().and_then(Side::host),
                self.store
                    .lists
                    .find(&rule.list)
                    .or_else(|| builtin_list(&rule.list)),
            ) else {
                continue;
            };
            let print = *prints.entry(&rule.list).or_insert_with(|| Print::new(list));
            by_filters
                .entry((print.forward, print.backward))
                .or_default()
                .push(rules.len());
            rules.push((name, rule, end, print));
        }
        let mut halves: HashMap<u32, Half<'s>> = HashMap::new();
        let mut guessed = Vec::new();
        for (name, rule, end, print) in &rules {
            if halves.contains_key(&rule.line) {
                continue;
            }
            let partner = by_filters
                .get(&(print.backward, print.forward))
                .into_iter()
                .flatten()
                // A bound: many rules may share one list.
                .take(16)
                .map(|at| &rules[*at])
                .find(|(_, other, other_end, ..)| {
                    other.line != rule.line && other_end != end && !halves.contains_key(&other.line)
                });
            let here = |end: IpAddr| self.options.local.contains(&end);
            let inbound = here(*end) || print.to_me;
            let Some((other_name, other, other_end, ..)) = partner else {
                let half = if inbound {
                    Half::Inbound(None)
                } else {
                    Half::Outbound(None)
                };
                halves.insert(rule.line, half);
                continue;
            };
            if inbound {
                halves.insert(rule.line, Half::Inbound(Some(other_name)));
                halves.insert(other.line, Half::Outbound(Some(*end)));
                continue;
            }
            let known = here(*other_end) || print.from_me;
            if !known {
                guessed.push((rule.line, other.line, *end, *other_end));
            }
            halves.insert(rule.line, Half::Outbound(Some(*other_end)));
            halves.insert(other.line, Half::Inbound(Some(name)));
        }
        for (line, other, remote, local) in guessed {
            let message = format!(
                "lines {line} and {other} are a tunnel between {local} and {remote}, and the script does not say which is this machine: \
                 {local} is taken for it; if that is wrong, give --local {remote}"
            );
            self.findings.note(line, message);
        }
        halves
    }
}

/// What is looked up about a filter list when the halves of tunnels are found.
#[derive(Clone, Copy)]
struct Print {
    /// Numbers that two lists share if they have the same filters in any order, and that of the reverse filters.
    forward: u64,
    backward: u64,
    from_me: bool,
    to_me: bool,
}

impl Print {
    fn new(list: &FilterList) -> Self {
        let number = |filter: &Filter| {
            let mut hasher = DefaultHasher::new();
            (filter.source.to_string(), filter.destination.to_string()).hash(&mut hasher);
            (filter.protocol, filter.source_port, filter.destination_port).hash(&mut hasher);
            hasher.finish()
        };
        let sum =
            |number: &dyn Fn(&Filter) -> u64| list.filters.iter().map(number).fold(0, u64::wrapping_add);
        Self {
            forward: sum(&number),
            backward: sum(&|filter| number(&filter.reversed())),
            from_me: list.filters.iter().any(|filter| filter.source == Side::Me),
            to_me: list
                .filters
                .iter()
                .any(|filter| filter.destination == Side::Me && filter.source != Side::Me),
        }
    }
}
