//! Address prefixes as numbers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ravelin_policy::Family;

/// An address prefix; the bits behind it are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    bits: u128,
    length: u8,
    v4: bool,
}

impl Prefix {
    /// The first `length` bits of `bits`, which for IPv4 are the lowest 32; a `length` beyond the family's is cut.
    #[must_use]
    pub fn new(family: Family, bits: u128, length: u8) -> Self {
        let v4 = family == Family::V4;
        let length = length.min(width(family));
        let cut = Self { bits, length, v4 };
        Self {
            bits: bits & !cut.host_mask() & all(v4),
            ..cut
        }
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        if self.v4 { Family::V4 } else { Family::V6 }
    }

    /// Its length in bits.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The first address, as a number.
    #[must_use]
    pub fn first(&self) -> u128 {
        self.bits
    }

    /// The last address, as a number.
    #[must_use]
    pub fn last(&self) -> u128 {
        self.bits | self.host_mask()
    }

    /// Whether it holds this address, a number of its own family.
    #[must_use]
    pub fn contains(&self, address: u128) -> bool {
        (address ^ self.bits) & !self.host_mask() == 0
    }

    /// Whether it holds all of `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.bits)
    }

    fn host_mask(&self) -> u128 {
        let free = u32::from(width(self.family()) - self.length);
        1_u128.checked_shl(free).map_or(u128::MAX, |bit| bit - 1)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", address(self.family(), self.bits), self.length)
    }
}

/// Bits of an address.
#[must_use]
pub(crate) const fn width(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// The address with this number.
#[must_use]
pub(crate) fn address(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(bits as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The number of an address.
#[must_use]
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

const fn all(v4: bool) -> u128 {
    if v4 { u32::MAX as u128 } else { u128::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_they_should() {
        let net = Prefix::new(Family::V4, 0x0a01_02ff, 24);
        assert_eq!(net.to_string(), "10.1.2.0/24");
        assert_eq!((net.first(), net.last()), (0x0a01_0200, 0x0a01_02ff));
        assert!(net.contains(0x0a01_0280) && !net.contains(0x0a01_0300));
        assert!(net.covers(&Prefix::new(Family::V4, 0x0a01_0207, 32)));
        assert!(!Prefix::new(Family::V4, 0x0a01_0207, 32).covers(&net));
        let any = Prefix::new(Family::V4, u128::MAX, 0);
        assert_eq!((any.first(), any.last()), (0, u128::from(u32::MAX)));
        let any = Prefix::new(Family::V6, u128::MAX, 0);
        assert_eq!((any.first(), any.last()), (0, u128::MAX));
        let host = Prefix::new(Family::V6, 7, 200);
        assert_eq!((host.first(), host.last(), host.length()), (7, 7, 128));
    }
}
