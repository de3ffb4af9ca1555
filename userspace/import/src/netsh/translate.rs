//! What a script has defined, as a policy.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::draft::{self, Draft, Names, quoted};
use crate::findings::{Findings, quote};
use crate::netsh::NetshOptions;
use crate::netsh::address::Side;
use crate::netsh::builtin::{builtin_action, builtin_list};
use crate::netsh::protect::Known;
use crate::netsh::store::{Action, DynamicRule, Filter, FilterAction, FilterList, Policy, Rule, Store};
use crate::netsh::tunnels::Half;

/// Most filters of all rules together, once lists are split up by connection.
const MAX_FILTERS: usize = 500_000;

/// The policy that a script amounts to.
pub(super) fn translate(store: &Store, options: &NetshOptions, findings: &mut Findings) -> Draft {
    let mut translation = Translation {
        store,
        options,
        findings,
        draft: Draft::default(),
        list_names: Names::default(),
        rule_names: Names::default(),
        connection_names: Names::default(),
        lists: HashMap::new(),
        connections: HashMap::new(),
        told: HashSet::new(),
        filters: 0,
        work: 0,
    };
    translation.settings();
    translation.policies();
    for (index, rule) in store.dynamic.iter().enumerate() {
        translation.dynamic(index + 1, rule);
    }
    for (name, list) in store.lists.iter() {
        if !translation
            .told
            .contains(&format!("list {}", name.to_lowercase()))
        {
            translation.list(name, list);
        }
    }
    translation.draft
}

pub(super) struct Translation<'s> {
    pub(super) store: &'s Store,
    pub(super) options: &'s NetshOptions,
    pub(super) findings: &'s mut Findings,
    pub(super) draft: Draft,
    pub(super) list_names: Names,
    pub(super) rule_names: Names,
    pub(super) connection_names: Names,
    /// Names in the policy of lists that were written out whole, by their names in lower case.
    pub(super) lists: HashMap<String, String>,
    pub(super) connections: HashMap<(IpAddr, IpAddr), Known>,
    /// What has been said or used once.
    pub(super) told: HashSet<String>,
    pub(super) filters: usize,
    /// Filters looked at by rules that negotiate.
    pub(super) work: usize,
}

/// A rule on its way into the policy.
pub(super) struct Pending<'a> {
    /// What it is called in the script.
    pub(super) title: String,
    pub(super) name: &'a str,
    pub(super) rule: &'a Rule,
    pub(super) list_name: &'a str,
    pub(super) list: &'a FilterList,
    pub(super) action: &'a FilterAction,
    pub(super) active: bool,
}

impl<'s> Translation<'s> {
    fn settings(&mut self) {
        if let Some(level) = self.store.exemptions {
            self.draft.settings.push(("exemptions", level.to_string()));
        }
        if let Some(mode) = self.store.boot {
            self.draft.settings.push(("boot", quoted(mode)));
        }
    }

    fn policies(&mut self) {
        let store = self.store;
        let assign = self.options.assign.as_deref();
        if let Some(name) = assign
            && store.policies.find(name).is_none()
        {
            let known: Vec<String> = store
                .policies
                .iter()
                .map(|(name, _)| quote(name))
                .take(16)
                .collect();
            let message = format!(
                "there is no policy {} to assign; there are: {}",
                quote(name),
                known.join(", ")
            );
            self.findings.error(0, message);
        }
        let mut assigned = false;
        for (name, policy) in store.policies.iter() {
            let active = match assign {
                Some(wanted) => wanted.to_lowercase() == name.to_lowercase(),
                None => store.is_assigned(name),
            };
            assigned |= active;
            self.policy(name, policy, active);
        }
        if !assigned && store.policies.iter().next().is_some() {
            self.findings.note(
                0,
                "the script assigns no policy, so every rule is inactive; --assign NAME takes a policy for the assigned one",
            );
        }
    }

    fn policy(&mut self, name: &str, policy: &'s Policy, assigned: bool) {
        if assigned && !policy.without_default_rule {
            let message = format!(
                "the default response rule of policy {} (protect whenever a peer asks for it) has no counterpart",
                quote(name)
            );
            self.findings.note(policy.line, message);
        }
        let halves = self.tunnels(policy);
        for (rule_name, rule) in policy.rules.iter() {
            let title = format!("line {}: rule {rule_name} of policy {name}", rule.line);
            let Some(list) = self
                .store
                .lists
                .find(&rule.list)
                .or_else(|| builtin_list(&rule.list))
            else {
                self.missing(rule.line, "filter list", &rule.list);
                continue;
            };
            let builtin = builtin_action(&rule.action);
            let Some(action) = self.store.actions.find(&rule.action).or(builtin.as_ref()) else {
                self.missing(rule.line, "filter action", &rule.action);
                continue;
            };
            let pending = Pending {
                title,
                name: rule_name,
                rule,
                list_name: &rule.list,
                list,
                action,
                active: assigned && rule.active,
            };
            self.rule(&pending, halves.get(&rule.line));
        }
    }

    fn missing(&mut self, line: u32, what: &str, name: &str) {
        let message = format!(
            "there is no {what} {} in this script; the rule was left out",
            quote(name)
        );
        self.findings.loss(line, message);
    }

