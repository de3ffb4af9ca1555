//! The lifeline: those who manage this machine reach it whatever the rules say.
//!
//! It becomes rules of its own, which permit and come before all others. So everything that knows rules knows it: the
//! compiler, the explainer, counters. Their names have brackets, which no name in a policy can have.
//!
//! With them come the errors by which routers tell this machine that a packet was too big (RFC 1191, RFC 8201), from anywhere: without
//! those a connection that passes stands still as soon as there is more to say.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::Address;
use crate::diagnostic::{Position, Report};
use crate::filter::{FILTER, Filter, FilterList, Selector};
use crate::group::Groups;
use crate::order::Priority;
use crate::party::{Addresses, Parties};
use crate::policy::MAX_FILTERS;
use crate::ports::PortSet;
use crate::protocol::Protocol;
use crate::reader::{Node, Table};
use crate::rule::{Action, Rule};
use crate::schema::{Key, Kind, Literal, TableSpec};
use crate::settings::holder;
use crate::template::Template;

/// The rule of the filters that the policy gives.
pub(crate) const WRITTEN: &str = "[lifeline]";

/// The rule of the SSH connection from which the policy was put in force.
pub(crate) const SESSION: &str = "[lifeline] ssh-session";

/// The rule of what its server answers, where that is not as what arrives.
pub(crate) const ANSWERS: &str = "[lifeline] ssh-session answers";

pub(crate) static LIFELINE: TableSpec = TableSpec {
    what: "[lifeline]",
    id: "lifeline",
    keys: &[
        Key::optional(
            "filters",
            Kind::Tables(&FILTER),
            "Who manages this machine, and how: passes in the clear, both ways, whatever the rules say",
        ),
        Key::default(
            "ssh-session",
            Kind::Boolean,
            Literal::Boolean(true),
            "The client of the SSH connection from which the policy is put in force passes too, in the way that it comes",
        ),
    ],
};

/// A TCP service of this machine that must stay reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Management {
    /// Who connects.
    pub client: IpAddr,
    /// This machine's address that they connect to, of the same family.
    pub own: IpAddr,
    /// The service's port.
    pub port: u16,
}

impl Management {
    /// What OpenSSH says of a session in `SSH_CONNECTION`: the client's address and port, then this machine's (ssh(1)).
    /// Link-local addresses have their interface behind a `%` (RFC 4007 section 11), and IPv4 on a socket of IPv6 has
    /// addresses that look like it. The client's port is left out: who has lost the connection comes back from another.
    #[must_use]
    pub fn of_ssh_connection(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let mut next = || words.next();
        let (client, _, own, port) = (next()?, next()?, next()?, next()?);
        let address = |text: &str| -> Option<IpAddr> {
            let address: IpAddr = text.split('%').next()?.parse().ok()?;
            Some(address.to_canonical())
        };
        Some(Self {
            client: address(client)?,
            own: address(own)?,
            port: port.parse().ok()?,
        })
    }

    /// Its rules and their filter lists, the first of which is number `filter_list`.
    pub(crate) fn rules(
        &self,
        path: SessionPath,
        filter_list: usize,
        position: Position,
    ) -> Vec<(FilterList, Rule)> {
        let towards = self.filter(position);
        let one_way = |filter: Filter| Filter {
            mirrored: false,
            ..filter
        };
        let permit = |rule: Rule| rule;
        let protect = |connection| {
            move |rule: Rule| Rule {
                action: Action::Protect {
                    connection,
                    accept_unsecured: false,
                },
                priority: Priority::Session,
                ..rule
            }
        };
        let mut rules = Vec::new();
        let too_big = too_big(&towards.destination, position);
        let mut add = |name: &str, filters: Vec<Filter>, as_it_is: &dyn Fn(Rule) -> Rule| {
            let list = FilterList {
                name: name.to_owned(),
                filters,
                position,
                templates: Vec::new(),
            };
            let rule = as_it_is(rule(&list, filter_list + rules.len()));
            rules.push((list, rule));
        };
        match path {
            SessionPath::Clear => add(SESSION, with(towards, too_big), &permit),
            SessionPath::Inside(connection) => add(SESSION, vec![towards.reversed()], &protect(connection)),
            SessionPath::Either { inside, answers } => {
                let arriving = |rule: Rule| Rule {
                    inside: Some(inside),
                    ..rule
                };
                add(SESSION, vec![one_way(towards.clone())], &arriving);
                let back = towards.reversed();
                match answers {
                    Answers::Clear => add(ANSWERS, with(one_way(back), too_big), &permit),
                    Answers::Inside => add(ANSWERS, vec![back], &protect(inside)),
                }
            }
        }
        rules
    }

