//! The decision for packets that this host itself sends.

use super::{ask, decide_other, from_new_address, is_own, lifeline, metadata, parse_frame, seal_or_filter};
use crate::{
    Decision, Direction, DropReason, Frame, IpPacket, Judgement, Kind, Pass, Place, Reader, Tables, Upper,
};

/// A frame that the kernel is about to send on the outer device of a host.
///
/// Here is where the host's own packets are filtered, so rules count. What must be protected goes to the host edge. ESP that
/// workers made does not come by, see [`decide_egress`](crate::decide_egress).
#[inline(always)]
pub fn decide_host_egress<R: Reader, T: Tables>(reader: &R, tables: &T) -> Judgement {
    let mut packet = IpPacket::EMPTY;
    match parse_frame(reader, &mut packet) {
        Ok(Frame::Ip) => {}
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
    seal_or_filter(&packet, Place::Egress, tables)
}

/// A frame that comes out of a host's veth edge, where a worker waits for it.
///
/// [`decide_host_egress`] sent it here and has counted it. But anybody on this host can send on that device, so it is judged again,
/// and whatever no rule protects ends here: nothing is behind this device.
#[inline(always)]
pub fn decide_edge<R: Reader, T: Tables>(reader: &R, tables: &T) -> Judgement {
    let mut packet = IpPacket::EMPTY;
    match parse_frame(reader, &mut packet) {
        Ok(Frame::Ip) => {}
        Ok(Frame::Arp | Frame::NonIp) => return Judgement::dropped(DropReason::NonIp),
        Err(reason) => return Judgement::dropped(reason),
    }
    let (verdict, generation) = ask(&packet, Direction::Outbound, Place::Edge, tables);
    match verdict.decision {
        Decision::Protect => Judgement::redirected(metadata(
            &packet,
            verdict.connection,
            verdict.rule_id,
            Kind::Seal,
            generation,
        )),
        Decision::FragmentUnknown => Judgement::dropped(DropReason::FragmentUnknown),
        Decision::FragmentOverlap => Judgement::dropped(DropReason::FragmentOverlap),
        Decision::NoRuleSet => Judgement::dropped(DropReason::NoRuleSet),
        Decision::Permit | Decision::Block | Decision::Exempt | Decision::Reassemble => {
            Judgement::dropped(DropReason::ClearEgress)
        }
    }
}
