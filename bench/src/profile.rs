//! What kinds of rule set there are, in numbers.

use ravelin_classifier::arbitrary::Rng;

/// A kind of rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Access lists of routers and VPN boxes: long prefixes on both sides, many of them nested, one service each, no
    /// source ports.
    Acl,
    /// Firewalls: one side is often everything, services are ranges as well, and source ports are named.
    Firewall,
    /// Host chains: pairs of hosts and networks, often the two sides of one network, often every protocol.
    IpChains,
}

/// A class of port ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortClass {
    /// Every port (WC).
    Any,
    /// 1024 to 65535 (HI).
    High,
    /// 0 to 1023 (LO).
    Low,
    /// Some other range (AR).
    Range,
    /// One port (EM).
    Exact,
}

impl PortClass {
    /// The class of a range.
    #[must_use]
    pub fn of([low, high]: [u16; 2]) -> Self {
        match (low, high) {
            (0, u16::MAX) => Self::Any,
            (1024, u16::MAX) => Self::High,
            (0, 1023) => Self::Low,
            _ if low == high => Self::Exact,
            _ => Self::Range,
        }
    }
}

/// The numbers of a profile. Weights are relative to the sum of their list.
#[derive(Debug)]
pub(crate) struct Statistics {
    /// Protocols; `None` is any.
    pub(crate) protocols: &'static [(Option<u8>, u32)],
    /// Classes of source and destination ports of TCP and UDP rules.
    pub(crate) ports: &'static [(PortClass, PortClass, u32)],
    /// IPv4 lengths of source and destination prefix.
    pub(crate) prefixes: &'static [(u8, u8, u32)],
    /// Percent of rules whose two sides share their leading bits.
    pub(crate) correlated: usize,
    /// Percent of branching nodes of the prefix trees, by eighths of the address.
    pub(crate) branching: [u8; 4],
    /// How unevenly rules fall on the branches: percent that go to the heavier one.
    pub(crate) skew: u8,
    /// Percent of rules that permit.
    pub(crate) permits: usize,
}

use PortClass::{Any, Exact, High, Low, Range};

const ACL: Statistics = Statistics {
    protocols: &[
        (Some(6), 70),
        (Some(17), 17),
        (Some(1), 5),
        (None, 6),
        (Some(50), 1),
        (Some(47), 1),
    ],
    ports: &[
        (Any, Exact, 68),
        (Any, Range, 16),
        (Any, Any, 10),
        (Any, High, 5),
        (Any, Low, 1),
    ],
    prefixes: &[
        (32, 32, 22),
        (28, 32, 11),
        (30, 32, 8),
        (27, 32, 7),
        (24, 32, 13),
        (23, 32, 5),
        (21, 32, 4),
        (16, 32, 4),
        (0, 32, 8),
        (28, 30, 4),
        (24, 28, 5),
        (24, 24, 3),
        (32, 24, 3),
        (20, 26, 2),
        (0, 24, 1),
    ],
    correlated: 5,
    branching: [55, 60, 45, 35],
    skew: 70,
    permits: 65,
};

const FIREWALL: Statistics = Statistics {
    protocols: &[
        (Some(6), 56),
        (Some(17), 22),
        (None, 13),
        (Some(1), 7),
        (Some(47), 1),
        (Some(50), 1),
    ],
    ports: &[
        (Any, Exact, 40),
        (Any, Any, 16),
        (Exact, Any, 12),
        (Any, Range, 10),
        (High, Exact, 7),
        (Any, High, 6),
        (Exact, High, 3),
        (Exact, Exact, 3),
        (Range, Exact, 1),
        (Any, Low, 2),
    ],
    prefixes: &[
        (0, 32, 30),
        (32, 0, 20),
        (0, 24, 7),
        (24, 0, 6),
        (0, 28, 4),
        (0, 16, 2),
        (16, 0, 2),
        (32, 32, 11),
        (24, 32, 6),
        (32, 24, 5),
        (16, 32, 3),
        (8, 32, 1),
        (24, 24, 2),
        (0, 0, 1),
    ],
    correlated: 4,
    branching: [40, 50, 45, 40],
    skew: 80,
    permits: 55,
};

