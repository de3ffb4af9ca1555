//! The total order of filters: the policy's own.

use ravelin_policy::order::{Definition, Rank};
use ravelin_policy::{Filter, Rule};

/// Sorts filters so that the smallest key wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RankKey(Rank);

impl RankKey {
    /// The key of the filter at `definition` (indexes of rule and filter).
    pub(crate) fn new(rule: &Rule, filter: &Filter, definition: (usize, usize)) -> Self {
        let definition = Definition {
            rule: definition.0,
            filter: definition.1,
        };
        Self(Rank::of(rule, filter, definition))
    }
}
