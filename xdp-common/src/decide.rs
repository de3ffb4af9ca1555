//! The decision for one packet at each hook.

use crate::line::NO_RULE;
use crate::{
    Address, Decision, Direction, DropReason, Encapsulation, Family, Flow, Frame, FrameMetadata, Header,
    InboundEndpoint, IpPacket, Kind, Reader, Upper, Verdict, parse,
};

/// The tables a decision needs: BPF maps in the kernel, plain collections on the host.
pub trait Tables {
    /// One rule set. It is fetched once per packet, so that a swap never shows a packet parts of two.
    type RuleSet: Copy;

    /// The active rule set, or `None` if none is loaded.
    fn rule_set(&self) -> Option<Self::RuleSet>;

    /// The header of a rule set.
    fn header(&self, rule_set: Self::RuleSet) -> Option<Header>;

    /// Walks a rule set; `None` if it ends before a verdict.
    fn classify(
        &self,
        rule_set: Self::RuleSet,
        header: &Header,
        flow: &Flow,
        direction: Direction,
    ) -> Option<Verdict>;

    /// The inbound SA with this SPI (host order).
    fn inbound(&self, spi: u32) -> Option<InboundEndpoint>;

    /// Whether the address is one of this machine's own.
    fn is_local(&self, address: &Address) -> bool;
}

/// Why a packet passed to the kernel: the index of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Pass {
    /// A rule with action permit matched, or one that accepts unsecured packets.
    Rule = 0,
    /// No rule matched and the default is permit.
    Default = 1,
    /// ARP, neighbour discovery, IKE and NAT keepalives of this machine.
    Lifeline = 2,
    /// Neither IP nor ARP, permitted by the policy.
    NonIp = 3,
}

impl Pass {
    /// Every kind, in the order of its value.
    pub const ALL: [Self; 4] = [Self::Rule, Self::Default, Self::Lifeline, Self::NonIp];

    /// The stable name, used in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule => "permit_rule",
            Self::Default => "permit_default",
            Self::Lifeline => "lifeline",
            Self::NonIp => "non_ip",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Goes on to the kernel's stack.
    Pass(Pass),
    /// Ends here.
    Drop(DropReason),
    /// Goes to the worker of its queue.
    Redirect(FrameMetadata),
}

/// What becomes of a packet, and which rule said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it.
    pub outcome: Outcome,
    /// The rule that decided, or [`NO_RULE`].
    pub rule_id: u32,
    /// Bytes of the IP packet, for the rule's byte counter; 0 for anything else.
    pub length: u16,
}

impl Judgement {
    #[inline(always)]
    const fn without_rule(outcome: Outcome) -> Self {
        Self {
            outcome,
            rule_id: NO_RULE,
            length: 0,
        }
    }

    #[inline(always)]
    const fn drop(reason: DropReason) -> Self {
        Self::without_rule(Outcome::Drop(reason))
    }

    #[inline(always)]
    const fn lifeline() -> Self {
        Self::without_rule(Outcome::Pass(Pass::Lifeline))
    }
}

