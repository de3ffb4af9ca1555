//! Generated policies and packets, from a seed: the same seed gives the same everywhere.
//!
//! Addresses come from a small space, so that prefixes and ranges nest, touch and overlap; packets stand on and
//! around the ends of what the filters say. Every packet is one that can be made: the same generator serves
//! tests that build frames and run the BPF program on them.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ravelin_policy::{Address, Filter, Policy, PortSet, Selector};
use ravelin_xdp_common::Direction;

use crate::reference::{Packet, Transport};
use crate::rule_set::{RuleSet, compile};

/// Protocols with ports.
const WITH_PORTS: [u8; 5] = [6, 17, 132, 33, 136];

/// A small deterministic generator (SplitMix64, public domain, Sebastiano Vigna 2015).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, of which there is at least one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// A policy that compiles, and what it compiles to.
///
/// # Panics
/// If a generated policy is refused: the generator and the policy crate then disagree about the language.
#[must_use]
pub fn rule_set(rng: &mut Rng) -> (Policy, RuleSet) {
    loop {
        let text = policy_text(rng);
        let (policy, _) =
            Policy::parse(&text, "generated.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        if let Ok(rules) = compile(&policy) {
            return (policy, rules);
        }
    }
}

/// The text of a policy with up to 16 rules.
#[must_use]
pub fn policy_text(rng: &mut Rng) -> String {
    let (lists, rules) = (1 + rng.below(6), 1 + rng.below(16));
    policy_text_of(rng, lists, rules)
}

/// The text of a policy with so many filter lists, of one to five filters, and rules.
#[must_use]
pub fn policy_text_of(rng: &mut Rng, lists: usize, rules: usize) -> String {
    let mut text = format!("default = \"{}\"\n", rng.pick(&["permit", "block"]));
    if rng.chance(10) {
        text.push_str("audit = true\n");
    }
    if rng.chance(30) {
        let _ = writeln!(text, "exemptions = {}", rng.below(4));
    }
    if rng.chance(25) {
        let _ = writeln!(text, "[lifeline]\nfilters = [\n{}]", lifeline_text(rng));
    }
    for list in 0..lists {
        let filters: Vec<String> = (0..1 + rng.below(5)).map(|_| filter_text(rng)).collect();
        let _ = writeln!(text, "[filter-lists.l{list}]\nfilters = [\n{}]", filters.concat());
    }
    for rule in 0..rules {
        let list = rng.below(lists);
        let _ = writeln!(text, "[[rules]]\nname = \"r{rule}\"\nfilter-list = \"l{list}\"");
        match rng.below(3) {
            0 => text.push_str("action = \"permit\"\n"),
            1 => text.push_str("action = \"block\"\n"),
            _ => {
                let _ = writeln!(text, "action = \"protect\"\nconnection = \"c{}\"", rng.below(2));
                let _ = writeln!(text, "accept-unsecured = {}", rng.chance(30));
            }
        }
        if rng.chance(15) {
            let _ = writeln!(text, "priority = {}", rng.below(3));
        }
        if rng.chance(10) {
            text.push_str("audit = true\n");
        }
        if rng.chance(5) {
            text.push_str("active = false\n");
        }
    }
    text.push_str(CONNECTIONS);
    text
}

const CONNECTIONS: &str = r#"
[connections.c0]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.c0.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1001, key-file = "a" }
inbound = { spi = 0x2001, key-file = "b" }
[connections.c1]
mode = "tunnel"
local = "2001:db8::1"
remote = "2001:db8::2"
[connections.c1.static]
algorithm = "aes-128-gcm"
outbound = { spi = 0x1002, key-file = "c" }
inbound = { spi = 0x2002, key-file = "d" }
"#;

