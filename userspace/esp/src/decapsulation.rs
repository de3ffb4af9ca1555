//! What is done with a packet after its ICV verified (RFC 4303 section 3.4.4, RFC 4301 section 5.2).

use ravelin_xdp_common::DropReason;

use crate::inbound::Located;
use crate::ip::{
    self, Family, IpHeader, PROTOCOL_FRAGMENT, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_NO_NEXT_HEADER,
};
use crate::layout::Layout;
use crate::nat::ChecksumFixUp;
use crate::trailer::Trailer;
use crate::{NoRoom, Packet, ecn};

/// What an authentic packet carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    /// Offset in the packet.
    at: usize,
    /// Length in bytes, without padding and trailer.
    len: usize,
    /// Its protocol.
    next_header: u8,
}

impl Payload {
    /// Of a decrypted packet whose ESP header is at `esp_at`.
    pub(crate) fn of_esp(packet: &Packet<'_>, esp_at: usize, layout: Layout) -> Result<Self, DropReason> {
        let at = esp_at + layout.header_len();
        let plaintext_and_icv = packet.bytes().get(at..).ok_or(DropReason::EspTruncated)?;
        let plaintext_len = plaintext_and_icv.len().checked_sub(layout.icv_len());
        let plaintext = plaintext_len
            .and_then(|len| plaintext_and_icv.get(..len))
            .ok_or(DropReason::EspTruncated)?;
        let Trailer {
            payload_len,
            next_header,
        } = Trailer::parse(plaintext)?;
        // RFC 4303 section 2.6: a dummy is marked by protocol 59, its payload "need not be well-formed", and "dummy
        // packets are discarded without prejudice".
        if next_header == PROTOCOL_NO_NEXT_HEADER {
            return Err(DropReason::Dummy);
        }
        Ok(Self {
            at,
            len: payload_len,
            next_header,
        })
    }

    /// Of a verified packet whose authentication header, of `ah_len` bytes, is at `ah_at`.
    pub(crate) fn of_ah(packet: &Packet<'_>, ah_at: usize, ah_len: usize) -> Result<Self, DropReason> {
        let at = ah_at + ah_len;
        Ok(Self {
            at,
            len: packet.len().checked_sub(at).ok_or(DropReason::AhTruncated)?,
            next_header: *packet.bytes().get(ah_at).ok_or(DropReason::AhTruncated)?,
        })
    }
}

/// Leaves the inner packet of tunnel mode, its DSCP being the outer header's in the bits of `dscp_copied`. Counts in
/// `unexpected_ecn` if the two ECN fields do not fit each other.
pub(crate) fn tunnel(
    packet: &mut Packet<'_>,
    located: &Located,
    payload: Payload,
    dscp_copied: u8,
    unexpected_ecn: &mut u64,
) -> Result<(), DropReason> {
    let family = match payload.next_header {
        PROTOCOL_IPV4 => Family::V4,
        PROTOCOL_IPV6 => Family::V6,
        _ => return Err(DropReason::NextHeader),
    };
    packet
        .trim_front(payload.at)
        .map_err(|NoRoom| DropReason::EspTruncated)?;
    packet.truncate(payload.len);
    let inner = IpHeader::parse(packet.bytes()).map_err(|_| DropReason::InnerMalformed)?;
    if inner.family != family {
        return Err(DropReason::InnerMalformed);
    }
    // Bytes behind the inner packet are traffic flow confidentiality padding (RFC 4303 section 2.7).
    packet.truncate(inner.total_len);
    let outer_class = located.header.traffic_class;
    *unexpected_ecn += u64::from(ecn::is_unexpected(outer_class, inner.traffic_class));
    let traffic_class = ecn::decapsulate(outer_class, inner.traffic_class, dscp_copied)?;
    if traffic_class != inner.traffic_class {
        ip::set_traffic_class(packet.bytes_mut(), family, traffic_class);
    }
    Ok(())
}

/// Puts the packet of transport mode together again: its IP headers, then the payload, whose checksum `fix_up` corrects.
pub(crate) fn transport(
    packet: &mut Packet<'_>,
    located: &Located,
    payload: Payload,
    fix_up: Option<&ChecksumFixUp>,
) -> Result<(), DropReason> {
    // Transport mode carries whole datagrams. A fragment header inside ESP would make a fragment whose ports nobody
    // has checked.
    if located.header.family == Family::V6 && payload.next_header == PROTOCOL_FRAGMENT {
        return Err(DropReason::NextHeader);
    }
    let removed = payload.at - located.ip_len;
    packet.bytes_mut().copy_within(..located.ip_len, removed);
    packet
        .trim_front(removed)
        .map_err(|NoRoom| DropReason::EspTruncated)?;
    let total_len = located.ip_len + payload.len;
    packet.truncate(total_len);
    let family = located.header.family;
    let len = ip::length_field(family, total_len).ok_or(DropReason::InnerMalformed)?;
    ip::rewrite_chain(
        packet.bytes_mut(),
        family,
        located.next_header_at,
        payload.next_header,
        len,
    );
    fix_up.map_or(Ok(()), |fix_up| fix_up.apply(packet.bytes_mut()))
}
