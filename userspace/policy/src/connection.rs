//! Connections: how `protect` protects.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ravelin_gcm::Algorithm;

use crate::address::{Family, unusable_endpoint};
use crate::diagnostic::{Position, Report, quote};
use crate::lifetime::{LIFETIME, Lifetime};
use crate::nat_traversal::{self, NatTraversal};
use crate::outer_header::{self, OuterHeader};
use crate::reader::{Node, Table};
use crate::schema::{Key, Kind, Literal, TableSpec};

/// Port of UDP-encapsulated ESP (RFC 3948 section 2.1).
pub const UDP_ENCAPSULATION_PORT: u16 = 4500;

const UDP: Literal = Literal::Word("udp");
const TUNNEL: Literal = Literal::Word("tunnel");
const ESP: Literal = Literal::Word("esp");

pub(crate) static CONNECTION: TableSpec = TableSpec {
    what: "a connection",
    id: "connection",
    keys: &[
        Key::required(
            "mode",
            Kind::Choice(&["tunnel", "transport"]),
            "RFC 4301 section 4.1",
        ),
        Key::required("local", Kind::Address, "This end's address, the source of ESP"),
        Key::required(
            "remote",
            Kind::Address,
            "The other end's address, of the same family",
        ),
        Key::default(
            "protocol",
            Kind::Choice(&["esp", "ah"]),
            Literal::Word("esp"),
            "\"ah\" is RFC 4302: it authenticates the IP header too and encrypts nothing",
        ),
        Key::default(
            "encapsulation",
            Kind::Choice(&["none", "udp"]),
            Literal::Word("none"),
            "\"udp\" is RFC 3948, for paths with NAT",
        ),
        Key::default(
            "local-port",
            Kind::Integer(1, 65_535),
            Literal::Integer(UDP_ENCAPSULATION_PORT as i64),
            "Source UDP port of outbound ESP",
        )
        .only_with("encapsulation", UDP),
        Key::default(
            "remote-port",
            Kind::Integer(1, 65_535),
            Literal::Integer(UDP_ENCAPSULATION_PORT as i64),
            "Destination UDP port of outbound ESP",
        )
        .only_with("encapsulation", UDP),
        Key::optional(
            "path-mtu",
            Kind::Integer(0, 65_535),
            "Largest packet on the wire in bytes, 576 or more, 1280 or more over IPv6; the outer device's MTU",
        ),
        Key::default(
            "tcp-mss-clamp",
            Kind::Boolean,
            Literal::Boolean(true),
            "Whether TCP connections are told segment sizes that fit once sealed",
        ),
        nat_traversal::ORIGINAL_LOCAL,
        nat_traversal::ORIGINAL_REMOTE,
        nat_traversal::NAT_KEEPALIVE,
        nat_traversal::ADDRESS_UPDATE,
        nat_traversal::UDP_ZERO_CHECKSUM,
        Key::default(
            "tfc-padding",
            Kind::WordOr(&["none", "mtu"], 1, 65_535),
            Literal::Word("none"),
            "Length in bytes that clear packets are padded to before they are sealed, or as far as the path MTU lets them",
        )
        .only_with("protocol", ESP),
        Key::default(
            "dummy-packets",
            Kind::Integer(0, 1_000),
            Literal::Integer(0),
            "Packets a second without content, as long as tfc-padding makes others",
        )
        .only_with("mode", TUNNEL),
        outer_header::DF,
        outer_header::DSCP,
        outer_header::INNER_DSCP,
        outer_header::ECN,
        outer_header::FLOW_LABEL,
        outer_header::HOP_LIMIT,
        Key::default(
            "rekey-grace",
            Kind::Integer(0, 3_600),
            Literal::Integer(30),
            "Seconds that the SAs it had before stay when it gets others",
        ),
        Key::required(
            "static",
            Kind::Table(&STATIC),
            "Keys that do not change, in files",
        ),
    ],
};

