//! Rules: one filter list and one action.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::diagnostic::{Position, Report, quote};
use crate::document::read_name;
use crate::order::Priority;
use crate::reader::{Node, Table, closest};
use crate::schema::{Key, Kind, Literal, TableSpec};
use crate::settings::read_interface;

const PROTECT: Literal = Literal::Word("protect");

pub(crate) static RULE: TableSpec = TableSpec {
    what: "a rule",
    id: "rule",
    keys: &[
        Key::required(
            "name",
            Kind::Name,
            "Unique among rules; counters are shown under it",
        ),
        Key::required("filter-list", Kind::Name, "Which packets: a filter list"),
        Key::required(
            "action",
            Kind::Choice(&["permit", "block", "protect"]),
            "Pass in the clear, drop silently, or only as ESP",
        ),
        Key::optional(
            "connection",
            Kind::Name,
            "How to protect: a connection; required for protect",
        )
        .only_with("action", PROTECT),
        Key::optional(
            "priority",
            Kind::Integer(0, u32::MAX as i64),
            "Smaller wins over larger, any over none; without it the more specific filter wins",
        ),
        Key::default(
            "accept-unsecured",
            Kind::Boolean,
            Literal::Boolean(false),
            "A clear packet from the remote side is accepted too",
        )
        .only_with("action", PROTECT),
        Key::default(
            "fallback-clear",
            Kind::Boolean,
            Literal::Boolean(false),
            "Outbound packets go in the clear when the peer gives no answer at all to key negotiation",
        )
        .only_with("action", PROTECT),
        Key::default(
            "soft-expiry",
            Kind::Integer(1, 7 * 24 * 3_600),
            Literal::Integer(3_600),
            "Seconds that a fallback to clear packets lasts",
        )
        .only_with("fallback-clear", Literal::Boolean(true)),
        Key::default(
            "audit",
            Kind::Boolean,
            Literal::Boolean(false),
            "What the rule would drop is counted, and passes",
        ),
        Key::default(
            "active",
            Kind::Boolean,
            Literal::Boolean(true),
            "An inactive rule is checked and matches nothing",
        ),
        Key::optional(
            "interfaces",
            Kind::Interfaces,
            "The rule is in force only where the outer device is one of these; without it, everywhere",
        ),
    ],
};

/// What happens to packets that no rule matches, and to packets that are not IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DefaultAction {
    /// Pass.
    #[default]
    Permit,
    /// Drop.
    Block,
}

/// What a rule does with its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Pass in the clear (RFC 4301 BYPASS).
    Permit,
    /// Drop silently (RFC 4301 DISCARD).
    Block,
    /// Only inside ESP (RFC 4301 PROTECT).
    Protect {
        /// Index into [`Policy::connections`](crate::Policy::connections).
        connection: usize,
        /// Whether a clear packet from the remote side is accepted as well.
        accept_unsecured: bool,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permit => "permit",
            Self::Block => "block",
            Self::Protect { .. } => "protect",
        })
    }
}

/// One filter list and one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique among rules; counters are shown under it.
    pub name: String,
    /// Index into [`Policy::filter_lists`](crate::Policy::filter_lists).
    pub filter_list: usize,
    /// What to do.
    pub action: Action,
    /// The lifeline wins over all, a smaller priority over a larger, any over none; of equal ones the more specific filter wins.
    pub priority: Priority,
    /// An inactive rule is checked but matches nothing. Where the policy was resolved, one that is not for the outer device
    /// there is inactive too.
    pub active: bool,
    /// Whether it is active where it is for the outer device.
    pub(crate) enabled: bool,
    /// The outer devices that it is for; empty for any.
    pub interfaces: Vec<String>,
    /// What it would drop is counted and passes.
    pub audit: bool,
    /// Only for `permit`, and for a session's lifeline: what comes inside ESP of this connection is accepted as well (index into
    /// [`Policy::connections`](crate::Policy::connections)).
    pub inside: Option<usize>,
    /// Only for `protect`: outbound packets go in the clear, for this long at a time, when the peer gives no answer
    /// at all to key negotiation. `None` forbids it.
    pub fallback_clear: Option<Duration>,
    /// Where it is defined.
    pub position: Position,
}

