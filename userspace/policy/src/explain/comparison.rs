//! One filter held against one packet, field by field.

use ravelin_xdp_common::Direction;

use crate::filter::{Filter, Selector};
use crate::packet::{Packet, Transport};
use crate::rule::{Action, Rule};

/// A field in which a filter does not fit a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mismatch {
    /// The packet goes the other way than a filter that is not mirrored.
    NotMirrored,
    /// The packet goes the other way than a protect rule's filter, which is written from this side.
    OtherDirection,
    /// A filter with ports that permits says nothing about a later fragment.
    PortsUnseen,
    /// Nor does one with a protocol about a later IPv6 fragment.
    ProtocolUnseen,
    /// The packet carries neither ports nor a type of the filter's kind.
    PortsAbsent,
    /// Source port.
    SourcePort,
    /// Destination port.
    DestinationPort,
    /// ICMP type.
    IcmpType,
    /// ICMP code.
    IcmpCode,
    /// Protocol.
    Protocol,
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// The filter is for the other IP version.
    Family,
}

impl Mismatch {
    const ALL: [Self; 13] = [
        Self::NotMirrored,
        Self::OtherDirection,
        Self::PortsUnseen,
        Self::ProtocolUnseen,
        Self::PortsAbsent,
        Self::SourcePort,
        Self::DestinationPort,
        Self::IcmpType,
        Self::IcmpCode,
        Self::Protocol,
        Self::Source,
        Self::Destination,
        Self::Family,
    ];

    /// The stable name, for machines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotMirrored => "not_mirrored",
            Self::OtherDirection => "other_direction",
            Self::PortsUnseen => "ports_unseen",
            Self::ProtocolUnseen => "protocol_unseen",
            Self::PortsAbsent => "ports_absent",
            Self::SourcePort => "source_port",
            Self::DestinationPort => "destination_port",
            Self::IcmpType => "icmp_type",
            Self::IcmpCode => "icmp_code",
            Self::Protocol => "protocol",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Family => "family",
        }
    }
}

/// A set of fields; never empty where a filter does not match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mismatches(u16);

impl Mismatches {
    /// The fields, the ones easiest to change first.
    pub fn iter(self) -> impl Iterator<Item = Mismatch> {
        Mismatch::ALL
            .into_iter()
            .filter(move |field| self.0 & bit(*field) != 0)
    }

    /// How far the filter is from matching: fewer fields are nearer, and of as many the addresses weigh most. The
    /// family stands for both addresses and is farther than these.
    pub(crate) fn distance(self) -> (u32, u16) {
        let family = u32::from(self.0 & bit(Mismatch::Family) != 0);
        (self.0.count_ones() + 2 * family, self.0)
    }

    fn add(&mut self, field: Mismatch, differs: bool) {
        if differs {
            self.0 |= bit(field);
        }
    }

    fn only(field: Mismatch) -> Self {
        Self(bit(field))
    }
}

fn bit(field: Mismatch) -> u16 {
    1 << field as u8
}

/// How a filter fits a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// In everything.
    Match,
    /// In everything that a later fragment shows, with an action that then decides: block or protect.
    ButPorts,
    /// It does not.
    Differs(Mismatches),
}

/// How a rule's filter fits a packet, and whether that is (or comes nearest to) its reverse.
pub(crate) fn compare(rule: &Rule, filter: &Filter, packet: &Packet, direction: Direction) -> (Fit, bool) {
    let protects = matches!(rule.action, Action::Protect { .. });
    // A protect rule's filter describes outbound packets, its reverse inbound ones (RFC 4301 section 4.4.1).
    let (forward_holds, reverse_holds) = if protects {
        (direction == Direction::Outbound, direction == Direction::Inbound)
    } else {
        (true, filter.mirrored)
    };
    let permits = rule.action == Action::Permit;
    let forward = one_way(filter, packet, permits);
    let reverse = one_way(filter, &packet.reversed(), permits);
    match (forward_holds, reverse_holds) {
        (true, true) if rank(reverse) < rank(forward) => (reverse, true),
        (true, true) => (forward, false),
        (true, false) => match (forward, reverse) {
            (Fit::Differs(_), Fit::Match | Fit::ButPorts) if protects => {
                (Fit::Differs(Mismatches::only(Mismatch::OtherDirection)), false)
            }
            (Fit::Differs(_), Fit::Match | Fit::ButPorts) => {
                (Fit::Differs(Mismatches::only(Mismatch::NotMirrored)), false)
            }
            _ => (forward, false),
        },
        // A protect rule and an inbound packet.
        _ => match (forward, reverse) {
            (Fit::Match | Fit::ButPorts, Fit::Differs(_)) => {
                (Fit::Differs(Mismatches::only(Mismatch::OtherDirection)), true)
            }
            _ => (reverse, true),
        },
    }
}

/// Smaller is the better fit.
fn rank(fit: Fit) -> (u8, (u32, u16)) {
    match fit {
        Fit::Match => (0, (0, 0)),
        Fit::ButPorts => (1, (0, 0)),
        Fit::Differs(mismatches) => (2, mismatches.distance()),
    }
}

/// The filter as it is written, held against the packet as it is.
fn one_way(filter: &Filter, packet: &Packet, permits: bool) -> Fit {
    let mut differs = Mismatches::default();
    let v4 = packet.source.is_ipv4();
    if let Some(family) = filter.family()
        && (family == crate::Family::V4) != v4
    {
        differs.add(Mismatch::Family, true);
    } else {
        differs.add(Mismatch::Source, !filter.source.contains(packet.source));
        differs.add(
            Mismatch::Destination,
            !filter.destination.contains(packet.destination),
        );
    }
    // RFC 8200 section 4.5: only the first fragment's next header is used for reassembly.
    let unproven = !v4 && packet.transport == Transport::LaterFragment;
    let other_protocol = !unproven
        && filter
            .protocol
            .is_some_and(|protocol| protocol.0 != packet.protocol);
    differs.add(Mismatch::Protocol, other_protocol);
    let mut unseen = unproven && filter.protocol.is_some();
    let protocol_unseen = unseen && filter.selector == Selector::Any;
    // Of another protocol the ports say nothing about this filter.
    if !other_protocol {
        match (&filter.selector, packet.transport) {
            (Selector::Any, _) => {}
            (_, Transport::LaterFragment) => unseen = true,
            (_, Transport::Absent) => differs.add(Mismatch::PortsAbsent, true),
            (Selector::Ports { source, destination }, Transport::Ports(from, to)) => {
                differs.add(Mismatch::SourcePort, !source.contains(from));
                differs.add(Mismatch::DestinationPort, !destination.contains(to));
            }
            (Selector::Icmp { kind, code }, Transport::Ports(packet_kind, packet_code)) => {
                differs.add(Mismatch::IcmpType, u16::from(*kind) != packet_kind);
                differs.add(
                    Mismatch::IcmpCode,
                    code.is_some_and(|code| u16::from(code) != packet_code),
                );
            }
        }
    }
    differs.add(Mismatch::ProtocolUnseen, protocol_unseen && permits);
    differs.add(Mismatch::PortsUnseen, unseen && !protocol_unseen && permits);
    match (differs == Mismatches::default(), unseen) {
        (true, false) => Fit::Match,
        (true, true) => Fit::ButPorts,
        (false, _) => Fit::Differs(differs),
    }
}