const IP_CHAINS: Statistics = Statistics {
    protocols: &[
        (Some(6), 38),
        (Some(17), 17),
        (None, 33),
        (Some(1), 7),
        (Some(89), 2),
        (Some(2), 3),
    ],
    ports: &[
        (Any, Any, 30),
        (Any, Exact, 32),
        (Exact, Any, 10),
        (Exact, Exact, 8),
        (High, Exact, 6),
        (Any, Range, 6),
        (Low, High, 3),
        (High, Low, 2),
        (High, High, 2),
        (Range, Range, 2),
    ],
    prefixes: &[
        (32, 32, 36),
        (24, 32, 9),
        (32, 24, 9),
        (24, 24, 7),
        (0, 32, 7),
        (32, 0, 7),
        (16, 32, 5),
        (32, 16, 4),
        (16, 16, 3),
        (28, 28, 4),
        (24, 0, 3),
        (0, 24, 3),
        (8, 24, 1),
        (26, 30, 2),
    ],
    correlated: 40,
    branching: [45, 55, 50, 45],
    skew: 65,
    permits: 60,
};

/// Services, the most frequent first.
const SERVICES: [u16; 30] = [
    80, 443, 53, 22, 25, 21, 23, 110, 123, 161, 143, 389, 445, 139, 1521, 3306, 3389, 8080, 1433, 5432, 514,
    993, 636, 88, 1723, 5060, 8443, 179, 6000, 2049,
];

/// Ranges of services, the most frequent first.
const RANGES: [[u16; 2]; 12] = [
    [20, 21],
    [137, 139],
    [6000, 6063],
    [33_434, 33_600],
    [49_152, 65_535],
    [161, 162],
    [8000, 8100],
    [5060, 5070],
    [1645, 1646],
    [1024, 5000],
    [2300, 2400],
    [10_000, 20_000],
];

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Acl, Self::Firewall, Self::IpChains];

    /// `acl`, `fw` or `ipc`, as the field calls them.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Firewall => "fw",
            Self::IpChains => "ipc",
        }
    }

    /// The profile with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    pub(crate) const fn statistics(self) -> &'static Statistics {
        match self {
            Self::Acl => &ACL,
            Self::Firewall => &FIREWALL,
            Self::IpChains => &IP_CHAINS,
        }
    }
}

/// A range of this class. With `fresh`, from all there are and not from the usual ones.
pub(crate) fn port_range(rng: &mut Rng, class: PortClass, fresh: bool) -> [u16; 2] {
    match class {
        Any => [0, u16::MAX],
        High => [1024, u16::MAX],
        Low => [0, 1023],
        Exact if fresh || rng.chance(12) => [1 + rng.below(65_535) as u16; 2],
        Exact => [*popular(rng, &SERVICES); 2],
        Range if fresh || rng.chance(25) => {
            let low = 1 + rng.below(64_000);
            [low as u16, (low + 1 + rng.below(1500)) as u16]
        }
        Range => *popular(rng, &RANGES),
    }
}

/// One of the items, the first most often: the k-th weighs 1/k.
fn popular<'a, T>(rng: &mut Rng, items: &'a [T]) -> &'a T {
    let weights = items.iter().zip(1..).map(|(item, k)| (item, 5040 / k));
    weighted(rng, weights)
}

/// One of the items by weight; the weights sum up to more than 0.
pub(crate) fn weighted<T>(rng: &mut Rng, items: impl Iterator<Item = (T, u32)> + Clone) -> T {
    let total: usize = items.clone().map(|(_, weight)| weight as usize).sum();
    let mut left = rng.below(total.max(1));
    let mut chosen = None;
    for (item, weight) in items {
        chosen = Some(item);
        if left < weight as usize {
            break;
        }
        left -= weight as usize;
    }
    chosen.expect("the tables of profiles are not empty")
}
