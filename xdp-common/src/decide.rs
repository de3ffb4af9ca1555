//! The decision for one packet at each hook.

mod host;

pub use host::{decide_edge, decide_host_egress};

use crate::line::{NO_RULE, header_flags};
use crate::parse::protocol;
use crate::{
    Action, Address, Decision, Direction, DropReason, Encapsulation, Family, Flow, FragmentKey,
    FragmentRecord, Frame, FrameMetadata, Header, IcmpQuote, InboundEndpoint, IpPacket, Judgement, Kind,
    OutboundKey, Pass, Place, Ports, Reader, TunnelEnds, Upper, Verdict, parse,
};

/// The tables a decision needs: BPF maps in the kernel, plain collections on the host.
pub trait Tables {
    /// One rule set. It is fetched once per packet, so that a swap never shows a packet parts of two.
    type RuleSet: Copy;

    /// The active rule set, or `None` if none is loaded.
    fn rule_set(&self) -> Option<Self::RuleSet>;

    /// The header of a rule set.
    fn header(&self, rule_set: Self::RuleSet) -> Option<Header>;

    /// Walks a rule set; [`Verdict::NONE`] if it ends before a verdict.
    fn classify(
        &self,
        rule_set: Self::RuleSet,
        header: &Header,
        flow: &Flow,
        direction: Direction,
    ) -> Verdict;

    /// The inbound SA with this SPI (host order).
    fn inbound(&self, spi: u32) -> Option<InboundEndpoint>;

    /// Whether ESP or AH, without UDP around it, comes to us between these addresses.
    fn is_tunnel(&self, ends: &TunnelEnds) -> bool;

    /// The slot of the outbound SA with this key.
    fn outbound(&self, key: &OutboundKey) -> Option<u32>;

    /// Whether the address is one of this machine's own.
    fn is_local(&self, address: &Address) -> bool;

    /// Whether the rules in force speak of it where they speak of all of the machine's own addresses.
    fn is_spoken_of(&self, address: &Address) -> bool;

    /// What was decided about the first fragment of a datagram, or [`FragmentRecord::EMPTY`].
    fn recall(&self, key: &FragmentKey) -> FragmentRecord;

    /// Keeps that for the fragments that follow.
    fn remember(&self, key: &FragmentKey, record: &FragmentRecord);

    /// Nanoseconds since boot.
    fn now(&self) -> u64;
}

/// A frame that arrived on the outer device, the side of the wire.
#[inline(always)]
pub fn decide_outer<R: Reader, T: Tables>(reader: &R, tables: &T) -> Judgement {
    let mut packet = IpPacket::EMPTY;
    match parse_frame(reader, &mut packet) {
        Ok(Frame::Ip) => {}
        other => return decide_other(other, tables),
    }
    match packet.upper {
        Upper::NeighbourDiscovery if stays_on_link(&packet, tables) => {
            return Judgement::passed(Pass::Lifeline);
        }
        // The exemption is for this machine's own IKE. Were it to hold for forwarded packets too, source port
        // 500 would pass any filter in front of the hosts behind the gateway.
        Upper::Ike if is_own(&packet.flow.destination, &packet, tables) => {
            return lifeline(&packet, Place::Outer, tables);
        }
        // RFC 3948 section 2.3: "The receiver SHOULD ignore a received NAT-keepalive packet." Where no IKE daemon listens, the
        // kernel would answer it instead.
        Upper::NatKeepalive if is_own(&packet.flow.destination, &packet, tables) => {
            return Judgement::dropped(DropReason::NatKeepalive);
        }
        Upper::Esp => {
            if let Some(judgement) = decide_esp(&packet, Kind::OpenEsp, tables) {
                return judgement;
            }
        }
        Upper::UdpEsp => {
            if let Some(judgement) = decide_esp(&packet, Kind::OpenUdpEsp, tables) {
                return judgement;
            }
        }
        Upper::Ah => {
            if let Some(judgement) = decide_esp(&packet, Kind::OpenAh, tables) {
                return judgement;
            }
        }
        Upper::NeighbourDiscovery | Upper::Ike | Upper::NatKeepalive | Upper::Other => {}
    }
    // What a router says about our ESP is for the worker: the kernel has no SA that it could tell.
    if IcmpQuote::is_in(&packet) && is_own(&packet.flow.destination, &packet, tables) {
        let mut quote = IcmpQuote::EMPTY;
        if quote.read(reader, &packet)
            && let Some(slot) = tables.outbound(&quote.key())
        {
            return to_worker(&packet, slot, Kind::PathMtu);
        }
    }
    let (verdict, _) = ask(&packet, Direction::Inbound, Place::Outer, tables);
    if matches!(verdict.decision, Decision::Reassemble) {
        return to_worker(&packet, FrameMetadata::NO_SLOT, Kind::Reassemble);
    }
    if matches!(verdict.decision, Decision::Protect) && !verdict.accept_unsecured {
        return Judgement::dropped_or_audited(DropReason::ClearNotAllowed, verdict.audit)
            .by(verdict.rule_id, packet.l3_length);
    }
    filtered(&verdict, &packet)
}

