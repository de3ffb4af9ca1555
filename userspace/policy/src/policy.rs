//! The checked policy.

use std::io::Read as _;
use std::path::Path;

use crate::check;
use crate::connection::Connection;
use crate::diagnostic::{PolicyErrors, Report, Warning};
use crate::document;
use crate::filter::{Filter, FilterList};
use crate::rule::{DefaultAction, Rule};

/// Largest policy file in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// A policy without contradictions: every index and name in it refers to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    default: DefaultAction,
    non_ip: DefaultAction,
    interfaces: Interfaces,
    filter_lists: Vec<FilterList>,
    rules: Vec<Rule>,
    connections: Vec<Connection>,
}

/// Devices named in the policy; the command line overrides them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// The device on the wire side, which carries ESP.
    pub outer: Option<String>,
    /// The device on the clear side; without it there is no gateway.
    pub inner: Option<String>,
}

impl Policy {
    /// Reads and checks a policy file. Relative key files are relative to its folder.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), PolicyErrors> {
        let name = path.display().to_string();
        let failed = |what: String| PolicyErrors::whole_file(&name, what);
        let file =
            std::fs::File::open(path).map_err(|error| failed(format!("cannot open the policy: {error}")))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(failed(
                "this is a directory; name the policy file in it".to_owned(),
            ));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed(format!("cannot read the policy: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse_bytes(&bytes, &name, folder)
    }

    /// Checks the text of a policy. `name` stands in messages; relative key files are relative to its folder.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn parse(text: &str, name: &str) -> Result<(Self, Vec<Warning>), PolicyErrors> {
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        Self::parse_bytes(text.as_bytes(), name, folder)
    }

    fn parse_bytes(bytes: &[u8], name: &str, folder: &Path) -> Result<(Self, Vec<Warning>), PolicyErrors> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let message = format!("larger than {} MiB; this is no policy", MAX_FILE_BYTES >> 20);
            return Err(PolicyErrors::whole_file(name, message));
        }
        let text = text_of(bytes, name)?;
        let mut report = Report::new(name, text);
        let policy = document::read(&mut report, text, folder);
        if let Some(policy) = &policy {
            check::check(policy, &mut report);
        }
        let warnings = report.finish()?;
        policy
            .map(|policy| (policy, warnings))
            .ok_or_else(|| PolicyErrors::whole_file(name, "the policy could not be read".to_owned()))
    }

    pub(crate) fn new(
        default: DefaultAction,
        non_ip: DefaultAction,
        interfaces: Interfaces,
        filter_lists: Vec<FilterList>,
        rules: Vec<Rule>,
        connections: Vec<Connection>,
    ) -> Self {
        Self {
            default,
            non_ip,
            interfaces,
            filter_lists,
            rules,
            connections,
        }
    }

    /// What happens to packets that match no rule.
    #[must_use]
    pub fn default_action(&self) -> DefaultAction {
        self.default
    }

    /// What happens to frames that are not IP (and not ARP).
    #[must_use]
    pub fn non_ip(&self) -> DefaultAction {
        self.non_ip
    }

    /// The devices it names.
    #[must_use]
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// The rules in the order of definition; the index is the rule's id.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The connections, ordered by name; the index is the connection's id.
    #[must_use]
    pub fn connections(&self) -> &[Connection] {
        &self.connections
    }

    /// The filter lists, ordered by name.
    #[must_use]
    pub fn filter_lists(&self) -> &[FilterList] {
        &self.filter_lists
    }

    /// The filters of one of this policy's rules.
    #[must_use]
    pub fn filters(&self, rule: &Rule) -> &[Filter] {
        self.filter_lists
            .get(rule.filter_list)
            .map_or(&[], |list| &list.filters)
    }
}

/// The bytes as text, or where they stop being text.
fn text_of<'b>(bytes: &'b [u8], name: &str) -> Result<&'b str, PolicyErrors> {
    let (valid, problem) = match std::str::from_utf8(bytes) {
        Ok(text) => match text.find('\0') {
            None => return Ok(text),
            Some(at) => (&text[..at], "a NUL byte; a policy is text"),
        },
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or(&[]);
            (
                std::str::from_utf8(valid).unwrap_or(""),
                "not UTF-8; save the policy as UTF-8 text",
            )
        }
    };
    let mut report = Report::new(name, valid);
    report.error(&(valid.len()..valid.len()), problem);
    report.finish().map(|_| "")
}