fn filter_text(rng: &mut Rng) -> String {
    let v4 = rng.chance(50);
    let (source, destination) = (address_text(rng, v4), address_text(rng, v4));
    let mut text = format!("  {{ source = \"{source}\", destination = \"{destination}\"");
    match rng.below(4) {
        0 => {}
        1 => {
            let _ = write!(text, ", protocol = {}", rng.pick(&[6_u8, 17, 47, 50, 255, 0]));
        }
        2 => {
            let _ = write!(text, ", protocol = {}", rng.pick(&WITH_PORTS));
            for key in ["source-port", "destination-port"] {
                if rng.chance(60) {
                    let _ = write!(text, ", {key} = \"{}\"", ports_text(rng));
                }
            }
        }
        _ => {
            let _ = write!(text, ", protocol = \"{}\"", if v4 { "icmp" } else { "icmp6" });
            if rng.chance(70) {
                let _ = write!(text, ", icmp-type = {}", rng.pick(&[0, 3, 8, 128, 255]));
                if rng.chance(50) {
                    let _ = write!(text, ", icmp-code = {}", rng.pick(&[0, 1, 255]));
                }
            }
        }
    }
    let _ = writeln!(text, ", mirrored = {} }},", rng.chance(70));
    text
}

fn lifeline_text(rng: &mut Rng) -> String {
    let v4 = rng.chance(50);
    let (source, destination) = (address_text(rng, v4), address(rng, v4));
    let ports = rng.pick(&["", ", destination-port = 22", ", source-port = \"80-443\""]);
    format!("  {{ source = \"{source}\", destination = \"{destination}\", protocol = \"tcp\"{ports} }},\n")
}

fn ports_text(rng: &mut Rng) -> String {
    let ranges: Vec<String> = (0..1 + rng.below(3))
        .map(|_| {
            let (a, b) = (port(rng), port(rng));
            if rng.chance(50) {
                a.to_string()
            } else {
                format!("{}-{}", a.min(b), a.max(b))
            }
        })
        .collect();
    ranges.join(",")
}

fn port(rng: &mut Rng) -> u16 {
    *rng.pick(&[
        0, 1, 22, 23, 79, 80, 81, 88, 443, 500, 1023, 1024, 4500, 65_534, 65_535,
    ])
}

fn address_text(rng: &mut Rng, v4: bool) -> String {
    let max: u32 = if v4 { 32 } else { 128 };
    let at = address(rng, v4);
    match rng.below(6) {
        0 => "any".to_owned(),
        1 => at.to_string(),
        2 => {
            // A short range, or one whose ends are far apart and lie on coarse boundaries.
            let span = 1_u128 << rng.below(12);
            let last = from_bits(to_bits(at).saturating_add(u128::from(rng.bits()) % span), v4);
            format!("{at}-{last}")
        }
        _ => {
            let length = rng.pick(&[0, 1, 7, 8, 15, 16, 23, 24, 30, 31, 32, 63, 64, 65, 126, 127, 128]);
            let length = (*length).min(max);
            let mask = u128::MAX.checked_shl(max - length).unwrap_or(0);
            format!("{}/{length}", from_bits(to_bits(at) & mask, v4))
        }
    }
}

/// An address of a space small enough for collisions.
fn address(rng: &mut Rng, v4: bool) -> IpAddr {
    let octet = *rng.pick(&[0, 1, 2, 127, 128, 254, 255]);
    let (mut x, y) = (*rng.pick(&[0_u8, 1, 255]), *rng.pick(&[0_u8, 1, 2, 255]));
    if rng.chance(15) {
        x = rng.bits() as u8;
    }
    if v4 {
        return match rng.below(20) {
            3 => Ipv4Addr::new(239, 1, x, octet).into(),
            0 => Ipv4Addr::from_bits(rng.bits() as u32).into(),
            1 => Ipv4Addr::BROADCAST.into(),
            2 => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::new(10, x, y, octet).into(),
        };
    }
    match rng.below(20) {
        0 => from_bits(
            u128::from(rng.bits()) << 64 | u128::from(rng.bits()) | 1 << 127,
            false,
        ),
        1 => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
        2 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        3 => Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, u16::from(x), u16::from(octet)).into(),
        _ => {
            let host = if rng.chance(50) { u16::from(octet) } else { 0xffff };
            Ipv6Addr::new(0xfd00, 0, u16::from(x), u16::from(y), 0x8000, 0, 0, host).into()
        }
    }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(bits: u128, v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::from_bits(bits.min(u128::from(u32::MAX)) as u32).into()
    } else {
        Ipv6Addr::from_bits(bits).into()
    }
}

