//! What must become of a frame, from what it was made to be: no parser, no lines, no maps.

use std::net::IpAddr;

use ravelin_classifier::reference;
use ravelin_policy::{DefaultAction, Policy};
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{Decision, DropReason, FrameMetadata, Judgement, Kind, Outcome, Pass, Verdict};

use crate::frame::{Content, Piece, Truth};
use crate::kernel::Hook;
use crate::world::{Memory, MemoryKey, World, direction, to_address};

/// What a hook must say about a frame.
pub(crate) fn judgement(hook: Hook, truth: &Truth, world: &World) -> Option<Judgement> {
    match (truth.fragment, truth.malformed) {
        (Some(piece), None) => fragment(hook, truth, piece, world),
        _ => Some(whole(hook, truth, world)),
    }
}

/// Fragments: what was decided about the first one holds for the others, and none may reach into it. `None` where a
/// mangled frame may have been the first.
fn fragment(hook: Hook, truth: &Truth, piece: Piece, world: &World) -> Option<Judgement> {
    let key = MemoryKey::of(hook, truth, piece);
    if world.policy().is_none() {
        return Some(whole(hook, truth, world));
    }
    let audit = hook != Hook::Edge && world.policy().is_some_and(Policy::audit);
    let overlap = Judgement::dropped_or_audited(DropReason::FragmentOverlap, audit);
    let known = match world.memory.borrow().get(&key) {
        Some(Memory::Unsure) => return None,
        Some(Memory::First { length, judgement }) => Some((*length, *judgement)),
        None => None,
    };
    if piece.offset > 0 {
        return Some(match known {
            // The worker sees to it that such fragments do not overlap.
            Some((_, first)) if is_reassembled(&first) => reassembled(truth, FrameMetadata::NO_SLOT),
            Some((length, _)) if piece.offset < length => overlap,
            Some((_, first)) => follows(hook, &first, truth),
            None if hook == Hook::Outer && is_between_tunnel_ends(truth, world) => {
                reassembled(truth, FrameMetadata::NO_SLOT)
            }
            None => whole(hook, truth, world),
        });
    }
    let judgement = whole(hook, truth, world);
    // Only what the filters judge, the lifeline, and what is put together is remembered: not that the shield dropped ESP.
    if is_reassembled(&judgement) {
        let first = Memory::First {
            length: piece.length,
            judgement,
        };
        world.memory.borrow_mut().insert(key, first);
        return Some(judgement);
    }
    let shielded = is_keepalive(hook, truth, world) || hook == Hook::Outer && shield(truth, world).is_some();
    if truth.content.truncated() || shielded {
        return Some(judgement);
    }
    if !is_lifeline(hook, truth, world)
        && let Some((length, _)) = known
        && length != piece.length
    {
        return Some(overlap);
    }
    let first = Memory::First {
        length: piece.length,
        judgement,
    };
    world.memory.borrow_mut().insert(key, first);
    Some(judgement)
}

fn is_reassembled(judgement: &Judgement) -> bool {
    matches!(judgement.outcome(), Outcome::Redirect(metadata) if metadata.kind == Kind::Reassemble)
}

/// A fragment that a worker puts together with others.
fn reassembled(truth: &Truth, slot: u32) -> Judgement {
    Judgement::redirected(FrameMetadata {
        slot,
        rule_id: NO_RULE,
        l3_offset: truth.l3_offset,
        l3_length: truth.l3_length,
        generation: 0,
        kind: Kind::Reassemble,
        family: truth.family(),
    })
    .by(NO_RULE, truth.l3_length)
}

/// Whether a packet says that it is ESP or AH, and its addresses are those of an SA that has no UDP around it.
fn is_between_tunnel_ends(truth: &Truth, world: &World) -> bool {
    [50, 51].contains(&truth.packet.protocol)
        && world.has_tunnel(truth.packet.source, truth.packet.destination)
}

/// The judgement on a first fragment, for another one of its datagram.
fn follows(hook: Hook, first: &Judgement, truth: &Truth) -> Judgement {
    match first.outcome() {
        Outcome::Pass(Pass::Lifeline) if hook == Hook::Egress => Judgement::passed(Pass::Default),
        Outcome::Pass(Pass::Lifeline) => Judgement::passed(Pass::Exempt),
        Outcome::Redirect(metadata) => {
            let judgement = Judgement::redirected(FrameMetadata {
                l3_offset: truth.l3_offset,
                l3_length: truth.l3_length,
                ..metadata
            });
            match hook {
                // Who sent it there has counted it.
                Hook::Edge => judgement,
                _ => judgement.by(first.rule_id, truth.l3_length),
            }
        }
        _ if first.length == 0 => *first,
        _ => first.by(first.rule_id, truth.l3_length),
    }
}