/// A frame that arrived on the inner device, the clear side.
#[inline(always)]
pub fn decide_inner<R: Reader, T: Tables>(reader: &R, tables: &T) -> Judgement {
    let mut packet = IpPacket::EMPTY;
    match parse_frame(reader, &mut packet) {
        Ok(Frame::Ip) => {}
        other => return decide_other(other, tables),
    }
    match packet.upper {
        Upper::NeighbourDiscovery if stays_on_link(&packet, tables) => {
            return Judgement::passed(Pass::Lifeline);
        }
        Upper::Ike | Upper::NatKeepalive if is_own(&packet.flow.destination, &packet, tables) => {
            return lifeline(&packet, Place::Inner, tables);
        }
        _ => {}
    }
    seal_or_filter(&packet, Place::Inner, tables)
}

/// A clear packet on its way out: what must be protected goes to a worker, the rest is filtered.
#[inline(always)]
fn seal_or_filter<T: Tables>(packet: &IpPacket, place: Place, tables: &T) -> Judgement {
    let (verdict, generation) = ask(packet, Direction::Outbound, place, tables);
    if matches!(verdict.decision, Decision::Protect) {
        let metadata = metadata(
            packet,
            verdict.connection,
            verdict.rule_id,
            Kind::Seal,
            generation,
        );
        return Judgement::redirected(metadata).by(verdict.rule_id, packet.l3_length);
    }
    filtered(&verdict, packet)
}

/// A frame that the kernel is about to send on the outer device. Workers send past this hook.
///
/// It is the last line of defence: a clear packet that must be protected never leaves, whatever routed it here.
/// Filtering of permitted and blocked traffic is not its task, so rules are not counted again.
#[inline(always)]
pub fn decide_egress<R: Reader, T: Tables>(reader: &R, tables: &T) -> Judgement {
    let mut packet = IpPacket::EMPTY;
    match parse_frame(reader, &mut packet) {
        Ok(Frame::Ip) => {}
        Ok(Frame::Arp | Frame::NonIp) => return Judgement::passed(Pass::Lifeline),
        other => return decide_other(other, tables),
    }
    match packet.upper {
        Upper::NeighbourDiscovery => return Judgement::passed(Pass::Lifeline),
        // IKE of this machine. ESP that the kernel's own SAs made is for the filters: any program can make a datagram that looks like it.
        Upper::Ike | Upper::NatKeepalive if is_own(&packet.flow.source, &packet, tables) => {
            return lifeline(&packet, Place::Egress, tables);
        }
        _ => {}
    }
    if let Some(judgement) = from_new_address(reader, &packet, tables) {
        return judgement;
    }
    let (verdict, _) = ask(&packet, Direction::Outbound, Place::Egress, tables);
    match verdict.decision {
        Decision::Protect => Judgement::dropped_or_audited(DropReason::ClearEgress, verdict.audit),
        Decision::FragmentUnknown => {
            Judgement::dropped_or_audited(DropReason::FragmentUnknown, verdict.audit)
        }
        Decision::FragmentOverlap => {
            Judgement::dropped_or_audited(DropReason::FragmentOverlap, verdict.audit)
        }
        // Nothing is reassembled on its way out.
        Decision::NoRuleSet | Decision::Reassemble => Judgement::dropped(DropReason::NoRuleSet),
        Decision::Permit | Decision::Block | Decision::Exempt => Judgement::passed(Pass::Default),
    }
}

