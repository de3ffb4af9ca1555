//! What may be written as the source or destination of a filter: addresses, and words that stand for addresses.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::address::{Address, Family};
use crate::diagnostic::quote;
use crate::reader::closest;

/// The addresses of this machine.
const ME: &str = "me";

/// Names that the machine itself knows the addresses of.
const WELL_KNOWN: &[&str] = &["gateway", "dns-servers", "dhcp-servers"];

/// Every word that can be written in place of an address.
pub(crate) fn words() -> impl Iterator<Item = &'static str> {
    ["any", ME].into_iter().chain(WELL_KNOWN.iter().copied())
}

/// Words of other tools, and what to write here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("dns", "dns-servers"),
    ("dhcp", "dhcp-servers"),
    ("all", "any"),
    ("*", "any"),
    ("self", "me"),
    ("localhost", "127.0.0.1"),
];

/// Longest DNS name and label in characters (RFC 1035 section 2.3.4).
const MAX_DNS_NAME: usize = 253;
const MAX_DNS_LABEL: usize = 63;

/// One element of a source or destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// Always the same addresses.
    Fixed(Address),
    /// All addresses of this machine, whichever they are.
    Me,
    /// The addresses behind a name: a DNS name in lower case, or a word of [`WELL_KNOWN`].
    Name(Arc<str>),
}

impl Party {
    /// Parses an address in any form, `me`, or a name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(address) = Address::parse(text) {
            return Some(Self::Fixed(address));
        }
        match text {
            ME => Some(Self::Me),
            _ if WELL_KNOWN.contains(&text) => Some(Self::Name(text.into())),
            _ => dns_name(text).map(Self::Name),
        }
    }

    /// What is wrong with a text that is none of these, and what to write instead.
    pub(crate) fn mistake(text: &str) -> String {
        let text = text.trim();
        if let Some((_, instead)) = ELSEWHERE.iter().find(|(word, _)| *word == text) {
            return format!("{} is not known here; write \"{instead}\"", quote(text));
        }
        if is_label(text) && text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let words: Vec<&str> = words().collect();
            return match closest(text, &words) {
                Some(word) => format!("{} is not an address; did you mean \"{word}\"?", quote(text)),
                None => format!(
                    "{} is not an address; write a DNS name with its domain, or with a dot at its end, and an \
                     address group as \"${text}\"",
                    quote(text)
                ),
            };
        }
        if !text.is_ascii() && text.contains('.') {
            return format!("{} is not ASCII; write the name in its xn-- form", quote(text));
        }
        Address::parse(text).err().unwrap_or_default()
    }
}

/// The name in lower case when `text` can be a DNS name. One label alone needs a dot behind it: else every misspelt
/// word would be a name.
fn dns_name(text: &str) -> Option<Arc<str>> {
    let relative = text.strip_suffix('.').unwrap_or(text);
    let mut labels = relative.split('.');
    // No top-level domain is one character long or starts with a digit; mistyped addresses are not names.
    let top = labels.next_back()?;
    let good = relative.len() <= MAX_DNS_NAME
        && text.contains('.')
        && top.len() > 1
        && top.starts_with(|c: char| c.is_ascii_alphabetic())
        && is_label(top)
        && labels.all(is_label);
    // The dot at the end tells a name like `gateway.` from the word.
    let kept = if relative.contains('.') { relative } else { text };
    good.then(|| kept.to_ascii_lowercase().into())
}

/// Letters, digits, `-` and `_` (which DNS allows and machines have).
fn is_label(label: &str) -> bool {
    (1..=MAX_DNS_LABEL).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// A set of parties, apart by family, so that no pair of two families need be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Parties {
    pub(crate) fixed: Addresses,
    /// `me` and names, in the order they are written.
    pub(crate) changing: Vec<Party>,
}

/// A set of addresses, apart by family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Addresses {
    pub(crate) any: bool,
    pub(crate) v4: Vec<Address>,
    pub(crate) v6: Vec<Address>,
}

impl Addresses {
    pub(crate) fn push(&mut self, address: Address) {
        match address.family() {
            None => self.any = true,
            Some(Family::V4) => self.v4.push(address),
            Some(Family::V6) => self.v6.push(address),
        }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.any) + self.v4.len() + self.v6.len()
    }

    /// How many pairs of one family there are with one of these as source; `only` leaves out the other family.
    pub(crate) fn pairs(&self, destination: &Self, only: Option<Family>) -> usize {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| only.is_none_or(|only| only == family));
        let (any, any_to) = (usize::from(self.any), usize::from(destination.any));
        let pairs = |wanted: bool, from: &[Address], to: &[Address]| {
            if !wanted {
                return 0;
            }
            let all = (from.len() + any).saturating_mul(to.len() + any_to);
            all - any * any_to
        };
        pairs(v4, &self.v4, &destination.v4)
            .saturating_add(pairs(v6, &self.v6, &destination.v6))
            .saturating_add(any * any_to)
    }

    /// Every pair that [`Addresses::pairs`] counts.
    pub(crate) fn for_each_pair(
        &self,
        destination: &Self,
        only: Option<Family>,
        mut take: impl FnMut(Address, Address),
    ) {
        if self.any && destination.any {
            take(Address::Any, Address::Any);
        }
        for (family, from, to) in [
            (Family::V4, &self.v4, &destination.v4),
            (Family::V6, &self.v6, &destination.v6),
        ] {
            if only.is_some_and(|only| only != family) {
                continue;
            }
            if self.any {
                to.iter().for_each(|to| take(Address::Any, *to));
            }
            // Nothing to pair with: the sources need not be gone through.
            if to.is_empty() && !destination.any {
                continue;
            }
            for from in from {
                if destination.any {
                    take(*from, Address::Any);
                }
                to.iter().for_each(|to| take(*from, *to));
            }
        }
    }

    /// The families among them, for messages.
    pub(crate) fn families(&self) -> &'static str {
        match (self.v4.is_empty(), self.v6.is_empty()) {
            (false, true) => "IPv4",
            (true, false) => "IPv6",
            _ => "of both families",
        }
    }
}

