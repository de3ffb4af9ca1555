//! Address groups: the section `[addresses]`, whose names stand for their elements.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::address::Address;
use crate::diagnostic::{Position, Report, quote};
use crate::document::read_name;
use crate::party::{Collected, Parties, Party};
use crate::reader::{Entry, Node, closest};

/// Most elements that all groups and arrays of addresses together may come to, written out.
const MAX_ELEMENTS: usize = 1_000_000;

/// Groups named in the message about a cycle; a longer cycle is cut.
const MAX_CYCLE: usize = 16;

/// The address groups of a policy.
#[derive(Debug, Default)]
pub(crate) struct Groups<'a> {
    /// `None` for one that is defined but faulty, which has been reported.
    by_name: HashMap<&'a str, Option<Arc<Parties>>>,
    defined: Vec<(&'a str, Position)>,
    used: HashSet<&'a str>,
    /// Elements written out so far.
    elements: usize,
    /// Whether that was more than [`MAX_ELEMENTS`], which has been reported.
    overflown: bool,
}

/// A source or destination as read.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    /// The usual case: one address.
    One(Address),
    /// Several, or such as change.
    Many(Arc<Parties>),
}

impl Side {
    /// As a set.
    pub(crate) fn into_parties(self) -> Arc<Parties> {
        match self {
            Self::One(address) => Arc::new(Parties::of(Party::Fixed(address))),
            Self::Many(parties) => parties,
        }
    }
}

/// A group as it is written.
struct Written<'a> {
    name: &'a str,
    position: Position,
    /// `None` for one that is faulty.
    elements: Option<Vec<Element<'a>>>,
}

enum Element<'a> {
    Party(Party),
    Group(&'a str, Position),
}

