//! Chains of rules, made up and judged without the importer's code.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ravelin_classifier::arbitrary::Rng;
use ravelin_classifier::reference::{Packet, Transport, classify};
use ravelin_policy::{Policy, Surroundings};
use ravelin_xdp_common::{Decision, Direction};

/// This machine's addresses.
pub(crate) const OWN: [&str; 2] = ["10.0.0.1", "2001:db8::1"];

/// Something a rule compares, and whether it must not be so.
pub(crate) struct Test<T> {
    pub(crate) negated: bool,
    pub(crate) ranges: Vec<(T, T)>,
}

impl<T: PartialOrd> Test<T> {
    fn holds(&self, value: &T) -> bool {
        let inside = self
            .ranges
            .iter()
            .any(|(first, last)| first <= value && value <= last);
        inside != self.negated
    }
}

pub(crate) struct Rule {
    pub(crate) v4: Option<bool>,
    pub(crate) source: Option<Test<IpAddr>>,
    pub(crate) destination: Option<Test<IpAddr>>,
    pub(crate) protocol: Option<u8>,
    pub(crate) source_port: Option<Test<u16>>,
    pub(crate) destination_port: Option<Test<u16>>,
    pub(crate) icmp: Option<u8>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(usize),
    Goto(usize),
}

pub(crate) struct Chain {
    pub(crate) rules: Vec<Rule>,
    /// Accepts what comes to its end, for base chains.
    pub(crate) accepts: bool,
}

/// Chains 0 to 2 are at input, output and forward; the others are jumped to, always by one with a smaller number.
pub(crate) struct Firewall {
    pub(crate) chains: Vec<Chain>,
}

pub(crate) const BASES: [&str; 3] = ["input", "output", "forward"];

impl Firewall {
    pub(crate) fn random(rng: &mut Rng, families: &[bool], gotos: bool) -> Self {
        let count = 3 + rng.below(4);
        let mut chains = Vec::new();
        for index in 0..count {
            let mut rules = Vec::new();
            for _ in 0..rng.below(7) {
                let deeper = if index + 1 < count {
                    (index + 1).max(3)
                } else {
                    count
                };
                let verdict = match rng.below(8) {
                    0..=2 => Verdict::Accept,
                    3..=4 => Verdict::Drop,
                    5 if index >= 3 => Verdict::Return,
                    6 if deeper < count && gotos => Verdict::Goto(deeper + rng.below(count - deeper)),
                    5..=7 if deeper < count => Verdict::Jump(deeper + rng.below(count - deeper)),
                    _ => Verdict::Accept,
                };
                let v4 = *rng.pick(families);
                rules.push(Rule::random(rng, v4, families.len() > 1, verdict));
            }
            chains.push(Chain {
                rules,
                accepts: rng.chance(50),
            });
        }
        Self { chains }
    }

    /// Whether a packet that comes to a base chain passes.
    pub(crate) fn accepts(&self, base: usize, packet: &Packet) -> bool {
        self.walk(base, packet).unwrap_or(self.chains[base].accepts)
    }

    fn walk(&self, chain: usize, packet: &Packet) -> Option<bool> {
        for rule in &self.chains[chain].rules {
            if !rule.matches(packet) {
                continue;
            }
            match rule.verdict {
                Verdict::Accept => return Some(true),
                Verdict::Drop => return Some(false),
                Verdict::Return => return None,
                Verdict::Goto(target) => return self.walk(target, packet),
                Verdict::Jump(target) => {
                    if let Some(verdict) = self.walk(target, packet) {
                        return Some(verdict);
                    }
                }
            }
        }
        None
    }
}

const V4: [&str; 7] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.128",
    "10.0.1.0",
    "10.1.0.7",
    "192.0.2.1",
    "203.0.113.9",
];
const V6: [&str; 6] = [
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:0:1::",
    "fd00::1",
    "fd00::ffff",
    "2001:db8:ffff::",
];
const PORTS: [u16; 8] = [1, 22, 53, 80, 443, 1024, 8080, 65_535];

fn address(rng: &mut Rng, v4: bool) -> IpAddr {
    let pool: &[&str] = if v4 { &V4 } else { &V6 };
    rng.pick(pool).parse().unwrap()
}

/// The first and last address of a prefix.
fn prefix(rng: &mut Rng, v4: bool) -> (IpAddr, IpAddr) {
    let at = address(rng, v4);
    let length = if v4 {
        *rng.pick(&[8, 16, 24, 25, 31, 32, 32])
    } else {
        *rng.pick(&[16, 32, 48, 64, 127, 128, 128])
    };
    let net = ipnet::IpNet::new(at, length).unwrap();
    (net.network(), net.broadcast())
}

