//! What a policy takes from the machine that it runs on: its own addresses, and those behind names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::Address;
use crate::diagnostic::{Diagnostic, Findings, PolicyErrors, Position, Warning, quote};
use crate::filter::FilterList;
use crate::lifeline::{Management, SessionPath};
use crate::party::{Addresses, Parties, Party};
use crate::policy::{MAX_FILTERS, Policy};
use crate::rule::{Action, Rule};

/// Most addresses behind the names of all sources and destinations together, each counted where it is used.
const MAX_ADDRESSES: usize = 8 << 20;

/// The addresses that `me` and names stand for at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Every address of this machine, for `me`.
    pub own: Vec<IpAddr>,
    /// The addresses behind the names that [`Policy::names`] lists.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// The outer device. `None` for the one that the policy names; if it names none, every rule is taken to be for it.
    pub outer: Option<String>,
    /// The SSH connection from which the policy is put in force, if it comes in the clear.
    pub session: Option<Management>,
}

impl Policy {
    /// The names whose addresses it needs: DNS names in lower case without a dot at the end, and `gateway`,
    /// `dns-servers`, `dhcp-servers`. A DNS name of one label keeps its dot (`printer.`).
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        for_each_set(self.filter_lists(), |parties, _| {
            names.extend(parties.changing.iter().filter_map(|party| match party {
                Party::Name(name) => Some(name.as_ref()),
                _ => None,
            }));
        });
        names
    }

    /// Where a name that [`Policy::names`] lists is first used.
    #[must_use]
    pub fn name_position(&self, name: &str) -> Option<Position> {
        let mut first = None;
        for_each_set(self.filter_lists(), |parties, position| {
            let used = |party: &Party| matches!(party, Party::Name(other) if other.as_ref() == name);
            if first.is_none() && parties.changing.iter().any(used) {
                first = Some(position);
            }
        });
        first
    }

    /// Whether it stands for different rules or filters on different machines or at different times.
    #[must_use]
    pub fn depends_on_surroundings(&self) -> bool {
        self.filter_lists().iter().any(|list| !list.templates.is_empty())
            || self.rules().iter().any(Rule::is_limited)
    }

    /// Whether a rule that does not permit speaks of all addresses of the machine with `me`.
    #[must_use]
    pub fn restricts_own_addresses(&self) -> bool {
        let speaks = |list: &FilterList| {
            let mut sets = list
                .templates
                .iter()
                .flat_map(|one| [&one.source, &one.destination]);
            sets.any(|parties| parties.changing.contains(&Party::Me))
        };
        let strict = self
            .rules()
            .iter()
            .filter(|rule| rule.active && rule.action != Action::Permit);
        strict
            .filter_map(|rule| self.filter_lists().get(rule.filter_list))
            .any(speaks)
    }

    /// The policy with the filters that `me` and names stand for in these surroundings, each a filter for a single
    /// address, and with the rules active that are for the outer device. A policy that was resolved before can be resolved
    /// again.
    ///
    /// A name without an address stands for no filters, which is warned about, as are rules that are not for the outer device.
    ///
    /// # Errors
    /// The filters are more than a policy may have.
    pub fn resolve(&self, surroundings: &Surroundings) -> Result<(Self, Vec<Warning>), PolicyErrors> {
        let mut resolved = self.clone();
        let session = surroundings.session.as_ref();
        resolved.hold(session.map(|session| (session, SessionPath::Clear)));
        if !self.depends_on_surroundings() {
            return Ok((resolved, Vec::new()));
        }
        let known = Known::new(surroundings);
        self.check_addresses(&known)?;
        let mut sets = HashMap::new();
        for_each_set(self.filter_lists(), |parties, _| {
            sets.insert(std::ptr::from_ref(parties), known.addresses(parties));
        });
        let nothing = Addresses::default();
        let changing = |parties: &Arc<Parties>| sets.get(&Arc::as_ptr(parties)).unwrap_or(&nothing);

        let mut sizes = Vec::with_capacity(self.filter_lists().len());
        for list in self.filter_lists() {
            let fixed = list.filters.len()
                - list
                    .templates
                    .iter()
                    .map(|template| template.resolved.len())
                    .sum::<usize>();
            let size = list.templates.iter().fold(fixed, |size, template| {
                size.saturating_add(
                    template.pairs(changing(&template.source), changing(&template.destination)),
                )
            });
            sizes.push(size);
        }
        self.check_size(&sizes)?;
        // The lists of a session have no templates, whether or not they are new.
        for (list, size) in resolved.filter_lists_mut().iter_mut().zip(sizes) {
            list.resolve(size, changing);
        }
        let outer = surroundings.outer.as_deref();
        let outer = outer.or(self.interfaces().outer.as_deref());
        for rule in resolved.rules_mut() {
            rule.active = rule.enabled && (outer.is_none_or(|outer| rule.is_for(outer)));
        }
        let mut warnings = self.unresolved(&known);
        self.rules_elsewhere(outer, &mut warnings);
        Ok((resolved, warnings.into_warnings()))
    }

    /// A warning for each rule that the outer device keeps from being in force: its name may be misspelt. Where the device
    /// is not known, one for each rule that it could keep.
    fn rules_elsewhere(&self, outer: Option<&str>, warnings: &mut Findings) {
        for rule in self.rules().iter().filter(|rule| rule.is_limited()) {
            let devices = rule.interfaces.join(", ");
            let name = quote(&rule.name);
            let message = match outer {
                Some(outer) if rule.is_for(outer) => continue,
                Some(outer) => {
                    format!(
                        "rule {name} is not in force here: it is for {devices}, and the outer device is {outer}"
                    )
                }
                None => format!(
                    "rule {name} is taken to be in force: it is where the outer device is {devices}, and which it is here was not said"
                ),
            };
            warnings.push(|| self.diagnostic(rule.position, message));
        }
    }

    fn check_addresses(&self, known: &Known<'_>) -> Result<(), PolicyErrors> {
        let mut count = 0_usize;
        let mut errors = Findings::default();
        for_each_set(self.filter_lists(), |parties, position| {
            let addresses = parties.changing.iter().map(|party| known.of(party).len());
            count = addresses.fold(count, usize::saturating_add);
            if count > MAX_ADDRESSES && errors.is_empty() {
                let message = format!(
                    "up to this filter, \"me\" and names come to more than {MAX_ADDRESSES} addresses; put them into \
                     one address group and write its name"
                );
                errors.push(|| self.diagnostic(position, message));
            }
        });
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.into_errors())
        }
    }

    /// `sizes` are the numbers of filters of each list.
    fn check_size(&self, sizes: &[usize]) -> Result<(), PolicyErrors> {
        let total = sizes
            .iter()
            .fold(0_usize, |total, size| total.saturating_add(*size));
        let used = self.rules().iter().fold(0_usize, |used, rule| {
            used.saturating_add(sizes.get(rule.filter_list).copied().unwrap_or(0))
        });
        if total.max(used) <= MAX_FILTERS {
            return Ok(());
        }
        let largest = sizes
            .iter()
            .zip(self.filter_lists())
            .max_by_key(|(size, _)| **size);
        let mut errors = Findings::default();
        if let Some((size, list)) = largest {
            let message = format!(
                "with the addresses of this machine and of the names, filter list {} has {size} filters; all rules \
                 together use {used}, at most {MAX_FILTERS} are allowed",
                quote(&list.name)
            );
            errors.push(|| self.diagnostic(list.position, message));
        }
        Err(errors.into_errors())
    }

    /// A warning for each word and name without addresses, at its first filter.
    fn unresolved(&self, known: &Known<'_>) -> Findings {
        let mut warnings = Findings::default();
        let mut told = HashSet::new();
        for_each_set(self.filter_lists(), |parties, position| {
            for party in &parties.changing {
                if known.is_empty(party) && told.insert(party) {
                    let message = match party {
                        Party::Me => {
                            "this machine has no address; filters with \"me\" match nothing".to_owned()
                        }
                        other => format!(
                            "{} has no address; its filters match nothing",
                            quote(&other.to_string())
                        ),
                    };
                    warnings.push(|| self.diagnostic(position, message));
                }
            }
        });
        warnings
    }

    fn diagnostic(&self, position: Position, message: String) -> Diagnostic {
        Diagnostic {
            file: self.file(position).clone(),
            position: Some(position),
            message,
        }
    }
}

