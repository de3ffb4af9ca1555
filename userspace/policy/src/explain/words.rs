//! Ranks and mismatches in words, for people who did not write the policy.

use super::{Candidate, Mismatch, Miss};
use crate::filter::{Filter, Selector};
use crate::order::{Priority, Rank, RankField, Weight};
use crate::packet::{Packet, Transport};
use crate::protocol::Protocol;

/// The rank of a filter, field by field, in the order of comparison.
#[must_use]
pub fn rank_in_words(rank: &Rank, filter: &Filter) -> String {
    format!("{}, {}", weight_in_words(&rank.weight, filter), rank.strictness)
}

/// How specific a filter is, field by field, in the order of comparison.
#[must_use]
pub fn weight_in_words(weight: &Weight, filter: &Filter) -> String {
    let priority = match weight.priority {
        Priority::Lifeline | Priority::Session => "lifeline, ".to_owned(),
        Priority::Given(priority) => format!("priority {priority}, "),
        Priority::None => String::new(),
    };
    let ports = match weight.ports_given.0 {
        0 => "no port given".to_owned(),
        given => format!("{} given ({})", limited(given, filter), pairs(weight.port_pairs)),
    };
    format!(
        "{priority}shorter prefix {} bits, longer prefix {} bits, {}, {ports}",
        weight.shorter_prefix.0,
        weight.longer_prefix.0,
        if weight.protocol_given.0 {
            "protocol given"
        } else {
            "any protocol"
        },
    )
}

/// Why `loser`, which matches as well, does not decide.
#[must_use]
pub fn why_it_lost(loser: &Candidate<'_>, winner: &Candidate<'_>) -> String {
    let (mine, best) = (&loser.rank.weight, &winner.rank.weight);
    let Some(field) = loser.rank.deciding_field(&winner.rank) else {
        return "it is the same filter".to_owned();
    };
    match field {
        RankField::Priority => match (mine.priority, best.priority) {
            (_, Priority::Lifeline | Priority::Session) => {
                "the winner is the lifeline, which comes before every rule".to_owned()
            }
            (Priority::Given(mine), Priority::Given(best)) => {
                format!("its rule has priority {mine}, the winner's {best}, and smaller wins")
            }
            (_, Priority::Given(best)) => format!("its rule has no priority, the winner's has {best}"),
            (mine, Priority::None) => format!("its rule has priority {mine:?}, the winner's none"),
        },
        RankField::ShorterPrefix => format!(
            "less specific: its shorter prefix is {} bits, the winner's {}",
            mine.shorter_prefix.0, best.shorter_prefix.0
        ),
        RankField::LongerPrefix => format!(
            "less specific: its longer prefix is {} bits, the winner's {} (the shorter ones are equal, {} bits)",
            mine.longer_prefix.0, best.longer_prefix.0, mine.shorter_prefix.0
        ),
        RankField::ProtocolGiven => format!(
            "less specific: addresses equally so, but it takes any protocol and the winner only {}",
            winner
                .filter
                .protocol
                .map_or_else(String::new, |protocol| protocol.to_string())
        ),
        RankField::PortsGiven => format!(
            "less specific: addresses and protocol equally so, but it gives {} and the winner {}",
            limited(mine.ports_given.0, loser.filter),
            limited(best.ports_given.0, winner.filter)
        ),
        RankField::PortPairs => format!(
            "less specific: it takes {} of ports, the winner {}",
            pairs(mine.port_pairs),
            pairs(best.port_pairs)
        ),
        RankField::Action => format!(
            "equally specific, and {} comes before {}",
            winner.rank.strictness, loser.rank.strictness
        ),
        RankField::Definition => {
            "equally specific with the same action, and it stands later in the policy".to_owned()
        }
    }
}

/// Each field in which the filter does not fit the packet, as a clause.
#[must_use]
pub fn in_words(miss: &Miss<'_>, packet: &Packet) -> Vec<String> {
    // A filter that comes nearest as its reverse is held against the reversed packet.
    let packet = if miss.reversed { packet.reversed() } else { *packet };
    let (source, destination) = if miss.reversed {
        ("destination", "source")
    } else {
        ("source", "destination")
    };
    let filter = miss.filter;
    miss.mismatches
        .iter()
        .map(|field| match field {
            Mismatch::NotMirrored => {
                "the packet goes the other way, and the filter is not mirrored".to_owned()
            }
            Mismatch::OtherDirection => {
                "the packet goes the other way: a protect rule's source is the local side".to_owned()
            }
            Mismatch::PortsUnseen => {
                "a later fragment shows no ports, so no filter with ports permits it".to_owned()
            }
            Mismatch::ProtocolUnseen => {
                "a later IPv6 fragment does not prove its protocol, so no filter with one permits it"
                    .to_owned()
            }
            Mismatch::PortsAbsent => "the packet has neither ports nor ICMP type that could match".to_owned(),
            Mismatch::SourcePort => port(source, &filter.selector, &packet, true),
            Mismatch::DestinationPort => port(destination, &filter.selector, &packet, false),
            Mismatch::IcmpType | Mismatch::IcmpCode => icmp(field, &filter.selector, &packet),
            Mismatch::Protocol => format!(
                "protocol {} is not {}",
                Protocol(packet.protocol),
                filter
                    .protocol
                    .map_or_else(|| "any".to_owned(), |wanted| wanted.to_string())
            ),
            Mismatch::Source => format!("{source} {} is not in {}", packet.source, filter.source),
            Mismatch::Destination => {
                format!(
                    "{destination} {} is not in {}",
                    packet.destination, filter.destination
                )
            }
            Mismatch::Family => format!(
                "it is for {}",
                filter
                    .family()
                    .map_or_else(String::new, |family| family.to_string())
            ),
        })
        .collect()
}

fn port(side: &str, selector: &Selector, packet: &Packet, first: bool) -> String {
    let (Selector::Ports { source, destination }, Transport::Ports(from, to)) = (selector, packet.transport)
    else {
        return format!("{side} port");
    };
    let (found, wanted) = if first { (from, source) } else { (to, destination) };
    format!("{side} port {found} is not in {wanted}")
}

fn icmp(field: Mismatch, selector: &Selector, packet: &Packet) -> String {
    let (Selector::Icmp { kind, code }, Transport::Ports(packet_kind, packet_code)) =
        (selector, packet.transport)
    else {
        return "ICMP type".to_owned();
    };
    match (field, code) {
        (Mismatch::IcmpCode, Some(code)) => format!("ICMP code {packet_code} is not {code}"),
        _ => format!("ICMP type {packet_kind} is not {kind}"),
    }
}

fn limited(ports: u8, filter: &Filter) -> String {
    let icmp = matches!(filter.selector, Selector::Icmp { .. });
    match (ports, icmp) {
        (0, _) => "no port".to_owned(),
        (1, true) => "the ICMP type".to_owned(),
        (_, true) => "ICMP type and code".to_owned(),
        (1, false) => "one port".to_owned(),
        (_, false) => "both ports".to_owned(),
    }
}

fn pairs(count: u64) -> String {
    match count {
        1 => "1 pair".to_owned(),
        count => format!("{} pairs", thousands(count)),
    }
}

/// A number with commas.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
