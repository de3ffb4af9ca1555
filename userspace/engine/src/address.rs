//! From the standard library's addresses to those of the classifier, and back.

use std::net::{IpAddr, Ipv6Addr};

use ravelin_xdp_common::{Address, Family, address_bytes, address_v6, mapped_v4};

/// The classifier's form of an address.
#[must_use]
pub(crate) fn to_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => mapped_v4(address.octets()),
        IpAddr::V6(address) => address_v6(address.octets()),
    }
}

/// The standard library's form of an address of a packet of this family.
#[must_use]
pub(crate) fn from_address(address: Address, family: Family) -> IpAddr {
    let v6 = Ipv6Addr::from(address_bytes(address));
    match (family, v6.to_ipv4_mapped()) {
        (Family::V4, Some(v4)) => IpAddr::V4(v4),
        _ => IpAddr::V6(v6),
    }
}
