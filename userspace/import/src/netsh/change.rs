//! What `set` and `delete` do to the store.

use crate::findings::{Findings, quote};
use crate::netsh::apply::FILTER;
use crate::netsh::command::Command;
use crate::netsh::store::{Filter, Rule, Store};

/// Most objects that are looked at: a limit against a script that is only there to exhaust time.
const MAX_SEARCHED: usize = 100_000_000;

const SET_FILTER_ACTION: &[&str] = &[
    "name",
    "guid",
    "newname",
    "description",
    "qmpfs",
    "inpass",
    "soft",
    "action",
    "qmsecmethods",
];
const SET_POLICY: &[&str] = &[
    "name",
    "guid",
    "newname",
    "description",
    "mmpfs",
    "qmpermm",
    "mmlifetime",
    "activatedefaultrule",
    "pollinginterval",
    "assign",
    "gponame",
    "mmsecmethods",
];
const SET_RULE: &[&str] = &[
    "name",
    "id",
    "policy",
    "newname",
    "description",
    "filterlist",
    "filteraction",
    "tunnel",
    "conntype",
    "activate",
    "kerberos",
    "psk",
    "rootca",
];

impl Store {
    pub(super) fn set(
        &mut self,
        line: u32,
        command: &Command,
        findings: &mut Findings,
    ) -> Result<(), String> {
        let arguments = command.arguments(match command.object {
            "filterlist" => &["name", "guid", "newname", "description"],
            "filteraction" => SET_FILTER_ACTION,
            "policy" => SET_POLICY,
            "rule" => SET_RULE,
            _ => {
                findings.loss(line, "the default response rule has no counterpart");
                return Ok(());
            }
        })?;
        if arguments.has("guid") || arguments.has("id") {
            findings.loss(
                line,
                "an object named by its number cannot be followed in a script; the line was left out",
            );
            return Ok(());
        }
        let name = arguments.required("name")?;
        let new = arguments.text("newname");
        let policy = if command.object == "rule" {
            arguments.required("policy")?
        } else {
            ""
        };
        let known = match command.object {
            "filterlist" => self.lists.find(name).is_some(),
            "filteraction" => self.actions.find(name).is_some(),
            "policy" => self.policies.find(name).is_some(),
            _ => self
                .policies
                .find(policy)
                .is_some_and(|policy| policy.rules.find(name).is_some()),
        };
        if !known {
            let message = format!(
                "there is no {} {} in this script; the line was left out",
                command.object,
                quote(name)
            );
            findings.loss(line, message);
            return Ok(());
        }
        match command.object {
            "filterlist" => {
                if let Some(new) = new {
                    self.lists.rename(name, new)?;
                    self.for_each_rule(|rule| rename(&mut rule.list, name, new))?;
                }
            }
            "filteraction" => {
                if let Some(action) = self.actions.find_mut(name) {
                    action.set(&arguments)?;
                }
                if let Some(new) = new {
                    self.actions.rename(name, new)?;
                    self.for_each_rule(|rule| rename(&mut rule.action, name, new))?;
                }
            }
            "policy" => {
                self.set_policy(line, name, &arguments, findings)?;
                if let Some(new) = new {
                    let assigned = self.is_assigned(name);
                    self.policies.rename(name, new)?;
                    if assigned {
                        self.assigned = Some(new.to_lowercase());
                    }
                }
            }
            _ => {
                let Some(policy) = self.policies.find_mut(policy) else {
                    return Ok(());
                };
                if let Some(rule) = policy.rules.find_mut(name) {
                    rule.set(&arguments)?;
                }
                if let Some(new) = new {
                    policy.rules.rename(name, new)?;
                }
            }
        }
        Ok(())
    }

    /// Bounds the work of commands that look at many objects each.
    fn search(&mut self, count: usize) -> Result<(), String> {
        self.searched = self.searched.saturating_add(count);
        if self.searched > MAX_SEARCHED {
            return Err("too much is deleted and renamed; write the script without".to_owned());
        }
        Ok(())
    }

    fn for_each_rule(&mut self, mut change: impl FnMut(&mut Rule)) -> Result<(), String> {
        let rules = self
            .policies
            .iter()
            .map(|(_, policy)| policy.rules.len() + 1)
            .sum();
        self.search(rules)?;
        for rule in self
            .policies
            .iter_mut()
            .flat_map(|policy| policy.rules.iter_mut())
        {
            change(rule);
        }
        Ok(())
    }

    /// What does not exist is deleted: scripts begin by taking away what an earlier run left.
    pub(super) fn delete(
        &mut self,
        line: u32,
        command: &Command,
        findings: &mut Findings,
    ) -> Result<(), String> {
        if command.object == "all" {
            self.lists.clear();
            self.actions.clear();
            self.policies.clear();
            self.assigned = None;
            return Ok(());
        }
        let arguments = command.arguments(match command.object {
            "filter" => FILTER,
            "rule" => &["name", "id", "all", "policy"],
            _ => &["name", "guid", "all"],
        })?;
        if arguments.has("guid") || arguments.has("id") {
            findings.loss(
                line,
                "an object named by its number cannot be followed in a script; the line was left out",
            );
            return Ok(());
        }
        if command.object == "filter" {
            let filter = Filter::read(line, &arguments)?;
            let name = arguments.required("filterlist")?;
            self.search(self.lists.find(name).map_or(0, |list| list.filters.len()))?;
            if let Some(list) = self.lists.find_mut(name) {
                list.filters
                    .retain(|old| Filter { line, ..old.clone() } != filter);
            }
            return Ok(());
        }
        let name = arguments.text("name").unwrap_or("all");
        let all = name.eq_ignore_ascii_case("all");
        match (command.object, all) {
            ("filterlist", true) => self.lists.clear(),
            ("filterlist", false) => self.lists.remove(name),
            ("filteraction", true) => self.actions.clear(),
            ("filteraction", false) => self.actions.remove(name),
            ("policy", true) => self.policies.clear(),
            ("policy", false) => self.policies.remove(name),
            _ => {
                if let Some(policy) = self.policies.find_mut(arguments.required("policy")?) {
                    if all {
                        policy.rules.clear();
                    } else {
                        policy.rules.remove(name);
                    }
                }
            }
        }
        Ok(())
    }
}

fn rename(name: &mut String, old: &str, new: &str) {
    if name.to_lowercase() == old.to_lowercase() {
        new.clone_into(name);
    }
}
