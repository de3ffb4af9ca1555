//! Packets for a list of rules.

use ravelin_classifier::arbitrary::Rng;
use ravelin_classifier::reference::{Packet, Transport};
use ravelin_policy::Family;

use crate::prefix::{address, width};
use crate::{Prefix, Rule, RuleList};

/// The longest burst of one flow.
const LONGEST_BURST: usize = 64;

/// Addresses that a scan goes through before it takes the next port.
const SCANNED: usize = 1 << 14;

/// Which packets a trace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// On a corner of some rule: each field is the lowest, the highest or any value of it.
    InRule,
    /// Anything.
    Uniform,
    /// As `InRule`, but one field lies beside the rule.
    Perturbed,
    /// One source goes through destinations, then ports.
    Scan,
    /// As `InRule`, but a few flows have most packets (Zipf).
    HeavyHitter,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::InRule,
        Self::Uniform,
        Self::Perturbed,
        Self::Scan,
        Self::HeavyHitter,
    ];

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InRule => "in-rule",
            Self::Uniform => "uniform",
            Self::Perturbed => "perturbed",
            Self::Scan => "scan",
            Self::HeavyHitter => "heavy-hitter",
        }
    }
}

/// Packets in the order of their arrival.
#[derive(Clone, Debug)]
pub struct Trace {
    packets: Vec<Packet>,
}

impl Trace {
    /// `packets` packets of at most `flows` different flows.
    ///
    /// Flows are drawn independently and may be equal by chance; a rule of one address has few corners.
    #[must_use]
    pub fn generate(kind: Kind, list: &RuleList, flows: usize, packets: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut drawn: Vec<Packet> = if kind == Kind::Scan {
            scan(&mut rng, list, flows)
        } else {
            (0..flows).map(|_| flow(&mut rng, kind, list)).collect()
        };
        drawn.truncate(packets);
        Self {
            packets: arrange(&mut rng, kind, &drawn, packets),
        }
    }

    /// The packets.
    #[must_use]
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }
}

/// Flows into packets.
fn arrange(rng: &mut Rng, kind: Kind, flows: &[Packet], count: usize) -> Vec<Packet> {
    let mut packets = Vec::with_capacity(count + LONGEST_BURST);
    if flows.is_empty() {
        return packets;
    }
    if kind == Kind::HeavyHitter {
        let sums = zipf(flows.len());
        let total = sums.last().copied().unwrap_or(1.0);
        packets.extend((0..count).map(|_| {
            let at = unit(rng) * total;
            flows[sums.partition_point(|sum| *sum < at).min(flows.len() - 1)]
        }));
        return packets;
    }
    let mut next = 0;
    while packets.len() < count {
        let burst = if kind == Kind::Scan { 1 } else { burst(rng) };
        packets.extend(std::iter::repeat_n(flows[next], burst));
        next = (next + 1) % flows.len();
    }
    packets.truncate(count);
    packets
}

/// Packets of a flow in a row: mostly one, sometimes many (Pareto with shape 1 and scale 0.1, the low locality of
/// ClassBench's traces).
fn burst(rng: &mut Rng) -> usize {
    ((0.1 / unit(rng)).ceil() as usize).clamp(1, LONGEST_BURST)
}

/// Sums of 1/k.
fn zipf(count: usize) -> Vec<f64> {
    (1..=count)
        .scan(0.0, |sum, k| {
            *sum += 1.0 / k as f64;
            Some(*sum)
        })
        .collect()
}