/// The names a rule may refer to, with their indexes; `None` for one that is defined but faulty.
pub(crate) type Names<'a> = HashMap<&'a str, Option<usize>>;

impl Rule {
    /// Whether its being in force depends on the outer device.
    pub(crate) fn is_limited(&self) -> bool {
        self.enabled && !self.interfaces.is_empty()
    }

    /// Whether it is for this outer device.
    pub(crate) fn is_for(&self, outer: &str) -> bool {
        self.interfaces.is_empty() || self.interfaces.iter().any(|device| device == outer)
    }

    /// The rule's name and, unless something is wrong, the rule.
    pub(crate) fn read(
        report: &mut Report<'_>,
        node: Node<'_>,
        filter_lists: &Names<'_>,
        connections: &Names<'_>,
    ) -> Option<Self> {
        let table = node.table(report, &RULE)?;
        let name = table.required(report, "name").and_then(|node| {
            let name = node.string(report)?;
            read_name(report, name, &node.span())
        });
        let filter_list = table
            .required(report, "filter-list")
            .and_then(|node| look_up(report, node, filter_lists, "filter list", "filter-lists"));
        let priority = table.integer(report, "priority");
        let active = table.boolean(report, "active");
        let interfaces = table.or_default("interfaces", Vec::new(), |node| read_interfaces(report, &node));
        let audit = table.boolean(report, "audit");
        let fallback_clear = read_fallback_clear(report, &table);
        let unsecured = table.boolean(report, "accept-unsecured");

        let actions = [
            ("permit", Word::Permit),
            ("block", Word::Block),
            ("protect", Word::Protect),
        ];
        let action = table.choice(report, "action", &actions)?;
        let action = match action {
            Word::Permit => Action::Permit,
            Word::Block => Action::Block,
            Word::Protect => {
                let node = table.required(report, "connection")?;
                let connection = look_up(report, node, connections, "connection", "connections")?;
                Action::Protect {
                    connection,
                    accept_unsecured: unsecured?,
                }
            }
        };
        Some(Self {
            name: name?,
            filter_list: filter_list?,
            action,
            priority: priority?.map_or(Priority::None, Priority::Given),
            active: active?,
            enabled: active?,
            interfaces: interfaces?,
            audit: audit?,
            inside: None,
            fallback_clear: fallback_clear?,
            position: report.position(table.span()),
        })
    }
}

/// The names in the array, of which there must be one.
fn read_interfaces(report: &mut Report<'_>, node: &Node<'_>) -> Option<Vec<String>> {
    let devices = node.array(report, "names of network interfaces")?;
    if devices.len() == 0 {
        let message = "no interface is named; leave `interfaces` out for a rule that holds everywhere, or write active = false";
        report.error(&node.span(), message);
        return None;
    }
    let mut names = Vec::with_capacity(devices.len());
    for device in devices {
        names.push(read_interface(report, &device)?);
    }
    Some(names)
}

/// An action as it is written.
#[derive(Clone, Copy)]
enum Word {
    Permit,
    Block,
    Protect,
}

/// `Some(None)` when there is no fallback.
fn read_fallback_clear(report: &mut Report<'_>, table: &Table<'_>) -> Option<Option<Duration>> {
    let fallback = table.boolean(report, "fallback-clear");
    let expiry: u32 = table.integer(report, "soft-expiry")??;
    Some(fallback?.then(|| Duration::from_secs(expiry.into())))
}

fn look_up(
    report: &mut Report<'_>,
    node: Node<'_>,
    names: &Names<'_>,
    what: &str,
    section: &str,
) -> Option<usize> {
    let name = node.string(report)?;
    if let Some(index) = names.get(name) {
        return *index;
    }
    // In a file of mistakes only nobody reads what was meant.
    if report.only_counts() {
        report.error(&node.span(), "");
        return None;
    }
    let known: Vec<&str> = names.keys().copied().take(256).collect();
    let hint = closest(name, &known).map_or_else(
        || format!("define it under [{section}]"),
        |near| format!("did you mean {}?", quote(near)),
    );
    report.error(
        &node.span(),
        format!("there is no {what} {}; {hint}", quote(name)),
    );
    None
}
