//! Packet filters with ordered rules in chains, as netfilter has them: what nftables and iptables have in common.
//!
//! A reader fills a [`Firewall`]; [`Firewall::draft`] makes a policy of it. The first rule that matches a packet decides in
//! a chain, so the rules of a policy get ascending priorities. Chains that are jumped to are written out in place; where
//! a packet comes back from a chain, the rules it meets next are written out again for it, which keeps the result exact.

mod draft;
mod flatten;
mod matches;
mod ranges;
mod trouble;
pub(crate) mod value;

use std::collections::HashMap;
use std::net::IpAddr;

pub(crate) use matches::{Field, Matches};
pub(crate) use ranges::Ranges;
pub(crate) use trouble::{Trouble, allow_new_only};

/// What a set of chains does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirewallOptions {
    /// Addresses of the machine the policy is for: what rules at input and output that name others cannot match.
    pub local: Vec<IpAddr>,
}

/// Where a packet meets a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    /// On its way to this machine.
    Input,
    /// On its way from this machine.
    Output,
    /// On its way through.
    Forward,
}

impl Hook {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "input" | "INPUT" => Some(Self::Input),
            "output" | "OUTPUT" => Some(Self::Output),
            "forward" | "FORWARD" => Some(Self::Forward),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Forward => "forward",
        }
    }
}

/// What happens to a packet that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
}

/// A rule that can be expressed. One line may have several: they follow one another.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) line: u32,
    /// Any of these matches.
    pub(crate) matches: Vec<Matches>,
    pub(crate) verdict: Verdict,
}

/// A chain of rules.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) line: u32,
    pub(crate) rules: Vec<Rule>,
}

/// A chain that packets come to by themselves.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) hook: Hook,
    /// Chains of one hook are met in ascending order of this.
    pub(crate) priority: i64,
    /// The packets that its table is about.
    pub(crate) matches: Matches,
    pub(crate) accepts: bool,
    /// Index of the chain.
    pub(crate) chain: usize,
}

/// A set of chains.
#[derive(Debug, Default)]
pub(crate) struct Firewall {
    pub(crate) chains: Vec<Chain>,
    /// Chains by table and name.
    pub(crate) by_name: HashMap<(usize, String), usize>,
    /// The table of each chain.
    pub(crate) tables: Vec<usize>,
    pub(crate) bases: Vec<Base>,
}

impl Firewall {
    /// The chain of this name in a table, made when there is none.
    pub(crate) fn chain(&mut self, table: usize, name: &str, line: u32) -> usize {
        if let Some(index) = self.by_name.get(&(table, name.to_owned())) {
            return *index;
        }
        let index = self.chains.len();
        self.chains.push(Chain {
            name: name.to_owned(),
            line,
            rules: Vec::new(),
        });
        self.tables.push(table);
        self.by_name.insert((table, name.to_owned()), index);
        index
    }
}
