//! One filter as lines.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use ravelin_policy::{Action, Address, Family, Filter, PortSet, Selector};
use ravelin_xdp_common::line::{ANY_FAMILY, NO_CONNECTION, line_flags};
use ravelin_xdp_common::{self as xdp, Line, address_v6, mapped_v4};

/// How many lines [`expand`] makes.
pub(crate) fn line_count(filter: &Filter, action: Action) -> usize {
    let addresses = |address: &Address| address.prefixes().len().max(1);
    let ports = |set: &PortSet| set.ranges().len().max(1);
    let selectors = match &filter.selector {
        Selector::Ports { source, destination } => ports(source) * ports(destination),
        Selector::Any | Selector::Icmp { .. } => 1,
    };
    addresses(&filter.source) * addresses(&filter.destination) * selectors * sides(filter, action).len()
}

/// Writes the filter out as lines, in no particular order: they have one rank and one verdict.
pub(crate) fn expand(filter: &Filter, action: Action, rule_id: u32, rank: u32, lines: &mut Vec<Line>) {
    for (side, directions) in sides(filter, action) {
        let pattern = Line {
            rule_id,
            rank,
            ..pattern(&side, action, directions)
        };
        for source in prefixes(&side.source) {
            for destination in prefixes(&side.destination) {
                for (source_port, destination_port) in port_pairs(&side.selector) {
                    lines.push(Line {
                        source: source.map_or([0; 2], |prefix| to_address(prefix.network())),
                        destination: destination.map_or([0; 2], |prefix| to_address(prefix.network())),
                        source_prefix_length: source.map_or(0, mapped_length),
                        destination_prefix_length: destination.map_or(0, mapped_length),
                        source_port,
                        destination_port,
                        ..pattern
                    });
                }
            }
        }
    }
}

/// The filter as written and, where it applies, reversed; each with the directions it applies to.
///
/// Permit and block are about packets, whichever way they go. A protect rule's filter describes outbound packets,
/// its reverse inbound ones.
fn sides(filter: &Filter, action: Action) -> Vec<(Filter, u8)> {
    let (forward, backward) = match action {
        Action::Protect { .. } => (line_flags::OUTBOUND, line_flags::INBOUND),
        _ => (
            line_flags::OUTBOUND | line_flags::INBOUND,
            line_flags::OUTBOUND | line_flags::INBOUND,
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

/// A line with all that the lines of one side have in common.
fn pattern(filter: &Filter, action: Action, directions: u8) -> Line {
    let mut flags = directions;
    if filter.protocol.is_none() {
        flags |= line_flags::ANY_PROTOCOL;
    }
    if filter.selector != Selector::Any {
        flags |= line_flags::PORTS;
    }
    let (action, connection) = match action {
        Action::Permit => (xdp::Action::Permit, NO_CONNECTION),
        Action::Block => (xdp::Action::Block, NO_CONNECTION),
        Action::Protect {
            connection,
            accept_unsecured,
        } => {
            if accept_unsecured {
                flags |= line_flags::ACCEPT_UNSECURED;
            }
            (
                xdp::Action::Protect,
                u32::try_from(connection).unwrap_or(NO_CONNECTION),
            )
        }
    };
    Line {
        family: match filter.family() {
            None => ANY_FAMILY,
            Some(Family::V4) => xdp::Family::V4 as u8,
            Some(Family::V6) => xdp::Family::V6 as u8,
        },
        protocol: filter.protocol.map_or(0, |protocol| protocol.0),
        flags,
        action: action as u8,
        connection,
        ..Line::EMPTY
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

/// The prefix length in the classifier's form, where IPv4 stands at `::ffff:0:0/96`.
fn mapped_length(prefix: IpNet) -> u8 {
    match prefix {
        IpNet::V4(v4) => v4.prefix_len() + 96,
        IpNet::V6(v6) => v6.prefix_len(),
    }
}
