//! Filters that no packet can match, and rules that match nothing.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Notes;
use crate::address::Address;
use crate::explain::active_rules;
use crate::filter::Filter;
use crate::policy::Policy;
use crate::rule::Action;

pub(super) fn check(policy: &Policy, notes: &mut Notes<'_>) {
    for rule in policy.rules().iter().filter(|rule| !rule.active) {
        notes.add(rule.position, || {
            format!("rule `{}` is not active; it matches nothing", rule.name)
        });
    }
    notes.next_kind();
    for (_, rule) in active_rules(policy) {
        let both_ways = matches!(rule.action, Action::Protect { .. });
        for filter in policy.filters(rule) {
            if let Some(reason) = unsendable(filter, both_ways) {
                notes.add(filter.position, || {
                    format!(
                        "filter {filter} of rule `{}` matches no packet on a wire: {reason}",
                        rule.name
                    )
                });
            }
        }
    }
    notes.next_kind();
}

/// Why no packet can be like this, neither as the filter is written nor, where that counts, reversed.
fn unsendable(filter: &Filter, both_ways: bool) -> Option<String> {
    let forward = one_way(&filter.source, &filter.destination)?;
    if filter.mirrored || both_ways {
        one_way(&filter.destination, &filter.source)?;
    }
    Some(forward)
}

fn one_way(source: &Address, destination: &Address) -> Option<String> {
    let nobody = |address: &Address, kinds: &[(&str, IpNet)]| {
        kinds
            .iter()
            .find(|(_, net)| within(address, net))
            .map(|(kind, _)| format!("{address} is {kind}"))
    };
    nobody(source, &sources())
        .map(|what| format!("{what}, and no packet comes from there"))
        .or_else(|| {
            nobody(destination, &destinations()).map(|what| format!("{what}, and no packet goes there"))
        })
}

/// Where packets never come from (RFC 1122 section 3.2.1.3, RFC 4291 sections 2.5.3 and 2.7).
fn sources() -> [(&'static str, IpNet); 5] {
    [
        ("multicast", v4([224, 0, 0, 0], 4)),
        ("the broadcast address", v4([255; 4], 32)),
        ("loopback", v4([127, 0, 0, 0], 8)),
        ("multicast", v6(0xff00 << 112, 8)),
        ("loopback", v6(1, 128)),
    ]
}

/// Where packets never go to.
fn destinations() -> [(&'static str, IpNet); 4] {
    [
        ("loopback", v4([127, 0, 0, 0], 8)),
        ("the unspecified address", v4([0; 4], 32)),
        ("loopback", v6(1, 128)),
        ("the unspecified address", v6(0, 128)),
    ]
}

fn within(address: &Address, net: &IpNet) -> bool {
    match address {
        Address::Any => false,
        Address::Prefix(prefix) => net.contains(prefix),
        Address::Range(first, last) => net.contains(first) && net.contains(last),
    }
}

fn v4(octets: [u8; 4], length: u8) -> IpNet {
    Ipv4Net::new(octets.into(), length).map_or(IpNet::from(IpAddr::from(octets)), IpNet::V4)
}

fn v6(bits: u128, length: u8) -> IpNet {
    let address = std::net::Ipv6Addr::from_bits(bits);
    Ipv6Net::new(address, length).map_or(IpNet::from(IpAddr::from(address)), IpNet::V6)
}
