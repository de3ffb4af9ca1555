//! A policy as a script of `netsh ipsec` commands.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;

use ravelin_policy::{
    Action, Address, Boot, Connection, DefaultAction, Encapsulation, Exemptions, Family, Filter, FilterList,
    Mode, Policy, Position, Rule, Warning,
};

use ravelin_policy::order::Priority;

use crate::netsh::line::lines;

/// The policy's name in the script.
const POLICY: &str = "Ravelin";

/// Most filters of a script, and most warnings.
const MAX_FILTERS: usize = 500_000;
const MAX_WARNINGS: usize = 1_000;

/// What is offered in place of AES-GCM, which netsh of that time does not know.
const METHODS: &str = "ESP[3DES,SHA1]";

/// A script, and what the policy says that it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// `netsh ipsec` commands, one a line, lines ended as Windows ends them.
    pub script: String,
    /// What cannot be said, each with its place in the policy.
    pub warnings: Vec<Warning>,
}

/// Writes a policy as a script of `netsh ipsec static` commands.
///
/// `me` and names are written as such: the policy need not be resolved.
#[must_use]
pub fn export_netsh(policy: &Policy) -> Exported {
    let mut export = Export {
        policy,
        script: String::new(),
        warnings: Vec::new(),
        omitted: 0,
        list_names: Names::default(),
        rule_names: Names::default(),
        tunnels: only_tunnels(policy),
        lists: HashMap::new(),
        filters: 0,
    };
    export.write();
    if export.omitted > 0 {
        let message = format!("{} more warnings are not listed", export.omitted);
        export.warnings.push(Warning {
            file: policy.files().first().cloned().unwrap_or_else(|| "policy".into()),
            position: None,
            message,
        });
    }
    Exported {
        script: export.script.replace('\n', "\r\n"),
        warnings: export.warnings,
    }
}

struct Export<'p> {
    policy: &'p Policy,
    script: String,
    warnings: Vec<Warning>,
    omitted: usize,
    /// Names in the script.
    list_names: Names,
    rule_names: Names,
    /// Whether each filter list is only used by rules with tunnels.
    tunnels: Vec<bool>,
    /// Names in the script of filter lists, by their index and whether they are reversed.
    lists: HashMap<(usize, bool), String>,
    filters: usize,
}

/// Names in lower case: Windows takes no two that differ in case only.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn unique(&mut self, wish: &str) -> String {
        let mut name = wish.to_owned();
        let mut number = 1;
        while !self.0.insert(name.to_lowercase()) {
            number += 1;
            name = format!("{wish} {number}");
        }
        name
    }
}