impl Parties {
    pub(crate) fn of(party: Party) -> Self {
        let mut parties = Self::default();
        parties.push(party);
        parties
    }

    pub(crate) fn len(&self) -> usize {
        self.fixed.len() + self.changing.len()
    }

    fn push(&mut self, party: Party) {
        match party {
            Party::Fixed(address) => self.fixed.push(address),
            changing => self.changing.push(changing),
        }
    }

    /// All of them, any first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Party> {
        let any = self.fixed.any.then_some(Address::Any);
        let fixed = any
            .into_iter()
            .chain(self.fixed.v4.iter().chain(&self.fixed.v6).copied());
        fixed.map(Party::Fixed).chain(self.changing.iter().cloned())
    }
}

/// Parties being collected; each is kept once.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    parties: Parties,
    seen: HashSet<Party>,
}

impl Collected {
    pub(crate) fn add(&mut self, party: Party) {
        if self.seen.insert(party.clone()) {
            self.parties.push(party);
        }
    }

    pub(crate) fn finish(self) -> Parties {
        self.parties
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Me => f.write_str(ME),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Addresses, Party};
    use crate::address::{Address, Family};
    use proptest::prelude::*;

    #[test]
    fn words_and_names_are_told_apart() {
        let name = |name: &str| Some(Party::Name(name.into()));
        assert_eq!(Party::parse("me"), Some(Party::Me));
        assert_eq!(Party::parse("any"), Some(Party::Fixed(Address::Any)));
        assert_eq!(Party::parse("gateway"), name("gateway"));
        assert_eq!(Party::parse("gateway."), name("gateway."));
        assert_eq!(Party::parse("DB.example.ORG."), name("db.example.org"));
        assert_eq!(Party::parse("_ldap._tcp.3com.com"), name("_ldap._tcp.3com.com"));
        for (text, expected) in [
            ("anny", "did you mean \"any\"?"),
            ("dns", "write \"dns-servers\""),
            ("dhcp-server", "did you mean \"dhcp-servers\"?"),
            ("office", "\"$office\""),
            ("bücher.example", "xn--"),
            ("10.0.0.300", "is not an address"),
            ("10.0.0.x", "is not an address"),
            ("-a.example", "is not an address"),
            ("a..example", "is not an address"),
            ("", "is not an address"),
            (".", "is not an address"),
            ("$office", "is not an address"),
        ] {
            assert_eq!(Party::parse(text), None);
            let error = Party::mistake(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(
            Party::parse(&"a.".repeat(126)).is_none(),
            "a top-level domain of one letter"
        );
        assert!(Party::parse(&format!("{}example", "a.".repeat(200))).is_none());
        assert!(Party::parse(&format!("{}.example", "a".repeat(64))).is_none());
    }

    fn addresses() -> impl Strategy<Value = Addresses> {
        let v4 = Address::parse("10.0.0.1").unwrap();
        let v6 = Address::parse("fd00::1").unwrap();
        (any::<bool>(), 0..4_usize, 0..4_usize).prop_map(move |(any, four, six)| Addresses {
            any,
            v4: vec![v4; four],
            v6: vec![v6; six],
        })
    }

    proptest! {
        /// The pairs are those of the plain double loop, and as many as were counted.
        #[test]
        fn pairs_are_of_one_family(
            from in addresses(),
            to in addresses(),
            only in proptest::option::of(prop_oneof![Just(Family::V4), Just(Family::V6)]),
        ) {
            let all = |set: &Addresses| {
                let any = set.any.then_some(Address::Any);
                any.into_iter().chain(set.v4.clone()).chain(set.v6.clone()).collect::<Vec<_>>()
            };
            let mut expected = 0;
            for source in all(&from) {
                for destination in all(&to) {
                    let families = [source.family(), destination.family()];
                    let mut families = families.into_iter().flatten().chain(only.filter(|_| families != [None, None]));
                    let first = families.next();
                    expected += usize::from(families.all(|family| Some(family) == first));
                }
            }
            let mut found = 0;
            from.for_each_pair(&to, only, |source, destination| {
                assert!(source.family().is_none() || destination.family().is_none() || source.family() == destination.family());
                found += 1;
            });
            prop_assert_eq!(found, expected);
            prop_assert_eq!(from.pairs(&to, only), expected);
        }
    }
}