    fn rule(&mut self, pending: &Pending<'_>, half: Option<&Half<'_>>) {
        let line = pending.rule.line;
        if pending.rule.connection_type != "all" {
            let message = format!(
                "conntype={} is not imported: the rule holds on every interface",
                pending.rule.connection_type
            );
            self.findings.loss(line, message);
        }
        let action = match pending.action.action {
            Action::Permit => "permit",
            Action::Block => "block",
            Action::Negotiate => return self.negotiate(pending, half),
        };
        if pending.rule.tunnel.is_some() {
            self.findings
                .loss(line, format!("tunnel= means nothing with action={action}"));
        }
        let list = self.list(pending.list_name, pending.list);
        self.push_rule(pending, pending.name, list, action, Vec::new());
    }

    pub(super) fn push_rule(
        &mut self,
        pending: &Pending<'_>,
        name: &str,
        list: String,
        action: &'static str,
        mut keys: Vec<(&'static str, String)>,
    ) {
        if !pending.active {
            keys.push(("active", "false".to_owned()));
        }
        let name = self.rule_names.unique(name);
        self.draft.rules.push(draft::Rule {
            comment: pending.title.clone(),
            name,
            list,
            action,
            keys,
        });
    }

    /// The list's name in the policy, which it is written to when it was not before.
    fn list(&mut self, name: &str, list: &FilterList) -> String {
        if let Some(known) = self.lists.get(&name.to_lowercase()) {
            return known.clone();
        }
        self.told.insert(format!("list {}", name.to_lowercase()));
        let written = self.new_list(name, list.line, &list.filters);
        self.lists.insert(name.to_lowercase(), written.clone());
        written
    }

    pub(super) fn new_list(&mut self, name: &str, line: u32, filters: &[Filter]) -> String {
        let comment = match line {
            0 => format!("filter list {name}, which Windows brings along"),
            line => format!("line {line}: filter list {name}"),
        };
        let filters = filters.iter().filter_map(|filter| self.filter(filter)).collect();
        let name = self.list_names.unique(name);
        self.draft.lists.push(draft::List {
            name: name.clone(),
            comment,
            filters,
        });
        name
    }

    fn filter(&mut self, filter: &Filter) -> Option<draft::Filter> {
        if [&filter.source, &filter.destination].contains(&&Side::Wins) {
            self.findings.loss(
                filter.line,
                "WINS servers are not known to a policy; the filter was left out",
            );
            return None;
        }
        self.filters += 1;
        if self.filters > MAX_FILTERS {
            if self.filters == MAX_FILTERS + 1 {
                self.findings.error(
                    filter.line,
                    format!("the rules come to more than {MAX_FILTERS} filters"),
                );
            }
            return None;
        }
        let port = |port: Option<u16>| port.map_or(String::new(), |port| port.to_string());
        Some(draft::Filter {
            line: filter.line,
            source: vec![side(&filter.source)],
            destination: vec![side(&filter.destination)],
            protocol: filter.protocol,
            source_port: port(filter.source_port),
            destination_port: port(filter.destination_port),
            icmp: None,
            mirrored: filter.mirrored,
        })
    }

    fn dynamic(&mut self, number: usize, dynamic: &DynamicRule) {
        let name = format!("dynamic {number}");
        let line = dynamic.rule.line;
        let negotiates = FilterAction::new(0);
        let quick_mode = dynamic
            .quick_mode_policy
            .as_deref()
            .and_then(|name| self.store.actions.find(name));
        let (filter, outbound, inbound) =
            if dynamic.filter.destination == Side::Me && dynamic.filter.source != Side::Me {
                (dynamic.filter.reversed(), dynamic.outbound, dynamic.inbound)
            } else {
                (dynamic.filter.clone(), dynamic.outbound, dynamic.inbound)
            };
        let action = |action, accept_unsecured| FilterAction {
            action,
            accept_unsecured,
            ..quick_mode.unwrap_or(&negotiates).clone()
        };
        let parts = match (outbound, inbound) {
            (outbound, inbound) if outbound == inbound => {
                vec![(dynamic.filter.clone(), action(outbound, false))]
            }
            (Action::Negotiate, Action::Permit) => vec![(filter, action(Action::Negotiate, true))],
            _ if filter.source == Side::Me && filter.mirrored => {
                let reversed = Filter {
                    mirrored: false,
                    ..filter.reversed()
                };
                let filter = Filter {
                    mirrored: false,
                    ..filter
                };
                vec![
                    (filter, action(outbound, false)),
                    (reversed, action(inbound, false)),
                ]
            }
            _ => {
                let message = "different actions for the two directions need a filter between me and others; the rule was left out";
                self.findings.loss(line, message);
                return;
            }
        };
        for (filter, action) in parts {
            let list = FilterList {
                line,
                filters: vec![filter],
            };
            let pending = Pending {
                title: format!("line {line}: dynamic rule"),
                name: &name,
                rule: &dynamic.rule,
                list_name: &name,
                list: &list,
                action: &action,
                active: true,
            };
            self.lists.remove(&name);
            self.rule(&pending, None);
        }
    }
}

/// A side as the policy language writes it.
fn side(side: &Side) -> String {
    match side {
        Side::Resolved(name) if name == "localhost" => "127.0.0.1".to_owned(),
        // A name without a domain is written with a dot at its end, lest it be taken for a mistyped word.
        Side::Resolved(name) if !name.contains('.') && !is_word(name) => format!("{name}."),
        other => other.to_string(),
    }
}

fn is_word(name: &str) -> bool {
    matches!(name, "gateway" | "dns-servers" | "dhcp-servers")
}