/// A packet on, in or next to one of the policy's filters, and its direction.
#[must_use]
pub fn packet(rng: &mut Rng, policy: &Policy) -> (Packet, Direction) {
    let direction = if rng.chance(50) {
        Direction::Outbound
    } else {
        Direction::Inbound
    };
    let filters: Vec<&Filter> = policy
        .filter_lists()
        .iter()
        .flat_map(|list| &list.filters)
        .collect();
    let filter = *rng.pick(&filters);
    // Where only the protocol says which version of IP is meant, the other one is as interesting.
    let v4 = match filter.source.family().or(filter.destination.family()) {
        Some(ravelin_policy::Family::V4) => true,
        Some(ravelin_policy::Family::V6) => false,
        None => rng.chance(50),
    };
    let mut source = near(rng, &filter.source, v4);
    let mut destination = near(rng, &filter.destination, v4);
    if v4 && rng.chance(4) {
        // IPv6 packets with IPv4-mapped addresses must not match IPv4 filters.
        source = mapped(source);
        destination = mapped(destination);
    }
    let protocol = match filter.protocol {
        Some(protocol) if !rng.chance(10) => protocol.0,
        _ => *rng.pick(&[0, 1, 6, 17, 33, 46, 47, 50, 58, 132, 136, 255]),
    };
    let packet = Packet {
        source,
        destination,
        protocol,
        transport: transport(rng, filter, protocol, source.is_ipv4()),
    };
    (if rng.chance(30) { packet.reversed() } else { packet }, direction)
}

fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}

/// An address at an end of, one beside, or anywhere near `address`.
fn near(rng: &mut Rng, of: &Address, v4: bool) -> IpAddr {
    let (first, last) = match of {
        Address::Prefix(prefix) => (prefix.network(), prefix.broadcast()),
        Address::Range(first, last) => (*first, *last),
        Address::Any => return address(rng, v4),
    };
    let (first, last) = (to_bits(first), to_bits(last));
    let bits = match rng.below(7) {
        0 => first,
        1 => last,
        2 => first.saturating_sub(1),
        3 => last.saturating_add(1),
        4 => return address(rng, v4),
        _ => {
            let width = (last - first).saturating_add(1);
            first + (u128::from(rng.bits()) << 64 | u128::from(rng.bits())) % width
        }
    };
    from_bits(bits, v4)
}

fn transport(rng: &mut Rng, filter: &Filter, protocol: u8, v4: bool) -> Transport {
    let icmp = (protocol == 1 && v4) || (protocol == 58 && !v4);
    let shows = icmp || WITH_PORTS.contains(&protocol);
    // Whatever protocol a later IPv6 fragment names, it proves none.
    if (shows || !v4) && rng.chance(15) {
        return Transport::LaterFragment;
    }
    if !shows {
        return Transport::Absent;
    }
    if icmp {
        let (mut kind, mut code) = (rng.below(256) as u16, rng.below(256) as u16);
        if let Selector::Icmp {
            kind: wanted,
            code: wanted_code,
        } = &filter.selector
        {
            if rng.chance(80) {
                kind = u16::from(*wanted);
            }
            if rng.chance(70) {
                code = u16::from(wanted_code.unwrap_or(0));
            }
        }
        return Transport::Ports(kind, code);
    }
    match &filter.selector {
        Selector::Ports { source, destination } => {
            Transport::Ports(port_near(rng, source), port_near(rng, destination))
        }
        _ => Transport::Ports(port(rng), port(rng)),
    }
}

fn port_near(rng: &mut Rng, set: &PortSet) -> u16 {
    if set.is_any() {
        return port(rng);
    }
    let range = rng.pick(set.ranges());
    match rng.below(6) {
        0 | 1 => *range.start(),
        2 | 3 => *range.end(),
        4 => range.start().wrapping_sub(1),
        _ => range.end().wrapping_add(1),
    }
}