fn whole(hook: Hook, truth: &Truth, world: &World) -> Judgement {
    let outcome = to_judgement;
    // An audit of the whole policy spares even what cannot be read.
    let audit = hook != Hook::Edge && world.policy().is_some_and(Policy::audit);
    if let Some(reason) = truth.malformed {
        return Judgement::dropped_or_audited(reason, audit);
    }
    // Whoever the SA belongs to: without SPI and sequence number it is no ESP (RFC 4303 section 2).
    if truth.content.truncated() {
        let reason = if truth.fragment.is_some() {
            DropReason::FragmentTiny
        } else {
            DropReason::TransportTruncated
        };
        return Judgement::dropped_or_audited(reason, audit);
    }
    if is_keepalive(hook, truth, world) {
        return outcome(Outcome::Drop(DropReason::NatKeepalive));
    }
    if is_lifeline(hook, truth, world) {
        return outcome(Outcome::Pass(Pass::Lifeline));
    }
    if hook == Hook::Outer
        && let Some(shielded) = shield(truth, world)
    {
        let length = if matches!(shielded, Outcome::Redirect(_)) {
            truth.l3_length
        } else {
            0
        };
        return outcome(shielded).by(NO_RULE, length);
    }
    // Nothing but IP packets comes out of there.
    if hook == Hook::Edge && matches!(truth.content, Content::Arp | Content::NonIp) {
        return outcome(Outcome::Drop(DropReason::NonIp));
    }
    let Some(policy) = world.policy() else {
        return outcome(Outcome::Drop(DropReason::NoRuleSet));
    };
    if truth.content == Content::NonIp {
        return match (hook, policy.non_ip()) {
            (Hook::Egress, _) => outcome(Outcome::Pass(Pass::Lifeline)),
            (_, DefaultAction::Permit) => outcome(Outcome::Pass(Pass::NonIp)),
            _ => Judgement::dropped_or_audited(DropReason::NonIp, policy.audit()),
        };
    }
    if is_exempt(truth, policy.exemptions().level()) {
        return outcome(Outcome::Pass(match hook {
            Hook::Edge => return outcome(Outcome::Drop(DropReason::ClearEgress)),
            Hook::Egress => Pass::Default,
            _ => Pass::Exempt,
        }));
    }
    let verdict = reference::classify(policy, &truth.packet, direction(hook));
    let decided = match (hook, verdict.decision) {
        (Hook::Egress, Decision::Protect) => Outcome::Drop(DropReason::ClearEgress),
        (Hook::Egress, Decision::FragmentUnknown) => Outcome::Drop(DropReason::FragmentUnknown),
        (Hook::Egress, _) => Outcome::Pass(Pass::Default),
        (Hook::Edge, Decision::Permit | Decision::Block) => Outcome::Drop(DropReason::ClearEgress),
        _ => filtered(hook, truth, world, &verdict),
    };
    let judgement = match decided {
        Outcome::Drop(reason) => Judgement::dropped_or_audited(reason, verdict.audit && hook != Hook::Edge),
        decided => outcome(decided),
    };
    match hook {
        Hook::Egress | Hook::Edge => judgement,
        _ => judgement.by(verdict.rule_id, truth.l3_length),
    }
}

/// What levels 0 to 2 of the original's `ipsecexempt` let pass: multicast and broadcast for 0 and 1, RSVP and Kerberos for 0
/// and 2.
fn is_exempt(truth: &Truth, level: u8) -> bool {
    let many = match truth.packet.destination {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    };
    let kerberos = match truth.packet.transport {
        reference::Transport::Ports(source, destination) => {
            [6, 17].contains(&truth.packet.protocol) && (source == 88 || destination == 88)
        }
        _ => false,
    };
    // A later IPv6 fragment says so without proving it.
    let rsvp = truth.packet.protocol == 46 && truth.packet.transport != reference::Transport::LaterFragment;
    match level {
        0 => many || kerberos || rsvp,
        1 => many,
        2 => kerberos || rsvp,
        _ => false,
    }
}