static STATIC: TableSpec = TableSpec {
    what: "static",
    id: "static",
    keys: &[
        Key::required(
            "algorithm",
            Kind::Choice(Algorithm::NAMES),
            "What encrypts and authenticates, both directions alike",
        ),
        Key::default(
            "implicit-iv",
            Kind::Boolean,
            Literal::Boolean(false),
            "RFC 8750: the IV is the sequence number and is not sent; both ends must agree",
        ),
        Key::default(
            "esn",
            Kind::Boolean,
            Literal::Boolean(true),
            "64-bit sequence numbers; both ends must agree",
        ),
        // RFC 4303 section 3.4.3 has 64 as the default.
        Key::default(
            "replay-window",
            Kind::Multiple(64, 65_536, 64),
            Literal::Integer(1_024),
            "Anti-replay window in packets",
        ),
        Key::optional("lifetime", Kind::Table(&LIFETIME), "How long each SA may be used"),
        Key::required("outbound", Kind::Table(&SA), "The SA that seals"),
        Key::required("inbound", Kind::Table(&SA), "The SA that opens"),
    ],
};

static SA: TableSpec = TableSpec {
    what: "an SA",
    id: "sa",
    keys: &[
        Key::required(
            "spi",
            Kind::Integer(256, u32::MAX as i64),
            "Security parameters index; 0 to 255 are reserved",
        ),
        Key::required(
            "key-file",
            Kind::Path,
            "The file with the key, relative to the policy's folder",
        ),
    ],
};

/// Smallest path MTU in bytes that is taken; every host takes packets of this size (RFC 1122 section 3.3.2).
pub(crate) const MIN_PATH_MTU: u16 = 576;

/// Both directions between two endpoints: mode, addresses, algorithm and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Unique among connections.
    pub name: String,
    /// Tunnel or transport (RFC 4301 section 4.1).
    pub mode: Mode,
    /// This end's address, the source of outbound ESP.
    pub local: IpAddr,
    /// The other end's address, of the same family.
    pub remote: IpAddr,
    /// ESP or AH.
    pub protocol: IpsecProtocol,
    /// Whether ESP is carried in UDP.
    pub encapsulation: Encapsulation,
    /// Largest outer IP packet in bytes; `None` takes the outer device's MTU.
    pub path_mtu: Option<u16>,
    /// Whether the segment sizes that TCP announces are made to fit (RFC 9293 section 3.7.1).
    pub tcp_mss_clamp: bool,
    /// What it does about NAT.
    pub nat: NatTraversal,
    /// What hides the lengths of packets.
    pub tfc_padding: TfcPadding,
    /// Packets without content to send in a second, at most.
    pub dummy_packets: u16,
    /// How outer headers relate to inner ones.
    pub outer_header: OuterHeader,
    /// How long inbound SAs that it had before stay when it gets others; outbound ones at most half of that.
    pub rekey_grace: Duration,
    /// Its keys.
    pub keys: StaticKeys,
    /// Where it is defined.
    pub position: Position,
}

/// Padding that hides lengths (RFC 4303 section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TfcPadding {
    /// None.
    None,
    /// As if clear packets had so many bytes.
    To(u16),
    /// As if clear packets were the longest that fit.
    PathMtu,
}

/// ESP mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The whole packet is inside a new IP header.
    Tunnel,
    /// Only the payload is protected; the IP header stays.
    Transport,
}

/// What protects packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpsecProtocol {
    /// Encapsulating Security Payload (RFC 4303).
    Esp,
    /// Authentication Header (RFC 4302).
    Ah,
}

/// What carries ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// IP protocol 50.
    None,
    /// UDP (RFC 3948); ports in host order.
    Udp {
        /// Source port of outbound packets.
        local_port: u16,
        /// Destination port of outbound packets.
        remote_port: u16,
    },
}

/// A security parameters index: 256 to 2^32 - 1, since 0 to 255 are reserved (RFC 4303 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(u32);

impl Spi {
    /// The SPI with this value (host order), unless it is reserved.
    #[must_use]
    pub fn new(value: u32) -> Option<Self> {
        (value > 255).then_some(Self(value))
    }

    /// The value in host order.
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// Keys that do not change, in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticKeys {
    /// Algorithm of both directions.
    pub algorithm: Algorithm,
    /// Whether the IV is left out of packets (RFC 8750).
    pub implicit_iv: bool,
    /// Whether sequence numbers have 64 bits (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// Size of the anti-replay window in packets, a multiple of 64 from 64 to 65,536.
    pub replay_window: u32,
    /// How long each SA may be used.
    pub lifetime: Lifetime,
    /// The SA that seals.
    pub outbound: StaticSa,
    /// The SA that opens.
    pub inbound: StaticSa,
}

