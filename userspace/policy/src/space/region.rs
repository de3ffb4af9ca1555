//! Points, and boxes of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Plane;
use super::shape::{Shape, bits};
use crate::address::Family;
use crate::packet::{Packet, Transport};
use crate::protocol::Protocol;

/// A packet of a plane, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Point {
    pub(crate) source: u128,
    pub(crate) destination: u128,
    pub(crate) protocol: u8,
    /// Source port or ICMP type; 0 where the packet shows none.
    pub(crate) first: u16,
    /// Destination port or ICMP code; 0 where the packet shows none.
    pub(crate) second: u16,
}

/// Numbers from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Interval {
    pub(crate) first: u128,
    pub(crate) last: u128,
}

/// A box of points: all combinations of five intervals.
///
/// Where the ports are limited, the protocol is a single one that has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Region {
    pub(crate) source: Interval,
    pub(crate) destination: Interval,
    pub(crate) protocol: Interval,
    pub(crate) first: Interval,
    pub(crate) second: Interval,
}

impl Interval {
    pub(crate) const PORTS: Self = Self::new(0, 65_535);
    pub(crate) const PROTOCOLS: Self = Self::new(0, 255);
    pub(crate) const ICMP: Self = Self::new(0, 255);

    pub(crate) const fn new(first: u128, last: u128) -> Self {
        Self { first, last }
    }

    pub(crate) const fn one(value: u128) -> Self {
        Self::new(value, value)
    }

    /// All addresses of a family.
    pub(crate) const fn addresses(family: Family) -> Self {
        match family {
            Family::V4 => Self::new(0, u32::MAX as u128),
            Family::V6 => Self::new(0, u128::MAX),
        }
    }

    pub(crate) fn contains(self, value: u128) -> bool {
        (self.first..=self.last).contains(&value)
    }

    pub(crate) fn intersection(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self::new(first, last))
    }

    /// What of it lies before and behind `other`, with which it overlaps.
    fn around(self, other: Self) -> impl Iterator<Item = Self> {
        let before = (self.first < other.first).then(|| Self::new(self.first, other.first - 1));
        let behind = (other.last < self.last).then(|| Self::new(other.last + 1, self.last));
        before.into_iter().chain(behind)
    }

    /// The logarithm of how many it holds.
    fn bits(self) -> u32 {
        128 - (self.last - self.first).leading_zeros()
    }
}

impl Region {
    /// All packets of a family.
    pub(crate) fn all(family: Family) -> Self {
        Self {
            source: Interval::addresses(family),
            destination: Interval::addresses(family),
            protocol: Interval::new(0, 255),
            first: Interval::PORTS,
            second: Interval::PORTS,
        }
    }