impl Export<'_> {
    fn write(&mut self) {
        self.script.push_str("REM Written by `ravelin export netsh`.\n");
        self.command(&format!(
            "add policy name=\"{POLICY}\" activatedefaultrule=no assign=no"
        ));
        self.settings();
        for action in ["permit", "block"] {
            let message = format!("add filteraction name=\"ravelin {action}\" action={action}");
            self.command(&message);
        }
        for (index, list) in self.policy.filter_lists().iter().enumerate() {
            self.list(index, list, false);
        }
        let mut actions = BTreeSet::new();
        for rule in self.policy.rules() {
            self.rule(rule, &mut actions);
        }
        self.default_block();
        self.command(&format!("set policy name=\"{POLICY}\" assign=yes"));
        self.unsaid_parts();
    }

    fn command(&mut self, command: &str) {
        let _ = writeln!(self.script, "netsh ipsec static {command}");
    }

    fn warn(&mut self, position: Option<Position>, message: String) {
        if self.warnings.len() >= MAX_WARNINGS {
            self.omitted += 1;
            return;
        }
        let file = match position {
            Some(position) => Some(self.policy.file(position).clone()),
            None => self.policy.files().first().cloned(),
        };
        self.warnings.push(Warning {
            file: file.unwrap_or_else(|| "policy".into()),
            position,
            message,
        });
    }

    fn settings(&mut self) {
        let exemptions = self.policy.exemptions();
        if exemptions != Exemptions::default() {
            self.configure("ipsecexempt", &exemptions.level().to_string());
        }
        let boot = match self.policy.boot() {
            Boot::Permit => "permit",
            Boot::Block => "block",
            Boot::Stateful => return,
        };
        self.configure("bootmode", boot);
    }

    fn configure(&mut self, property: &str, value: &str) {
        let _ = writeln!(
            self.script,
            "netsh ipsec dynamic set config property={property} value={value}"
        );
    }

    /// What concerns the policy as a whole and has no counterpart.
    fn unsaid_parts(&mut self) {
        let policy = self.policy;
        if policy.non_ip() == DefaultAction::Block {
            self.warn(
                None,
                "non-ip = \"block\" is not written: netsh knows IP only".to_owned(),
            );
        }
        if stops_ipv6(policy) {
            self.warn(
                None,
                "netsh filters IPv4 only: what this policy blocks or protects of IPv6 passes there"
                    .to_owned(),
            );
        }
        if policy.audit() {
            self.warn(
                None,
                "audit = true is not written: the script blocks what this policy only counts".to_owned(),
            );
        }
        if policy.interfaces().outer.is_some() || policy.interfaces().inner.is_some() {
            self.warn(
                None,
                "[interfaces] is not written: a policy of Windows holds on every interface".to_owned(),
            );
        }
        let used: BTreeSet<usize> = policy
            .rules()
            .iter()
            .filter_map(|rule| match rule.action {
                Action::Protect { connection, .. } => Some(connection),
                _ => None,
            })
            .collect();
        for (index, connection) in policy.connections().iter().enumerate() {
            if !used.contains(&index) {
                let message = format!("connection `{}` is not written: no rule uses it", connection.name);
                self.warn(Some(connection.position), message);
            }
        }
    }

    /// Writes a filter list, or the reverse of one, and gives its name in the script.
    fn list(&mut self, index: usize, list: &FilterList, reversed: bool) -> String {
        if let Some(name) = self.lists.get(&(index, reversed)) {
            return name.clone();
        }
        let name = self.list_names.unique(&if reversed {
            format!("{} back", list.name)
        } else {
            list.name.clone()
        });
        self.command(&format!("add filterlist name=\"{name}\""));
        // In a tunnel, each direction names its own end.
        let tunnel = self.tunnels[index];
        let fixed = list.filters.iter().map(|filter| {
            let side = |address: &Address| address.to_string();
            (side(&filter.source), side(&filter.destination), filter)
        });
        let changing = list
            .changing()
            .map(|filter| (filter.source, filter.destination, filter.pattern));
        for (source, destination, filter) in fixed.chain(changing) {
            if self.filters >= MAX_FILTERS {
                let message = format!("more than {MAX_FILTERS} filters; the rest of the list is not written");
                self.warn(Some(filter.position), message);
                break;
            }
            let lines = match lines(&source, &destination, filter) {
                Ok(lines) => lines,
                Err(why) => {
                    if !reversed {
                        let message =
                            format!("filter list `{}`: {why}; the filter is not written", list.name);
                        self.warn(Some(filter.position), message);
                    }
                    continue;
                }
            };
            if lines.len() > 1 && !reversed {
                let message = format!(
                    "filter list `{}`: the ports are written as {} filters, each more specific than the one it stands for",
                    list.name,
                    lines.len()
                );
                self.warn(Some(filter.position), message);
            }
            self.filters += lines.len();
            for line in lines {
                let line = if reversed { line.reversed() } else { line };
                let mirrored = filter.mirrored && !tunnel && !reversed;
                let command = line.command(&name, mirrored);
                self.command(&command);
            }
        }
        self.lists.insert((index, reversed), name.clone());
        name
    }

    fn rule(&mut self, rule: &Rule, actions: &mut BTreeSet<String>) {
        let policy = self.policy;
        if rule.priority == Priority::Lifeline {
            self.warn(
                Some(rule.position),
                "the lifeline is written as a rule that permits; there more specific rules come before it"
                    .to_owned(),
            );
        } else if rule.priority != Priority::None {
            let message = format!(
                "rule `{}`: its priority is not written; the more specific filter wins there",
                rule.name
            );
            self.warn(Some(rule.position), message);
        }
        if rule.audit {
            let message = format!(
                "rule `{}`: audit = true is not written: the script drops what this rule only counts",
                rule.name
            );
            self.warn(Some(rule.position), message);
        }
        if !rule.interfaces.is_empty() {
            let message = format!(
                "rule `{}`: its interfaces are not written; there it holds on every one",
                rule.name
            );
            self.warn(Some(rule.position), message);
        }
        let activate = if rule.active { "" } else { " activate=no" };
        let list = self.list(rule.filter_list, &policy.filter_lists()[rule.filter_list], false);
        let write = |export: &mut Self, name: &str, list: &str, action: &str, tunnel: &str| {
            let name = export.rule_names.unique(name);
            export.command(&format!(
                "add rule name=\"{name}\" policy=\"{POLICY}\" filterlist=\"{list}\" filteraction=\"ravelin {action}\"{tunnel}{activate}"
            ));
        };
        let (connection, accept_unsecured) = match rule.action {
            Action::Permit => return write(self, &rule.name, &list, "permit", ""),
            Action::Block => return write(self, &rule.name, &list, "block", ""),
            Action::Protect {
                connection,
                accept_unsecured,
            } => (&policy.connections()[connection], accept_unsecured),
        };
        let fallback_clear = rule.fallback_clear.is_some();
        let action = match (accept_unsecured, fallback_clear) {
            (false, false) => "protect",
            (true, false) => "protect inpass",
            (false, true) => "protect soft",
            (true, true) => "protect inpass soft",
        };
        if actions.insert(action.to_owned()) {
            let yes = |yes| if yes { "yes" } else { "no" };
            self.command(&format!(
                "add filteraction name=\"ravelin {action}\" inpass={} soft={} action=negotiate qmsecmethods=\"{METHODS}\"",
                yes(accept_unsecured),
                yes(fallback_clear),
            ));
        }
        self.unsaid_connection(rule, connection);
        if connection.mode == Mode::Transport {
            return write(self, &rule.name, &list, action, "");
        }
        let (IpAddr::V4(local), IpAddr::V4(remote)) = (connection.local, connection.remote) else {
            let message = format!(
                "rule `{}` is not written: netsh has no tunnels over IPv6",
                rule.name
            );
            self.warn(Some(rule.position), message);
            return;
        };
        let back = self.list(rule.filter_list, &policy.filter_lists()[rule.filter_list], true);
        write(self, &rule.name, &list, action, &format!(" tunnel={remote}"));
        write(
            self,
            &format!("{} back", rule.name),
            &back,
            action,
            &format!(" tunnel={local}"),
        );
    }

    fn unsaid_connection(&mut self, rule: &Rule, connection: &Connection) {
        let mut unsaid = vec![
            format!(
                "{} becomes {METHODS}, the best that netsh knows",
                connection.keys.algorithm
            ),
            "its keys do not: give the rule kerberos=, psk= or rootca=".to_owned(),
        ];
        if connection.encapsulation != Encapsulation::None {
            unsaid.push("UDP encapsulation is negotiated there".to_owned());
        }
        if connection.path_mtu.is_some() {
            unsaid.push("its path-mtu is left out".to_owned());
        }
        let message = format!(
            "rule `{}`, connection `{}`: {}",
            rule.name,
            connection.name,
            unsaid.join("; ")
        );
        self.warn(Some(rule.position), message);
    }

    /// `default = "block"` as a rule for everything, which every other filter is more specific than.
    fn default_block(&mut self) {
        if self.policy.default_action() == DefaultAction::Permit {
            return;
        }
        let rules = self.policy.rules().iter().filter(|rule| rule.active);
        let least: Vec<(&Rule, &Filter)> = rules
            .flat_map(|rule| self.policy.filters(rule).iter().map(move |filter| (rule, filter)))
            .filter(|(_, filter)| {
                filter.source.covering_length() == 0
                    && filter.destination.covering_length() == 0
                    && filter.protocol.is_none()
                    && filter.family() != Some(Family::V6)
            })
            .collect();
        // One for every IPv4 packet leaves nothing to the default.
        if least
            .iter()
            .any(|(_, filter)| is_all(&filter.source) && is_all(&filter.destination))
        {
            return;
        }
        for (rule, filter) in least
            .into_iter()
            .filter(|(rule, _)| rule.action != Action::Block)
            .take(MAX_WARNINGS)
        {
            let message = format!(
                "rule `{}`: this filter is no more specific than the rule that stands for default = \"block\", which blocks its packets",
                rule.name
            );
            self.warn(Some(filter.position), message);
        }
        let name = self.list_names.unique("everything else");
        self.command(&format!("add filterlist name=\"{name}\""));
        self.command(&format!(
            "add filter filterlist=\"{name}\" srcaddr=any dstaddr=any"
        ));
        let rule = self.rule_names.unique("everything else");
        self.command(&format!(
            "add rule name=\"{rule}\" policy=\"{POLICY}\" filterlist=\"{name}\" filteraction=\"ravelin block\""
        ));
    }
}