impl Rule {
    fn random(rng: &mut Rng, v4: bool, mixed: bool, verdict: Verdict) -> Self {
        let addresses = |rng: &mut Rng| {
            rng.chance(55).then(|| {
                let count = 1 + rng.below(3);
                Test {
                    negated: rng.chance(20),
                    ranges: (0..count).map(|_| prefix(rng, v4)).collect(),
                }
            })
        };
        let (source, destination) = (addresses(rng), addresses(rng));
        let named = source.is_some() || destination.is_some();
        let icmp = if v4 { 1 } else { 58 };
        let protocol = *rng.pick(&[None, Some(6), Some(6), Some(17), Some(icmp), Some(47)]);
        let ports = |rng: &mut Rng| {
            (matches!(protocol, Some(6 | 17)) && rng.chance(50)).then(|| {
                let ranges = (0..1 + rng.below(3)).map(|_| {
                    let (a, b) = (*rng.pick(&PORTS), *rng.pick(&PORTS));
                    if rng.chance(50) {
                        (a, a)
                    } else {
                        (a.min(b), a.max(b))
                    }
                });
                Test {
                    ranges: ranges.collect(),
                    negated: rng.chance(15),
                }
            })
        };
        let (source_port, destination_port) = (ports(rng), ports(rng));
        let icmp = (protocol == Some(icmp) && rng.chance(60)).then(|| *rng.pick(&[0, 3, 8, 128, 129, 135]));
        Self {
            // A rule that names no address is about both versions of IP, in a table of both.
            v4: (named || !mixed || matches!(protocol, Some(1 | 58))).then_some(v4),
            source,
            destination,
            protocol,
            source_port,
            destination_port,
            icmp,
            verdict,
        }
    }

    fn matches(&self, packet: &Packet) -> bool {
        let (from, to) = match packet.transport {
            Transport::Ports(from, to) => (from, to),
            _ => (0, 0),
        };
        self.v4.is_none_or(|v4| v4 == packet.source.is_ipv4())
            && self.source.as_ref().is_none_or(|test| test.holds(&packet.source))
            && self
                .destination
                .as_ref()
                .is_none_or(|test| test.holds(&packet.destination))
            && self.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && self.source_port.as_ref().is_none_or(|test| test.holds(&from))
            && self.destination_port.as_ref().is_none_or(|test| test.holds(&to))
            && self.icmp.is_none_or(|kind| u16::from(kind) == from)
    }
}

/// A packet and the base chain that it comes to.
pub(crate) fn packet(rng: &mut Rng, families: &[bool]) -> (usize, Packet) {
    let v4 = *rng.pick(families);
    let own: IpAddr = OWN[usize::from(!v4)].parse().unwrap();
    let mut other = || loop {
        let (first, last) = prefix(rng, v4);
        let found = if rng.chance(50) { first } else { last };
        if found != own {
            return found;
        }
    };
    let (a, b) = (other(), other());
    let base = rng.below(3);
    let (source, destination) = [(a, own), (own, a), (a, b)][base];
    let protocol = *rng.pick(&[6, 6, 17, if v4 { 1 } else { 58 }, 47]);
    let mut port = || {
        rng.pick(&PORTS)
            .saturating_add_signed(*rng.pick(&[-1, 0, 0, 0, 1]))
    };
    let transport = match protocol {
        6 | 17 => Transport::Ports(port(), port()),
        47 => Transport::Absent,
        _ => Transport::Ports(*rng.pick(&[0, 3, 8, 128, 129, 135]), *rng.pick(&[0, 1])),
    };
    (
        base,
        Packet {
            source,
            destination,
            protocol,
            transport,
        },
    )
}

/// Holds the policy against the chains, packet by packet; gives how many passed and how many did not.
pub(crate) fn compare(
    rng: &mut Rng,
    firewall: &Firewall,
    families: &[bool],
    policy: &str,
    source: &str,
) -> (usize, usize) {
    let (parsed, _) = Policy::parse(policy, "p").unwrap();
    let own = Surroundings {
        own: OWN.iter().map(|own| own.parse().unwrap()).collect(),
        ..Surroundings::default()
    };
    let (resolved, _) = parsed.resolve(&own).unwrap();
    let (mut passed, mut dropped) = (0, 0);
    for _ in 0..200 {
        let (base, packet) = packet(rng, families);
        let direction = if base == 0 {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        let decision = classify(&resolved, &packet, direction).decision;
        let expected = firewall.accepts(base, &packet);
        assert_eq!(
            decision == Decision::Permit,
            expected,
            "{} {packet:?}\n{source}\n{policy}",
            BASES[base]
        );
        if expected { passed += 1 } else { dropped += 1 }
    }
    (passed, dropped)
}

/// What a shell command prints in a network namespace of its own, given `input`.
pub(crate) fn in_namespace(command: &str, input: &str) -> String {
    let mut child = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare (util-linux)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "`{command}` failed; it needs root and the packages of `cargo xtask setup`: {}\n{input}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