    /// The part of `self` between two addresses.
    pub(crate) fn between(self, source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source: Interval::one(bits(source)),
            destination: Interval::one(bits(destination)),
            ..self
        }
    }

    /// The part of `self` of one protocol, from and to ports in these ranges.
    pub(crate) fn with_ports(self, protocol: Protocol, from: (u16, u16), to: (u16, u16)) -> Self {
        Self {
            protocol: Interval::one(protocol.0.into()),
            first: Interval::new(from.0.into(), from.1.into()),
            second: Interval::new(to.0.into(), to.1.into()),
            ..self
        }
    }

    /// The answers to its packets, which are of a protocol with ports.
    pub(crate) fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            first: self.second,
            second: self.first,
            ..self
        }
    }

    /// The part of `self` in the shape, as disjoint boxes.
    pub(crate) fn inside(&self, shape: &Shape<'_>) -> Vec<Self> {
        let Some(body) = self.body_inside(shape) else {
            return Vec::new();
        };
        let mut parts = Vec::new();
        for first in shape.first.inside(body.first) {
            for second in shape.second.inside(body.second) {
                parts.push(Self {
                    first,
                    second,
                    ..body
                });
            }
        }
        parts
    }

    /// The part of `self` outside the shape, as disjoint boxes.
    pub(crate) fn outside(&self, shape: &Shape<'_>) -> Vec<Self> {
        let Some(body) = self.body_inside(shape) else {
            return vec![*self];
        };
        let mut parts = Vec::new();
        let mut rest = *self;
        parts.extend(
            rest.protocol
                .around(body.protocol)
                .map(|protocol| Self { protocol, ..rest }),
        );
        rest = Self {
            first: body.first,
            second: body.second,
            protocol: body.protocol,
            ..rest
        };
        parts.extend(
            rest.source
                .around(body.source)
                .map(|source| Self { source, ..rest }),
        );
        rest.source = body.source;
        parts.extend(
            rest.destination
                .around(body.destination)
                .map(|destination| Self { destination, ..rest }),
        );
        rest.destination = body.destination;
        parts.extend(
            shape
                .first
                .outside(rest.first)
                .into_iter()
                .map(|first| Self { first, ..rest }),
        );
        let seconds = shape.second.outside(rest.second);
        for first in shape.first.inside(rest.first) {
            parts.extend(seconds.iter().map(|second| Self {
                first,
                second: *second,
                ..rest
            }));
        }
        parts
    }

    /// Cuts off so much that `point` stays and the shape, which does not hold it, is no longer touched: what stays, and
    /// what was cut off.
    pub(crate) fn away_from(&self, shape: &Shape<'_>, point: &Point) -> (Self, Vec<Self>) {
        let Some(body) = self.body_inside(shape) else {
            return (*self, Vec::new());
        };
        // Of the fields that tell the point from the shape, the one that leaves most.
        let mut best: Option<(u32, Self, Vec<Self>)> = None;
        let mut consider =
            |before: Interval, other: Interval, value: u128, build: &dyn Fn(Interval) -> Self| {
                if other.contains(value) {
                    return;
                }
                let kept = before.around(other).find(|part| part.contains(value));
                let Some(kept) = kept else { return };
                let off = before.around(kept).map(build).collect();
                let lost = before.bits() - kept.bits();
                if best.as_ref().is_none_or(|(least, ..)| lost < *least) {
                    best = Some((lost, build(kept), off));
                }
            };
        let region = *self;
        consider(region.source, body.source, point.source, &|source| Self {
            source,
            ..region
        });
        consider(
            region.destination,
            body.destination,
            point.destination,
            &|destination| Self {
                destination,
                ..region
            },
        );
        consider(
            region.protocol,
            body.protocol,
            point.protocol.into(),
            &|protocol| Self { protocol, ..region },
        );
        if let Some((_, kept, off)) = best {
            return (kept, off);
        }
        // The ports alone tell them apart, and the protocol is a single one with ports.
        let mut off: Vec<Self> = Vec::new();
        off.extend(
            region
                .protocol
                .around(body.protocol)
                .map(|protocol| Self { protocol, ..region }),
        );
        let rest = Self {
            protocol: body.protocol,
            first: body.first,
            second: body.second,
            ..region
        };
        let kept_first = gap(&shape.first.outside(rest.first), point.first);
        let kept_second = gap(&shape.second.outside(rest.second), point.second);
        match (kept_first, kept_second) {
            (Some(first), _) => {
                off.extend(rest.first.around(first).map(|first| Self { first, ..rest }));
                (Self { first, ..rest }, off)
            }
            (None, Some(second)) => {
                off.extend(rest.second.around(second).map(|second| Self { second, ..rest }));
                (Self { second, ..rest }, off)
            }
            (None, None) => (region, Vec::new()),
        }
    }

    pub(crate) fn contains(&self, point: &Point) -> bool {
        self.source.contains(point.source)
            && self.destination.contains(point.destination)
            && self.protocol.contains(point.protocol.into())
            && self.first.contains(point.first.into())
            && self.second.contains(point.second.into())
    }

    /// Whether the two have a point in common.
    pub(crate) fn touches_region(&self, other: &Self) -> bool {
        self.source.intersection(other.source).is_some()
            && self.destination.intersection(other.destination).is_some()
            && self.protocol.intersection(other.protocol).is_some()
            && self.first.intersection(other.first).is_some()
            && self.second.intersection(other.second).is_some()
    }

    /// Whether the two have a point in common.
    pub(crate) fn touches(&self, shape: &Shape<'_>) -> bool {
        self.body_inside(shape).is_some_and(|body| {
            !shape.first.inside(body.first).is_empty() && !shape.second.inside(body.second).is_empty()
        })
    }

    /// The smallest that covers both.
    pub(crate) fn hull(&self, other: &Self) -> Self {
        Self {
            source: self.source.hull(other.source),
            destination: self.destination.hull(other.destination),
            protocol: self.protocol.hull(other.protocol),
            first: self.first.hull(other.first),
            second: self.second.hull(other.second),
        }
    }

    /// The overlap in all but ports, with the ports that its protocol can have.
    fn body_inside(&self, shape: &Shape<'_>) -> Option<Self> {
        let protocol = self.protocol.intersection(shape.protocol_interval())?;
        let icmp = protocol.first == protocol.last
            && u8::try_from(protocol.first).is_ok_and(|number| Protocol(number).is_icmp());
        let limited = !matches!(
            (shape.first, shape.second),
            (super::shape::Ports::Any, super::shape::Ports::Any)
        );
        // Types and codes are bytes; of the other family's ICMP nothing is limited.
        let (first, second) = if icmp && limited {
            (
                self.first.intersection(Interval::ICMP)?,
                self.second.intersection(Interval::ICMP)?,
            )
        } else {
            (self.first, self.second)
        };
        let body = Self {
            source: self.source.intersection(shape.source)?,
            destination: self.destination.intersection(shape.destination)?,
            protocol,
            first,
            second,
        };
        let touched = shape.first.bounds().intersection(first).is_some()
            && shape.second.bounds().intersection(second).is_some();
        touched.then_some(body)
    }

    /// How much it holds, as a logarithm.
    pub(crate) fn size(&self) -> u32 {
        [
            self.source,
            self.destination,
            self.protocol,
            self.first,
            self.second,
        ]
        .iter()
        .map(|interval| interval.bits())
        .sum()
    }

    /// A packet of the region that can exist; `variant` 0 is the one to show to people.
    pub(crate) fn example(&self, plane: Plane, variant: u64) -> Option<Point> {
        let protocol = self.some_protocol(plane, variant)?;
        let shows = !plane.fragment && plane.has_ports(Protocol(protocol));
        let (first, second) = if shows {
            let icmp = Protocol(protocol).is_icmp();
            let clamp = |interval: Interval| {
                if icmp {
                    interval.intersection(Interval::ICMP)
                } else {
                    Some(interval)
                }
            };
            let (first, second) = (clamp(self.first)?, clamp(self.second)?);
            if icmp {
                (
                    choose(first, &[8, 128], variant, 3),
                    choose(second, &[0], variant, 4),
                )
            } else {
                (
                    choose(first, &[40_000], variant, 3),
                    choose(second, &[443, 80, 22, 53], variant, 4),
                )
            }
        } else {
            (0, 0)
        };
        let (sources, destinations): (&[u128], &[u128]) = match plane.family {
            Family::V4 => (&[V4_EXAMPLES[0]], &[V4_EXAMPLES[1], V4_EXAMPLES[0]]),
            Family::V6 => (&[V6_EXAMPLES[0]], &[V6_EXAMPLES[1], V6_EXAMPLES[0]]),
        };
        let port = |value: u128| u16::try_from(value).unwrap_or(u16::MAX);
        Some(Point {
            source: choose(self.source, sources, variant, 1),
            destination: choose(self.destination, destinations, variant, 2),
            protocol,
            first: port(first),
            second: port(second),
        })
    }

    /// A protocol that packets of the plane can have.
    fn some_protocol(&self, plane: Plane, variant: u64) -> Option<u8> {
        let icmp = match plane.family {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMP6,
        };
        let holds = |protocol: &u8| self.protocol.contains((*protocol).into());
        let with_ports = [
            Protocol::TCP.0,
            Protocol::UDP.0,
            icmp.0,
            Protocol::SCTP.0,
            Protocol::DCCP.0,
            Protocol::UDPLITE.0,
        ];
        let mut common = with_ports.into_iter().filter(holds);
        let chosen = match variant {
            0 => common.next(),
            _ => {
                let common: Vec<u8> = common.collect();
                common
                    .get(scatter(variant, 5) as usize % common.len().max(1))
                    .copied()
            }
        };
        if plane.fragment || chosen.is_some() {
            return chosen;
        }
        (0..=u8::MAX).find(|protocol| {
            holds(protocol) && (plane.family == Family::V4 || !matches!(protocol, 0 | 43 | 44 | 60))
        })
    }
}