    /// The packets of its connections, towards the machine.
    fn filter(&self, position: Position) -> Filter {
        let host = |address: IpAddr| Address::Prefix(IpNet::from(address.to_canonical()));
        Filter {
            source: host(self.client),
            destination: host(self.own),
            protocol: Some(Protocol::TCP),
            selector: Selector::Ports {
                source: PortSet::ANY,
                destination: PortSet::from_ranges(vec![self.port..=self.port]),
            },
            mirrored: true,
            position,
        }
    }
}

/// How a session's connection passes, before all rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionPath {
    /// In the clear, both ways.
    Clear,
    /// Only inside ESP of this connection, both ways (index into [`Policy::connections`](crate::Policy::connections)).
    Inside(usize),
    /// It may arrive in the clear, and inside ESP of a connection.
    Either {
        /// The connection.
        inside: usize,
        /// How its server answers.
        answers: Answers,
    },
}

/// How a session's server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// In the clear.
    Clear,
    /// Inside ESP of the connection.
    Inside,
}

/// `[lifeline]` as it is written.
#[derive(Debug)]
pub(crate) struct Lifeline {
    /// Where the filters are that it gives.
    pub(crate) list: Option<FilterList>,
    /// Whether the SSH connection from which the policy is put in force has one.
    pub(crate) ssh_session: bool,
}

/// Reads `[lifeline]`. `room` is how many filters there may be.
pub(crate) fn read<'a>(
    report: &mut Report<'_>,
    tops: &[Table<'a>],
    groups: &mut Groups<'a>,
    room: usize,
) -> Option<Lifeline> {
    let mut lifeline = Lifeline {
        list: None,
        ssh_session: true,
    };
    let Some(node) = holder(report, tops, "lifeline").and_then(|top| top.optional("lifeline")) else {
        return Some(lifeline);
    };
    let table = node.table(report, &LIFELINE)?;
    lifeline.ssh_session = table.boolean(report, "ssh-session")?;
    if let Some(node) = table.optional("filters") {
        lifeline.list = Some(read_filters(report, node, groups, room)?).filter(|list| !list.is_empty());
    }
    Some(lifeline)
}

fn read_filters<'a>(
    report: &mut Report<'_>,
    node: Node<'a>,
    groups: &mut Groups<'a>,
    room: usize,
) -> Option<FilterList> {
    let mut list = FilterList {
        name: WRITTEN.to_owned(),
        filters: Vec::new(),
        position: report.position(&node.span()),
        templates: Vec::new(),
    };
    for element in node.array(report, "filters")? {
        let room = room.saturating_sub(list.filters.len());
        if room == 0 {
            report.error(
                &element.span(),
                format!("more than {MAX_FILTERS} filters in the policy"),
            );
            return None;
        }
        let before = (list.filters.len(), list.templates.len());
        Filter::read(report, element, groups, room, &mut list)?;
        check(report, &list, before);
    }
    let_errors_in(&mut list);
    Some(list)
}

/// Adds to a lifeline's filters what lets errors about their packets in.
fn let_errors_in(list: &mut FilterList) {
    // There may be a million filters; those of one set share it, and it may be large.
    let (mut own, mut seen, mut known) = (HashSet::new(), HashSet::new(), HashSet::new());
    let (mut written, mut changing) = (Vec::new(), Vec::new());
    for one in &list.filters {
        if own.insert(one.destination) {
            written.extend(too_big(&one.destination, one.position));
        }
    }
    for one in &list.templates {
        let (destination, position) = (&one.destination, one.pattern.position);
        if !seen.insert(Arc::as_ptr(destination)) || !known.insert(Arc::clone(destination)) {
            continue;
        }
        // A template stands for those pairs of a source and a destination alone of which one changes, and anybody does not.
        let fixed = destination.fixed.v4.iter().chain(&destination.fixed.v6);
        for address in fixed.filter(|address| own.insert(**address)) {
            written.extend(too_big(address, position));
        }
        if !destination.changing.is_empty() {
            changing.push((Arc::clone(destination), position));
        }
    }
    list.filters.extend(written);
    let anybody = Arc::new(Parties {
        fixed: Addresses {
            any: true,
            ..Addresses::default()
        },
        changing: Vec::new(),
    });
    for (destination, position) in changing {
        for pattern in too_big(&Address::Any, position) {
            let mut template = Template::new(pattern, Arc::clone(&anybody), Arc::clone(&destination));
            template.resolved = list.filters.len()..list.filters.len();
            list.templates.push(template);
        }
    }
}