impl FilterList {
    /// Replaces what its templates stood for; `size` is the number of filters there will be.
    fn resolve<'s>(&mut self, size: usize, changing: impl Fn(&Arc<Parties>) -> &'s Addresses) {
        let mut filters = Vec::with_capacity(size);
        let mut written = std::mem::take(&mut self.filters).into_iter();
        let mut taken = 0;
        for template in &mut self.templates {
            let before = template.resolved.clone();
            filters.extend(written.by_ref().take(before.start - taken));
            written.by_ref().take(before.len()).for_each(drop);
            taken = before.end;
            let start = filters.len();
            template.for_each(
                changing(&template.source),
                changing(&template.destination),
                |filter| filters.push(filter),
            );
            template.resolved = start..filters.len();
        }
        filters.extend(written);
        self.filters = filters;
    }
}

/// Surroundings by word and name, each address once and in order.
struct Known<'s> {
    own: Vec<IpAddr>,
    names: HashMap<&'s str, Vec<IpAddr>>,
}

impl<'s> Known<'s> {
    fn new(surroundings: &'s Surroundings) -> Self {
        let names = surroundings.names.iter();
        Self {
            own: unique(&surroundings.own),
            names: names
                .map(|(name, addresses)| (name.as_str(), unique(addresses)))
                .collect(),
        }
    }

    fn of(&self, party: &Party) -> &[IpAddr] {
        match party {
            Party::Fixed(_) => &[],
            Party::Me => &self.own,
            Party::Name(name) => self.names.get(name.as_ref()).map_or(&[], Vec::as_slice),
        }
    }

    fn is_empty(&self, party: &Party) -> bool {
        self.of(party).is_empty()
    }

    /// The addresses behind everything in the set that is not fixed.
    fn addresses(&self, parties: &Parties) -> Addresses {
        let all: Vec<IpAddr> = parties
            .changing
            .iter()
            .flat_map(|party| self.of(party))
            .copied()
            .collect();
        let mut addresses = Addresses::default();
        for address in unique(&all) {
            addresses.push(Address::Prefix(IpNet::from(address)));
        }
        addresses
    }
}

/// Ascending, each once; IPv4 as IPv4, however the resolver wrote it.
fn unique(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut unique: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
    unique.sort_unstable();
    unique.dedup();
    unique
}

/// Every set of parties that is not fixed, once, with the position of its first filter.
fn for_each_set<'p>(lists: &'p [FilterList], mut take: impl FnMut(&'p Parties, Position)) {
    let mut seen = HashSet::new();
    for template in lists.iter().flat_map(|list| &list.templates) {
        for parties in [&template.source, &template.destination] {
            if !parties.changing.is_empty() && seen.insert(Arc::as_ptr(parties)) {
                take(parties, template.pattern.position);
            }
        }
    }
}