/// Documentation addresses (RFC 5737, RFC 3849) for what takes any address.
const V4_EXAMPLES: [u128; 2] = [0xc633_6405, 0xcb00_7109];
const V6_EXAMPLES: [u128; 2] = [
    0x2001_0db8_0001_0000_0000_0000_0000_0005,
    0x2001_0db8_0002_0000_0000_0000_0000_0009,
];

/// The gap that holds `value`.
fn gap(gaps: &[Interval], value: u16) -> Option<Interval> {
    gaps.iter().find(|gap| gap.contains(value.into())).copied()
}

/// A value of the interval: for variant 0 a preferred one or else one near the start, then both ends, then any.
fn choose(interval: Interval, preferred: &[u128], variant: u64, field: u64) -> u128 {
    let width = interval.last - interval.first;
    match variant {
        0 => preferred
            .iter()
            .find(|value| interval.contains(**value))
            .copied()
            .unwrap_or(if width > 2 {
                interval.first + 1
            } else {
                interval.first
            }),
        1 => interval.first,
        2 => interval.last,
        _ => {
            let random = u128::from(scatter(variant, field)) << 64 | u128::from(scatter(variant, field + 8));
            match width.checked_add(1) {
                Some(count) => interval.first + random % count,
                None => random,
            }
        }
    }
}