/// The errors of routers, whichever they are, that tell this address that a packet was too big: "fragmentation needed and DF set" and
/// "packet too big".
fn too_big(own: &Address, position: Position) -> Vec<Filter> {
    let kinds = [(Protocol::ICMP, 3, Some(4)), (Protocol::ICMP6, 2, None)];
    kinds
        .into_iter()
        .filter(|(protocol, ..)| {
            own.family()
                .is_none_or(|family| protocol.family() == Some(family))
        })
        .map(|(protocol, kind, code)| Filter {
            source: Address::Any,
            destination: *own,
            protocol: Some(protocol),
            selector: Selector::Icmp { kind, code },
            mirrored: false,
            position,
        })
        .collect()
}

fn with(filter: Filter, more: Vec<Filter>) -> Vec<Filter> {
    [vec![filter], more].concat()
}

/// What a filter must be so that it is about this machine, and of use. `before` tells where in the list it begins.
fn check(report: &mut Report<'_>, list: &FilterList, before: (usize, usize)) {
    let (written, templates) = (&list.filters[before.0..], &list.templates[before.1..]);
    let Some(pattern) = written
        .first()
        .or(templates.first().map(|template| &template.pattern))
    else {
        return;
    };
    let position = pattern.position;
    let fixed = templates
        .iter()
        .map(|template| &template.destination.fixed)
        .flat_map(|fixed| fixed.v4.iter().chain(&fixed.v6));
    let mut destinations = written.iter().map(|filter| &filter.destination).chain(fixed);
    let wide = destinations.any(|address| !address.is_one())
        || templates.iter().any(|template| template.destination.fixed.any);
    if wide {
        report.error_at(
            position,
            "a lifeline leads to this machine, and any other destination would open the way to others; write destination = \
             \"me\", or the machine's addresses one by one",
        );
    }
    if !pattern.mirrored {
        report.error_at(
            position,
            "a lifeline without the way back is of no use; leave mirrored out",
        );
    }
    let everyone = written.iter().any(|filter| filter.source.covering_length() == 0)
        || templates.iter().any(|template| template.source.fixed.any);
    if everyone && pattern.protocol.is_none() {
        report.warn(
            position,
            "this lifeline lets everybody reach every port of this machine, past every rule; give it a source, or a protocol \
             and ports",
        );
    }
}

/// The rule of a list.
pub(crate) fn rule(list: &FilterList, filter_list: usize) -> Rule {
    Rule {
        name: list.name.clone(),
        filter_list,
        action: Action::Permit,
        priority: Priority::Lifeline,
        active: true,
        enabled: true,
        interfaces: Vec::new(),
        audit: false,
        inside: None,
        fallback_clear: None,
        position: list.position,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::Management;

    #[test]
    fn an_ssh_session_names_both_ends() {
        let session = Management::of_ssh_connection("198.51.100.7 50000 192.0.2.1 22").unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(session.client, address("198.51.100.7"));
        assert_eq!(session.own, address("192.0.2.1"));
        assert_eq!(session.port, 22);
        assert_eq!(Management::of_ssh_connection("198.51.100.7 50000"), None);
        let same = Management::of_ssh_connection("::ffff:198.51.100.7 50000 ::ffff:192.0.2.1 22");
        assert_eq!(same, Some(session));
        let on_link = Management::of_ssh_connection("fe80::7%eth0 50000 fe80::1%eth0 22").unwrap();
        assert_eq!(on_link.own, address("fe80::1"));
    }
}