/// One direction of a statically keyed connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticSa {
    /// Its SPI.
    pub spi: Spi,
    /// The file with the key; a relative path in the policy has been resolved against the policy's folder.
    pub key_file: PathBuf,
    /// Where it is defined.
    pub position: Position,
}

impl Connection {
    /// `folder` is what relative key files are relative to.
    pub(crate) fn read(report: &mut Report<'_>, name: String, node: Node<'_>, folder: &Path) -> Option<Self> {
        let table = node.table(report, &CONNECTION)?;
        let modes = [("tunnel", Mode::Tunnel), ("transport", Mode::Transport)];
        let mode = table.choice(report, "mode", &modes);
        let local = read_required_endpoint(report, &table, "local");
        let remote = read_required_endpoint(report, &table, "remote");
        let protocols = [("esp", IpsecProtocol::Esp), ("ah", IpsecProtocol::Ah)];
        let protocol = table.choice(report, "protocol", &protocols);
        let encapsulation = read_encapsulation(report, &table);
        let path_mtu = table.integer(report, "path-mtu");
        let tcp_mss_clamp = table.boolean(report, "tcp-mss-clamp");
        let words = [("none", TfcPadding::None), ("mtu", TfcPadding::PathMtu)];
        let tfc_padding = table.word_or_integer(report, "tfc-padding", &words, TfcPadding::To);
        let dummy_packets = table.integer(report, "dummy-packets");
        let ends = local.zip(remote);
        let udp = matches!(encapsulation, Some(Encapsulation::Udp { .. }));
        let nat = NatTraversal::read(report, &table, udp, ends);
        let outer_header = OuterHeader::read(report, &table);
        let rekey_grace: Option<Option<u32>> = table.integer(report, "rekey-grace");
        let keys = table
            .required(report, "static")
            .and_then(|node| StaticKeys::read(report, node, folder));
        if let Some((local, remote)) = ends {
            check_endpoints(report, &table, local, remote);
            if mode == Some(Mode::Tunnel) {
                OuterHeader::check_family(report, &table, local.is_ipv4());
            }
            if let Some(Some(path_mtu)) = path_mtu {
                check_path_mtu(report, &table, Family::of(local), path_mtu);
            }
        }
        if protocol == Some(IpsecProtocol::Ah) {
            check_ah(report, &table, encapsulation, keys.as_ref());
        }
        check_dummies(report, &table, dummy_packets.flatten(), tfc_padding);
        let (local, remote) = ends?;
        Some(Self {
            name,
            mode: mode?,
            local,
            remote,
            nat: nat?,
            protocol: protocol?,
            encapsulation: encapsulation?,
            path_mtu: path_mtu?,
            tcp_mss_clamp: tcp_mss_clamp?,
            tfc_padding: tfc_padding?,
            dummy_packets: dummy_packets??,
            outer_header: outer_header?,
            rekey_grace: Duration::from_secs(rekey_grace??.into()),
            keys: keys?,
            position: report.position(table.span()),
        })
    }

    /// Bytes of the shortest ESP packet: header, IV, the shortest padded trailer, ICV; or of AH.
    #[must_use]
    pub fn shortest_esp(&self) -> u16 {
        let algorithm = self.keys.algorithm;
        let len = match self.protocol {
            IpsecProtocol::Esp => 8 + self.keys.iv_len() + algorithm.block_len().max(4) + algorithm.tag_len(),
            IpsecProtocol::Ah => 12 + algorithm.iv_len() + algorithm.tag_len(),
        };
        len as u16
    }