/// Above 0, at most 1.
fn unit(rng: &mut Rng) -> f64 {
    ((rng.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

fn flow(rng: &mut Rng, kind: Kind, list: &RuleList) -> Packet {
    let family = list.family();
    let rule = if list.rules().is_empty() {
        None
    } else {
        Some(rng.pick(list.rules()))
    };
    match (kind, rule) {
        (Kind::Uniform | Kind::Scan, _) | (_, None) => {
            let ends = [random_address(rng, family), random_address(rng, family)];
            let protocol = *rng.pick(&[6, 6, 6, 17, 17, if family == Family::V4 { 1 } else { 58 }, 47]);
            let ports = [any_port(rng), any_port(rng)];
            packet(rng, family, ends, protocol, ports)
        }
        (Kind::InRule | Kind::HeavyHitter, Some(rule)) => in_rule(rng, rule, None),
        (Kind::Perturbed, Some(rule)) => {
            let field = *rng.pick(&fields(rule));
            in_rule(rng, rule, Some(field))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Source,
    Destination,
    Protocol,
    SourcePort,
    DestinationPort,
}

/// The fields that can lie beside the rule.
fn fields(rule: &Rule) -> Vec<Field> {
    let narrow = |range: [u16; 2]| range != [0, u16::MAX];
    let candidates = [
        (Field::Source, rule.source.length() > 0),
        (Field::Destination, rule.destination.length() > 0),
        (Field::Protocol, rule.protocol.is_some()),
        (Field::SourcePort, narrow(rule.source_ports)),
        (Field::DestinationPort, narrow(rule.destination_ports)),
    ];
    let mut fields: Vec<Field> = candidates
        .iter()
        .filter(|(_, can)| *can)
        .map(|(field, _)| *field)
        .collect();
    if fields.is_empty() {
        // A rule that matches everything: nothing lies beside it.
        fields.push(Field::Source);
    }
    fields
}

/// A packet on a corner of the rule; `beside` it in one field.
fn in_rule(rng: &mut Rng, rule: &Rule, beside: Option<Field>) -> Packet {
    let family = rule.source.family();
    let mut ends = [corner(rng, &rule.source), corner(rng, &rule.destination)];
    let mut ports = [
        port_corner(rng, rule.source_ports),
        port_corner(rng, rule.destination_ports),
    ];
    let mut protocol = rule.protocol.unwrap_or_else(|| *rng.pick(&[6, 6, 17, 47]));
    match beside {
        Some(Field::Source) => ends[0] = sibling(rng, &rule.source, ends[0]),
        Some(Field::Destination) => ends[1] = sibling(rng, &rule.destination, ends[1]),
        Some(Field::Protocol) => protocol = if protocol == 6 { 17 } else { 6 },
        Some(Field::SourcePort) => ports[0] = port_beside(rng, rule.source_ports),
        Some(Field::DestinationPort) => ports[1] = port_beside(rng, rule.destination_ports),
        None => {}
    }
    packet(rng, family, ends, protocol, ports)
}

/// A packet that a driver would take for whole and unfragmented.
fn packet(rng: &mut Rng, family: Family, ends: [u128; 2], protocol: u8, ports: [u16; 2]) -> Packet {
    let transport = match (protocol, family) {
        (6 | 17, _) => Transport::Ports(ports[0], ports[1]),
        (1, Family::V4) => Transport::Ports(*rng.pick(&[8, 0, 3]), 0),
        (58, Family::V6) => Transport::Ports(*rng.pick(&[128, 129, 1]), 0),
        _ => Transport::Absent,
    };
    Packet {
        source: address(family, ends[0]),
        destination: address(family, ends[1]),
        protocol,
        transport,
    }
}

fn corner(rng: &mut Rng, prefix: &Prefix) -> u128 {
    if prefix.length() == 0 {
        return random_address(rng, prefix.family());
    }
    match rng.below(3) {
        0 => prefix.first(),
        1 => prefix.last(),
        _ => {
            let free = prefix.first() ^ prefix.last();
            prefix.first() | (random(rng) & free)
        }
    }
}

/// An address outside the prefix, but inside the one that is one to four bits shorter.
fn sibling(rng: &mut Rng, prefix: &Prefix, inside: u128) -> u128 {
    if prefix.length() == 0 {
        return inside;
    }
    let up = rng.below(usize::from(prefix.length().min(4)));
    let last = u32::from(width(prefix.family()) - prefix.length());
    inside ^ 1 << (last + up as u32)
}

fn port_corner(rng: &mut Rng, [low, high]: [u16; 2]) -> u16 {
    match rng.below(3) {
        0 => low,
        1 => high,
        _ => low + rng.below(usize::from(high - low) + 1) as u16,
    }
}

fn port_beside(rng: &mut Rng, [low, high]: [u16; 2]) -> u16 {
    match (low, high) {
        (0, _) => high.wrapping_add(1),
        (_, u16::MAX) => low - 1,
        _ if rng.chance(50) => low - 1,
        _ => high + 1,
    }
}

/// One source through the addresses behind a rule's destination, one port after the other.
fn scan(rng: &mut Rng, list: &RuleList, flows: usize) -> Vec<Packet> {
    let family = list.family();
    let source = random_address(rng, family);
    let target = if list.rules().is_empty() {
        random_address(rng, family)
    } else {
        rng.pick(list.rules()).destination.first()
    };
    // The start of the network that the target lies in.
    let network = Prefix::new(family, target, width(family) - SCANNED.ilog2() as u8);
    (0..flows)
        .map(|index| {
            let ends = [source, network.first() + (index % SCANNED) as u128];
            let port = 1 + (index / SCANNED) as u16 % u16::MAX;
            packet(rng, family, ends, 6, [40_000, port])
        })
        .collect()
}

fn any_port(rng: &mut Rng) -> u16 {
    rng.bits() as u16
}

fn random(rng: &mut Rng) -> u128 {
    u128::from(rng.bits()) << 64 | u128::from(rng.bits())
}

/// Any unicast address but those of this host or network: IPv4 1/8 to 126/8 and 128/8 to 191/8, IPv6 2000::/3.
fn random_address(rng: &mut Rng, family: Family) -> u128 {
    match family {
        Family::V4 => {
            // 191 first octets, without 127.
            let first = 1 + rng.below(190);
            let first = if first < 127 { first } else { first + 1 };
            (first as u128) << 24 | random(rng) & 0xff_ffff
        }
        Family::V6 => 1 << 125 | random(rng) >> 3,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::Profile;

    fn key(packet: &Packet) -> String {
        format!("{packet:?}")
    }

    fn trace(kind: Kind, family: Family) -> (RuleList, Trace) {
        let list = RuleList::generate(Profile::Firewall, family, 400, 1);
        let trace = Trace::generate(kind, &list, 500, 4000, 2);
        (list, trace)
    }

    #[test]
    fn traces_hit_what_they_are_for() {
        for family in [Family::V4, Family::V6] {
            let hits = |kind| {
                let (list, trace) = trace(kind, family);
                assert_eq!(trace.packets().len(), 4000);
                let hits = trace
                    .packets()
                    .iter()
                    .filter(|packet| list.first_match(packet).is_some())
                    .count();
                hits * 100 / 4000
            };
            assert_eq!(hits(Kind::InRule), 100);
            assert_eq!(hits(Kind::HeavyHitter), 100);
            let (perturbed, uniform) = (hits(Kind::Perturbed), hits(Kind::Uniform));
            assert!(perturbed < 95 && perturbed > 5, "{perturbed}");
            // Firewalls have rules for everything.
            assert!(uniform < 60, "{uniform}");
        }
    }

    #[test]
    fn perturbed_packets_leave_the_rule_they_came_from() {
        let list = RuleList::generate(Profile::IpChains, Family::V4, 300, 3);
        let mut rng = Rng::new(4);
        for rule in list
            .rules()
            .iter()
            .filter(|rule| rule.source.length() + rule.destination.length() > 0)
        {
            for field in fields(rule) {
                let packet = in_rule(&mut rng, rule, Some(field));
                // Another protocol may be one without ports, which a rule for any protocol matches.
                assert!(!rule.matches(&packet), "{rule:?} {field:?} {packet:?}");
            }
        }
    }

    #[test]
    fn flows_are_as_many_as_asked() {
        for kind in Kind::ALL {
            let (_, trace) = trace(kind, Family::V4);
            let flows: HashSet<String> = trace.packets().iter().map(key).collect();
            assert!((200..=500).contains(&flows.len()), "{kind:?} {}", flows.len());
        }
    }

    #[test]
    fn scans_have_one_source_and_new_destinations() {
        let (_, trace) = trace(Kind::Scan, Family::V6);
        let sources: HashSet<_> = trace.packets().iter().map(|packet| packet.source).collect();
        let targets: HashSet<_> = trace.packets().iter().map(|packet| packet.destination).collect();
        assert_eq!((sources.len(), targets.len()), (1, 500));
    }

    #[test]
    fn heavy_hitters_are_heavy() {
        let (_, skewed) = trace(Kind::HeavyHitter, Family::V4);
        let (_, even) = trace(Kind::InRule, Family::V4);
        let first = |packets: &[Packet]| {
            let mut counts = std::collections::HashMap::new();
            for packet in packets {
                *counts.entry(key(packet)).or_insert(0_usize) += 1;
            }
            counts.into_values().max().unwrap()
        };
        assert!(first(skewed.packets()) > 4000 / 15, "{}", first(skewed.packets()));
        assert!(first(even.packets()) < 4000 / 15);
    }

    #[test]
    fn a_seed_gives_one_trace_and_no_rules_give_one_too() {
        for kind in Kind::ALL {
            let list = RuleList::generate(Profile::Acl, Family::V4, 0, 1);
            let one = |seed| Trace::generate(kind, &list, 10, 20, seed).packets().to_vec();
            assert_eq!(one(1), one(1));
            assert_ne!(one(1), one(2));
            assert!(Trace::generate(kind, &list, 0, 20, 1).packets().is_empty());
        }
    }
}
