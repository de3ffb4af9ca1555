//! Rules that negotiate, as rules that protect: each pair of ends is a connection.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::draft::{self, quoted};
use crate::findings::quote;
use crate::netsh::address::Side;
use crate::netsh::security;
use crate::netsh::store::{Filter, FilterAction};
use crate::netsh::translate::{Pending, Translation};
use crate::netsh::tunnels::Half;

/// Most connections of a policy.
const MAX_CONNECTIONS: usize = 1_024;

/// Most filters that all rules that negotiate look at together.
const MAX_WORK: usize = 2_000_000;

/// Lines of filters that a warning names.
const NAMED_LINES: usize = 5;

/// A connection of the policy.
#[derive(Clone)]
pub(super) struct Known {
    name: String,
    mode: &'static str,
}

impl Translation<'_> {
    pub(super) fn negotiate(&mut self, pending: &Pending<'_>, half: Option<&Half<'_>>) {
        self.work += pending.list.filters.len();
        if self.work > MAX_WORK {
            self.findings.error(
                pending.rule.line,
                "too many rules negotiate with long filter lists",
            );
            return;
        }
        self.tell_action(pending.action);
        let rule = pending.rule;
        if !rule.authentication.is_empty() {
            let message = format!(
                "authentication by {} is not imported (no secret was copied): each connection needs key files, or an IKE daemon",
                rule.authentication.join(" and ")
            );
            self.findings.loss(rule.line, message);
        }
        match &rule.tunnel {
            Some(end) => self.tunnel(pending, end, half),
            None => self.transport(pending),
        }
    }

    /// What of a filter action's methods is lost, once for each action.
    fn tell_action(&mut self, action: &FilterAction) {
        if action.line == 0 || !self.told.insert(format!("action {}", action.line)) {
            return;
        }
        let replaced = security::replaced(&action.methods);
        if !replaced.is_empty() {
            let message = format!(
                "{} replaced by AES-GCM with 256-bit keys; the other end must follow",
                and(&replaced)
            );
            self.findings.note(action.line, message);
        }
        if action
            .methods
            .iter()
            .any(|method| method.kilobytes.is_some() || method.seconds.is_some())
        {
            self.findings.loss(
                action.line,
                "lifetimes of keys are not imported: keys in files live until they are replaced",
            );
        }
        if action.perfect_forward_secrecy {
            self.findings.loss(
                action.line,
                "perfect forward secrecy needs key exchange, which keys in files are without",
            );
        }
    }

    fn tunnel(&mut self, pending: &Pending<'_>, end: &Side, half: Option<&Half<'_>>) {
        let line = pending.rule.line;
        let Some(remote) = end.host() else {
            let message = "the tunnel's end is not one address".to_owned();
            return self.closed(pending, &pending.list.filters, &message);
        };
        let local = match half {
            Some(Half::Inbound(Some(other))) => {
                let message = format!(
                    "{remote} is taken for this machine, so this is the inbound half of the tunnel of rule {}, whose connection \
                     covers both",
                    quote(other)
                );
                self.findings.note(line, message);
                self.told
                    .insert(format!("list {}", pending.list_name.to_lowercase()));
                return;
            }
            Some(Half::Inbound(None)) => {
                let message = format!(
                    "the tunnel ends at {remote}, this machine, and no rule sends anything back through it"
                );
                return self.closed(pending, &pending.list.filters, &message);
            }
            Some(Half::Outbound(local)) => local.or_else(|| self.local_for(remote)),
            None => self.local_for(remote),
        };
        let Some(local) = local else {
            let message =
                format!("the local end of the tunnel to {remote} is not known; give it with --local ADDRESS");
            return self.closed(pending, &pending.list.filters, &message);
        };
        let Some(connection) = self.connection(pending, "tunnel", local, remote) else {
            return self.closed(
                pending,
                &pending.list.filters,
                "its ends are those of another connection",
            );
        };
        let filters = both_ways(pending.list.filters.clone());
        let list = self.new_list(pending.list_name, pending.list.line, &filters);
        self.told
            .insert(format!("list {}", pending.list_name.to_lowercase()));
        self.push_protect(pending, pending.name, list, &connection);
    }

    fn local_for(&self, remote: IpAddr) -> Option<IpAddr> {
        let mut locals = self.options.local.iter().copied();
        locals.find(|local| local.is_ipv4() == remote.is_ipv4() && *local != remote)
    }

    /// In transport mode each pair of hosts is a connection.
    fn transport(&mut self, pending: &Pending<'_>) {
        let mut groups: Vec<((IpAddr, IpAddr), Vec<Filter>)> = Vec::new();
        let mut index: HashMap<(IpAddr, IpAddr), usize> = HashMap::new();
        let (mut unknown, mut one_way) = (Vec::new(), 0);
        for filter in &pending.list.filters {
            let pairs = self.pairs(filter);
            if pairs.is_empty() {
                unknown.push(filter.clone());
            }
            one_way += u32::from(!filter.mirrored);
            for (ends, filter) in pairs {
                let at = *index.entry(ends).or_insert_with(|| {
                    groups.push((ends, Vec::new()));
                    groups.len() - 1
                });
                groups[at].1.push(filter);
            }
        }
        if one_way > 0 && !groups.is_empty() {
            self.findings.note(
                pending.rule.line,
                "mirrored=no has no effect on what is protected: a connection is for both directions",
            );
        }
        self.told
            .insert(format!("list {}", pending.list_name.to_lowercase()));
        let several = groups.len() > 1 || !unknown.is_empty();
        for ((local, remote), filters) in groups {
            let (name, list) = if several {
                (
                    format!("{} {remote}", pending.name),
                    format!("{} {remote}", pending.list_name),
                )
            } else {
                (pending.name.to_owned(), pending.list_name.to_owned())
            };
            let Some(connection) = self.connection(pending, "transport", local, remote) else {
                self.closed(
                    pending,
                    &filters,
                    &format!(
                        "the ends {local} and {remote} are those of another connection, or there are too many"
                    ),
                );
                continue;
            };
            let list = self.new_list(&list, pending.list.line, &both_ways(filters));
            self.push_protect(pending, &name, list, &connection);
        }
        if !unknown.is_empty() {
            let what = if self.options.local.is_empty() {
                "a connection in transport mode is between two addresses; where only the local one is missing, give it with --local ADDRESS"
            } else {
                "a connection in transport mode is between two addresses, and these are not"
            };
            self.closed(pending, &unknown, what);
        }
    }

    /// The local and remote addresses that a filter names, with the filter as seen from the local side.
    fn pairs(&self, filter: &Filter) -> Vec<((IpAddr, IpAddr), Filter)> {
        let locals = |side: &Side| -> Vec<IpAddr> {
            match (side, side.host()) {
                (Side::Me, _) => self.options.local.clone(),
                (_, Some(host)) if self.options.local.contains(&host) => vec![host],
                _ => Vec::new(),
            }
        };
        let (mut local, mut remote, mut filter) =
            (locals(&filter.source), filter.destination.host(), filter.clone());
        if local.is_empty() || remote.is_none() {
            filter = filter.reversed();
            (local, remote) = (locals(&filter.source), filter.destination.host());
        }
        let Some(remote) = remote else { return Vec::new() };
        let of_family = local
            .into_iter()
            .filter(|local| local.is_ipv4() == remote.is_ipv4() && *local != remote);
        of_family
            .map(|local| {
                let source = Side::Known(ravelin_policy::Address::Prefix(local.into()));
                let filter = Filter {
                    source,
                    ..filter.clone()
                };
                ((local, remote), filter)
            })
            .collect()
    }

    fn push_protect(&mut self, pending: &Pending<'_>, name: &str, list: String, connection: &str) {
        let mut keys = vec![("connection", quoted(connection))];
        if pending.action.accept_unsecured {
            keys.push(("accept-unsecured", "true".to_owned()));
        }
        if pending.action.fallback_clear {
            keys.push(("fallback-clear", "true".to_owned()));
        }
        self.push_rule(pending, name, list, "protect", keys);
    }

    /// The name of the connection between two ends; none when the two have one in another mode.
    fn connection(
        &mut self,
        pending: &Pending<'_>,
        mode: &'static str,
        local: IpAddr,
        remote: IpAddr,
    ) -> Option<String> {
        if let Some(known) = self.connections.get(&(local, remote)) {
            return (known.mode == mode).then(|| known.name.clone());
        }
        if self.connections.len() >= MAX_CONNECTIONS || unusable(local) || unusable(remote) {
            return None;
        }
        let name = self
            .connection_names
            .unique(&remote.to_string().replace(':', "_"));
        let file = name.replace(' ', "-");
        let message = format!(
            "connection {name} ({mode}, {local} to {remote}) has no keys yet: make {file}-outbound.key and {file}-inbound.key, \
             and agree on the SPIs with the other end"
        );
        self.findings.note(pending.rule.line, message);
        self.draft.connections.push(draft::Connection {
            comment: vec![pending.title.clone()],
            name: name.clone(),
            mode,
            local: local.to_string(),
            remote: remote.to_string(),
        });
        self.connections.insert(
            (local, remote),
            Known {
                name: name.clone(),
                mode,
            },
        );
        Some(name)
    }

    /// What was to be protected and cannot be: blocked, unless the script itself lets it go clear.
    fn closed(&mut self, pending: &Pending<'_>, filters: &[Filter], why: &str) {
        let lines: Vec<String> = filters
            .iter()
            .take(NAMED_LINES)
            .map(|filter| filter.line.to_string())
            .collect();
        let more = if filters.len() > NAMED_LINES { ", ..." } else { "" };
        let which = format!(
            "rule {} (filters of lines {}{more})",
            quote(pending.name),
            lines.join(", ")
        );
        self.told
            .insert(format!("list {}", pending.list_name.to_lowercase()));
        if pending.action.fallback_clear {
            let message =
                format!("{which} cannot be protected: {why}. Since it has soft=yes it was left out");
            self.findings.loss(pending.rule.line, message);
            return;
        }
        let message =
            format!("{which} cannot be protected: {why}. It blocks instead, so that nothing goes clear");
        self.findings.loss(pending.rule.line, message);
        let list = self.new_list(
            &format!("{} unprotected", pending.list_name),
            pending.list.line,
            filters,
        );
        self.push_rule(
            pending,
            &format!("{} unprotected", pending.name),
            list,
            "block",
            Vec::new(),
        );
    }
}

/// In a protect rule, filters are for both directions whatever they say.
fn both_ways(mut filters: Vec<Filter>) -> Vec<Filter> {
    for filter in &mut filters {
        filter.mirrored = true;
    }
    filters
}

/// Whether an address is none that a connection can end at.
fn unusable(address: IpAddr) -> bool {
    address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || match address {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        }
}

fn and(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => format!("{one} is"),
        [start @ .., last] => format!("{} and {last} are", start.join(", ")),
    }
}