    /// The largest inner packet (bytes) that fits `path_mtu` bytes after encapsulation (RFC 4303 section 2); 0 when nothing
    /// fits.
    ///
    /// In transport mode "inner packet" is the clear packet with its IP header.
    #[must_use]
    pub fn inner_mtu(&self, path_mtu: u16) -> u16 {
        let ip = if self.local.is_ipv4() { 20 } else { 40 };
        let udp = if self.encapsulation == Encapsulation::None {
            0
        } else {
            8
        };
        let algorithm = self.keys.algorithm;
        if self.protocol == IpsecProtocol::Ah {
            // Padded to 4 bytes over IPv4 and to 8 over IPv6.
            let unit = if self.local.is_ipv4() { 4 } else { 8 };
            let ah = self.shortest_esp().next_multiple_of(unit);
            return match self.mode {
                Mode::Tunnel => path_mtu.saturating_sub(ip + ah),
                Mode::Transport => path_mtu.saturating_sub(ah),
            };
        }
        // SPI, sequence number, IV in front; ICV behind.
        let fixed = ip + udp + 8 + (self.keys.iv_len() + algorithm.tag_len()) as u16;
        let room = path_mtu.saturating_sub(fixed);
        // Pad length and next header end a multiple of four bytes, or of the cipher's block.
        let block = algorithm.block_len().max(4) as u16;
        let payload = (room / block * block).saturating_sub(2);
        match self.mode {
            Mode::Tunnel => payload,
            Mode::Transport if payload == 0 => 0,
            Mode::Transport => payload + ip,
        }
    }
}

impl StaticKeys {
    /// Bytes of the IV in each packet.
    fn iv_len(&self) -> usize {
        if self.implicit_iv {
            0
        } else {
            self.algorithm.iv_len()
        }
    }

    fn read(report: &mut Report<'_>, node: Node<'_>, folder: &Path) -> Option<Self> {
        let table = node.table(report, &STATIC)?;
        let algorithms: Vec<_> = Algorithm::NAMES
            .iter()
            .copied()
            .zip(Algorithm::ALL.iter().copied())
            .collect();
        let algorithm = table.choice(report, "algorithm", &algorithms);
        let implicit_iv = table.boolean(report, "implicit-iv");
        if let (Some(true), Some(algorithm)) = (implicit_iv, algorithm)
            && !algorithm.takes_implicit_iv()
            && let Some(node) = table.optional("implicit-iv")
        {
            report.error(
                &node.span(),
                format!(
                    "{algorithm} cannot do without the IV in each packet; implicit IVs are for aes-*-gcm, aes-*-ccm-8 and \
                     chacha20-poly1305 (RFC 8750)"
                ),
            );
        }
        let esn = table.boolean(report, "esn");
        let replay_window = table.integer(report, "replay-window");
        let lifetime = table.or_default("lifetime", Lifetime::default(), |node| {
            Lifetime::read(report, node, algorithm, esn)
        });
        let outbound = table
            .required(report, "outbound")
            .and_then(|node| StaticSa::read(report, node, folder));
        let inbound = table
            .required(report, "inbound")
            .and_then(|node| StaticSa::read(report, node, folder));
        Some(Self {
            algorithm: algorithm?,
            implicit_iv: implicit_iv?,
            esn: esn?,
            replay_window: replay_window??,
            lifetime: lifetime?,
            outbound: outbound?,
            inbound: inbound?,
        })
    }
}

impl StaticSa {
    fn read(report: &mut Report<'_>, node: Node<'_>, folder: &Path) -> Option<Self> {
        let table = node.table(report, &SA)?;
        let spi = table.required(report, "spi").and_then(|node| {
            let value = node.integer(report, 0, i64::from(u32::MAX))?;
            let spi = u32::try_from(value).ok().and_then(Spi::new);
            if spi.is_none() {
                report.error(
                    &node.span(),
                    format!("SPI {value} is reserved (RFC 4303 section 2.1); use 256 to 4294967295"),
                );
            }
            spi
        });
        let key_file = table.required(report, "key-file").and_then(|node| {
            let text = node.string(report)?;
            if let Some(message) = bad_key_path(text) {
                report.error(&node.span(), message);
                return None;
            }
            Some(folder.join(text))
        });
        Some(Self {
            spi: spi?,
            key_file: key_file?,
            position: report.position(table.span()),
        })
    }
}

/// Why a text cannot be the path of a key file. Never repeats the text: it may be the key.
fn bad_key_path(text: &str) -> Option<&'static str> {
    let digits = text.trim_start_matches("0x");
    if digits.len() >= 32
        && digits
            .chars()
            .all(|c| c.is_ascii_hexdigit() || c == ':' || c.is_whitespace())
    {
        return Some(
            "this looks like a key; a policy never holds keys: write the key to a file of mode 0600 and its path here",
        );
    }
    if text.trim().is_empty() {
        return Some("the path of the key file is empty");
    }
    if text.len() > 4096 || text.chars().any(char::is_control) {
        return Some("this is no usable path: too long, or with control characters in it");
    }
    None
}