#[inline(always)]
fn parse_frame<R: Reader>(reader: &R, packet: &mut IpPacket) -> Result<Frame, DropReason> {
    let parsed = parse(reader, packet);
    if let Ok(Frame::Ip) = parsed {
        reader.forget(packet);
    }
    parsed
}

/// What becomes of a packet that this machine sends from an address of which rules for all of its addresses do not know yet: one that
/// it has just got, or got while no engine ran. Others' packets that leave with it, since it translates addresses, are no different. What they would say about it nobody knows, so it must not pass for a stranger's.
///
/// Asked before the rules, since the verifier would follow it from each of their many ends.
#[inline(always)]
fn from_new_address<R: Reader, T: Tables>(reader: &R, packet: &IpPacket, tables: &T) -> Option<Judgement> {
    let header = filled_header(tables.rule_set()?, tables)?;
    let [high, low] = packet.flow.source;
    // Who has no address yet asks for one from 0.0.0.0 or ::.
    let has_one = high != 0 || low & !(0xffff << 32) != 0;
    if header.flags & header_flags::OWN == 0
        || !has_one
        || tables.is_spoken_of(&packet.flow.source)
        || reader.is_passed_on(packet)
    {
        return None;
    }
    let audit = header.flags & header_flags::AUDIT != 0;
    Some(Judgement::dropped_or_audited(DropReason::AddressUnknown, audit).by(NO_RULE, packet.l3_length))
}

/// Whether neighbour discovery is for this machine or this link: its own addresses, fe80::/10 and ff02::/16 (RFC 4291
/// sections 2.5.6 and 2.7). Anything else the kernel would forward, and what it forwards the filters must judge.
#[inline(always)]
fn stays_on_link<T: Tables>(packet: &IpPacket, tables: &T) -> bool {
    let destination = &packet.flow.destination;
    let first = destination[0] >> 48;
    // With a hop limit of 1, and to whichever group it is about.
    if matches!(packet.flow.source_port, 130..=132 | 143) {
        return true;
    }
    first & 0xffc0 == 0xfe80 || first & 0xff0f == 0xff02 || is_own(destination, packet, tables)
}

/// Whether an address of this packet is one of this machine's. An IPv6 packet that carries an IPv4-mapped address is
/// nobody's: such addresses never belong on a wire, and must not pass for the IPv4 address they look like here.
#[inline(always)]
fn is_own<T: Tables>(address: &Address, packet: &IpPacket, tables: &T) -> bool {
    let mapped = address[0] == 0 && address[1] >> 32 == 0xffff;
    (!mapped || matches!(packet.flow.family, Family::V4)) && tables.is_local(address)
}

/// Malformed frames and those that are not IP.
#[inline(always)]
fn decide_other<T: Tables>(parsed: Result<Frame, DropReason>, tables: &T) -> Judgement {
    if let Ok(Frame::Arp) = parsed {
        return Judgement::passed(Pass::Lifeline);
    }
    let Some(header) = tables
        .rule_set()
        .and_then(|rule_set| filled_header(rule_set, tables))
    else {
        return Judgement::dropped(parsed.err().unwrap_or(DropReason::NoRuleSet));
    };
    let audit = header.flags & header_flags::AUDIT != 0;
    match parsed {
        Err(reason) => Judgement::dropped_or_audited(reason, audit),
        Ok(Frame::NonIp) if matches!(header.non_ip, Action::Permit) => Judgement::passed(Pass::NonIp),
        Ok(Frame::NonIp) => Judgement::dropped_or_audited(DropReason::NonIp, audit),
        // The callers go on with IP packets themselves; should one not, it must not pass.
        Ok(Frame::Arp | Frame::Ip) => Judgement::dropped(DropReason::NoRuleSet),
    }
}

