//! Checks across the parts of a policy.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use crate::address::{Address, Family};
use crate::connection::{Connection, MIN_PATH_MTU, Mode};
use crate::diagnostic::{Position, Report, quote};
use crate::endpoints::{Endpoints, carries};
use crate::filter::{Filter, Selector};
use crate::lifeline;
use crate::policy::{MAX_FILTERS, Policy};
use crate::protocol::Protocol;
use crate::rule::{Action, Rule};
use crate::settings::Boot;

/// RFC 8200 section 5: every link carries IPv6 packets of 1280 bytes.
const MIN_IPV6_MTU: u16 = 1280;

/// Where name servers answer from.
const DNS_PORT: u16 = 53;

/// Names that are not looked up by DNS.
const NOT_OF_DNS: [&str; 3] = ["gateway", "dns-servers", "dhcp-servers"];

/// Reports what the parts, each correct in itself, get wrong together.
pub(crate) fn check(policy: &Policy, report: &mut Report<'_>) {
    let used: usize = policy.rules().iter().map(|rule| policy.filters(rule).len()).sum();
    if used > MAX_FILTERS {
        let message = format!("the rules use {used} filters in all; at most {MAX_FILTERS} are allowed");
        report.error_at(
            Position {
                file: 0,
                line: 1,
                column: 1,
            },
            message,
        );
        return;
    }
    check_spis_and_keys(policy.connections(), report);
    check_endpoints(policy.connections(), report);
    let mut endpoints = Endpoints::new(policy.connections());
    for rule in policy.rules() {
        if let Action::Protect { connection, .. } = rule.action {
            let connection = &policy.connections()[connection];
            check_protect(policy, rule, connection, &mut endpoints, report);
        }
        warn_open(rule, report);
    }
    warn_unused(policy, report);
    warn_names_at_boot(policy, report);
}

/// A policy that waits for a name server that it keeps out itself.
fn warn_names_at_boot(policy: &Policy, report: &mut Report<'_>) {
    let names = policy.names();
    let Some(name) = names.into_iter().find(|name| !NOT_OF_DNS.contains(name)) else {
        return;
    };
    let lifeline = policy.rules().iter().find(|rule| rule.name == lifeline::WRITTEN);
    let lists = lifeline.and_then(|rule| policy.filter_lists().get(rule.filter_list));
    let answers = |filter: &Filter| {
        let protocol = filter.protocol.is_none_or(|protocol| protocol == Protocol::UDP);
        protocol
            && match &filter.selector {
                Selector::Any => true,
                Selector::Ports { source, .. } => source.contains(DNS_PORT),
                Selector::Icmp { .. } => false,
            }
    };
    let answered = lists.is_some_and(|list| {
        let patterns = list.templates.iter().map(|template| &template.pattern);
        list.filters.iter().chain(patterns).any(answers)
    });
    if policy.boot() == Boot::Block
        && !answered
        && let Some(position) = policy.name_position(name)
    {
        let message = format!(
            "with boot = \"block\" no name server answers before the policy is in force, and it does not come into force as long as {} has no \
             address: write addresses, have the name in /etc/hosts, or let the server's answers in, in `filters` of `[lifeline]`: \
             {{ source = \"192.0.2.53\", destination = \"me\", protocol = \"udp\", source-port = 53 }}",
            quote(name)
        );
        report.warn(position, message);
    }
}

/// Every use of something that may be used once; the first use wins and later ones are reported.
struct Once<K>(HashMap<K, Position>);

impl<K: Eq + Hash> Once<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Where `key` was used before, if it was.
    fn claim(&mut self, key: K, position: Position) -> Option<Position> {
        match self.0.entry(key) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(position);
                None
            }
        }
    }
}

