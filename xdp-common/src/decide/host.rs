//! The decision for packets that this host itself sends.

use super::{decide_other, is_own, lifeline, parse_frame, seal_or_filter};
use crate::{Frame, IpPacket, Judgement, Pass, Place, Reader, Tables, Upper};

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
        // IKE of this machine, and ESP that the kernel's own SAs made.
        Upper::Ike | Upper::NatKeepalive | Upper::Esp | Upper::UdpEsp | Upper::Ah
            if is_own(&packet.flow.source, &packet, tables) =>
        {
            return lifeline(&packet, Place::Egress, tables);
        }
        _ => {}
    }
    seal_or_filter(&packet, Place::Egress, tables)
}