/// A frame that arrived on the outer device, the side of the wire.
#[inline(always)]
pub fn decide_outer<R: Reader, T: Tables>(reader: &R, tables: &T) -> Judgement {
    let mut packet = IpPacket::EMPTY;
    match parse(reader, &mut packet) {
        Ok(Frame::Ip) => {}
        other => return decide_other(other, tables),
    }
    match packet.upper {
        Upper::NeighbourDiscovery if stays_on_link(&packet, tables) => return Judgement::lifeline(),
        // The exemption is for this machine's own IKE. Were it to hold for forwarded packets too, source port
        // 500 would pass any filter in front of the hosts behind the gateway.
        Upper::Ike | Upper::NatKeepalive if is_own(&packet.flow.destination, &packet, tables) => {
            return Judgement::lifeline();
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
        Upper::NeighbourDiscovery | Upper::Ike | Upper::NatKeepalive | Upper::Other => {}
    }
    let verdict = match verdict(&packet, Direction::Inbound, tables) {
        Ok((_, verdict)) => verdict,
        Err(judgement) => return judgement,
    };
    let outcome = match verdict.decision {
        Decision::Protect if !verdict.accept_unsecured => Outcome::Drop(DropReason::ClearNotAllowed),
        _ => pass(&verdict),
    };
    Judgement {
        outcome,
        rule_id: verdict.rule_id,
        length: packet.l3_length,
    }
}

/// A frame that arrived on the inner device, the clear side.
#[inline(always)]
pub fn decide_inner<R: Reader, T: Tables>(reader: &R, tables: &T) -> Judgement {
    let mut packet = IpPacket::EMPTY;
    match parse(reader, &mut packet) {
        Ok(Frame::Ip) => {}
        other => return decide_other(other, tables),
    }
    match packet.upper {
        Upper::NeighbourDiscovery if stays_on_link(&packet, tables) => return Judgement::lifeline(),
        Upper::Ike | Upper::NatKeepalive if is_own(&packet.flow.destination, &packet, tables) => {
            return Judgement::lifeline();
        }
        _ => {}
    }
    let (header, verdict) = match verdict(&packet, Direction::Outbound, tables) {
        Ok(found) => found,
        Err(judgement) => return judgement,
    };
    let outcome = match verdict.decision {
        Decision::Protect => Outcome::Redirect(metadata(
            &packet,
            verdict.connection,
            verdict.rule_id,
            Kind::Seal,
            header.generation,
        )),
        _ => pass(&verdict),
    };
    Judgement {
        outcome,
        rule_id: verdict.rule_id,
        length: packet.l3_length,
    }
}

/// A frame that the kernel is about to send on the outer device. Workers send past this hook.
///
/// It is the last line of defence: a clear packet that must be protected never leaves, whatever routed it here.
/// Filtering of permitted and blocked traffic is not its task, so rules are not counted again.
#[inline(always)]
pub fn decide_egress<R: Reader, T: Tables>(reader: &R, tables: &T) -> Judgement {
    let mut packet = IpPacket::EMPTY;
    match parse(reader, &mut packet) {
        Ok(Frame::Ip) => {}
        Ok(Frame::Arp | Frame::NonIp) => return Judgement::lifeline(),
        Err(reason) => return Judgement::drop(reason),
    }
    match packet.upper {
        Upper::NeighbourDiscovery => return Judgement::lifeline(),
        // IKE of this machine, and ESP that the kernel's own SAs made.
        Upper::Ike | Upper::NatKeepalive | Upper::Esp | Upper::UdpEsp
            if is_own(&packet.flow.source, &packet, tables) =>
        {
            return Judgement::lifeline();
        }
        _ => {}
    }
    match verdict(&packet, Direction::Outbound, tables) {
        Ok((_, verdict)) => Judgement::without_rule(match verdict.decision {
            Decision::Protect => Outcome::Drop(DropReason::ClearEgress),
            Decision::FragmentUnknown => Outcome::Drop(DropReason::FragmentUnknown),
            Decision::Permit | Decision::Block => Outcome::Pass(Pass::Default),
        }),
        Err(judgement) => judgement,
    }
}

/// Whether neighbour discovery is for this machine or this link: its own addresses, fe80::/10 and ff02::/16 (RFC 4291
/// sections 2.5.6 and 2.7). Anything else the kernel would forward, and what it forwards the filters must judge.
#[inline(always)]
fn stays_on_link<T: Tables>(packet: &IpPacket, tables: &T) -> bool {
    let destination = &packet.flow.destination;
    let first = destination[0] >> 48;
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
    match parsed {
        Err(reason) => Judgement::drop(reason),
        Ok(Frame::Arp) => Judgement::lifeline(),
        // The callers go on with IP packets themselves; should one not, it must not pass.
        Ok(Frame::Ip) => Judgement::drop(DropReason::NoRuleSet),
        Ok(Frame::NonIp) => match tables.rule_set().and_then(|rule_set| header(rule_set, tables)) {
            None => Judgement::drop(DropReason::NoRuleSet),
            Some(header) if matches!(header.non_ip, crate::Action::Permit) => {
                Judgement::without_rule(Outcome::Pass(Pass::NonIp))
            }
            Some(_) => Judgement::drop(DropReason::NonIp),
        },
    }
}

/// ESP from the wire: for a known SPI the shield's checks, else `None`, and the filters judge it like any packet.
#[inline(always)]
fn decide_esp<T: Tables>(packet: &IpPacket, kind: Kind, tables: &T) -> Option<Judgement> {
    // RFC 4303 section 2.1: "the set of SPI values in the range 1 through 255 are reserved", and "the SPI value
    // of zero (0) is reserved for local, implementation-specific use and MUST NOT be sent on the wire".
    if packet.spi <= 255 {
        return Some(Judgement::drop(DropReason::SpiReserved));
    }
    let endpoint = tables.inbound(packet.spi)?;
    let flow = &packet.flow;
    let (encapsulation, udp_header) = match kind {
        Kind::OpenUdpEsp => (Encapsulation::Udp, 8),
        Kind::OpenEsp | Kind::Seal => (Encapsulation::None, 0),
    };
    let expected = endpoint.family == flow.family as u8
        && endpoint.local == flow.destination
        && endpoint.remote == flow.source
        && endpoint.encapsulation == encapsulation as u8
        && endpoint.local_port == flow.destination_port
        && endpoint.remote_port == flow.source_port;
    if !expected {
        return Some(Judgement::drop(DropReason::SpiWrongEndpoint));
    }
    if packet.fragment {
        return Some(Judgement::drop(DropReason::EspFragment));
    }
    // SPI, sequence number, IV, the shortest padded trailer and the ICV: 8 + 8 + 4 + 16.
    if packet.upper_length() < udp_header + 36 {
        return Some(Judgement::drop(DropReason::EspTruncated));
    }
    // No rule set was asked, so there is no generation to name.
    let metadata = metadata(packet, endpoint.slot, NO_RULE, kind, 0);
    Some(Judgement {
        outcome: Outcome::Redirect(metadata),
        rule_id: NO_RULE,
        length: packet.l3_length,
    })
}

#[inline(always)]
fn verdict<T: Tables>(
    packet: &IpPacket,
    direction: Direction,
    tables: &T,
) -> Result<(Header, Verdict), Judgement> {
    let found = || {
        let rule_set = tables.rule_set()?;
        let header = header(rule_set, tables)?;
        let verdict = tables.classify(rule_set, &header, &packet.flow, direction)?;
        Some((header, verdict))
    };
    found().ok_or(Judgement::drop(DropReason::NoRuleSet))
}

/// The header of a rule set that was filled. An array that never was has generation 0; it must not read as "no rule,
/// default permit".
#[inline(always)]
fn header<T: Tables>(rule_set: T::RuleSet, tables: &T) -> Option<Header> {
    tables.header(rule_set).filter(|header| header.generation != 0)
}

/// Permit and block; a protect verdict gets here only where the rule accepts clear packets.
#[inline(always)]
fn pass(verdict: &Verdict) -> Outcome {
    match verdict.drop_reason() {
        Some(reason) => Outcome::Drop(reason),
        None if verdict.rule_id == NO_RULE => Outcome::Pass(Pass::Default),
        None => Outcome::Pass(Pass::Rule),
    }
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
