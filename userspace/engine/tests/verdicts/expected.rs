//! What must become of a frame, from what it was made to be: no parser, no lines, no maps.

use std::net::IpAddr;

use ravelin_classifier::reference;
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{
    Action, Decision, DropReason, FrameMetadata, Header, Judgement, Kind, Outcome, Pass, Verdict,
};

use crate::frame::{Content, Truth};
use crate::kernel::Hook;
use crate::world::{World, direction, to_address};

/// What a hook must say about a frame.
pub(crate) fn judgement(hook: Hook, truth: &Truth, world: &World) -> Judgement {
    let outcome = |outcome| Judgement {
        outcome,
        rule_id: NO_RULE,
        length: 0,
    };
    if let Some(reason) = truth.malformed {
        return outcome(Outcome::Drop(reason));
    }
    // Whoever the SA belongs to: without SPI and sequence number it is no ESP (RFC 4303 section 2).
    if let Content::Esp {
        udp: false,
        length: ..8,
        ..
    } = truth.content
    {
        return outcome(Outcome::Drop(if truth.fragment {
            DropReason::FragmentTiny
        } else {
            DropReason::TransportTruncated
        }));
    }
    if is_lifeline(hook, truth, world) {
        return outcome(Outcome::Pass(Pass::Lifeline));
    }
    if let (Hook::Outer, Content::Esp { spi, udp, length }) = (hook, truth.content)
        && let Some(shielded) = shield(truth, world, spi, udp, length)
    {
        return Judgement {
            length: if matches!(shielded, Outcome::Redirect(_)) {
                truth.l3_length
            } else {
                0
            },
            ..outcome(shielded)
        };
    }
    let Some(policy) = world.policy() else {
        return outcome(Outcome::Drop(DropReason::NoRuleSet));
    };
    if truth.content == Content::NonIp {
        let header: Header = world.rules().unwrap().0.header();
        return outcome(match (hook, header.non_ip) {
            (Hook::Egress, _) => Outcome::Pass(Pass::Lifeline),
            (_, Action::Permit) => Outcome::Pass(Pass::NonIp),
            _ => Outcome::Drop(DropReason::NonIp),
        });
    }
    let verdict = reference::classify(policy, &truth.packet, direction(hook));
    if hook == Hook::Egress {
        return outcome(match verdict.decision {
            Decision::Protect => Outcome::Drop(DropReason::ClearEgress),
            Decision::FragmentUnknown => Outcome::Drop(DropReason::FragmentUnknown),
            Decision::Permit | Decision::Block => Outcome::Pass(Pass::Default),
        });
    }
    Judgement {
        outcome: filtered(hook, truth, world, &verdict),
        rule_id: verdict.rule_id,
        length: truth.l3_length,
    }
}

fn filtered(hook: Hook, truth: &Truth, world: &World, verdict: &Verdict) -> Outcome {
    let by_rule = verdict.rule_id != NO_RULE;
    match verdict.decision {
        Decision::Permit if by_rule => Outcome::Pass(Pass::Rule),
        Decision::Permit => Outcome::Pass(Pass::Default),
        Decision::Block if by_rule => Outcome::Drop(DropReason::RuleBlock),
        Decision::Block => Outcome::Drop(DropReason::DefaultBlock),
        Decision::FragmentUnknown => Outcome::Drop(DropReason::FragmentUnknown),
        Decision::Protect if hook == Hook::Outer && verdict.accept_unsecured => Outcome::Pass(Pass::Rule),
        Decision::Protect if hook == Hook::Outer => Outcome::Drop(DropReason::ClearNotAllowed),
        Decision::Protect => Outcome::Redirect(FrameMetadata {
            slot: verdict.connection,
            rule_id: verdict.rule_id,
            l3_offset: truth.l3_offset,
            l3_length: truth.l3_length,
            generation: world.generation() as u16,
            kind: Kind::Seal,
            family: truth.family(),
        }),
    }
}

/// Traffic that filters do not judge.
fn is_lifeline(hook: Hook, truth: &Truth, world: &World) -> bool {
    let (from, to) = (truth.packet.source, truth.packet.destination);
    match (truth.content, hook) {
        (Content::Arp, _) | (Content::NonIp | Content::NeighbourDiscovery, Hook::Egress) => true,
        (Content::NeighbourDiscovery, _) => world.is_own(to) || stays_on_link(to),
        (Content::Ike | Content::Keepalive, Hook::Outer | Hook::Inner) => world.is_own(to),
        (Content::Ike | Content::Keepalive | Content::Esp { .. }, Hook::Egress) => world.is_own(from),
        _ => false,
    }
}

/// Whether no router forwards to this address: fe80::/10 and ff02::/16 (RFC 4291 sections 2.5.6 and 2.7).
fn stays_on_link(address: IpAddr) -> bool {
    let IpAddr::V6(v6) = address else { return false };
    v6.is_unicast_link_local() || v6.segments()[0] & 0xff0f == 0xff02
}

/// The checks on ESP with a known or reserved SPI.
fn shield(truth: &Truth, world: &World, spi: u32, udp: bool, length: usize) -> Option<Outcome> {
    if spi < 256 {
        return Some(Outcome::Drop(DropReason::SpiReserved));
    }
    let endpoint = world.endpoint(spi)?;
    let ports = match truth.packet.transport {
        reference::Transport::Ports(source, destination) => (source, destination),
        _ => (0, 0),
    };
    if (endpoint.remote, endpoint.local)
        != (
            to_address(truth.packet.source),
            to_address(truth.packet.destination),
        )
        || (endpoint.remote_port, endpoint.local_port) != ports
        || (endpoint.encapsulation == 1) != udp
    {
        return Some(Outcome::Drop(DropReason::SpiWrongEndpoint));
    }
    if truth.fragment {
        return Some(Outcome::Drop(DropReason::EspFragment));
    }
    // RFC 4303 section 2 with RFC 4106: SPI, sequence number, IV, four bytes of padding and trailer, ICV.
    if length < 4 + 4 + 8 + 4 + 16 {
        return Some(Outcome::Drop(DropReason::EspTruncated));
    }
    Some(Outcome::Redirect(FrameMetadata {
        slot: endpoint.slot,
        rule_id: NO_RULE,
        l3_offset: truth.l3_offset,
        l3_length: truth.l3_length,
        generation: 0,
        kind: if udp { Kind::OpenUdpEsp } else { Kind::OpenEsp },
        family: truth.family(),
    }))
}
