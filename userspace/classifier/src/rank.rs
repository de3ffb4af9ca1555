//! The total order of filters: most specific first.

use std::cmp::Reverse;

use ravelin_policy::{Action, Filter, Rule, Selector};

/// Sorts filters so that the smallest key wins. Fields are compared in the order they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RankKey {
    /// A rule's explicit priority; rules without come after all that have one.
    priority: u64,
    /// Longer shorter-prefix first: `10.1.0.0/16 -> 10.2.0.0/16` wins over `10.1.0.1 -> any`.
    shorter_prefix: Reverse<u8>,
    longer_prefix: Reverse<u8>,
    any_protocol: bool,
    /// How many of the two ports (or ICMP type and code) are limited.
    limited_ports: Reverse<u8>,
    /// Pairs of source and destination port that match.
    port_pairs: u64,
    action: u8,
    /// Indexes of rule and filter: the order of definition.
    definition: (usize, usize),
}

impl RankKey {
    /// The key of the filter at `definition` (indexes of rule and filter).
    pub(crate) fn new(rule: &Rule, filter: &Filter, definition: (usize, usize)) -> Self {
        let source = filter.source.covering_length();
        let destination = filter.destination.covering_length();
        let (limited_ports, port_pairs) = match &filter.selector {
            Selector::Any => (0, 1 << 32),
            Selector::Ports { source, destination } => (
                u8::from(!source.is_any()) + u8::from(!destination.is_any()),
                u64::from(source.width()) * u64::from(destination.width()),
            ),
            Selector::Icmp { code: None, .. } => (1, 1 << 16),
            Selector::Icmp { code: Some(_), .. } => (2, 1),
        };
        Self {
            priority: rule.priority.map_or(u64::MAX, u64::from),
            shorter_prefix: Reverse(source.min(destination)),
            longer_prefix: Reverse(source.max(destination)),
            any_protocol: filter.protocol.is_none(),
            limited_ports: Reverse(limited_ports),
            port_pairs,
            action: match rule.action {
                Action::Block => 0,
                Action::Protect { .. } => 1,
                Action::Permit => 2,
            },
            definition,
        }
    }
}
