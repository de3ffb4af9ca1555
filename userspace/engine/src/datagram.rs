//! A host's own datagrams that do not fit, in transport mode.
//!
//! RFC 4303 section 3.3.4: "If necessary, fragmentation is performed after ESP processing within an IPsec implementation. Thus,
//! transport mode ESP is applied only to whole IP datagrams (not to IP fragments)." The stack fragments before it hands packets
//! over. So the datagram is put together, sealed, and the sealed packet fragmented; its receiver does it the other way round.

use std::time::Instant;

use ravelin_esp::{Fragmentation, Packet};
use ravelin_xdp_common::{Decision, Direction, DropReason, IpPacket, SliceReader, parse_ip};
use ravelin_xsk::Port;

use crate::adjacency::Snapshot;
use crate::filter::Side;
use crate::forwarder::{Admitted, Forwarder};
use crate::icmp::{self, IcmpError};
use crate::regime::Regime;

/// Whether a packet is to be sealed as a whole datagram and fragmented afterwards: it is a fragment, or it is too big and its sender
/// lets it be fragmented.
pub(crate) fn is_sealed_whole(packet: &[u8], too_big: bool) -> bool {
    const DONT_FRAGMENT: u16 = 0x4000;
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let field = packet.get(6..).and_then(<[u8]>::first_chunk).copied();
            let field = field.map_or(0, u16::from_be_bytes);
            field & 0x3fff != 0 || (too_big && field & DONT_FRAGMENT == 0)
        }
        // An extension header may stand in front of the fragment header. RFC 6946: a fragment that is alone is none.
        Some(6) if matches!(packet.get(6), Some(0 | 43 | 44 | 60)) => {
            let mut parsed = IpPacket::EMPTY;
            parse_ip(&SliceReader(packet), &mut parsed).is_ok() && parsed.fragment
        }
        _ => false,
    }
}

impl<'u, P: Port<'u>> Forwarder<'_, 'u, P> {
    /// Takes a packet of which that holds: at the latest with its last fragment the datagram goes to the peer.
    pub(crate) fn seal_datagram(
        &mut self,
        mut one: Admitted<'u>,
        regime: &Regime,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let slot = one.metadata.slot;
        if !is_sealed_whole(one.frame.data(), false) {
            let (buffer, start, end) = one.frame.chunk_mut();
            if let Ok(mut packet) = Packet::new(buffer, start..end) {
                self.seal_whole(&mut packet, slot, (regime, snapshot), now);
            }
            return;
        }
        let mut own = self.own.take();
        let counters = self.counters;
        let whole = own.as_mut().and_then(|pool| {
            pool.offer(one.frame.data(), slot, now, |reason, count| {
                counters.lost(reason, count as u64);
            })
        });
        if let Some(mut whole) = whole {
            self.seal_whole(&mut whole.packet, whole.label, (regime, snapshot), now);
        }
        self.own = own;
    }

    fn seal_whole(
        &mut self,
        packet: &mut Packet<'_>,
        slot: u32,
        (regime, snapshot): (&Regime, &Snapshot),
        now: Instant,
    ) {
        match self.sealed_in_pieces(packet, slot, (regime, snapshot), now) {
            Ok(()) => {}
            Err(reason) => self.counters.dropped(reason),
        }
    }

    fn sealed_in_pieces(
        &mut self,
        packet: &mut Packet<'_>,
        slot: u32,
        (regime, snapshot): (&Regime, &Snapshot),
        now: Instant,
    ) -> Result<(), DropReason> {
        let mut parsed = IpPacket::EMPTY;
        parse_ip(&SliceReader(packet.bytes()), &mut parsed)?;
        // Its fragments were judged while they came, and the policy may have changed since the first one.
        let verdict = regime.rules().classify(&parsed.flow, Direction::Outbound);
        if verdict.decision != Decision::Protect || verdict.connection != slot {
            return Err(DropReason::ClearEgress);
        }
        let (connection, outbound) = regime
            .connection(slot)
            .and_then(|one| Some((one, one.outbound.as_ref()?)))
            .ok_or(DropReason::SaMissing)?;
        if let Err(reason) = outbound.sa.seal_unfitted(packet, now) {
            if reason == DropReason::PacketTooBig {
                let longest = outbound.sa.inner_mtu_at(u16::MAX.into()).unwrap_or(0);
                self.tell_stack(packet.bytes(), IcmpError::TooBig(longest), snapshot, now);
            }
            return Err(reason);
        }
        self.shared.sealed.set(outbound.pair);
        let mtu = connection.outer_mtu(snapshot.outer.mtu, now) as usize;
        if packet.len() <= mtu {
            let frame = self.frame_of(packet.bytes()).ok_or(DropReason::NoFrame)?;
            self.forward_to_peer(frame, connection, snapshot, now);
            return Ok(());
        }
        let pieces = Fragmentation::at_source(packet.bytes(), mtu, self.identify())?;
        for frame in self.cut(pieces)? {
            self.forward_to_peer(frame, connection, snapshot, now);
        }
        Ok(())
    }

    /// Sends an ICMP error to this host's own stack, as if from where the packet was to go.
    fn tell_stack(&mut self, packet: &[u8], error: IcmpError, snapshot: &Snapshot, now: Instant) {
        let port = snapshot.outer.speaking_for(packet);
        let answer = self
            .error_about(packet, &port, error, usize::MAX, now)
            .and_then(|frame| icmp::framed(frame, port.mac, &port));
        if let Some(answer) = answer {
            self.counters.icmp_errors.add(1);
            self.queue(answer, Side::Inner);
        }
    }

    /// An identification for the fragments of a packet.
    pub(crate) fn identify(&mut self) -> u32 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }
}

#[cfg(test)]
mod tests {
    use super::is_sealed_whole;

    fn v4(field: u16) -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[3] = 28;
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet[9] = 17;
        packet
    }

    fn v6(extension: u8, field: u16) -> Vec<u8> {
        let mut packet = vec![0; 56];
        packet[0] = 0x60;
        packet[5] = 16;
        packet[6] = extension;
        packet[40] = 17;
        packet[42..44].copy_from_slice(&field.to_be_bytes());
        // The length of UDP, which the parser looks at.
        packet[53] = 8;
        packet
    }

    #[test]
    fn fragments_and_what_may_become_fragments() {
        for (field, fits, too_big) in [
            (0, false, true),
            (0x4000, false, false),
            (0x2000, true, true),
            (3, true, true),
            (0x4003, true, true),
        ] {
            assert_eq!(is_sealed_whole(&v4(field), false), fits, "{field:x}");
            assert_eq!(is_sealed_whole(&v4(field), true), too_big, "{field:x}");
        }
        // IPv6 packets become fragments at their source only, which is the stack.
        for (extension, field, fragment) in [
            (17, 0, false),
            (44, 1, true),
            (44, 24, true),
            (44, 0, false),
            (60, 0, false),
        ] {
            for too_big in [false, true] {
                let whole = is_sealed_whole(&v6(extension, field), too_big);
                assert_eq!(whole, fragment, "{extension} {field}");
            }
        }
        for nonsense in [&[][..], &[0x45], &[0x60; 7], &[0x10; 40]] {
            assert!(!is_sealed_whole(nonsense, false));
        }
    }
}
