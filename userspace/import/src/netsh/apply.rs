//! What each command does to the store; those that change or delete are in `change`.

use crate::findings::{Findings, quote};
use crate::netsh::command::{Arguments, Command, Mode};
use crate::netsh::store::{
    Action, DynamicRule, Filter, FilterAction, FilterList, MAX_OBJECTS, Policy, Rule, Store,
};

/// Most filters: a limit against a script that is only there to exhaust memory.
const MAX_FILTERS: usize = 500_000;

pub(super) const FILTER: &[&str] = &[
    "filterlist",
    "srcaddr",
    "dstaddr",
    "description",
    "protocol",
    "mirrored",
    "srcmask",
    "dstmask",
    "srcport",
    "dstport",
];
const FILTER_ACTION: &[&str] = &[
    "name",
    "description",
    "qmpfs",
    "inpass",
    "soft",
    "action",
    "qmsecmethods",
];
const POLICY: &[&str] = &[
    "name",
    "description",
    "mmpfs",
    "qmpermm",
    "mmlifetime",
    "activatedefaultrule",
    "pollinginterval",
    "assign",
    "mmsecmethods",
];
const RULE: &[&str] = &[
    "name",
    "policy",
    "filterlist",
    "filteraction",
    "tunnel",
    "conntype",
    "activate",
    "description",
    "kerberos",
    "psk",
    "rootca",
];
const DYNAMIC_RULE: &[&str] = &[
    "srcaddr",
    "dstaddr",
    "mmpolicy",
    "qmpolicy",
    "protocol",
    "srcport",
    "dstport",
    "mirrored",
    "conntype",
    "actioninbound",
    "actionoutbound",
    "srcmask",
    "dstmask",
    "tunneldstaddress",
    "kerberos",
    "psk",
    "rootca",
];
const QUICK_MODE_POLICY: &[&str] = &["name", "soft", "pfsgroup", "qmsecmethods"];

