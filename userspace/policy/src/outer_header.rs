//! What a connection in tunnel mode writes into outer headers (RFC 4301 section 5.1.2).

use crate::diagnostic::Report;
use crate::reader::Table;
use crate::schema::{Key, Kind, Literal};

const TUNNEL: Literal = Literal::Word("tunnel");

pub(crate) const DF: Key = Key::default(
    "df",
    Kind::Choice(&["copy", "set", "clear"]),
    Literal::Word("copy"),
    "DF of outer IPv4 headers: the inner packet's, always, or never",
)
.only_with("mode", TUNNEL);

pub(crate) const DSCP: Key = Key::default(
    "dscp",
    Kind::WordOr(&["copy"], 0, 63),
    Literal::Word("copy"),
    "DSCP of outer headers: the inner packet's, or this one",
)
.only_with("mode", TUNNEL);

pub(crate) const INNER_DSCP: Key = Key::default(
    "inner-dscp",
    Kind::Choice(&["keep", "copy"]),
    Literal::Word("keep"),
    "DSCP of opened packets: as it was sealed, or the outer header's",
)
.only_with("mode", TUNNEL);

pub(crate) const ECN: Key = Key::default(
    "ecn",
    Kind::Choice(&["normal", "compatibility"]),
    Literal::Word("normal"),
    "How congestion marks enter the tunnel (RFC 6040 section 4.1)",
)
.only_with("mode", TUNNEL);

pub(crate) const FLOW_LABEL: Key = Key::default(
    "flow-label",
    Kind::Choice(&["derived", "copy", "zero"]),
    Literal::Word("derived"),
    "Flow label of outer IPv6 headers: one for the SA, the inner packet's, or none",
)
.only_with("mode", TUNNEL);

pub(crate) const HOP_LIMIT: Key = Key::default(
    "hop-limit",
    Kind::Integer(1, 255),
    Literal::Integer(64),
    "TTL or hop limit of outer headers",
)
.only_with("mode", TUNNEL);

/// How outer headers relate to inner ones; has no effect in transport mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OuterHeader {
    /// DF of IPv4.
    pub dont_fragment: DontFragment,
    /// DSCP, 0 to 63; `None` copies the inner packet's.
    pub dscp: Option<u8>,
    /// Opened packets get the outer header's DSCP.
    pub copy_dscp_inward: bool,
    /// Congestion marks are hidden from the path (RFC 6040's compatibility mode).
    pub ecn_compatibility: bool,
    /// Flow label of IPv6.
    pub flow_label: FlowLabel,
    /// TTL or hop limit, at least 1.
    pub hop_limit: u8,
}

/// DF of outer IPv4 headers (RFC 4301 section 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DontFragment {
    /// The inner packet's; an IPv6 packet counts as one with DF.
    Copy,
    /// Always.
    Set,
    /// Never.
    Clear,
}

/// Flow label of outer IPv6 headers (RFC 6437).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowLabel {
    /// One for each SA.
    Derived,
    /// The inner packet's, if it is IPv6.
    Copy,
    /// None.
    Zero,
}

impl OuterHeader {
    pub(crate) fn read(report: &mut Report<'_>, table: &Table<'_>) -> Option<Self> {
        let dont_fragment = [
            ("copy", DontFragment::Copy),
            ("set", DontFragment::Set),
            ("clear", DontFragment::Clear),
        ];
        let flow_label = [
            ("derived", FlowLabel::Derived),
            ("copy", FlowLabel::Copy),
            ("zero", FlowLabel::Zero),
        ];
        let dont_fragment = table.choice(report, "df", &dont_fragment);
        let dscp = table.word_or_integer(report, "dscp", &[("copy", None)], Some);
        let copy_dscp_inward = table.choice(report, "inner-dscp", &[("keep", false), ("copy", true)]);
        let ecn_compatibility = table.choice(report, "ecn", &[("normal", false), ("compatibility", true)]);
        let flow_label = table.choice(report, "flow-label", &flow_label);
        let hop_limit = table.integer(report, "hop-limit");
        Some(Self {
            dont_fragment: dont_fragment?,
            dscp: dscp?,
            copy_dscp_inward: copy_dscp_inward?,
            ecn_compatibility: ecn_compatibility?,
            flow_label: flow_label?,
            hop_limit: hop_limit??,
        })
    }

    /// Reports keys that the outer family has no field for.
    pub(crate) fn check_family(report: &mut Report<'_>, table: &Table<'_>, ipv4: bool) {
        let (key, family) = if ipv4 {
            ("flow-label", "IPv6")
        } else {
            ("df", "IPv4")
        };
        if let Some(node) = table.optional(key) {
            let message = format!("{key} is only for ends of {family}; remove it");
            report.error(&node.span(), message);
        }
    }
}
