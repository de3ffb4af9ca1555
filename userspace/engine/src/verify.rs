//! A compiled rule set against the plain reference, before it meets packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ravelin_classifier::RuleSet;
use ravelin_classifier::reference::{Packet, Transport, classify, is_plausible};
use ravelin_policy::{Address, Filter, Policy, PortSet, Rule, Selector};
use ravelin_xdp_common::Direction;

/// Packets that are tried at most in each of two rounds.
const MOST_PACKETS: usize = 400_000;

/// How long each round takes at most.
const LONGEST: Duration = Duration::from_millis(700);

/// A prime, to visit the filters of a large policy in an order that has nothing to do with their own.
const STRIDE: usize = 1_000_003;

/// A packet on which compiler and reference disagree: a bug.
#[derive(Clone, Debug)]
pub(crate) struct Disagreement {
    pub(crate) packet: Packet,
    pub(crate) direction: Direction,
}

/// Tries packets at the corners of the policy's filters; returns how many.
///
/// First every filter has a word about one packet of its own, which takes no time. Then the reference judges as many as
/// there is time for.
///
/// # Errors
///
/// The first packet on which the two disagree.
pub(crate) fn verify(policy: &Policy, rules: &RuleSet) -> Result<usize, Disagreement> {
    let filters: Vec<(&Rule, &Filter)> = policy
        .rules()
        .iter()
        .filter(|rule| rule.active)
        .flat_map(|rule| policy.filters(rule).iter().map(move |filter| (rule, filter)))
        .collect();
    let mut trial = Trial::new();
    for (step, (rule, filter)) in in_some_order(&filters) {
        let corners = corners(filter, step);
        trial.packets(corners.get(step % corners.len()), |packet, direction| {
            let verdict = rules.classify(&packet.flow(), direction);
            is_plausible(policy, (rule, filter), packet, direction, &verdict)
        })?;
        if trial.is_over() {
            break;
        }
    }
    let first = trial.tried;
    let mut trial = Trial::new();
    for (step, (_, filter)) in in_some_order(&filters) {
        for packet in &corners(filter, step) {
            trial.packets([packet], |packet, direction| {
                classify(policy, packet, direction) == rules.classify(&packet.flow(), direction)
            })?;
            if trial.is_over() {
                return Ok(first + trial.tried);
            }
        }
    }
    Ok(first + trial.tried)
}

/// All filters, numbered, those next to each other in the policy far apart.
fn in_some_order<T: Copy>(filters: &[T]) -> impl Iterator<Item = (usize, T)> {
    (0..filters.len()).map(|step| (step, filters[step.wrapping_mul(STRIDE) % filters.len()]))
}

/// Packets and time that are spent.
struct Trial {
    started: Instant,
    tried: usize,
}

