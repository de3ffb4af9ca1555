//! The policy as a whole: the sections of its files, names and limits.

use std::collections::HashMap;

use crate::connection::{CONNECTION, Connection};
use crate::diagnostic::{Report, Span, quote};
use crate::filter::{FILTER_LIST, Filter, FilterList};
use crate::group::Groups;
use crate::lifeline::{self, LIFELINE};
use crate::policy::{MAX_FILTERS, Policy};
use crate::reader::{Entry, Node, Table};
use crate::rule::{Names, RULE, Rule};
use crate::schema::{Key, Kind, Literal, TableSpec};
use crate::settings::{Boot, INTERFACES, Settings};
use crate::source::{INCLUDE, Part};

pub(crate) static POLICY: TableSpec = TableSpec {
    what: "a policy",
    id: "policy",
    keys: &[
        Key::default(
            "default",
            Kind::Choice(&["permit", "block"]),
            Literal::Word("permit"),
            "IP packets that no rule matches",
        ),
        Key::default(
            "non-ip",
            Kind::Choice(&["permit", "block"]),
            Literal::Word("permit"),
            "Frames that are not IP; ARP always passes",
        ),
        Key::default(
            "audit",
            Kind::Boolean,
            Literal::Boolean(false),
            "Nothing is dropped: what would be is counted, and passes",
        ),
        Key::default(
            "exemptions",
            Kind::Integer(0, 3),
            Literal::Integer(3),
            "Traffic that no filter applies to; 3: only IKE. Below 3 is for networks that were built on it",
        ),
        Key::default(
            "boot",
            Kind::Choice(&["permit", "block", "stateful"]),
            Literal::Word("stateful"),
            "What passes from boot until a policy is in force",
        ),
        Key::optional(
            INCLUDE,
            Kind::Paths,
            "Files that belong to this policy, relative to this file",
        ),
        Key::optional(
            "interfaces",
            Kind::Table(&INTERFACES),
            "Devices; options of the command line come before",
        ),
        Key::optional(
            "addresses",
            Kind::Groups,
            "Address groups: names for sets of addresses, written \"$NAME\" in filters",
        ),
        Key::optional(
            "lifeline",
            Kind::Table(&LIFELINE),
            "Who can always manage this machine, whatever the rules say",
        ),
        Key::optional(
            "filter-lists",
            Kind::Named(&FILTER_LIST),
            "Which packets: named lists of filters",
        ),
        Key::optional(
            "rules",
            Kind::Tables(&RULE),
            "What to do with the packets of a filter list",
        ),
        Key::optional(
            "connections",
            Kind::Named(&CONNECTION),
            "How to protect: the ends, algorithms and keys of ESP",
        ),
    ],
};

/// Limits against a file that is only there to exhaust memory; far above any real policy.
pub const MAX_RULES: usize = 262_144;
const MAX_CONNECTIONS: usize = 131_072;

/// Longest name of a rule, filter list or connection, in characters.
pub(crate) const MAX_NAME: usize = 64;

/// Reads every section; `None` when an error was reported that leaves nothing to check.
pub(crate) fn read(report: &mut Report<'_>, parts: &[Part<'_>]) -> Option<Policy> {
    let tops: Vec<Table<'_>> = parts
        .iter()
        .map(|part| Table::new(report, part.root.get_ref(), Span::new(part.file, 0..0), &POLICY))
        .collect();
    let settings = Settings::read(report, &tops);
    let groups = named(report, &tops, "addresses", "address group");
    let mut groups = Groups::read(report, &groups);
    let lists = named(report, &tops, "filter-lists", "filter list");
    let (mut filter_lists, list_names) = read_filter_lists(report, &lists, &mut groups);
    let connections = named(report, &tops, "connections", "connection");
    let (connections, connection_names) = read_connections(report, &connections, parts);
    let mut rules = read_rules(report, &tops, &list_names, &connection_names);
    let count: usize = filter_lists.iter().map(|list| list.filters.len()).sum();
    let lifeline = lifeline::read(report, &tops, &mut groups, MAX_FILTERS.saturating_sub(count));
    groups.warn(report);
    let lifeline = lifeline?;
    if settings
        .as_ref()
        .is_some_and(|settings| settings.boot == Boot::Block)
        && lifeline.list.is_none()
        && let Some(node) = tops.iter().find_map(|top| top.optional("boot"))
    {
        let position = report.position(&node.span());
        report.warn(
            position,
            "with boot = \"block\" and without filters in `[lifeline]` nobody reaches this machine from boot until the policy is in \
             force, nor if it never is",
        );
    }
    if let Some(list) = lifeline.list {
        rules.push(lifeline::rule(&list, filter_lists.len()));
        filter_lists.push(list);
    }
    Some(Policy::new(
        report.files(),
        settings?,
        lifeline.ssh_session,
        filter_lists,
        rules,
        connections,
    ))
}

/// Reads what holds at boot: top level, groups and lifeline. `None` when they cannot be read.
pub(crate) fn read_head(report: &mut Report<'_>, parts: &[Part<'_>]) -> Option<Policy> {
    let tops: Vec<Table<'_>> = parts
        .iter()
        .map(|part| Table::new(report, part.root.get_ref(), Span::new(part.file, 0..0), &POLICY))
        .collect();
    let settings = Settings::read(report, &tops)?;
    let groups = named(report, &tops, "addresses", "address group");
    let mut groups = Groups::read(report, &groups);
    let lifeline = lifeline::read(report, &tops, &mut groups, MAX_FILTERS)?;
    let list = lifeline.list;
    let rules = list.iter().map(|list| lifeline::rule(list, 0)).collect();
    let lists = list.into_iter().collect();
    Some(Policy::new(
        report.files(),
        settings,
        false,
        lists,
        rules,
        Vec::new(),
    ))
}