/// A number that depends on both in no visible way (SplitMix64, public domain, Sebastiano Vigna 2015).
fn scatter(variant: u64, field: u64) -> u64 {
    let mut z = variant
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(field.wrapping_mul(0xd1b5_4a32_d192_ed03));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Point {
    /// The packet at this point of a plane.
    pub(crate) fn packet(&self, plane: Plane) -> Packet {
        let shows = plane.has_ports(Protocol(self.protocol));
        Packet {
            source: address(self.source, plane.family),
            destination: address(self.destination, plane.family),
            protocol: self.protocol,
            transport: match (shows, plane.fragment) {
                (true, false) => Transport::Ports(self.first, self.second),
                (true, true) => Transport::LaterFragment,
                (false, _) if plane.hides_protocol() => Transport::LaterFragment,
                (false, _) => Transport::Absent,
            },
        }
    }
}

pub(crate) fn address(bits: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::{Interval, Point, Region};
    use crate::address::{Address, Family};
    use crate::filter::{Filter, Selector};
    use crate::packet::{Packet, Transport};
    use crate::ports::PortSet;
    use crate::protocol::Protocol;
    use crate::space::shape::{Shape, bits};

    /// Numbers of a space so small that boxes touch and nest.
    const MOST: u16 = 7;

    fn interval() -> impl Strategy<Value = Interval> {
        (0..=MOST, 0..=MOST).prop_map(|(a, b)| Interval::new(a.min(b).into(), a.max(b).into()))
    }

    fn region() -> impl Strategy<Value = Region> {
        let protocol = prop_oneof![
            Just(Interval::new(0, 255)),
            Just(Interval::one(6)),
            Just(Interval::new(5, 9))
        ];
        (interval(), interval(), protocol, interval(), interval()).prop_map(
            |(source, destination, protocol, first, second)| {
                // Only of a protocol with ports are the ports limited.
                let (first, second) = if protocol == Interval::one(6) {
                    (first, second)
                } else {
                    (Interval::PORTS, Interval::PORTS)
                };
                Region {
                    source,
                    destination,
                    protocol,
                    first,
                    second,
                }
            },
        )
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let address = (0..=MOST, 0..=MOST).prop_map(|(a, b)| {
            let address = |bits: u16| IpAddr::from(std::net::Ipv4Addr::from_bits(bits.into()));
            Address::Range(address(a.min(b)), address(a.max(b)))
        });
        let ports = || {
            prop::collection::vec((0..=MOST, 0..=MOST), 0..3).prop_map(|ranges| {
                PortSet::from_ranges(ranges.into_iter().map(|(a, b)| a.min(b)..=a.max(b)).collect())
            })
        };
        (address.clone(), address, any::<bool>(), ports(), ports()).prop_map(
            |(source, destination, tcp, from, to)| Filter {
                source,
                destination,
                protocol: tcp.then_some(Protocol::TCP),
                selector: if tcp && !(from.is_any() && to.is_any()) {
                    Selector::Ports {
                        source: from,
                        destination: to,
                    }
                } else {
                    Selector::Any
                },
                mirrored: false,
                position: crate::Position::default(),
            },
        )
    }

    fn point() -> impl Strategy<Value = Point> {
        let number = || 0..=MOST + 1;
        (
            number(),
            number(),
            prop_oneof![Just(6_u8), Just(7), Just(200)],
            number(),
            number(),
        )
            .prop_map(|(source, destination, protocol, first, second)| Point {
                source: source.into(),
                destination: destination.into(),
                protocol,
                // Without ports both are 0.
                first: if protocol == 6 { first } else { 0 },
                second: if protocol == 6 { second } else { 0 },
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_shape_divides_a_region(region in region(), filter in filter(), reversed: bool, points in prop::collection::vec(point(), 64)) {
            let shape = Shape::of(&filter, reversed, Family::V4).unwrap();
            let (inside, outside) = (region.inside(&shape), region.outside(&shape));
            prop_assert_eq!(region.touches(&shape), !inside.is_empty());
            for point in points {
                let holds = |parts: &[Region]| parts.iter().filter(|part| part.contains(&point)).count();
                let expected = usize::from(region.contains(&point));
                prop_assert_eq!(holds(&inside), expected * usize::from(shape.contains(&point)));
                prop_assert_eq!(holds(&outside), expected * usize::from(!shape.contains(&point)));
            }
        }

        #[test]
        fn a_point_is_kept_away_from_a_shape(region in region(), filter in filter(), points in prop::collection::vec(point(), 64)) {
            let shape = Shape::of(&filter, false, Family::V4).unwrap();
            let Some(at) = points.iter().find(|at| region.contains(at) && !shape.contains(at)) else {
                return Ok(());
            };
            let (kept, off) = region.away_from(&shape, at);
            prop_assert!(kept.contains(at) && !kept.touches(&shape));
            for point in points {
                let parts = off.iter().chain([&kept]);
                let count = parts.filter(|part| part.contains(&point)).count();
                prop_assert_eq!(count, usize::from(region.contains(&point)));
            }
        }
    }

    #[test]
    fn a_packet_is_the_packet_of_its_point() {
        for text in [
            "tcp 10.0.0.1:1 -> 10.0.0.2:2",
            "gre fd00::1 -> fd00::2",
            "udp 10.0.0.1 -> 10.0.0.2 fragment",
        ] {
            let packet: Packet = text.parse().unwrap();
            let plane = super::Plane {
                direction: ravelin_xdp_common::Direction::Inbound,
                family: Family::of(packet.source),
                fragment: packet.transport == Transport::LaterFragment,
            };
            let (first, second) = match packet.transport {
                Transport::Ports(first, second) => (first, second),
                _ => (0, 0),
            };
            let point = Point {
                source: bits(packet.source),
                destination: bits(packet.destination),
                protocol: packet.protocol,
                first,
                second,
            };
            assert_eq!(point.packet(plane), packet);
        }
    }
}