fn check_spis_and_keys(connections: &[Connection], report: &mut Report<'_>) {
    let (mut inbound_spis, mut outbound_spis, mut key_files) = (Once::new(), Once::new(), Once::new());
    for connection in connections {
        let (outbound, inbound) = (&connection.keys.outbound, &connection.keys.inbound);
        if let Some(first) = inbound_spis.claim(inbound.spi, inbound.position) {
            let first = report.place(first);
            let message = format!(
                "inbound SPI {} is already used at {first}; give each SA its own",
                inbound.spi
            );
            report.error_at(inbound.position, message);
        }
        if let Some(first) = outbound_spis.claim((connection.remote, outbound.spi), outbound.position) {
            let first = report.place(first);
            let message = format!(
                "outbound SPI {} to {} is already used at {first}; the other end cannot tell the two apart",
                outbound.spi, connection.remote
            );
            report.error_at(outbound.position, message);
        }
        for sa in [outbound, inbound] {
            if let Some(first) = key_files.claim(lexically_normal(&sa.key_file), sa.position) {
                let first = report.place(first);
                let message = format!(
                    "key file {} is already used at {first}; one key in two SAs repeats nonces, which breaks AES-GCM \
                     (RFC 4106 section 3.1): make a key for each direction",
                    quote(&sa.key_file.display().to_string())
                );
                report.error_at(sa.position, message);
            }
        }
    }
}

/// The path without `.` and, where that is certain, without `name/..`.
fn lexically_normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(normal.components().next_back(), Some(Component::Normal(_))) => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

fn check_endpoints(connections: &[Connection], report: &mut Report<'_>) {
    let mut endpoints = Once::new();
    for connection in connections {
        let key = (connection.local, connection.remote, connection.encapsulation);
        if let Some(first) = endpoints.claim(key, connection.position) {
            let first = report.place(first);
            let message = format!(
                "connection {} overlaps with the one at {first}: same local and remote endpoint, same encapsulation; \
                 let both rules name one connection",
                quote(&connection.name)
            );
            report.error_at(connection.position, message);
        }
    }
}

fn check_protect<'p>(
    policy: &'p Policy,
    rule: &Rule,
    connection: &'p Connection,
    endpoints: &mut Endpoints<'p>,
    report: &mut Report<'_>,
) {
    let mut looped = false;
    for filter in policy.filters(rule) {
        match connection.mode {
            Mode::Transport => check_transport(filter, rule, connection, report),
            Mode::Tunnel => check_inner_mtu(filter, rule, connection, report),
        }
        if !filter.mirrored {
            warn_not_mirrored(filter, rule, report);
        }
        if !looped && rule.active {
            looped = warn_endpoint_inside(filter, rule, connection, endpoints, report);
        }
    }
    for template in &policy.filter_lists()[rule.filter_list].templates {
        check_template(&template.pattern, rule, connection, report);
    }
}

/// What can be said of filters before their addresses are known.
fn check_template(pattern: &Filter, rule: &Rule, connection: &Connection, report: &mut Report<'_>) {
    if connection.mode == Mode::Transport {
        let message = format!(
            "rule {} uses connection {} in transport mode, which protects only packets between its own ends, not \
             those of \"me\" or of a name; write source = \"{}\", destination = \"{}\", or use mode = \"tunnel\"",
            quote(&rule.name),
            quote(&connection.name),
            connection.local,
            connection.remote
        );
        report.error_at(pattern.position, message);
    } else {
        check_inner_mtu(pattern, rule, connection, report);
    }
    if !pattern.mirrored {
        warn_not_mirrored(pattern, rule, report);
    }
}

fn warn_not_mirrored(filter: &Filter, rule: &Rule, report: &mut Report<'_>) {
    let message = format!(
        "mirrored = false has no effect in protect rule {}: a connection always yields both directions",
        quote(&rule.name)
    );
    report.warn(filter.position, message);
}

/// Rules that let pass what they seem to hold back.
fn warn_open(rule: &Rule, report: &mut Report<'_>) {
    if !rule.active {
        return;
    }
    if let Some(expiry) = rule.fallback_clear {
        let message = format!(
            "rule {} falls back to clear packets, for {} s at a time, when its peer does not answer: whoever can keep \
             the answers from arriving turns the protection off; remove fallback-clear as soon as every peer has keys",
            quote(&rule.name),
            expiry.as_secs()
        );
        report.warn(rule.position, message);
    }
    if rule.audit {
        let message = format!(
            "rule {} is in audit mode: what it would drop is counted, and passes",
            quote(&rule.name)
        );
        report.warn(rule.position, message);
    }
}