impl Trial {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            tried: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.tried >= MOST_PACKETS || self.started.elapsed() >= LONGEST
    }

    /// Tries packets and those that answer them, in both directions.
    fn packets<'p>(
        &mut self,
        packets: impl IntoIterator<Item = &'p Packet>,
        agrees: impl Fn(&Packet, Direction) -> bool,
    ) -> Result<(), Disagreement> {
        for packet in packets {
            for packet in [*packet, packet.reversed()] {
                for direction in [Direction::Outbound, Direction::Inbound] {
                    self.tried += 1;
                    if !agrees(&packet, direction) {
                        return Err(Disagreement { packet, direction });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Packets at the lowest and highest values of a filter's fields, and just beyond them.
fn corners(filter: &Filter, turn: usize) -> Vec<Packet> {
    // Where only the protocol says which version of IP is meant, the other one is just beyond.
    let named = filter.source.family().or(filter.destination.family());
    let v4 = named.map_or(turn.is_multiple_of(2), |family| {
        family == ravelin_policy::Family::V4
    });
    let (sources, destinations) = (ends(&filter.source, v4), ends(&filter.destination, v4));
    let protocol = filter
        .protocol
        .map_or([6, 17, 1, 50][turn % 4], |protocol| protocol.0);
    let mut transports = match &filter.selector {
        Selector::Any => vec![Transport::Ports(443, 80)],
        Selector::Icmp { kind, code } => {
            let (kind, code) = (u16::from(*kind), u16::from(code.unwrap_or(0)));
            vec![
                Transport::Ports(kind, code),
                Transport::Ports(kind.wrapping_add(1) & 255, code),
            ]
        }
        Selector::Ports { source, destination } => {
            let (sources, destinations) = (port_ends(source), port_ends(destination));
            sources
                .iter()
                .zip(destinations.iter().cycle())
                .chain(sources.iter().cycle().zip(&destinations))
                .map(|(source, destination)| Transport::Ports(*source, *destination))
                .collect()
        }
    };
    let shows = matches!(protocol, 1 | 6 | 17 | 33 | 58 | 132 | 136);
    if !shows {
        transports = vec![Transport::Absent];
    }
    // Of IPv6 every protocol has fragments that prove nothing.
    if shows || !v4 {
        transports.push(Transport::LaterFragment);
    }
    let mut packets = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        for (other, destination) in destinations.iter().enumerate() {
            let transport = transports[(index + other + turn) % transports.len()];
            packets.push(Packet {
                source: *source,
                destination: *destination,
                protocol,
                transport,
            });
        }
    }
    // Every transport once where the addresses certainly match.
    packets.extend(transports.into_iter().map(|transport| Packet {
        source: sources[0],
        destination: destinations[0],
        protocol,
        transport,
    }));
    packets
}

/// First and last address, and their neighbours outside.
fn ends(address: &Address, v4: bool) -> Vec<IpAddr> {
    let (first, last) = match address {
        Address::Any if v4 => return vec![Ipv4Addr::new(198, 18, 0, 1).into(), Ipv4Addr::BROADCAST.into()],
        Address::Any => {
            return vec![
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
                Ipv6Addr::LOCALHOST.into(),
            ];
        }
        Address::Prefix(prefix) => (prefix.network(), prefix.broadcast()),
        Address::Range(first, last) => (*first, *last),
    };
    let mut ends = vec![first, last];
    ends.extend(neighbour(first, false));
    ends.extend(neighbour(last, true));
    ends.dedup();
    // The mapped range stands for IPv4 and never comes in an IPv6 packet. No prefix and no range starts there.
    ends.retain(|end| matches!(end, IpAddr::V4(_)) || end.to_canonical() == *end);
    ends
}

fn neighbour(address: IpAddr, up: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            let next = if up {
                bits.checked_add(1)
            } else {
                bits.checked_sub(1)
            };
            next.map(|bits| Ipv4Addr::from_bits(bits).into())
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let next = if up {
                bits.checked_add(1)
            } else {
                bits.checked_sub(1)
            };
            next.map(|bits| Ipv6Addr::from_bits(bits).into())
        }
    }
}

/// Bounds of the ranges and their neighbours outside; of a long list the first and the last.
fn port_ends(set: &PortSet) -> Vec<u16> {
    let ranges = set.ranges();
    let mut ends: Vec<u16> = ranges
        .first()
        .into_iter()
        .chain(ranges.last())
        .flat_map(|range| {
            let (low, high) = (*range.start(), *range.end());
            [low, high, low.saturating_sub(1), high.saturating_add(1)]
        })
        .collect();
    if ends.is_empty() {
        ends.push(49152);
    }
    ends.dedup();
    ends
}

#[cfg(test)]
mod tests {
    use ravelin_classifier::arbitrary::{Rng, packet, rule_set};
    use ravelin_classifier::compile;
    use ravelin_classifier::reference::{classify, is_plausible};
    use ravelin_policy::Policy;

    use super::verify;

    fn policy(action: &str) -> Policy {
        let text = format!(
            r#"
            [filter-lists.web]
            filters = [
                {{ source = "10.0.0.0/8", destination = "10.1.0.1-10.1.0.9", protocol = "tcp", destination-port = "80, 8000-8080" }},
                {{ source = "fd00::/16", destination = "any", protocol = "icmp6", icmp-type = 128 }},
            ]
            [filter-lists.all]
            filters = [{{ source = "any", destination = "any" }}]
            [[rules]]
            name = "web"
            filter-list = "web"
            action = "{action}"
            [[rules]]
            name = "all"
            filter-list = "all"
            action = "block"
            "#
        );
        Policy::parse(&text, "test").unwrap().0
    }

    #[test]
    fn a_rule_set_agrees_with_its_policy_and_not_with_another() {
        let (permit, block) = (policy("permit"), policy("block"));
        assert!(verify(&permit, &compile(&permit).unwrap()).unwrap() > 100);
        assert!(verify(&permit, &compile(&block).unwrap()).is_err());
    }

    /// A false alarm would refuse a good policy.
    #[test]
    fn every_compiled_policy_agrees_with_itself() {
        for seed in 0..100 {
            let (policy, rules) = rule_set(&mut Rng::new(seed));
            if let Err(disagreement) = verify(&policy, &rules) {
                panic!("seed {seed}: {disagreement:?}");
            }
        }
    }

    /// What the reference says is plausible to every filter, and what it says of another packet not to all.
    #[test]
    fn a_wrong_verdict_is_implausible_to_some_filter() {
        let (mut wrong, mut noticed) = (0, 0);
        for seed in 0..200 {
            let rng = &mut Rng::new(seed);
            let (policy, _) = rule_set(rng);
            let ((one, direction), (other, _)) = (packet(rng, &policy), packet(rng, &policy));
            let plausible = |verdict| {
                let active = policy.rules().iter().filter(|rule| rule.active);
                active
                    .flat_map(|rule| policy.filters(rule).iter().map(move |filter| (rule, filter)))
                    .all(|filter| is_plausible(&policy, filter, &one, direction, &verdict))
            };
            let (right, another) = (
                classify(&policy, &one, direction),
                classify(&policy, &other, direction),
            );
            assert!(plausible(right), "seed {seed}");
            if another != right && right.rule_id < u32::MAX {
                wrong += 1;
                noticed += u32::from(!plausible(another));
            }
        }
        assert!(wrong > 50 && noticed == wrong, "{noticed} of {wrong}");
    }
}
