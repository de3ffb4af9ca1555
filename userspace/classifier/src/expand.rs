//! One filter as entries of leaves.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use ravelin_policy::{Action, Address, Family, Filter, PortSet, Selector};
use ravelin_xdp_common::line::entry_flags;
use ravelin_xdp_common::{self as xdp, Entry, address_v6, mapped_v4};

/// Entries of both families.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    pub(crate) v4: Vec<Entry>,
    pub(crate) v6: Vec<Entry>,
}

/// At most how many entries [`expand`] makes, without making them.
pub(crate) fn entry_count(filter: &Filter, action: Action) -> usize {
    let addresses = |address: &Address| address.prefixes().len().max(1);
    let ports = |set: &PortSet| set.ranges().len().max(1);
    let selectors = match &filter.selector {
        Selector::Ports { source, destination } => ports(source) * ports(destination),
        Selector::Any | Selector::Icmp { .. } => 1,
    };
    let families = if filter.family().is_none() { 2 } else { 1 };
    addresses(&filter.source)
        * addresses(&filter.destination)
        * selectors
        * families
        * sides(filter, action).len()
}

/// Writes the filter out as entries, in no particular order: they have one rank and one verdict.
pub(crate) fn expand(filter: &Filter, action: Action, rank: u32, entries: &mut Entries) {
    for (side, directions) in sides(filter, action) {
        let pattern = pattern(&side, directions, rank);
        for source in prefixes(&side.source) {
            for destination in prefixes(&side.destination) {
                for (source_port, destination_port) in port_pairs(&side.selector) {
                    let entry = Entry {
                        source: source.map_or([0; 2], |prefix| to_address(prefix.network())),
                        destination: destination.map_or([0; 2], |prefix| to_address(prefix.network())),
                        source_length: source.map_or(0, |prefix| prefix.prefix_len()),
                        destination_length: destination.map_or(0, |prefix| prefix.prefix_len()),
                        source_port,
                        destination_port,
                        ..pattern
                    };
                    if side.family() != Some(Family::V6) {
                        entries.v4.push(entry);
                    }
                    if side.family() != Some(Family::V4) {
                        entries.v6.push(entry);
                    }
                }
            }
        }
    }
}

/// The filter as written and, where it applies, reversed; each with the directions it applies to.
///
/// Permit and block are about packets, whichever way they go. A protect rule's filter describes outbound packets,
/// its reverse inbound ones.
fn sides(filter: &Filter, action: Action) -> Vec<(Filter, u32)> {
    let (forward, backward) = match action {
        Action::Protect { .. } => (entry_flags::OUTBOUND, entry_flags::INBOUND),
        _ => (
            entry_flags::OUTBOUND | entry_flags::INBOUND,
            entry_flags::OUTBOUND | entry_flags::INBOUND,
        ),
    };
    let reversed = filter.reversed();
    if reversed == *filter {
        return vec![(reversed, forward | backward)];
    }
    let mut sides = vec![(filter.clone(), forward)];
    if filter.mirrored || matches!(action, Action::Protect { .. }) {
        sides.push((reversed, backward));
    }
    sides
}

/// An entry with all that the entries of one side have in common.
fn pattern(filter: &Filter, directions: u32, rank: u32) -> Entry {
    let mut flags = directions;
    if filter.protocol.is_none() {
        flags |= entry_flags::ANY_PROTOCOL;
    }
    if filter.selector != Selector::Any {
        flags |= entry_flags::PORTS;
    }
    Entry {
        source: [0; 2],
        destination: [0; 2],
        source_length: 0,
        destination_length: 0,
        protocol: filter.protocol.map_or(0, |protocol| protocol.0),
        flags,
        source_port: [0, u16::MAX],
        destination_port: [0, u16::MAX],
        rank: rank << 1,
    }
}

/// The prefixes of an address; `None` stands for any.
fn prefixes(address: &Address) -> Vec<Option<IpNet>> {
    if *address == Address::Any {
        return vec![None];
    }
    address.prefixes().into_iter().map(Some).collect()
}

/// Pairs of ranges `[lowest, highest]` for the source and destination port fields.
fn port_pairs(selector: &Selector) -> Vec<([u16; 2], [u16; 2])> {
    let any = [0, u16::MAX];
    match selector {
        Selector::Any => vec![(any, any)],
        Selector::Icmp { kind, code } => {
            let one = |value: u8| [u16::from(value); 2];
            vec![(one(*kind), code.map_or(any, one))]
        }
        Selector::Ports { source, destination } => {
            let (sources, destinations) = (bounds(source), bounds(destination));
            sources
                .iter()
                .flat_map(|s| destinations.iter().map(|d| (*s, *d)))
                .collect()
        }
    }
}

fn bounds(set: &PortSet) -> Vec<[u16; 2]> {
    if set.is_any() {
        return vec![[0, u16::MAX]];
    }
    set.ranges()
        .iter()
        .map(|range: &RangeInclusive<u16>| [*range.start(), *range.end()])
        .collect()
}

/// The classifier's form of an address.
pub(crate) fn to_address(address: IpAddr) -> xdp::Address {
    match address {
        IpAddr::V4(v4) => mapped_v4(v4.octets()),
        IpAddr::V6(v6) => address_v6(v6.octets()),
    }
}
