//! What a policy says as a whole, outside its rules.

use crate::diagnostic::{Report, quote};
use crate::reader::{Node, Table};
use crate::rule::DefaultAction;
use crate::schema::{Key, Kind, Literal, TableSpec};

/// What a policy says as a whole.
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
    /// How a host's own packets get to be protected.
    pub host_edge: HostEdge,
}

/// How a host's own packets get to be protected, and opened ones back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostEdge {
    /// Through a TUN device.
    #[default]
    Tun,
    /// Through a pair of veth devices.
    Veth,
}

pub(crate) static INTERFACES: TableSpec = TableSpec {
    what: "[interfaces]",
    id: "interfaces",
    keys: &[
        Key::optional(
            "outer",
            Kind::Interface,
            "The device on the side of the wire, which carries ESP",
        ),
        Key::optional(
            "inner",
            Kind::Interface,
            "The device on the clear side; without it Ravelin filters, and protects nothing that is forwarded",
        ),
        Key::default(
            "host-edge",
            Kind::Choice(&["tun", "veth"]),
            Literal::Word("tun"),
            "How a host's own packets get to the workers in host mode: through a TUN device, or a pair of veth devices",
        ),
    ],
};

impl Settings {
    /// `tops` are the files' top levels; each setting is in at most one of them.
    pub(crate) fn read(report: &mut Report<'_>, tops: &[Table<'_>]) -> Option<Self> {
        let holder = |report: &mut Report<'_>, key| holder(report, tops, key);
        let choices = [("permit", DefaultAction::Permit), ("block", DefaultAction::Block)];
        let default = holder(report, "default").and_then(|top| top.choice(report, "default", &choices));
        let non_ip = holder(report, "non-ip").and_then(|top| top.choice(report, "non-ip", &choices));
        let audit = holder(report, "audit").and_then(|top| read_audit(report, top));
        let exemptions = holder(report, "exemptions").and_then(|top| read_exemptions(report, top));
        let boot = holder(report, "boot").and_then(|top| read_boot(report, top));
        let interfaces = holder(report, "interfaces").and_then(|top| {
            top.or_default("interfaces", Interfaces::default(), |node| {
                read_interfaces(report, node)
            })
        });
        Some(Self {
            default: default?,
            non_ip: non_ip?,
            audit: audit?,
            exemptions: exemptions?,
            boot: boot?,
            interfaces: interfaces?,
        })
    }
}

/// The top level with the key, or any without; a second one with it is reported.
pub(crate) fn holder<'t, 'a>(
    report: &mut Report<'_>,
    tops: &'t [Table<'a>],
    key: &str,
) -> Option<&'t Table<'a>> {
    let mut holders = tops.iter().filter(|top| top.has(key));
    let Some(first) = holders.next() else {
        return tops.first();
    };
    for node in holders.filter_map(|top| top.optional(key)) {
        let place = first.optional(key).map(|first| report.position(&first.span()));
        let place = report.place(place.unwrap_or_default());
        report.error(
            &node.span(),
            format!("{key} is already given at {place}; a policy has it once"),
        );
    }
    Some(first)
}

fn read_audit(report: &mut Report<'_>, top: &Table<'_>) -> Option<bool> {
    let audit = top.boolean(report, "audit")?;
    if audit && let Some(node) = top.optional("audit") {
        let position = report.position(&node.span());
        report.warn(
            position,
            "the policy is in audit mode: nothing is dropped, only counted",
        );
    }
    Some(audit)
}

/// Who asks for what there is not must not believe that it is there.
fn read_boot(report: &mut Report<'_>, top: &Table<'_>) -> Option<Boot> {
    let choices = [
        ("permit", Boot::Permit),
        ("block", Boot::Block),
        ("stateful", Boot::Stateful),
    ];
    let boot = top.choice(report, "boot", &choices)?;
    if boot == Boot::Stateful
        && let Some(node) = top.optional("boot")
    {
        let position = report.position(&node.span());
        report.warn(
            position,
            "boot = \"stateful\" is not enforced yet: until `ravelin run` has put the policy in force after a boot, everything passes \
             that the kernel's own rules let pass; write boot = \"block\" to be shut until then",
        );
    }
    Some(boot)
}

fn read_exemptions(report: &mut Report<'_>, top: &Table<'_>) -> Option<Exemptions> {
    let level: u8 = top.integer(report, "exemptions")??;
    let exemptions = Exemptions::new(level)?;
    let open = match (
        exemptions.kerberos_and_rsvp(),
        exemptions.multicast_and_broadcast(),
    ) {
        (false, false) => return Some(exemptions),
        (true, false) => "anyone who sends from port 88 (Kerberos) reaches every port, past every rule",
        (false, true) => "multicast and broadcast pass every rule",
        (true, true) => {
            "anyone who sends from port 88 (Kerberos) reaches every port, past every rule, and so do multicast and \
             broadcast"
        }
    };
    if let Some(node) = top.optional("exemptions") {
        let position = report.position(&node.span());
        report.warn(
            position,
            format!("exemptions = {level}: {open}; write exemptions = 3"),
        );
    }
    Some(exemptions)
}

fn read_interfaces(report: &mut Report<'_>, node: Node<'_>) -> Option<Interfaces> {
    let table = node.table(report, &INTERFACES)?;
    let outer = table.or_default("outer", None, |node| read_interface(report, &node).map(Some));
    let inner = table.or_default("inner", None, |node| read_interface(report, &node).map(Some));
    let edges = [("tun", HostEdge::Tun), ("veth", HostEdge::Veth)];
    let host_edge = table.choice(report, "host-edge", &edges);
    let interfaces = Interfaces {
        outer: outer?,
        inner: inner?,
        host_edge: host_edge?,
    };
    if interfaces.outer.is_some() && interfaces.outer == interfaces.inner {
        report.error(
            table.span(),
            "outer and inner are the same interface; gateway mode needs two",
        );
        return None;
    }
    Some(interfaces)
}

/// Whether the kernel takes it as a device name (net/core/dev.c, `dev_valid_name`): 1 to 15 bytes, no `/`, `:`, space.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':'))
}

pub(crate) fn read_interface(report: &mut Report<'_>, node: &Node<'_>) -> Option<String> {
    let name = node.string(report)?;
    if !is_interface_name(name) {
        report.error(
            &node.span(),
            format!("{} is not the name of a network interface", quote(name)),
        );
        return None;
    }
    Some(name.to_owned())
}
