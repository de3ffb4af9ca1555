//! The checked policy.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use crate::check;
use crate::connection::Connection;
use crate::diagnostic::{PolicyErrors, Position, Report, Warning};
use crate::document;
use crate::filter::{Filter, FilterList};
use crate::rule::{DefaultAction, Rule};

/// Largest policy file in bytes; 250,000 rules with a filter each take 50 MB.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Most values, and most words, signs and lines, of a policy's text. The TOML tree takes some hundred bytes for each:
/// it would grow to 5 GB for a file of nothing else, and grows to 2 GB for a million filters.
const MAX_VALUES: usize = 8 << 20;
const MAX_WORDS: usize = 24 << 20;

/// Most filters of a policy, and most that its rules use together, after every group and name is written out.
pub(crate) const MAX_FILTERS: usize = 1_000_000;

/// A policy without contradictions: every index and name in it refers to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    files: Arc<[Arc<str>]>,
    settings: Settings,
    filter_lists: Vec<FilterList>,
    rules: Vec<Rule>,
    connections: Vec<Connection>,
}

/// What a policy says as a whole, outside its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) default: DefaultAction,
    pub(crate) non_ip: DefaultAction,
    pub(crate) audit: bool,
    pub(crate) exemptions: Exemptions,
    pub(crate) boot: Boot,
    pub(crate) interfaces: Interfaces,
}

/// Which traffic no filter applies to, besides ARP and neighbour discovery: a level from 0 to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Exemptions(u8);

impl Exemptions {
    /// Only IKE: UDP port 500, and UDP port 4500 with a non-ESP marker.
    pub const ONLY_IKE: Self = Self(3);

    /// The exemptions of a level from 0 to 3.
    #[must_use]
    pub fn new(level: u8) -> Option<Self> {
        (level <= 3).then_some(Self(level))
    }

    /// 0 to 3; the higher, the less is exempt.
    #[must_use]
    pub fn level(self) -> u8 {
        self.0
    }

    /// Whether multicast and broadcast pass.
    #[must_use]
    pub fn multicast_and_broadcast(self) -> bool {
        self.0 < 2
    }

    /// Whether Kerberos (TCP and UDP port 88, either side) and RSVP (protocol 46) pass. Whoever sends from port 88
    /// passes every filter then.
    #[must_use]
    pub fn kerberos_and_rsvp(self) -> bool {
        self.0 == 0 || self.0 == 2
    }
}

impl Default for Exemptions {
    fn default() -> Self {
        Self::ONLY_IKE
    }
}

/// What passes from boot until a policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Boot {
    /// Everything.
    Permit,
    /// The lifeline only: ARP, neighbour discovery, IKE.
    Block,
    /// What this machine sends and the replies to it, and DHCP.
    #[default]
    Stateful,
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
        check_density(text, name)?;
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
        files: Arc<[Arc<str>]>,
        settings: Settings,
        filter_lists: Vec<FilterList>,
        rules: Vec<Rule>,
        connections: Vec<Connection>,
    ) -> Self {
        Self {
            files,
            settings,
            filter_lists,
            rules,
            connections,
        }
    }

    /// The files it was read from, the one named first and then those that it includes.
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

/// Refuses what would take far more memory than a policy of its length.
fn check_density(text: &str, name: &str) -> Result<(), PolicyErrors> {
    let (mut values, mut words, mut before) = (0_usize, 0_usize, b' ');
    for byte in text.bytes() {
        values += usize::from(matches!(byte, b'=' | b',' | b'[' | b'{'));
        words += usize::from(matches!(
            byte,
            b'=' | b',' | b'[' | b'{' | b']' | b'}' | b'.' | b'\n'
        ));
        words += usize::from(byte == b' ' && before != b' ');
        before = byte;
    }
    let message = if values > MAX_VALUES {
        format!("more than {MAX_VALUES} values; this is no policy")
    } else if words > MAX_WORDS {
        format!("more than {MAX_WORDS} words and signs; this is no policy")
    } else {
        return Ok(());
    };
    Err(PolicyErrors::whole_file(name, message))
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