/// ESP or AH from the wire: for a known SPI the shield's checks, else `None`, and the filters judge it like any packet. So they
/// do with what is forwarded, whose SPI is another receiver's choice (RFC 4303 section 2.1).
#[inline(always)]
fn decide_esp<T: Tables>(packet: &IpPacket, kind: Kind, tables: &T) -> Option<Judgement> {
    // RFC 4303 section 2.1: "the set of SPI values in the range 1 through 255 are reserved", and "the SPI value
    // of zero (0) is reserved for local, implementation-specific use and MUST NOT be sent on the wire".
    if packet.spi <= 255 {
        if !is_own(&packet.flow.destination, packet, tables) {
            return None;
        }
        return Some(Judgement::dropped(DropReason::SpiReserved));
    }
    let endpoint = tables.inbound(packet.spi)?;
    let flow = &packet.flow;
    if endpoint.local != flow.destination && !is_own(&flow.destination, packet, tables) {
        return None;
    }
    let (encapsulation, udp_header) = match kind {
        Kind::OpenUdpEsp => (Encapsulation::Udp, 8),
        Kind::OpenAh => (Encapsulation::Ah, 0),
        _ => (Encapsulation::None, 0),
    };
    let to_us = endpoint.family == flow.family as u8
        && endpoint.local == flow.destination
        && endpoint.encapsulation == encapsulation as u8
        && endpoint.local_port == flow.destination_port;
    let from_peer = endpoint.remote == flow.source && endpoint.remote_port == flow.source_port;
    let moved = !from_peer && endpoint.verify_moved != 0 && !packet.fragment;
    if !to_us || !(from_peer || moved) {
        return Some(Judgement::dropped(DropReason::SpiWrongEndpoint));
    }
    let kind = if moved { Kind::Moved } else { kind };
    if packet.fragment {
        remember_unfiltered(packet, &Verdict::REASSEMBLE, Place::Outer, tables);
        // RFC 4303 section 3.4.1: "If required, reassembly is performed prior to ESP processing."
        return Some(to_worker(packet, endpoint.slot, Kind::Reassemble));
    }
    if packet.upper_length() < udp_header + endpoint.shortest {
        return Some(Judgement::dropped(DropReason::EspTruncated));
    }
    // No rule set was asked, so there is no generation to name.
    let metadata = metadata(packet, endpoint.slot, NO_RULE, kind, 0);
    Some(Judgement::redirected(metadata).by(NO_RULE, packet.l3_length))
}

/// What goes to the worker without a rule's doing.
#[inline(always)]
fn to_worker(packet: &IpPacket, slot: u32, kind: Kind) -> Judgement {
    let metadata = metadata(packet, slot, NO_RULE, kind, 0);
    Judgement::redirected(metadata).by(NO_RULE, packet.l3_length)
}

/// Traffic that filters do not judge; nor the fragments that follow it.
#[inline(always)]
fn lifeline<T: Tables>(packet: &IpPacket, place: Place, tables: &T) -> Judgement {
    if packet.fragment {
        remember_unfiltered(packet, &Verdict::EXEMPT, place, tables);
    }
    Judgement::passed(Pass::Lifeline)
}

/// Keeps what holds for the fragments that follow a first one of which the filters were not asked.
#[inline(always)]
fn remember_unfiltered<T: Tables>(packet: &IpPacket, verdict: &Verdict, place: Place, tables: &T) {
    if let Some(header) = tables
        .rule_set()
        .and_then(|rule_set| filled_header(rule_set, tables))
    {
        let record = FragmentRecord::new(packet, verdict, header.generation, tables.now());
        tables.remember(&FragmentKey::of(packet, place), &record);
    }
}

/// What the rule set says, and its generation.
#[inline(always)]
fn ask<T: Tables>(packet: &IpPacket, direction: Direction, place: Place, tables: &T) -> (Verdict, u32) {
    let Some(rule_set) = tables.rule_set() else {
        return (Verdict::NONE, 0);
    };
    let Some(header) = filled_header(rule_set, tables) else {
        return (Verdict::NONE, 0);
    };
    let generation = header.generation;
    let key = FragmentKey::of(packet, place);
    if packet.fragment {
        let record = tables.recall(&key);
        let now = tables.now();
        if record.is_live(generation, now) {
            if packet.fragment_offset != 0 {
                return (record.verdict(packet, &header), generation);
            }
            if record.contradicts(packet, now) {
                return (Verdict::overlap(&header), generation);
            }
        } else if matches!(place, Place::Outer) && is_later_esp(packet, tables) {
            return (Verdict::REASSEMBLE, generation);
        }
    }
    let verdict = if header.exemptions < 3 && is_exempt(packet, header.exemptions) {
        Verdict::EXEMPT
    } else {
        tables.classify(rule_set, &header, &packet.flow, direction)
    };
    if packet.fragment && packet.fragment_offset == 0 {
        let record = FragmentRecord::new(packet, &verdict, generation, tables.now());
        tables.remember(&key, &record);
    }
    (verdict, generation)
}

