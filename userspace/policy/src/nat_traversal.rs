//! What a connection does about NAT between its ends (RFC 3948).

use std::net::IpAddr;
use std::time::Duration;

use crate::address::Family;
use crate::connection::read_endpoint;
use crate::diagnostic::Report;
use crate::reader::Table;
use crate::schema::{Key, Kind, Literal};

const UDP: Literal = Literal::Word("udp");
const TRANSPORT: Literal = Literal::Word("transport");

pub(crate) const ORIGINAL_LOCAL: Key = Key::optional(
    "original-local",
    Kind::Address,
    "The address that the peer sends to, if a NAT makes `local` of it",
)
.only_with("mode", TRANSPORT);

pub(crate) const ORIGINAL_REMOTE: Key = Key::optional(
    "original-remote",
    Kind::Address,
    "The peer's own address, if a NAT makes `remote` of it",
)
.only_with("mode", TRANSPORT);

// RFC 3948 section 4: "M is a locally configurable parameter with a default value of 20 seconds."
pub(crate) const NAT_KEEPALIVE: Key = Key::default(
    "nat-keepalive",
    Kind::Integer(0, 3_600),
    Literal::Integer(20),
    "Seconds without an outbound packet after which a keepalive goes out; 0 for never",
)
.only_with("encapsulation", UDP);

pub(crate) const ADDRESS_UPDATE: Key = Key::default(
    "address-update",
    Kind::Choice(&["off", "signal", "port"]),
    Literal::Word("signal"),
    "What to do when authentic packets come from another address or port (RFC 7296 section 2.23)",
)
.only_with("encapsulation", UDP);

pub(crate) const UDP_ZERO_CHECKSUM: Key = Key::default(
    "udp-zero-checksum",
    Kind::Boolean,
    Literal::Boolean(false),
    "Over IPv6: send UDP checksum 0 (RFC 6935), if the peer is known to take it",
)
.only_with("encapsulation", UDP);

/// How a connection copes with NAT between its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatTraversal {
    /// Transport mode: the ends as the peer's packets have them before a NAT changes them; `None` without a NAT.
    pub original: Option<Ends>,
    /// How long nothing is sent before a keepalive is; `None` for never, and without UDP.
    pub keepalive: Option<Duration>,
    /// What becomes of authentic packets from elsewhere; off without UDP.
    pub address_update: AddressUpdate,
    /// UDP over IPv6 is sent without a checksum.
    pub udp_zero_checksum: bool,
}

/// Two ends, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// This end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
}

/// What is done about authentic packets that come from another address or port than the peer's: RFC 7296 section 2.23 calls it
/// dynamic address update. Whatever it is, packets that are not authentic change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressUpdate {
    /// They are dropped unseen.
    Off,
    /// They are verified, told of, and dropped.
    Signal,
    /// From another port of the same address they are accepted, and the newest one's is sent to from then on. The rest as with
    /// `Signal`.
    Port,
}

impl NatTraversal {
    /// `local` and `remote` are the connection's ends.
    pub(crate) fn read(
        report: &mut Report<'_>,
        table: &Table<'_>,
        udp: bool,
        ends: Option<(IpAddr, IpAddr)>,
    ) -> Option<Self> {
        let [original_local, original_remote] = ["original-local", "original-remote"].map(|key| {
            let read = |node| read_endpoint(report, node, key).map(Some);
            table.or_default(key, None, read)
        });
        let keepalive = table.integer(report, "nat-keepalive");
        let updates = [
            ("off", AddressUpdate::Off),
            ("signal", AddressUpdate::Signal),
            ("port", AddressUpdate::Port),
        ];
        let address_update = table.choice(report, "address-update", &updates);
        let udp_zero_checksum = table.boolean(report, "udp-zero-checksum");
        let (local, remote) = ends?;
        for (key, address) in [
            ("original-local", original_local),
            ("original-remote", original_remote),
        ] {
            check_original(report, table, key, address.flatten(), Family::of(local));
        }
        if local.is_ipv4()
            && udp_zero_checksum == Some(true)
            && let Some(node) = table.optional("udp-zero-checksum")
        {
            let message =
                "over IPv4 the checksum is always 0 (RFC 3948 section 2.1); remove udp-zero-checksum";
            report.error(&node.span(), message);
        }
        let (original_local, original_remote) = (original_local?, original_remote?);
        let keepalive: u32 = keepalive??;
        Some(Self {
            original: (original_local.is_some() || original_remote.is_some()).then_some(Ends {
                local: original_local.unwrap_or(local),
                remote: original_remote.unwrap_or(remote),
            }),
            keepalive: (udp && keepalive != 0).then(|| Duration::from_secs(keepalive.into())),
            address_update: if udp { address_update? } else { AddressUpdate::Off },
            udp_zero_checksum: udp_zero_checksum?,
        })
    }
}

/// A NAT between the families would change the payload too.
fn check_original(
    report: &mut Report<'_>,
    table: &Table<'_>,
    key: &str,
    address: Option<IpAddr>,
    family: Family,
) {
    if let Some(address) = address
        && Family::of(address) != family
        && let Some(node) = table.optional(key)
    {
        report.error(
            &node.span(),
            format!(
                "{key} {address} is {}, but the ends are {family}; they are of one family",
                Family::of(address)
            ),
        );
    }
}