fn read_required_endpoint(report: &mut Report<'_>, table: &Table<'_>, key: &str) -> Option<IpAddr> {
    let node = table.required(report, key)?;
    read_endpoint(report, node, key)
}

pub(crate) fn read_endpoint(report: &mut Report<'_>, node: Node<'_>, key: &str) -> Option<IpAddr> {
    let text = node.string(report)?;
    let Ok(address) = text.parse::<IpAddr>() else {
        report.error(
            &node.span(),
            format!("{} is not an IP address; {key} is one address", quote(text)),
        );
        return None;
    };
    if let Some(what) = unusable_endpoint(address) {
        report.error(
            &node.span(),
            format!("{address} cannot be the {key} end of a connection: it is {what}"),
        );
        return None;
    }
    Some(address)
}

/// AH takes neither UDP nor an algorithm that encrypts.
fn check_ah(
    report: &mut Report<'_>,
    table: &Table<'_>,
    encapsulation: Option<Encapsulation>,
    keys: Option<&StaticKeys>,
) {
    if matches!(encapsulation, Some(Encapsulation::Udp { .. }))
        && let Some(node) = table.optional("encapsulation")
    {
        report.error(
            &node.span(),
            "AH cannot travel in UDP, nor pass a NAT at all; leave out encapsulation, or write protocol = \"esp\"".to_owned(),
        );
    }
    for key in ["original-local", "original-remote"] {
        if let Some(node) = table.optional(key) {
            report.error(
                &node.span(),
                format!("{key} is for ESP behind a NAT, which AH cannot pass; remove it, or write protocol = \"esp\""),
            );
        }
    }
    if let Some(keys) = keys
        && keys.algorithm.encrypts()
        && let Some(node) = table.optional("protocol")
    {
        report.error(
            &node.span(),
            format!(
                "AH does not encrypt, but {} does; use null-hmac-* or aes-*-gmac, or protocol = \"esp\". ESP authenticates as \
                 well as AH does; ESP inside AH is not supported",
                keys.algorithm
            ),
        );
    }
}

fn read_encapsulation(report: &mut Report<'_>, table: &Table<'_>) -> Option<Encapsulation> {
    let udp = table.choice(report, "encapsulation", &[("none", false), ("udp", true)]);
    let local_port = table.integer(report, "local-port");
    let remote_port = table.integer(report, "remote-port");
    let (udp, local_port, remote_port) = (udp?, local_port??, remote_port??);
    Some(if udp {
        Encapsulation::Udp {
            local_port,
            remote_port,
        }
    } else {
        Encapsulation::None
    })
}

fn check_endpoints(report: &mut Report<'_>, table: &Table<'_>, local: IpAddr, remote: IpAddr) {
    if local == remote {
        report.error(
            table.span(),
            format!("local and remote are the same address, {local}"),
        );
    } else if local.is_ipv4() != remote.is_ipv4() {
        report.error(
            table.span(),
            format!(
                "local is {} and remote {}; both must be of one family",
                Family::of(local),
                Family::of(remote)
            ),
        );
    }
}

/// Dummies shorter than other packets would only tell when there is something to say.
fn check_dummies(
    report: &mut Report<'_>,
    table: &Table<'_>,
    dummy_packets: Option<u16>,
    tfc_padding: Option<TfcPadding>,
) {
    if dummy_packets.is_some_and(|rate| rate != 0)
        && tfc_padding == Some(TfcPadding::None)
        && let Some(node) = table.optional("dummy-packets")
    {
        report.error(
            &node.span(),
            "dummy-packets needs tfc-padding, so that they look like other packets; write for instance tfc-padding = \"mtu\"",
        );
    }
}

fn check_path_mtu(report: &mut Report<'_>, table: &Table<'_>, family: Family, path_mtu: u16) {
    let least = match family {
        Family::V4 => MIN_PATH_MTU,
        Family::V6 => 1280,
    };
    if path_mtu < least
        && let Some(node) = table.optional("path-mtu")
    {
        report.error(
            &node.span(),
            format!("path-mtu {path_mtu} is too small; over {family} it is at least {least}"),
        );
    }
}