/// Whether this may be a later fragment of ESP or AH for one of our SAs. It shows no SPI, so its addresses decide. Should the first
/// one have come before it, what was decided about that counts: the kernel beside us may have SAs between the same addresses.
#[inline(always)]
fn is_later_esp<T: Tables>(packet: &IpPacket, tables: &T) -> bool {
    packet.fragment_offset != 0
        && matches!(packet.flow.protocol, protocol::ESP | protocol::AH)
        && tables.is_tunnel(&TunnelEnds::of(&packet.flow))
}

/// The header of a rule set that was filled. An array that never was has generation 0; it must not read as "no rule,
/// default permit".
#[inline(always)]
fn filled_header<T: Tables>(rule_set: T::RuleSet, tables: &T) -> Option<Header> {
    tables.header(rule_set).filter(|header| header.generation != 0)
}

/// What the original's `ipsecexempt` keeps from the filters: with 0 and 1 multicast and broadcast, with 0 and 2 RSVP and
/// Kerberos. The latter by its port alone, either one: whoever sends from port 88 passes. So was the original, and so it
/// is asked for.
#[inline(always)]
fn is_exempt(packet: &IpPacket, level: u8) -> bool {
    const RSVP: u8 = 46;
    const KERBEROS: u16 = 88;
    let flow = &packet.flow;
    if level <= 1 {
        let [high, low] = flow.destination;
        let multicast = match flow.family {
            Family::V4 => low as u32 >> 28 == 0xe || low as u32 == u32::MAX,
            Family::V6 => high >> 56 == 0xff,
        };
        if multicast {
            return true;
        }
    }
    // A later IPv6 fragment does not prove that it is RSVP.
    if level == 1 || matches!(flow.ports, Ports::Unknown) {
        return false;
    }
    flow.protocol == RSVP
        || (matches!(flow.protocol, 6 | 17)
            && matches!(flow.ports, Ports::Known)
            && (flow.source_port == KERBEROS || flow.destination_port == KERBEROS))
}

/// Permit and block; a protect verdict gets here only where the rule accepts clear packets.
#[inline(always)]
fn filtered(verdict: &Verdict, packet: &IpPacket) -> Judgement {
    let judgement = match verdict.decision {
        Decision::Exempt => return Judgement::passed(Pass::Exempt),
        // The outer hook, where alone anything is reassembled, has dealt with that.
        Decision::NoRuleSet | Decision::Reassemble => return Judgement::dropped(DropReason::NoRuleSet),
        Decision::FragmentOverlap => {
            return Judgement::dropped_or_audited(DropReason::FragmentOverlap, verdict.audit);
        }
        Decision::Block if verdict.rule_id == NO_RULE => {
            Judgement::dropped_or_audited(DropReason::DefaultBlock, verdict.audit)
        }
        Decision::Block => Judgement::dropped_or_audited(DropReason::RuleBlock, verdict.audit),
        Decision::FragmentUnknown => {
            Judgement::dropped_or_audited(DropReason::FragmentUnknown, verdict.audit)
        }
        Decision::Permit | Decision::Protect if verdict.rule_id == NO_RULE => {
            Judgement::passed(Pass::Default)
        }
        Decision::Permit | Decision::Protect => Judgement::passed(Pass::Rule),
    };
    judgement.by(verdict.rule_id, packet.l3_length)
}

#[inline(always)]
fn metadata(packet: &IpPacket, slot: u32, rule_id: u32, kind: Kind, generation: u32) -> FrameMetadata {
    FrameMetadata {
        slot,
        rule_id,
        l3_offset: packet.l3_offset,
        l3_length: packet.l3_length,
        generation: generation as u16,
        kind,
        family: packet.flow.family as u8,
    }
}