/// Checks a name: 1 to 64 ASCII letters, digits, spaces, `.`, `_`, `-`, starting and ending with no space or sign.
pub(crate) fn read_name(report: &mut Report<'_>, name: &str, span: &Span) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-');
    let good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.ends_with(' ')
        && name.chars().all(allowed)
        && name.len() <= MAX_NAME;
    if !good {
        report.error(
            span,
            format!(
                "{} is not usable as a name; take 1 to {MAX_NAME} of a-z A-Z 0-9 . _ - and space, a letter or digit first",
                quote(name)
            ),
        );
    }
    good.then(|| name.to_owned())
}

/// What a section of named things holds in all files, by name. A name that is there twice is reported.
fn named<'a>(report: &mut Report<'_>, tops: &[Table<'a>], section: &str, what: &str) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    for node in tops.iter().filter_map(|top| top.optional(section)) {
        entries.extend(node.entries(report, &format!("{what}s")).unwrap_or_default());
    }
    // Stable: of two with one name the one read first stays.
    entries.sort_by_key(|entry| entry.name);
    entries.dedup_by(|later, first| {
        let twice = later.name == first.name;
        if twice {
            let place = report.position(&first.key);
            let place = report.place(place);
            let message = format!(
                "{what} {} is already defined at {place}; rename one",
                quote(later.name)
            );
            report.error(&later.key, message);
        }
        twice
    });
    entries
}

fn read_filter_lists<'a>(
    report: &mut Report<'_>,
    entries: &[Entry<'a>],
    groups: &mut Groups<'a>,
) -> (Vec<FilterList>, Names<'a>) {
    let (mut lists, mut names, mut count) = (Vec::new(), Names::new(), 0);
    for entry in entries {
        names.insert(entry.name, None);
        let usable = read_name(report, entry.name, &entry.key);
        let mut list = FilterList {
            name: usable.clone().unwrap_or_default(),
            filters: Vec::new(),
            position: report.position(&entry.key),
            templates: Vec::new(),
        };
        let good = read_filters(report, entry.value, groups, count, &mut list).is_some();
        count += list.filters.len();
        if good && usable.is_some() {
            names.insert(entry.name, Some(lists.len()));
            lists.push(list);
        }
    }
    (lists, names)
}

/// `count` is how many filters the lists before have.
fn read_filters<'a>(
    report: &mut Report<'_>,
    node: Node<'a>,
    groups: &mut Groups<'a>,
    count: usize,
    list: &mut FilterList,
) -> Option<()> {
    let table = node.table(report, &FILTER_LIST)?;
    let node = table.required(report, "filters")?;
    let elements = node.array(report, "filters")?;
    let written = elements.len();
    let too_many = |report: &mut Report<'_>| {
        report.error(
            &node.span(),
            format!("more than {MAX_FILTERS} filters in the policy"),
        );
    };
    if count + written > MAX_FILTERS {
        too_many(report);
        return None;
    }
    list.filters.reserve(written);
    let mut faulty = false;
    for element in elements {
        let room = MAX_FILTERS.saturating_sub(count + list.filters.len());
        if room == 0 {
            too_many(report);
            return None;
        }
        faulty |= Filter::read(report, element, groups, room, list).is_none();
    }
    (!faulty).then_some(())
}

fn read_connections<'a>(
    report: &mut Report<'_>,
    entries: &[Entry<'a>],
    parts: &[Part<'_>],
) -> (Vec<Connection>, Names<'a>) {
    let (mut connections, mut names) = (Vec::new(), Names::new());
    if let Some(entry) = entries.get(MAX_CONNECTIONS) {
        report.error(&entry.key, format!("more than {MAX_CONNECTIONS} connections"));
        return (connections, names);
    }
    for entry in entries {
        names.insert(entry.name, None);
        let folder = parts.iter().find(|part| part.file == entry.key.file());
        let (Some(usable), Some(part)) = (read_name(report, entry.name, &entry.key), folder) else {
            continue;
        };
        if let Some(connection) = Connection::read(report, usable, entry.value, &part.folder) {
            names.insert(entry.name, Some(connections.len()));
            connections.push(connection);
        }
    }
    (connections, names)
}

fn read_rules(
    report: &mut Report<'_>,
    tops: &[Table<'_>],
    filter_lists: &Names<'_>,
    connections: &Names<'_>,
) -> Vec<Rule> {
    let (mut rules, mut written): (Vec<Rule>, usize) = (Vec::new(), 0);
    let mut seen = HashMap::new();
    for node in tops.iter().filter_map(|top| top.optional("rules")) {
        let Some(elements) = node.array(report, "rules: write [[rules]]") else {
            continue;
        };
        written += elements.len();
        if written > MAX_RULES {
            report.error(&node.span(), format!("more than {MAX_RULES} rules"));
            return rules;
        }
        for element in elements {
            let Some(rule) = Rule::read(report, element, filter_lists, connections) else {
                continue;
            };
            if let Some(first) = seen.insert(rule.name.clone(), rule.position) {
                let place = report.place(first);
                report.error_at(
                    rule.position,
                    format!(
                        "there are two rules named {}, the other at {place}; rename one",
                        quote(&rule.name)
                    ),
                );
            }
            rules.push(rule);
        }
    }
    rules
}
