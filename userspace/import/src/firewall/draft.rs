//! Chains as a policy.

use std::net::IpAddr;

use crate::draft::{self, Draft, Filter, Names};
use crate::findings::Findings;
use crate::firewall::flatten::{Entry, flatten};
use crate::firewall::{Firewall, FirewallOptions, Hook, Matches, Verdict};

/// Between the priorities of two rules: room for rules in between.
const STEP: usize = 10;

impl Firewall {
    /// The policy that these chains amount to.
    ///
    /// A policy has no hooks. What the chains of input and output decide is said with `me`: packets to and from this
    /// machine. Those rules come first, so that what is left for the chains of forward is the rest.
    pub(crate) fn draft(&self, options: &FirewallOptions, findings: &mut Findings) -> Draft {
        let mut writer = Writer {
            firewall: self,
            local: &options.local,
            draft: Draft::default(),
            names: Names::default(),
            default: "permit",
        };
        let forwards = self.bases.iter().any(|base| base.hook == Hook::Forward);
        for hook in [Hook::Input, Hook::Output, Hook::Forward] {
            if self.bases.iter().any(|base| base.hook == hook) {
                writer.hook(hook, findings);
            } else if forwards && hook != Hook::Forward {
                writer.permit_all(hook);
            }
        }
        self.tell_foreign_icmp(findings);
        if self.bases.is_empty() {
            findings.loss(
                0,
                "there is no base chain at input, output or forward, so there are no rules",
            );
        }
        writer
            .draft
            .settings
            .push(("default", draft::quoted(writer.default)));
        writer.draft
    }
}

impl Firewall {
    /// What rules say about packets that nobody sends, and no filter can say: the ICMP of one version of IP in the other.
    fn tell_foreign_icmp(&self, findings: &mut Findings) {
        const WHAT: &str =
            "protocol 1 (icmp) in IPv6 and protocol 58 (icmp6) in IPv4 are not known to a policy";
        for rule in self.chains.iter().flat_map(|chain| &chain.rules) {
            let mut foreign = rule.matches.iter().filter(|one| one.names_foreign_icmp());
            let Some(first) = foreign.next() else { continue };
            if first.family.is_none() && foreign.all(|one| one.family.is_none()) {
                // Each in its own version is meant: `nft list` itself does not print the version then.
                findings.note(rule.line, format!("{WHAT}; the rule does nothing about them"));
                continue;
            }
            let effect = match rule.verdict {
                Verdict::Accept => "accepts",
                Verdict::Drop => "drops",
                Verdict::Jump(_) | Verdict::Goto(_) | Verdict::Return => "matches",
            };
            findings.loss(
                rule.line,
                format!("{WHAT}; what the rule {effect} of them meets the rules after it"),
            );
        }
    }
}

struct Writer<'f> {
    firewall: &'f Firewall,
    local: &'f [IpAddr],
    draft: Draft,
    names: Names,
    default: &'static str,
}

impl Writer<'_> {
    fn hook(&mut self, hook: Hook, findings: &mut Findings) {
        let Some(mut entries) = flatten(self.firewall, hook, findings) else {
            return;
        };
        let line = entries.last().map_or(0, |entry| entry.line);
        self.tell(hook, line, &entries, findings);
        // What is left at the end of forward is the default.
        if hook == Hook::Forward
            && let Some(last) = entries.pop_if(|last| last.matches == Matches::default())
        {
            self.default = action(last.accept);
        }
        let mut entries = entries.into_iter().peekable();
        while let Some(entry) = entries.next() {
            let mut filters = entry.matches.filters(entry.line, hook, self.local);
            while let Some(more) = entries.next_if(|more| {
                (more.line, more.chain, more.accept) == (entry.line, entry.chain, entry.accept)
            }) {
                filters.extend(more.matches.filters(more.line, hook, self.local));
            }
            self.rule(&entry, filters);
        }
    }

    fn rule(&mut self, entry: &Entry, filters: Vec<Filter>) {
        if filters.is_empty() {
            return;
        }
        let chain = &self.firewall.chains[entry.chain];
        let title = if entry.line == chain.line {
            format!("line {}: policy of chain {}", entry.line, chain.name)
        } else {
            format!("line {}: chain {}", entry.line, chain.name)
        };
        let name = if entry.line == chain.line {
            format!("{} policy", chain.name)
        } else {
            format!("{} {}", chain.name, entry.line)
        };
        self.push(&name, title, filters, action(entry.accept));
    }

    fn push(&mut self, name: &str, comment: String, filters: Vec<Filter>, action: &'static str) {
        let name = self.names.unique(name);
        let priority = (self.draft.rules.len() + 1) * STEP;
        self.draft.lists.push(draft::List {
            name: name.clone(),
            comment: comment.clone(),
            filters,
        });
        self.draft.rules.push(draft::Rule {
            comment,
            list: name.clone(),
            name,
            action,
            keys: vec![("priority", priority.to_string())],
        });
    }

    /// A hook without a chain accepts, and forward must not have these packets.
    fn permit_all(&mut self, hook: Hook) {
        let comment = format!("no chain at {}: everything is accepted", hook.name());
        let filters = Matches::default().filters(0, hook, &[]);
        self.push(&format!("all {}", hook.name()), comment, filters, "permit");
    }

    /// How the hook is expressed.
    fn tell(&self, hook: Hook, line: u32, entries: &[Entry], findings: &mut Findings) {
        let (side, named): (_, fn(&Matches) -> bool) = match hook {
            Hook::Input => ("destination", Matches::names_destination),
            Hook::Output => ("source", Matches::names_source),
            Hook::Forward => {
                findings.note(
                    line,
                    "rules of forward come after those of input and output, and hold for packets that are neither to nor from `me`",
                );
                return;
            }
        };
        let mut message = format!("rules of {} have {side} = \"me\"", hook.name());
        if hook == Hook::Input {
            message
                .push_str(": unlike there, packets to broadcast and multicast addresses do not match them");
        }
        findings.note(line, message);
        if self.local.is_empty()
            && let Some(entry) = entries.iter().find(|entry| named(&entry.matches))
        {
            let message = format!(
                "rules of {} that name a {side}, from here on, hold for forwarded packets with it as well; --local ADDRESS limits them to this machine's",
                hook.name()
            );
            findings.note(entry.line, message);
        }
        if entries.iter().any(|entry| entry.matches.family.is_none()) {
            return;
        }
        findings.note(
            line,
            format!(
                "{} is about one version of IP; packets of the other match no rule of it",
                hook.name()
            ),
        );
    }
}

fn action(accept: bool) -> &'static str {
    if accept { "permit" } else { "block" }
}