/// An outcome without a rule.
fn to_judgement(outcome: Outcome) -> Judgement {
    match outcome {
        Outcome::Pass(pass) => Judgement::passed(pass),
        Outcome::Drop(reason) => Judgement::dropped(reason),
        Outcome::Redirect(metadata) => Judgement::redirected(metadata),
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
        Decision::NoRuleSet | Decision::Exempt | Decision::FragmentOverlap | Decision::Reassemble => {
            panic!("the reference knows none of them")
        }
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

/// Whether a peer's keepalive ends here.
fn is_keepalive(hook: Hook, truth: &Truth, world: &World) -> bool {
    hook == Hook::Outer && truth.content == Content::Keepalive && world.is_own(truth.packet.destination)
}

/// Traffic that filters do not judge.
fn is_lifeline(hook: Hook, truth: &Truth, world: &World) -> bool {
    let (from, to) = (truth.packet.source, truth.packet.destination);
    match (truth.content, hook) {
        (_, Hook::Edge) => false,
        (Content::Arp | Content::ListenerDiscovery, _) | (Content::NonIp, Hook::Egress) => true,
        (Content::NeighbourDiscovery, Hook::Egress | Hook::HostEgress) => true,
        (Content::NeighbourDiscovery, _) => world.is_own(to) || stays_on_link(to),
        (Content::Ike, Hook::Outer | Hook::Inner) | (Content::Keepalive, Hook::Inner) => world.is_own(to),
        (Content::Ike | Content::Keepalive, Hook::Egress | Hook::HostEgress) => world.is_own(from),
        _ => false,
    }
}

/// Whether no router forwards to this address: fe80::/10 and ff02::/16 (RFC 4291 sections 2.5.6 and 2.7).
fn stays_on_link(address: IpAddr) -> bool {
    let IpAddr::V6(v6) = address else { return false };
    v6.is_unicast_link_local() || v6.segments()[0] & 0xff0f == 0xff02
}

/// The checks on ESP and AH with a known or reserved SPI, and ICMP errors about them.
fn shield(truth: &Truth, world: &World) -> Option<Outcome> {
    if let Content::PathMtu(slot) = truth.content {
        let ours = world.is_own(truth.packet.destination) && truth.fragment.is_none();
        return slot.filter(|_| ours).map(|slot| {
            Outcome::Redirect(FrameMetadata {
                slot,
                rule_id: NO_RULE,
                l3_offset: truth.l3_offset,
                l3_length: truth.l3_length,
                generation: 0,
                kind: Kind::PathMtu,
                family: truth.family(),
            })
        });
    }
    let (spi, kind, length) = truth.content.sealed()?;
    let destination = truth.packet.destination;
    if spi < 256 {
        return world
            .is_own(destination)
            .then_some(Outcome::Drop(DropReason::SpiReserved));
    }
    let endpoint = world.endpoint(spi)?;
    // ESP between two others, who chose their SPI without asking us.
    if endpoint.local != to_address(destination) && !world.is_own(destination) {
        return None;
    }
    let ports = match truth.packet.transport {
        reference::Transport::Ports(source, destination) => (source, destination),
        _ => (0, 0),
    };
    if endpoint.local != to_address(truth.packet.destination)
        || endpoint.local_port != ports.1
        || endpoint.encapsulation != carrier(kind)
    {
        return Some(Outcome::Drop(DropReason::SpiWrongEndpoint));
    }
    let mut kind = kind;
    if (endpoint.remote, endpoint.remote_port) != (to_address(truth.packet.source), ports.0) {
        if endpoint.verify_moved == 0 || truth.fragment.is_some() {
            return Some(Outcome::Drop(DropReason::SpiWrongEndpoint));
        }
        kind = Kind::Moved;
    }
    if truth.fragment.is_some() {
        return reassembled(truth, endpoint.slot).outcome().into();
    }
    // RFC 4303 section 2 with RFC 4106: SPI, sequence number, IV, four bytes of padding and trailer, ICV.
    // AH: RFC 4302 section 2, with a tag of 16 bytes.
    let shortest = if kind == Kind::OpenAh {
        12 + 16
    } else {
        4 + 4 + 8 + 4 + 16
    };
    if length < shortest {
        return Some(Outcome::Drop(DropReason::EspTruncated));
    }
    Some(Outcome::Redirect(FrameMetadata {
        slot: endpoint.slot,
        rule_id: NO_RULE,
        l3_offset: truth.l3_offset,
        l3_length: truth.l3_length,
        generation: 0,
        kind,
        family: truth.family(),
    }))
}

/// What [`InboundEndpoint::encapsulation`](ravelin_xdp_common::InboundEndpoint) says of it.
fn carrier(kind: Kind) -> u8 {
    match kind {
        Kind::OpenUdpEsp => 1,
        Kind::OpenAh => 2,
        _ => 0,
    }
}
