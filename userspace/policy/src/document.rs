//! The policy file as a whole: its sections, names and limits.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use crate::connection::Connection;
use crate::diagnostic::{Report, Span, quote};
use crate::filter::{Filter, FilterList};
use crate::group::Groups;
use crate::policy::{Boot, Exemptions, Interfaces, MAX_FILTERS, Policy, Settings};
use crate::reader::{Node, Table};
use crate::rule::{DefaultAction, Names, Rule};

const KEYS: &[&str] = &[
    "default",
    "non-ip",
    "audit",
    "exemptions",
    "boot",
    "addresses",
    "interfaces",
    "filter-lists",
    "rules",
    "connections",
];

/// Limits against a file that is only there to exhaust memory; far above any real policy.
const MAX_RULES: usize = 262_144;
const MAX_CONNECTIONS: usize = 1_024;

/// Longest name of a rule, filter list or connection, in characters.
const MAX_NAME: usize = 64;

/// Syntax errors beyond this number are consequences of the first.
const MAX_SYNTAX_ERRORS: usize = 5;

/// In a file larger than this (bytes) only the first syntax error is told.
const MAX_RECOVERED: usize = 1 << 20;

/// Reads every section; `None` when an error was reported that leaves nothing to check.
pub(crate) fn read(report: &mut Report<'_>, text: &str, folder: &Path) -> Option<Policy> {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(first) => {
            // What the parser guesses after a syntax error would only give misleading complaints, so nothing else is
            // read. Collecting all syntax errors of a large file that is not TOML at all takes long.
            let errors = if text.len() <= MAX_RECOVERED {
                DeTable::parse_recoverable(text).1
            } else {
                vec![first]
            };
            for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
                report_syntax(report, error, text);
            }
            return None;
        }
    };

    let top = Table::new(report, document.get_ref(), 0..0, "a policy", KEYS);
    let settings = read_settings(report, &top);
    let mut groups = top
        .optional("addresses")
        .map_or_else(Groups::default, |node| Groups::read(report, node));
    let (filter_lists, list_names) = read_filter_lists(report, &top, &mut groups);
    let (connections, connection_names) = read_connections(report, &top, folder);
    let rules = read_rules(report, &top, &list_names, &connection_names);
    groups.warn(report);
    let files = Arc::new([report.file().clone()]);
    Some(Policy::new(files, settings?, filter_lists, rules, connections))
}

fn report_syntax(report: &mut Report<'_>, error: &toml::de::Error, text: &str) {
    let span = error.span().unwrap_or(text.len()..text.len());
    let found = if span.is_empty() {
        String::new()
    } else {
        format!(", found {}", report.quote(&span))
    };
    report.error(&span, format!("not TOML: {}{found}", error.message()));
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

fn read_settings(report: &mut Report<'_>, top: &Table<'_>) -> Option<Settings> {
    let default = read_default(report, top, "default");
    let non_ip = read_default(report, top, "non-ip");
    let audit = top.or_default("audit", false, |node| {
        let audit = node.boolean(report)?;
        if audit {
            let position = report.position(&node.span());
            report.warn(
                position,
                "the policy is in audit mode: nothing is dropped, only counted",
            );
        }
        Some(audit)
    });
    let exemptions = top.or_default("exemptions", Exemptions::default(), |node| {
        read_exemptions(report, node)
    });
    let boot = top.or_default("boot", Boot::default(), |node| {
        let choices = [
            ("permit", Boot::Permit),
            ("block", Boot::Block),
            ("stateful", Boot::Stateful),
        ];
        node.choice(report, &choices)
    });
    let interfaces = top.or_default("interfaces", Interfaces::default(), |node| {
        read_interfaces(report, node)
    });
    Some(Settings {
        default: default?,
        non_ip: non_ip?,
        audit: audit?,
        exemptions: exemptions?,
        boot: boot?,
        interfaces: interfaces?,
    })
}

fn read_exemptions(report: &mut Report<'_>, node: Node<'_>) -> Option<Exemptions> {
    let level = u8::try_from(node.integer(report, 0, 3)?).ok()?;
    let exemptions = Exemptions::new(level)?;
    let open = match (
        exemptions.kerberos_and_rsvp(),
        exemptions.multicast_and_broadcast(),
    ) {
        (false, false) => return Some(exemptions),
        (true, false) => "anyone who sends from port 88 (Kerberos) reaches every port, past every rule",
        (false, true) => "multicast and broadcast pass every rule",
        (true, true) => {
            "anyone who sends from port 88 (Kerberos) reaches every port, past every rule, and so do multicast and \
             broadcast"
        }
    };
    let position = report.position(&node.span());
    report.warn(
        position,
        format!("exemptions = {level}: {open}; write exemptions = 3"),
    );
    Some(exemptions)
}

fn read_default(report: &mut Report<'_>, top: &Table<'_>, key: &str) -> Option<DefaultAction> {
    let choices = [("permit", DefaultAction::Permit), ("block", DefaultAction::Block)];
    top.or_default(key, DefaultAction::Permit, |node| node.choice(report, &choices))
}

fn read_interfaces(report: &mut Report<'_>, node: Node<'_>) -> Option<Interfaces> {
    let table = node.table(report, "[interfaces]", &["outer", "inner"])?;
    let outer = table.or_default("outer", None, |node| read_interface(report, node));
    let inner = table.or_default("inner", None, |node| read_interface(report, node));
    let interfaces = Interfaces {
        outer: outer?,
        inner: inner?,
    };
    if interfaces.outer.is_some() && interfaces.outer == interfaces.inner {
        report.error(
            table.span(),
            "outer and inner are the same interface; gateway mode needs two",
        );
        return None;
    }
    Some(interfaces)
}

/// What the kernel takes as a device name (net/core/dev.c, `dev_valid_name`): 1 to 15 bytes, no `/`, `:`, space.
fn read_interface(report: &mut Report<'_>, node: Node<'_>) -> Option<Option<String>> {
    let name = node.string(report)?;
    let good = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':'));
    if !good {
        report.error(
            &node.span(),
            format!("{} is not the name of a network interface", quote(name)),
        );
        return None;
    }
    Some(Some(name.to_owned()))
}