impl Store {
    /// Carries a command out.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn apply(
        &mut self,
        line: u32,
        command: &Command,
        findings: &mut Findings,
    ) -> Result<(), String> {
        match (command.mode, command.verb, command.object) {
            (_, "show" | "help" | "dump", _) | (Mode::Static, "set", "batch") => {}
            (Mode::Static, "exportpolicy" | "importpolicy" | "restorepolicyexamples", _) => {
                findings.loss(
                    line,
                    format!("{} works on another file, which was not read", command.verb),
                );
            }
            (Mode::Static, "set", "store") => {
                findings.loss(
                    line,
                    "which store is written to (local, domain, persistent) is not imported",
                );
            }
            (Mode::Static, "add", "filterlist") => {
                let arguments = command.arguments(&["name", "description"])?;
                let list = FilterList {
                    line,
                    filters: Vec::new(),
                };
                let name = arguments.required("name")?;
                added(self.lists.add(name, list)?, line, "filter list", name, findings);
            }
            (Mode::Static, "add", "filter") => self.add_filter(line, &command.arguments(FILTER)?)?,
            (Mode::Static, "add", "filteraction") => {
                let arguments = command.arguments(FILTER_ACTION)?;
                let mut action = FilterAction::new(line);
                action.set(&arguments)?;
                let name = arguments.required("name")?;
                added(
                    self.actions.add(name, action)?,
                    line,
                    "filter action",
                    name,
                    findings,
                );
            }
            (Mode::Dynamic, "add", "qmpolicy") => {
                let arguments = command.arguments(QUICK_MODE_POLICY)?;
                let mut action = FilterAction::new(line);
                action.set(&arguments)?;
                // Its own kind of object, but alike; the name of the other kind cannot start with a control character.
                let name = quick_mode_name(arguments.required("name")?);
                self.actions.add(&name, action)?;
            }
            (Mode::Static, "add", "policy") => {
                self.add_policy(line, &command.arguments(POLICY)?, findings)?;
            }
            (Mode::Static, "add", "rule") => self.add_rule(line, &command.arguments(RULE)?, findings)?,
            (Mode::Static, "set", _) => self.set(line, command, findings)?,
            (Mode::Static, "delete", _) => self.delete(line, command, findings)?,
            (Mode::Dynamic, "add", "rule") => self.add_dynamic(line, &command.arguments(DYNAMIC_RULE)?)?,
            (Mode::Dynamic, "set", "config") => {
                self.configure(line, &command.arguments(&["property", "value"])?, findings)?;
            }
            (Mode::Dynamic, "delete", "all") => self.dynamic.clear(),
            (_, verb, object) => {
                findings.loss(line, format!("{verb} {object} of the dynamic mode was left out"));
            }
        }
        Ok(())
    }

    fn add_filter(&mut self, line: u32, arguments: &Arguments) -> Result<(), String> {
        let name = arguments.required("filterlist")?;
        let filter = Filter::read(line, arguments)?;
        if self.filters >= MAX_FILTERS {
            return Err(format!("more than {MAX_FILTERS} filters"));
        }
        self.filters += 1;
        if self.lists.find(name).is_none() {
            self.lists.add(
                name,
                FilterList {
                    line,
                    filters: Vec::new(),
                },
            )?;
        }
        if let Some(list) = self.lists.find_mut(name) {
            list.filters.push(filter);
        }
        Ok(())
    }

    fn add_policy(
        &mut self,
        line: u32,
        arguments: &Arguments,
        findings: &mut Findings,
    ) -> Result<(), String> {
        let name = arguments.required("name")?;
        let policy = Policy {
            line,
            ..Policy::default()
        };
        let new = self.policies.add(name, policy)?;
        added(new, line, "policy", name, findings);
        if new {
            self.set_policy(line, name, arguments, findings)?;
        }
        Ok(())
    }

    pub(super) fn set_policy(
        &mut self,
        line: u32,
        name: &str,
        arguments: &Arguments,
        findings: &mut Findings,
    ) -> Result<(), String> {
        let assign = arguments.yes("assign")?;
        let default_rule = arguments.yes("activatedefaultrule")?;
        for key in ["mmpfs", "qmpermm", "mmlifetime", "mmsecmethods"] {
            if arguments.has(key) {
                findings.loss(
                    line,
                    format!("{key}= is about main mode (IKE), which is another program's business here"),
                );
            }
        }
        if arguments.has("pollinginterval") {
            findings.loss(
                line,
                "pollinginterval= has no counterpart: a policy is applied by `ravelin`, not polled",
            );
        }
        if let Some(policy) = self.policies.find_mut(name)
            && let Some(on) = default_rule
        {
            policy.without_default_rule = !on;
        }
        match assign {
            // One policy is assigned at a time.
            Some(true) => self.assigned = Some(name.to_lowercase()),
            Some(false) if self.is_assigned(name) => self.assigned = None,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn is_assigned(&self, name: &str) -> bool {
        self.assigned.as_deref() == Some(name.to_lowercase().as_str())
    }

    fn add_rule(&mut self, line: u32, arguments: &Arguments, findings: &mut Findings) -> Result<(), String> {
        let name = arguments.required("name")?;
        let policy = arguments.required("policy")?;
        let mut rule = Rule {
            line,
            list: arguments.required("filterlist")?.to_owned(),
            action: arguments.required("filteraction")?.to_owned(),
            tunnel: None,
            connection_type: "all",
            active: true,
            authentication: Vec::new(),
        };
        rule.set(arguments)?;
        let Some(policy) = self.policies.find_mut(policy) else {
            let message = format!(
                "there is no policy {} in this script; the rule was left out",
                quote(policy)
            );
            findings.loss(line, message);
            return Ok(());
        };
        added(policy.rules.add(name, rule)?, line, "rule", name, findings);
        Ok(())
    }

    fn add_dynamic(&mut self, line: u32, arguments: &Arguments) -> Result<(), String> {
        if self.dynamic.len() >= MAX_OBJECTS {
            return Err(format!("more than {MAX_OBJECTS} dynamic rules"));
        }
        let filter = Filter::read(line, arguments)?;
        let action = |key| Ok::<_, String>(Action::read(arguments, key)?.unwrap_or(Action::Negotiate));
        let mut rule = Rule {
            line,
            list: String::new(),
            action: String::new(),
            tunnel: None,
            connection_type: "all",
            active: true,
            authentication: Vec::new(),
        };
        rule.set(arguments)?;
        self.dynamic.push(DynamicRule {
            filter,
            inbound: action("actioninbound")?,
            outbound: action("actionoutbound")?,
            quick_mode_policy: arguments.text("qmpolicy").map(quick_mode_name),
            rule,
        });
        Ok(())
    }

    fn configure(&mut self, line: u32, arguments: &Arguments, findings: &mut Findings) -> Result<(), String> {
        const PROPERTIES: &[&str] = &[
            "ipsecdiagnostics",
            "ikelogging",
            "strongcrlcheck",
            "ipsecloginterval",
            "ipsecexempt",
            "bootmode",
            "bootexemptions",
        ];
        let property = arguments
            .word("property", PROPERTIES)?
            .ok_or("property= is missing")?;
        match property {
            "ipsecexempt" => {
                let value = arguments.required("value")?;
                let level = value.parse::<u8>().ok().filter(|level| *level <= 3);
                self.exemptions =
                    Some(level.ok_or_else(|| format!("ipsecexempt is 0, 1, 2 or 3, not {}", quote(value)))?);
            }
            "bootmode" => self.boot = arguments.word("value", &["permit", "block", "stateful"])?,
            other => findings.loss(line, format!("the property {other} has no counterpart")),
        }
        Ok(())
    }
}

/// The name under which a quick mode policy of the dynamic mode is kept.
fn quick_mode_name(name: &str) -> String {
    format!("\u{1}{name}")
}

/// netsh refuses a second object of a name, and leaves the first as it is.
fn added(new: bool, line: u32, what: &str, name: &str, findings: &mut Findings) {
    if !new {
        let message = format!(
            "there is a {what} {} already; like netsh, the import keeps that one",
            quote(name)
        );
        findings.loss(line, message);
    }
}
