//! Filters (RFC 4301 selectors) and lists of them.

use std::fmt;
use std::net::IpAddr;

use crate::address::{Address, Family};
use crate::diagnostic::{Position, Report};
use crate::group::{Groups, Side};
use crate::ports::PortSet;
use crate::protocol::Protocol;
use crate::reader::{Node, Table};
use crate::schema::{Key, Kind, Literal, TableSpec};
use crate::template::Template;

pub(crate) static FILTER_LIST: TableSpec = TableSpec {
    what: "a filter list",
    id: "filter-list",
    keys: &[Key::required("filters", Kind::Tables(&FILTER), "Which packets")],
};

pub(crate) static FILTER: TableSpec = TableSpec {
    what: "a filter",
    id: "filter",
    keys: &[
        Key::required(
            "source",
            Kind::Parties,
            "Source addresses; in a protect rule the local side",
        ),
        Key::required(
            "destination",
            Kind::Parties,
            "Destination addresses; in a protect rule the remote side",
        ),
        Key::default(
            "protocol",
            Kind::Protocol,
            Literal::Word("any"),
            "IP protocol, by name or number",
        ),
        Key::default(
            "source-port",
            Kind::Ports,
            Literal::Word("any"),
            "Source ports; the protocol is one that has ports",
        ),
        Key::default(
            "destination-port",
            Kind::Ports,
            Literal::Word("any"),
            "Destination ports; the protocol is one that has ports",
        ),
        Key::optional(
            "icmp-type",
            Kind::Integer(0, 255),
            "ICMP message type, with protocol \"icmp\" or \"icmp6\"",
        ),
        Key::optional(
            "icmp-code",
            Kind::Integer(0, 255),
            "ICMP message code, with icmp-type",
        ),
        Key::default(
            "mirrored",
            Kind::Boolean,
            Literal::Boolean(true),
            "The filter also stands for its reverse: addresses and ports swapped",
        ),
    ],
};

/// A named set of filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterList {
    /// Unique among filter lists.
    pub name: String,
    /// In the order of definition; may be empty. Filters whose addresses depend on the machine are among them only
    /// after [`Policy::resolve`](crate::Policy::resolve).
    pub filters: Vec<Filter>,
    /// Where it is defined.
    pub position: Position,
    /// Filters whose addresses depend on the machine, in the order of definition.
    pub(crate) templates: Vec<Template>,
}

impl FilterList {
    /// Whether it has no filters, nor any that appear when it is resolved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.templates.is_empty()
    }
}

/// Which packets.
///
/// In a `permit` or `block` rule source and destination are those of the packet. In a `protect` rule the source
/// is the local side and the destination the remote side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Source addresses.
    pub source: Address,
    /// Destination addresses; of the source's family unless one of the two is any.
    pub destination: Address,
    /// The protocol, unless it is any.
    pub protocol: Option<Protocol>,
    /// What else the transport header must say.
    pub selector: Selector,
    /// Whether the filter also stands for its reverse: addresses and ports swapped.
    pub mirrored: bool,
    /// Where it is defined.
    pub position: Position,
}

/// What a filter demands of the transport header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// Nothing; also matches later fragments, which have no transport header. In IPv6 only if the filter names no protocol
    /// either.
    Any,
    /// Ports, of which at least one set is not any; the protocol is one that has ports.
    Ports {
        /// Source ports.
        source: PortSet,
        /// Destination ports.
        destination: PortSet,
    },
    /// ICMP type and possibly code; the protocol is ICMP or ICMPv6.
    Icmp {
        /// Message type.
        kind: u8,
        /// Message code, unless it is any.
        code: Option<u8>,
    },
}