/// Whether each filter list is only used by rules with tunnels.
fn only_tunnels(policy: &Policy) -> Vec<bool> {
    let mut used = vec![None; policy.filter_lists().len()];
    for rule in policy.rules() {
        let tunnel = match rule.action {
            Action::Protect { connection, .. } => policy.connections()[connection].mode == Mode::Tunnel,
            _ => false,
        };
        let before = &mut used[rule.filter_list];
        *before = Some(before.unwrap_or(true) && tunnel);
    }
    used.into_iter().map(|tunnel| tunnel == Some(true)).collect()
}

/// Whether something without a version of IP blocks or protects: the default, or a filter, of which no other warning speaks.
fn stops_ipv6(policy: &Policy) -> bool {
    let mut strict = policy
        .rules()
        .iter()
        .filter(|rule| rule.active && rule.action != Action::Permit);
    policy.default_action() == DefaultAction::Block
        || strict.any(|rule| {
            policy
                .filters(rule)
                .iter()
                .any(|filter| filter.family().is_none())
        })
}

/// Whether it holds every IPv4 address.
fn is_all(address: &Address) -> bool {
    match address {
        Address::Any => true,
        Address::Prefix(prefix) => prefix.prefix_len() == 0 && prefix.addr().is_ipv4(),
        Address::Range(..) => false,
    }
}
