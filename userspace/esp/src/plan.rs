//! How a packet will be laid out: all that is decided before a sequence number is spent on it.

use ravelin_xdp_common::DropReason;

use crate::ip::{HeaderChain, IpHeader, PROTOCOL_NO_NEXT_HEADER};
use crate::outbound::OutboundSa;
use crate::outer_header::OuterHeader;
use crate::{Packet, tfc};

/// The places of everything in a sealed packet.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) header: IpHeader,
    /// Bytes of the original headers that stay in front of ESP: none in tunnel mode.
    pub(crate) kept: usize,
    /// Bytes of the payload with its TFC padding.
    pub(crate) padded_len: usize,
    /// What ESP's trailer names.
    pub(crate) next_header: u8,
    /// Transport mode: the byte that names ESP or UDP instead.
    pub(crate) next_header_at: usize,
    /// Bytes in front of ESP once sealed.
    pub(crate) esp_at: usize,
    /// Bytes of the sealed packet.
    pub(crate) total_len: u16,
}

impl OutboundSa {
    /// Decides how `packet` will be sealed to at most `longest` bytes, as if it had `padded` bytes where it has less and can be
    /// padded.
    #[inline(always)]
    pub(crate) fn plan(
        &self,
        packet: &mut Packet<'_>,
        longest: usize,
        padded: usize,
    ) -> Result<Plan, DropReason> {
        let header = IpHeader::parse(packet.bytes())?;
        // Link-layer padding behind the packet must not be sealed as if it were payload.
        packet.truncate(header.total_len);
        let mut plan = if let Some(outer) = &self.outer {
            self.in_tunnel(outer, header, header.family.protocol())
        } else {
            let chain = HeaderChain::walk(packet.bytes(), &header)?;
            // RFC 4303 section 3.3.4: "transport mode ESP is applied only to whole IP datagrams (not to IP
            // fragments)".
            if chain.fragment {
                return Err(DropReason::FragmentTransport);
            }
            Plan {
                header,
                kept: chain.esp.offset,
                padded_len: header.total_len - chain.esp.offset,
                next_header: chain.esp.next_header,
                next_header_at: chain.esp.next_header_at,
                esp_at: chain.esp.offset + self.udp_len(),
                total_len: 0,
            }
        };
        if padded > header.total_len {
            // By value: a plan whose address is known is written to memory byte by byte, and read back in words that must wait for that.
            plan.padded_len = self.padded_len(
                (plan.kept, plan.esp_at, plan.padded_len, plan.next_header),
                packet,
                longest,
                padded,
            );
        }
        self.fit(plan, packet, longest)
    }

    /// Decides how `packet`, which holds what a dummy carries, will be sealed.
    pub(crate) fn plan_dummy(&self, packet: &mut Packet<'_>, longest: usize) -> Result<Plan, DropReason> {
        // RFC 4302 knows no dummies.
        if self.ah.is_some() {
            return Err(DropReason::NextHeader);
        }
        let Some(outer) = &self.outer else {
            let plan = self.plan(packet, longest, 0)?;
            return if plan.next_header == PROTOCOL_NO_NEXT_HEADER {
                Ok(plan)
            } else {
                Err(DropReason::NextHeader)
            };
        };
        // The outer header is that of a packet of the commonest kind.
        let header = IpHeader {
            family: outer.family(),
            header_len: 0,
            total_len: packet.len(),
            traffic_class: 0,
            flow_label: 0,
            dont_fragment: true,
            fragment: false,
        };
        let plan = self.in_tunnel(outer, header, PROTOCOL_NO_NEXT_HEADER);
        self.fit(plan, packet, longest)
    }

    #[inline]
    fn in_tunnel(&self, outer: &OuterHeader, header: IpHeader, next_header: u8) -> Plan {
        Plan {
            header,
            kept: 0,
            padded_len: header.total_len,
            next_header,
            next_header_at: 0,
            esp_at: outer.len() + self.udp_len(),
            total_len: 0,
        }
    }

    /// Bytes of the payload with TFC padding, as far as the receiver can find it and the path MTU has room.
    fn padded_len(
        &self,
        (kept, esp_at, payload_len, next_header): (usize, usize, usize, u8),
        packet: &Packet<'_>,
        longest: usize,
        padded: usize,
    ) -> usize {
        let payload = packet.bytes().get(kept..).unwrap_or_default();
        if self.outer.is_none() && !tfc::tells_its_length(next_header, payload) {
            return payload_len;
        }
        let around = esp_at + self.layout.header_len() + self.layout.icv_len();
        let room = self.layout.payload_len(longest.saturating_sub(around));
        payload_len.max(room.min(padded - kept))
    }

    /// Completes a plan, if the path and the packet's buffer have room for it.
    #[inline]
    fn fit(&self, mut plan: Plan, packet: &Packet<'_>, longest: usize) -> Result<Plan, DropReason> {
        let payload_len = plan.header.total_len - plan.kept;
        let (front, behind) = self.around(self.wire_family(&plan.header), payload_len, plan.padded_len);
        let total_len = plan.esp_at + front + payload_len + behind;
        if total_len > longest {
            return Err(DropReason::PacketTooBig);
        }
        plan.total_len = u16::try_from(total_len).map_err(|_| DropReason::PacketTooBig)?;
        // For AH the high half of the sequence number stands behind the packet while the ICV is computed.
        let needed = if self.ah.is_some() { 4 } else { behind };
        if packet.headroom() < plan.esp_at + front - plan.kept || packet.tailroom() < needed {
            return Err(DropReason::FrameShort);
        }
        Ok(plan)
    }
}
