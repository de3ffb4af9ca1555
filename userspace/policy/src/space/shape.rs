//! A filter, or its reverse, as a set of points.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::Plane;
use super::region::{Interval, Point};
use crate::address::{Address, Family};
use crate::filter::{Filter, Selector};
use crate::ports::PortSet;

/// One side of a filter in one IP version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'p> {
    pub(crate) source: Interval,
    pub(crate) destination: Interval,
    pub(crate) protocol: Option<u8>,
    pub(crate) first: Ports<'p>,
    pub(crate) second: Ports<'p>,
}

/// The values of a port, or of ICMP type or code.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ports<'p> {
    Any,
    Ranges(&'p [RangeInclusive<u16>]),
    One(u16),
}

impl<'p> Shape<'p> {
    /// The filter's shape in `family`, if it has one; `reversed` exchanges addresses and ports.
    pub(crate) fn of(filter: &'p Filter, reversed: bool, family: Family) -> Option<Self> {
        if filter.family().is_some_and(|only| only != family) {
            return None;
        }
        let (mut source, mut destination) = (
            interval(&filter.source, family),
            interval(&filter.destination, family),
        );
        let (mut first, mut second) = match &filter.selector {
            Selector::Any => (Ports::Any, Ports::Any),
            Selector::Ports { source, destination } => (Ports::of(source), Ports::of(destination)),
            Selector::Icmp { kind, code } => (
                Ports::One(u16::from(*kind)),
                code.map_or(Ports::Any, |code| Ports::One(u16::from(code))),
            ),
        };
        if reversed {
            (source, destination) = (destination, source);
            if !matches!(filter.selector, Selector::Icmp { .. }) {
                (first, second) = (second, first);
            }
        }
        Some(Self {
            source,
            destination,
            protocol: filter.protocol.map(|protocol| protocol.0),
            first,
            second,
        })
    }

    /// What is left of it for later fragments.
    pub(crate) fn of_fragments(self, plane: Plane) -> Self {
        Self {
            protocol: self.protocol.filter(|_| !plane.hides_protocol()),
            first: Ports::Any,
            second: Ports::Any,
            ..self
        }
    }

    pub(crate) fn contains(&self, point: &Point) -> bool {
        self.source.contains(point.source)
            && self.destination.contains(point.destination)
            && self.protocol.is_none_or(|protocol| protocol == point.protocol)
            && self.first.contains(point.first)
            && self.second.contains(point.second)
    }

    /// The protocols that it takes.
    pub(crate) fn protocol_interval(&self) -> Interval {
        self.protocol
            .map_or(Interval::PROTOCOLS, |protocol| Interval::one(protocol.into()))
    }
}

impl<'p> Ports<'p> {
    fn of(set: &'p PortSet) -> Self {
        if set.is_any() {
            Self::Any
        } else {
            Self::Ranges(set.ranges())
        }
    }

    pub(crate) fn contains(self, value: u16) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => one == value,
            Self::Ranges(ranges) => ranges.iter().any(|range| range.contains(&value)),
        }
    }

    /// From the lowest to the highest value.
    pub(crate) fn bounds(self) -> Interval {
        match self {
            Self::Any => Interval::PORTS,
            Self::One(one) => Interval::one(one.into()),
            Self::Ranges(ranges) => match (ranges.first(), ranges.last()) {
                (Some(first), Some(last)) => Interval::new((*first.start()).into(), (*last.end()).into()),
                _ => Interval::PORTS,
            },
        }
    }

    /// The intervals of `within` that are in the set, ascending.
    pub(crate) fn inside(self, within: Interval) -> Vec<Interval> {
        match self {
            Self::Any => vec![within],
            Self::One(one) => within
                .intersection(Interval::one(one.into()))
                .into_iter()
                .collect(),
            Self::Ranges(ranges) => ranges
                .iter()
                .filter_map(|range| {
                    within.intersection(Interval::new((*range.start()).into(), (*range.end()).into()))
                })
                .collect(),
        }
    }

    /// The intervals of `within` that are not in the set, ascending.
    pub(crate) fn outside(self, within: Interval) -> Vec<Interval> {
        let mut gaps = Vec::new();
        let mut next = Some(within.first);
        for inside in self.inside(within) {
            if let Some(first) = next
                && first < inside.first
            {
                gaps.push(Interval::new(first, inside.first - 1));
            }
            next = (inside.last < within.last).then(|| inside.last + 1);
        }
        gaps.extend(next.map(|first| Interval::new(first, within.last)));
        gaps
    }
}

fn interval(address: &Address, family: Family) -> Interval {
    let (first, last) = match address {
        Address::Any => return Interval::addresses(family),
        Address::Prefix(prefix) => (prefix.network(), prefix.broadcast()),
        Address::Range(first, last) => (*first, *last),
    };
    Interval::new(bits(first), bits(last))
}

/// An address as a number of its family.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