fn read_filter_lists<'a>(
    report: &mut Report<'_>,
    top: &Table<'a>,
    groups: &mut Groups<'a>,
) -> (Vec<FilterList>, Names<'a>) {
    let (mut lists, mut names, mut count) = (Vec::new(), Names::new(), 0);
    let Some(entries) = top
        .optional("filter-lists")
        .and_then(|node| node.entries(report, "filter lists"))
    else {
        return (lists, names);
    };
    for (key, value) in entries {
        let name: &str = key.get_ref().as_ref();
        names.insert(name, None);
        let usable = read_name(report, name, &key.span());
        let mut list = FilterList {
            name: usable.clone().unwrap_or_default(),
            filters: Vec::new(),
            position: report.position(&key.span()),
            templates: Vec::new(),
        };
        let good = read_filters(report, Node::new(value), groups, count, &mut list).is_some();
        count += list.filters.len();
        if good && usable.is_some() {
            names.insert(name, Some(lists.len()));
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
    let table = node.table(report, "a filter list", &["filters"])?;
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
        let Some(room) = MAX_FILTERS.checked_sub(count + list.filters.len() + 1) else {
            too_many(report);
            return None;
        };
        faulty |= Filter::read(report, element, groups, room + 1, list).is_none();
    }
    (!faulty).then_some(())
}

fn read_connections<'a>(
    report: &mut Report<'_>,
    top: &Table<'a>,
    folder: &Path,
) -> (Vec<Connection>, Names<'a>) {
    let (mut connections, mut names) = (Vec::new(), Names::new());
    let Some(node) = top.optional("connections") else {
        return (connections, names);
    };
    let Some(entries) = node.entries(report, "connections") else {
        return (connections, names);
    };
    if entries.len() > MAX_CONNECTIONS {
        report.error(&node.span(), format!("more than {MAX_CONNECTIONS} connections"));
        return (connections, names);
    }
    for (key, value) in entries {
        let name: &str = key.get_ref().as_ref();
        names.insert(name, None);
        let usable = read_name(report, name, &key.span());
        if let Some(connection) =
            usable.and_then(|usable| Connection::read(report, usable, Node::new(value), folder))
        {
            names.insert(name, Some(connections.len()));
            connections.push(connection);
        }
    }
    (connections, names)
}

fn read_rules(
    report: &mut Report<'_>,
    top: &Table<'_>,
    filter_lists: &Names<'_>,
    connections: &Names<'_>,
) -> Vec<Rule> {
    let Some(node) = top.optional("rules") else {
        return Vec::new();
    };
    let Some(elements) = node.array(report, "rules: write [[rules]]") else {
        return Vec::new();
    };
    if elements.len() > MAX_RULES {
        report.error(&node.span(), format!("more than {MAX_RULES} rules"));
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let mut rules = Vec::new();
    for element in elements {
        let Some(rule) = Rule::read(report, element, filter_lists, connections) else {
            continue;
        };
        if !seen.insert(rule.name.clone()) {
            report.error_at(
                rule.position,
                format!("there are two rules named {}; rename one", quote(&rule.name)),
            );
        }
        rules.push(rule);
    }
    rules
}
