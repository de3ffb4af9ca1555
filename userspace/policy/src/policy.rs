//! The checked policy.

use std::path::Path;
use std::sync::Arc;

use crate::check;
use crate::connection::Connection;
use crate::diagnostic::{PolicyErrors, Position, Report, Warning};
use crate::document;
use crate::filter::{Filter, FilterList};
use crate::lifeline::{self, Management, SessionPath};
use crate::rule::{DefaultAction, Rule};
use crate::settings::{Boot, Exemptions, Interfaces, Settings};
use crate::source::{self, Part, Texts, Witness};

/// Largest policy in bytes, with all files it includes; 250,000 rules with a filter each take 50 MB.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Most filters of a policy, and most that its rules use together, after every group and name is written out.
pub const MAX_FILTERS: usize = 1_000_000;

/// A policy without contradictions: every index and name in it refers to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    files: Arc<[Arc<str>]>,
    settings: Settings,
    ssh_session: bool,
    filter_lists: Vec<FilterList>,
    rules: Vec<Rule>,
    connections: Vec<Connection>,
}

impl Policy {
    /// Reads and checks a policy file and those it includes. Relative paths in a file are relative to its folder.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), PolicyErrors> {
        Self::load_before(path, &mut ())
    }

    /// The same before a witness, who is told of each file.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn load_before(path: &Path, witness: &mut dyn Witness) -> Result<(Self, Vec<Warning>), PolicyErrors> {
        let texts = Texts::new();
        let mut report = Report::default();
        let parts = source::load(&mut report, &texts, path, witness);
        Self::build(report, parts)
    }

    /// Checks the text of a policy, which cannot include files. `name` stands in messages; relative key files are
    /// relative to its folder.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn parse(text: &str, name: &str) -> Result<(Self, Vec<Warning>), PolicyErrors> {
        let mut report = Report::default();
        let parts = source::parse(&mut report, text, name);
        Self::build(report, parts)
    }

    /// What is in force from boot until the policy in this file is: the lifeline that it gives, and frames that are not IP as it
    /// says; everything else is blocked. Of a policy with mistakes, which are returned, what they are not about counts:
    /// top level, `[addresses]` and `[lifeline]`. Where not even that can be read, nothing passes, and
    /// [`Policy::boot`] is [`Boot::Block`].
    #[must_use]
    pub fn load_at_boot(path: &Path) -> (Self, Option<PolicyErrors>) {
        let mistakes = match Self::load(path) {
            Ok((policy, _)) => return (policy.at_boot(), None),
            Err(mistakes) => mistakes,
        };
        let texts = Texts::new();
        let mut report = Report::default();
        let parts = source::load(&mut report, &texts, path, &mut ());
        let read = parts.and_then(|parts| document::read_head(&mut report, &parts));
        let policy = read.unwrap_or_else(|| {
            let settings = Settings {
                boot: Boot::Block,
                ..Settings::default()
            };
            let name = path.display().to_string();
            Self::new(
                [name.into()].into(),
                settings,
                false,
                Vec::new(),
                Vec::new(),
                Vec::new(),
            )
        });
        (policy.at_boot(), Some(mistakes))
    }

    fn at_boot(mut self) -> Self {
        let lifeline = self.rules.iter().position(|rule| rule.name == lifeline::WRITTEN);
        let list = lifeline.map(|index| self.filter_lists.swap_remove(self.rules[index].filter_list));
        let settings = Settings {
            default: DefaultAction::Block,
            audit: false,
            exemptions: Exemptions::ONLY_IKE,
            ..self.settings
        };
        let rules = list.iter().map(|list| lifeline::rule(list, 0)).collect();
        let lists = list.into_iter().collect();
        Self::new(self.files, settings, false, lists, rules, Vec::new())
    }

    fn build(
        mut report: Report<'_>,
        parts: Option<Vec<Part<'_>>>,
    ) -> Result<(Self, Vec<Warning>), PolicyErrors> {
        let policy = parts.and_then(|parts| document::read(&mut report, &parts));
        if let Some(policy) = &policy {
            check::check(policy, &mut report);
        }
        report.finish(policy)
    }

    pub(crate) fn new(
        files: Arc<[Arc<str>]>,
        settings: Settings,
        ssh_session: bool,
        filter_lists: Vec<FilterList>,
        rules: Vec<Rule>,
        connections: Vec<Connection>,
    ) -> Self {
        Self {
            files,
            settings,
            ssh_session,
            filter_lists,
            rules,
            connections,
        }
    }

    /// The files it was read from: the one named, then those that it includes.
    #[must_use]
    pub fn files(&self) -> &[Arc<str>] {
        &self.files
    }

    /// The file that a position of this policy is in.
    #[must_use]
    pub fn file(&self, position: Position) -> &Arc<str> {
        let index = usize::from(position.file).min(self.files.len() - 1);
        &self.files[index]
    }

    /// What happens to packets that match no rule.
    #[must_use]
    pub fn default_action(&self) -> DefaultAction {
        self.settings.default
    }

    /// What happens to frames that are not IP (and not ARP).
    #[must_use]
    pub fn non_ip(&self) -> DefaultAction {
        self.settings.non_ip
    }

    /// Whether nothing is dropped: what the rules and defaults would drop is counted, and passes.
    #[must_use]
    pub fn audit(&self) -> bool {
        self.settings.audit
    }

    /// Which traffic no filter applies to.
    #[must_use]
    pub fn exemptions(&self) -> Exemptions {
        self.settings.exemptions
    }

    /// What passes from boot until this policy is in force.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.settings.boot
    }

    /// The devices it names.
    #[must_use]
    pub fn interfaces(&self) -> &Interfaces {
        &self.settings.interfaces
    }

    /// Whether the SSH connection from which it is put in force has a lifeline.
    #[must_use]
    pub fn ssh_session(&self) -> bool {
        self.ssh_session
    }

    /// Whether it gives a lifeline of its own.
    #[must_use]
    pub fn has_lifeline(&self) -> bool {
        self.rules.iter().any(|rule| rule.name == lifeline::WRITTEN)
    }

    /// The rules in the order of definition, then those of the lifeline; the index is the rule's id.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Gives the SSH connection from which it is put in force its lifeline, in place of the one that it has, or takes it. A policy that wants
    /// none for sessions has none.
    pub fn hold(&mut self, session: Option<(&Management, SessionPath)>) {
        while self.session_rule() == Some(self.rules.len().wrapping_sub(1))
            || self
                .rules
                .last()
                .is_some_and(|rule| rule.name == lifeline::ANSWERS)
        {
            self.rules.pop();
            self.filter_lists.pop();
        }
        if let Some((session, path)) = session.filter(|_| self.ssh_session) {
            let position = Position {
                file: 0,
                line: 1,
                column: 1,
            };
            let (lists, rules): (Vec<_>, Vec<_>) = session
                .rules(path, self.filter_lists.len(), position)
                .into_iter()
                .unzip();
            self.filter_lists.extend(lists);
            self.rules.extend(rules);
        }
    }

    /// The rule of what arrives for the SSH connection that has a lifeline.
    #[must_use]
    pub fn session_rule(&self) -> Option<usize> {
        // Behind it there is at most the one of its answers.
        let first = self.rules.len().saturating_sub(2);
        let at = self.rules[first..]
            .iter()
            .position(|rule| rule.name == lifeline::SESSION);
        at.map(|at| first + at)
    }

    pub(crate) fn rules_mut(&mut self) -> &mut [Rule] {
        &mut self.rules
    }

    /// The connections, ordered by name; the index is the connection's id.
    #[must_use]
    pub fn connections(&self) -> &[Connection] {
        &self.connections
    }

    /// The filter lists, ordered by name, then those of the lifeline.
    #[must_use]
    pub fn filter_lists(&self) -> &[FilterList] {
        &self.filter_lists
    }

    pub(crate) fn filter_lists_mut(&mut self) -> &mut [FilterList] {
        &mut self.filter_lists
    }

    /// The filters of one of this policy's rules.
    #[must_use]
    pub fn filters(&self, rule: &Rule) -> &[Filter] {
        self.filter_lists
            .get(rule.filter_list)
            .map_or(&[], |list| &list.filters)
    }
}