impl<'a> Groups<'a> {
    /// Reads the section `[addresses]`; no name is there twice.
    pub(crate) fn read(report: &mut Report<'_>, entries: &[Entry<'a>]) -> Self {
        let mut groups = Self::default();
        let mut written = Vec::with_capacity(entries.len());
        for entry in entries {
            let usable = read_name(report, entry.name, &entry.key);
            written.push(Written {
                name: entry.name,
                position: report.position(&entry.key),
                elements: read_elements(report, entry.value).filter(|_| usable.is_some()),
            });
        }
        groups.write_out(report, &written);
        groups.defined = written.iter().map(|group| (group.name, group.position)).collect();
        groups
    }

    /// Reads the source or destination of a filter.
    pub(crate) fn read_side(&mut self, report: &mut Report<'_>, node: Node<'a>) -> Option<Side> {
        let elements = match node.as_string().map(str::trim) {
            Some(text) => match read_element(report, node, text)? {
                Element::Party(Party::Fixed(address)) => return Some(Side::One(address)),
                Element::Party(party) => return Some(Side::Many(Arc::new(Parties::of(party)))),
                Element::Group(name, position) => {
                    self.used.insert(name);
                    return self.group(report, name, position).map(Side::Many);
                }
            },
            None if node.as_array().is_some() => read_elements(report, node)?,
            None => {
                node.wrong_type(report, "an address in quotes, or an array of them");
                return None;
            }
        };
        if elements.is_empty() {
            report.error(
                &node.span(),
                "the list of addresses is empty; write \"any\" or an address",
            );
            return None;
        }
        for element in &elements {
            if let Element::Group(name, _) = element {
                self.used.insert(name);
            }
        }
        let parties = self.collect(report, &elements, report.position(&node.span()))?;
        Some(Side::Many(Arc::new(parties)))
    }

    /// Warns of groups that no filter needs and of groups that are empty.
    pub(crate) fn warn(&self, report: &mut Report<'_>) {
        for (name, position) in &self.defined {
            let empty = self
                .by_name
                .get(name)
                .is_some_and(|group| group.as_ref().is_some_and(|g| g.len() == 0));
            if !self.used.contains(name) {
                report.warn(*position, format!("no filter uses address group {}", quote(name)));
            } else if empty {
                report.warn(
                    *position,
                    format!(
                        "address group {} is empty; its filters match nothing",
                        quote(name)
                    ),
                );
            }
        }
    }

    fn group(&self, report: &mut Report<'_>, name: &str, position: Position) -> Option<Arc<Parties>> {
        if let Some(known) = self.by_name.get(name) {
            return known.clone();
        }
        if report.only_counts() {
            report.error_at(position, "");
            return None;
        }
        let known: Vec<&str> = self.by_name.keys().copied().take(256).collect();
        let hint = closest(name, &known).map_or_else(
            || "define it under [addresses]".to_owned(),
            |near| format!("did you mean {}?", quote(&format!("${near}"))),
        );
        report.error_at(
            position,
            format!("there is no address group {}; {hint}", quote(name)),
        );
        None
    }

    /// Each group after those it refers to, without recursion: a file may hold long chains of groups.
    fn write_out(&mut self, report: &mut Report<'_>, written: &[Written<'a>]) {
        let index: HashMap<&str, usize> = written
            .iter()
            .enumerate()
            .map(|(at, group)| (group.name, at))
            .collect();
        let mut state = vec![State::New; written.len()];
        for root in 0..written.len() {
            // Groups being written out, each with the place in it that comes next.
            let mut open = vec![(root, 0)];
            while let Some((at, next)) = open.pop() {
                let group = &written[at];
                if state[at] == State::Done {
                    continue;
                }
                state[at] = State::Open;
                let elements = group.elements.as_deref().unwrap_or(&[]);
                let inner =
                    elements
                        .iter()
                        .enumerate()
                        .skip(next)
                        .find_map(|(place, element)| match element {
                            Element::Group(name, position) => {
                                let inner = *index.get(name)?;
                                (state[inner] != State::Done).then_some((place, inner, *position))
                            }
                            Element::Party(_) => None,
                        });
                let Some((place, inner, position)) = inner else {
                    let parties = group.elements.as_ref().and_then(|elements| {
                        self.used
                            .extend(elements.iter().filter_map(|element| match element {
                                Element::Group(name, _) => Some(*name),
                                Element::Party(_) => None,
                            }));
                        self.collect(report, elements, group.position)
                    });
                    self.by_name.insert(group.name, parties.map(Arc::new));
                    state[at] = State::Done;
                    continue;
                };
                open.push((at, place + 1));
                if state[inner] == State::Open {
                    let start = open.iter().position(|(at, _)| *at == inner).unwrap_or(0);
                    let names: Vec<&str> = open[start..].iter().map(|(at, _)| written[*at].name).collect();
                    report.error_at(position, cycle(&names));
                    // Filters that use it say nothing more.
                    for (at, _) in open.drain(..) {
                        self.by_name.insert(written[at].name, None);
                        state[at] = State::Done;
                    }
                } else {
                    open.push((inner, 0));
                }
            }
        }
    }

    fn collect(
        &mut self,
        report: &mut Report<'_>,
        elements: &[Element<'a>],
        position: Position,
    ) -> Option<Parties> {
        let mut collected = Collected::default();
        let mut groups = HashSet::new();
        let mut faulty = false;
        for element in elements {
            match element {
                Element::Party(party) => {
                    self.elements += 1;
                    collected.add(party.clone());
                }
                // The same group twice adds nothing; counted once, chains of doublings stay small.
                Element::Group(name, _) if !groups.insert(*name) => {}
                Element::Group(name, place) => {
                    let Some(group) = self.group(report, name, *place) else {
                        faulty = true;
                        continue;
                    };
                    self.elements += group.len();
                    if self.elements <= MAX_ELEMENTS {
                        group.iter().for_each(|party| collected.add(party));
                    }
                }
            }
            if self.elements > MAX_ELEMENTS {
                // Once is enough: everything after it is too much as well.
                if !self.overflown {
                    self.overflown = true;
                    report.error_at(
                        position,
                        format!("address groups and arrays come to more than {MAX_ELEMENTS} addresses, written out"),
                    );
                }
                return None;
            }
        }
        (!faulty).then(|| collected.finish())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Done,
}

fn cycle(names: &[&str]) -> String {
    let mut shown: Vec<String> = names
        .iter()
        .take(MAX_CYCLE)
        .map(|name| format!("${name}"))
        .collect();
    if names.len() > MAX_CYCLE {
        shown.push("...".to_owned());
    }
    let first = shown.first().cloned().unwrap_or_default();
    shown.push(first);
    format!(
        "these address groups contain each other: {}; take one out",
        shown.join(" -> ")
    )
}

fn read_elements<'a>(report: &mut Report<'_>, node: Node<'a>) -> Option<Vec<Element<'a>>> {
    let mut elements = Vec::new();
    let mut faulty = false;
    let mut read = |report: &mut Report<'_>, node: Node<'a>| {
        let element = node
            .string(report)
            .and_then(|text| read_element(report, node, text.trim()));
        match element {
            Some(element) => elements.push(element),
            None => faulty = true,
        }
    };
    match node.as_array() {
        Some(nodes) => nodes.for_each(|node| read(report, node)),
        None => read(report, node),
    }
    (!faulty).then_some(elements)
}

fn read_element<'a>(report: &mut Report<'_>, node: Node<'_>, text: &'a str) -> Option<Element<'a>> {
    if let Some(name) = text.strip_prefix('$') {
        return Some(Element::Group(name, report.position(&node.span())));
    }
    let party = Party::parse(text);
    if party.is_none() {
        let message = if report.only_counts() {
            String::new()
        } else {
            Party::mistake(text)
        };
        report.error(&node.span(), message);
    }
    party.map(Element::Party)
}