impl Filter {
    /// The only family it can match, if there is only one.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        let named = self.source.family().or(self.destination.family());
        // Each version of ICMP belongs to one version of IP (RFC 792, RFC 4443 section 1). In the other it is a number that
        // nobody listens to, and whoever writes `icmp` does not mean it.
        named.or_else(|| self.protocol.and_then(Protocol::family))
    }

    /// Whether the addresses match; `source` and `destination` are of one family.
    #[must_use]
    pub fn matches_addresses(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.family().is_none_or(|family| family == Family::of(source))
            && self.source.contains(source)
            && self.destination.contains(destination)
    }

    /// Whether it is its own reverse.
    pub(crate) fn is_its_reverse(&self) -> bool {
        self.source == self.destination
            && match &self.selector {
                Selector::Ports { source, destination } => source == destination,
                Selector::Any | Selector::Icmp { .. } => true,
            }
    }

    /// The same filter seen from the other end: addresses and ports swapped. ICMP type and code stay.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let selector = match &self.selector {
            Selector::Ports { source, destination } => Selector::Ports {
                source: destination.clone(),
                destination: source.clone(),
            },
            other => other.clone(),
        };
        Self {
            source: self.destination,
            destination: self.source,
            selector,
            ..self.clone()
        }
    }

    /// Reads a filter and adds what it stands for to `list`: the pairs of its sources and destinations, and a
    /// template when some of them depend on the machine. `room` is how many filters more there may be.
    pub(crate) fn read<'a>(
        report: &mut Report<'_>,
        node: Node<'a>,
        groups: &mut Groups<'a>,
        room: usize,
        list: &mut FilterList,
    ) -> Option<()> {
        let table = node.table(report, &FILTER)?;
        let source = read_side(report, &table, "source", groups);
        let destination = read_side(report, &table, "destination", groups);
        let protocol = table.or_default("protocol", None, |node| read_protocol(report, node));
        let mirrored = table.boolean(report, "mirrored");
        let selector = read_selector(report, &table, protocol);
        let (source, destination) = (source?, destination?);
        let pattern = Self {
            source: Address::Any,
            destination: Address::Any,
            protocol: protocol?,
            selector: selector?,
            mirrored: mirrored?,
            position: report.position(table.span()),
        };
        if let (Side::One(source), Side::One(destination)) = (&source, &destination) {
            let filter = pattern.between(*source, *destination);
            if filter.check_families(report, &table) {
                list.filters.push(filter);
                return Some(());
            }
            return None;
        }
        let template = Template::new(pattern, source.into_parties(), destination.into_parties());
        template.write_out(report, &table, room, list)
    }

    /// The same filter with other addresses.
    pub(crate) fn between(&self, source: Address, destination: Address) -> Self {
        Self {
            source,
            destination,
            ..self.clone()
        }
    }

    fn check_families(&self, report: &mut Report<'_>, table: &Table<'_>) -> bool {
        if let (Some(source), Some(destination)) = (self.source.family(), self.destination.family())
            && source != destination
        {
            report.error(
                table.span(),
                format!(
                    "the source is {source} and the destination {destination}; a filter is of one family"
                ),
            );
            return false;
        }
        if let (Some(protocol), Some(family)) = (self.protocol, self.family())
            && let Some(only) = protocol.family()
            && only != family
        {
            let other = if only == Family::V4 {
                Protocol::ICMP6
            } else {
                Protocol::ICMP
            };
            report.error(
                table.span(),
                format!(
                    "protocol {protocol} belongs to {only}, but the addresses are {family}; write \"{other}\""
                ),
            );
            return false;
        }
        true
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.destination)?;
        if let Some(protocol) = self.protocol {
            write!(f, " {protocol}")?;
        }
        match &self.selector {
            Selector::Any => Ok(()),
            Selector::Ports { source, destination } => write!(f, " ports {source} -> {destination}"),
            Selector::Icmp { kind, code: None } => write!(f, " type {kind}"),
            Selector::Icmp {
                kind,
                code: Some(code),
            } => write!(f, " type {kind} code {code}"),
        }
    }
}

fn read_side<'a>(
    report: &mut Report<'_>,
    table: &Table<'a>,
    key: &str,
    groups: &mut Groups<'a>,
) -> Option<Side> {
    let node = table.required(report, key)?;
    groups.read_side(report, node)
}

/// `Some(None)` is any protocol.
fn read_protocol(report: &mut Report<'_>, node: Node<'_>) -> Option<Option<Protocol>> {
    let number = match node.as_string() {
        Some("any") => return Some(None),
        Some(name) => {
            if let Some(protocol) = Protocol::named(name) {
                return Some(Some(protocol));
            }
            name.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| name.parse::<u8>().ok())
                .flatten()
        }
        None => node.as_integer().and_then(|number| u8::try_from(number).ok()),
    };
    if number.is_none() {
        node.wrong_type(
            report,
            &format!("a protocol: any, {} or a number from 0 to 255", Protocol::names()),
        );
    }
    number.map(|number| Some(Protocol(number)))
}

/// `protocol` is `None` when it was wrong, which has been reported.
fn read_selector(
    report: &mut Report<'_>,
    table: &Table<'_>,
    protocol: Option<Option<Protocol>>,
) -> Option<Selector> {
    let source = table.or_default("source-port", PortSet::ANY, |node| PortSet::read(report, node));
    let destination = table.or_default("destination-port", PortSet::ANY, |node| {
        PortSet::read(report, node)
    });
    let kind = table.integer(report, "icmp-type");
    let code = table.integer(report, "icmp-code");
    let (source, destination, kind, code, protocol) = (source?, destination?, kind?, code?, protocol?);

    let has_ports = protocol.is_some_and(Protocol::has_ports);
    for key in ["source-port", "destination-port"] {
        if let Some(node) = table.optional(key)
            && !has_ports
            && !(source.is_any() && destination.is_any())
        {
            let what = protocol.map_or("any protocol".to_owned(), |protocol| {
                format!("protocol {protocol}")
            });
            report.error(
                &node.span(),
                format!("{what} has no ports; write protocol = \"tcp\", \"udp\", \"sctp\", \"dccp\" or \"udplite\""),
            );
            return None;
        }
    }
    for key in ["icmp-type", "icmp-code"] {
        if let Some(node) = table.optional(key)
            && !protocol.is_some_and(Protocol::is_icmp)
        {
            report.error(
                &node.span(),
                format!("{key} needs protocol = \"icmp\" or \"icmp6\""),
            );
            return None;
        }
    }
    match (kind, code) {
        (Some(kind), code) => Some(Selector::Icmp { kind, code }),
        (None, Some(_)) => {
            report.error(
                table.span(),
                "icmp-code needs icmp-type: a code means nothing without its type",
            );
            None
        }
        (None, None) if source.is_any() && destination.is_any() => Some(Selector::Any),
        (None, None) => Some(Selector::Ports { source, destination }),
    }
}
