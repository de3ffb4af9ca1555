//! Filters with more than one source or destination: what they stand for, now and in given surroundings.

use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::Report;
use crate::filter::{Filter, FilterList};
use crate::party::{Addresses, Parties, Party};
use crate::policy::MAX_FILTERS;
use crate::protocol::Protocol;
use crate::reader::Table;

/// A filter as written, whose sources and destinations are sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// Everything but the addresses.
    pub(crate) pattern: Filter,
    pub(crate) source: Arc<Parties>,
    pub(crate) destination: Arc<Parties>,
    /// Which filters of its list it stands for in the surroundings that the policy was resolved in; where they
    /// would be, while it was not.
    pub(crate) resolved: Range<usize>,
}

/// A filter as it is written, one of its addresses known only on the machine itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangingFilter<'a> {
    /// The source as written: an address, `me`, or a name.
    pub source: String,
    /// The destination as written.
    pub destination: String,
    /// Everything else; its addresses mean nothing.
    pub pattern: &'a Filter,
}

impl FilterList {
    /// The filters whose addresses depend on the machine, one for each pair of a source and a destination of which
    /// at least one is `me` or a name.
    pub fn changing(&self) -> impl Iterator<Item = ChangingFilter<'_>> {
        self.templates.iter().flat_map(|template| {
            template.source.iter().flat_map(move |source| {
                let (fixed, text) = (matches!(source, Party::Fixed(_)), source.to_string());
                let destinations = template.destination.iter();
                destinations
                    .filter(move |destination| !(fixed && matches!(destination, Party::Fixed(_))))
                    .map(move |destination| ChangingFilter {
                        source: text.clone(),
                        destination: destination.to_string(),
                        pattern: &template.pattern,
                    })
            })
        })
    }
}

impl Template {
    pub(crate) fn new(pattern: Filter, source: Arc<Parties>, destination: Arc<Parties>) -> Self {
        Self {
            pattern,
            source,
            destination,
            resolved: 0..0,
        }
    }

    /// Whether it stands for different filters in different surroundings.
    fn depends_on_surroundings(&self) -> bool {
        !self.source.changing.is_empty() || !self.destination.changing.is_empty()
    }

    /// Adds the filters that it always stands for to `list`, and itself if there are more in given surroundings.
    pub(crate) fn write_out(
        mut self,
        report: &mut Report<'_>,
        table: &Table<'_>,
        room: usize,
        list: &mut FilterList,
    ) -> Option<()> {
        let only = self.pattern.protocol.and_then(Protocol::family);
        let (source, destination) = (&self.source.fixed, &self.destination.fixed);
        let pairs = source.pairs(destination, only);
        if pairs > room {
            report.error(
                table.span(),
                format!(
                    "this filter stands for {pairs} pairs of addresses; a policy has at most {MAX_FILTERS} filters"
                ),
            );
            return None;
        }
        let depends = self.depends_on_surroundings();
        if pairs == 0 && !depends && self.source.len() > 0 && self.destination.len() > 0 {
            report.error(table.span(), self.incompatible());
            return None;
        }
        list.filters.reserve(pairs);
        source.for_each_pair(destination, only, |source, destination| {
            list.filters.push(self.pattern.between(source, destination));
        });
        if depends {
            self.resolved = list.filters.len()..list.filters.len();
            list.templates.push(self);
        }
        Some(())
    }

    /// How many filters there are besides those that do not depend on the surroundings.
    pub(crate) fn pairs(&self, source: &Addresses, destination: &Addresses) -> usize {
        let only = self.pattern.protocol.and_then(Protocol::family);
        let fixed = &self.destination.fixed;
        let pairs = source.pairs(fixed, only);
        let pairs = pairs.saturating_add(source.pairs(destination, only));
        pairs.saturating_add(self.source.fixed.pairs(destination, only))
    }

    /// Those filters, when `source` and `destination` are the addresses behind what is not fixed.
    pub(crate) fn for_each(&self, source: &Addresses, destination: &Addresses, mut take: impl FnMut(Filter)) {
        let only = self.pattern.protocol.and_then(Protocol::family);
        let mut take = |source, destination| take(self.pattern.between(source, destination));
        source.for_each_pair(&self.destination.fixed, only, &mut take);
        source.for_each_pair(destination, only, &mut take);
        self.source.fixed.for_each_pair(destination, only, &mut take);
    }

    /// Why no pair of addresses is of one family.
    fn incompatible(&self) -> String {
        let (source, destination) = (&self.source.fixed, &self.destination.fixed);
        match self.pattern.protocol {
            Some(protocol) if protocol.family().is_some() && source.pairs(destination, None) > 0 => {
                let only = protocol
                    .family()
                    .map(|family| family.to_string())
                    .unwrap_or_default();
                format!(
                    "protocol {protocol} belongs to {only}, but no source and destination are both {only}"
                )
            }
            _ => format!(
                "no source is of one family with a destination: the sources are {}, the destinations {}",
                source.families(),
                destination.families()
            ),
        }
    }
}