/// In transport mode the packet's own addresses are the endpoints.
fn check_transport(filter: &Filter, rule: &Rule, connection: &Connection, report: &mut Report<'_>) {
    let is = |address: &Address, endpoint: IpAddr| *address == Address::Prefix(endpoint.into());
    if !is(&filter.source, connection.local) || !is(&filter.destination, connection.remote) {
        let message = format!(
            "rule {} uses connection {} in transport mode, which protects only packets between its own ends; \
             write source = \"{}\", destination = \"{}\", or use mode = \"tunnel\"",
            quote(&rule.name),
            quote(&connection.name),
            connection.local,
            connection.remote
        );
        report.error_at(filter.position, message);
    }
}

/// A tunnel that carries IPv6 must carry 1280 bytes of it.
fn check_inner_mtu(filter: &Filter, rule: &Rule, connection: &Connection, report: &mut Report<'_>) {
    // One too small for anything has been reported already.
    let Some(path_mtu) = connection.path_mtu.filter(|path_mtu| *path_mtu >= MIN_PATH_MTU) else {
        return;
    };
    let inner = connection.inner_mtu(path_mtu);
    if inner >= MIN_IPV6_MTU || filter.family() == Some(Family::V4) {
        return;
    }
    let message = format!(
        "path-mtu {path_mtu} of connection {} leaves {inner} bytes inside the tunnel, but rule {} sends IPv6 \
         through it, which needs {MIN_IPV6_MTU} (RFC 8200 section 5)",
        quote(&connection.name),
        quote(&rule.name)
    );
    match filter.family() {
        Some(_) => report.error_at(connection.position, message),
        None => report.warn(filter.position, message),
    }
}

/// Warns when the ESP packets of a connection match a protect filter themselves. ESP that Ravelin makes is not
/// filtered, so nothing loops, but other packets between the gateways are expected inside the tunnel.
fn warn_endpoint_inside<'p>(
    filter: &Filter,
    rule: &Rule,
    connection: &'p Connection,
    endpoints: &mut Endpoints<'p>,
    report: &mut Report<'_>,
) -> bool {
    let own = connection.mode == Mode::Tunnel && carries(filter, connection);
    let inside = if own {
        Some(connection)
    } else {
        endpoints.carried(filter)
    };
    let Some(inside) = inside else { return false };
    let (local, remote) = (inside.local, inside.remote);
    let message = if inside.name == connection.name {
        format!(
            "rule {} also covers packets between its own tunnel endpoints, {local} and {remote}: ESP itself is \
             exempt, but ICMP errors and logins between the gateways must then come through the tunnel; add a more \
             specific permit rule if that is not meant",
            quote(&rule.name)
        )
    } else {
        format!(
            "rule {} covers the endpoints {local} and {remote} of connection {}, but a tunnel inside a tunnel is \
             not made: ESP of that connection leaves directly",
            quote(&rule.name),
            quote(&inside.name)
        )
    };
    report.warn(filter.position, message);
    true
}

fn warn_unused(policy: &Policy, report: &mut Report<'_>) {
    let mut lists = vec![false; policy.filter_lists().len()];
    let mut connections = vec![false; policy.connections().len()];
    for rule in policy.rules() {
        lists[rule.filter_list] = true;
        if let Action::Protect { connection, .. } = rule.action {
            connections[connection] = true;
        }
    }
    for (list, used) in policy.filter_lists().iter().zip(lists) {
        if !used {
            report.warn(
                list.position,
                format!("no rule uses filter list {}", quote(&list.name)),
            );
        } else if list.is_empty() {
            let message = format!(
                "filter list {} is empty; its rules match nothing",
                quote(&list.name)
            );
            report.warn(list.position, message);
        }
    }
    for (connection, used) in policy.connections().iter().zip(connections) {
        if !used {
            report.warn(
                connection.position,
                format!("no rule uses connection {}", quote(&connection.name)),
            );
        }
    }
}
