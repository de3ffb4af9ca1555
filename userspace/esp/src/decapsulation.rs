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

/// Leaves the inner packet of tunnel mode, its DSCP being the outer header's in the bits of `dscp_copied`. Counts in
/// `unexpected_ecn` if the two ECN fields do not fit each other.
pub(crate) fn tunnel(
    packet: &mut Packet<'_>,
    located: &Located,
    layout: Layout,
    dscp_copied: u8,
    unexpected_ecn: &mut u64,
) -> Result<(), DropReason> {
    let payload_at = located.esp_at + layout.header_len();
    let trailer = trailer(packet, payload_at, layout)?;
    let family = match trailer.next_header {
        PROTOCOL_IPV4 => Family::V4,
        PROTOCOL_IPV6 => Family::V6,
        _ => return Err(DropReason::NextHeader),
    };
    packet
        .trim_front(payload_at)
        .map_err(|NoRoom| DropReason::EspTruncated)?;
    packet.truncate(trailer.payload_len);
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
    layout: Layout,
    fix_up: Option<&ChecksumFixUp>,
) -> Result<(), DropReason> {
    let payload_at = located.esp_at + layout.header_len();
    let trailer = trailer(packet, payload_at, layout)?;
    // Transport mode carries whole datagrams. A fragment header inside ESP would make a fragment whose ports nobody
    // has checked.
    if located.header.family == Family::V6 && trailer.next_header == PROTOCOL_FRAGMENT {
        return Err(DropReason::NextHeader);
    }
    let removed = payload_at - located.ip_len;
    packet.bytes_mut().copy_within(..located.ip_len, removed);
    packet
        .trim_front(removed)
        .map_err(|NoRoom| DropReason::EspTruncated)?;
    let total_len = located.ip_len + trailer.payload_len;
    packet.truncate(total_len);
    let family = located.header.family;
    let len = ip::length_field(family, total_len).ok_or(DropReason::InnerMalformed)?;
    ip::rewrite_chain(
        packet.bytes_mut(),
        family,
        located.next_header_at,
        trailer.next_header,
        len,
    );
    fix_up.map_or(Ok(()), |fix_up| fix_up.apply(packet.bytes_mut()))
}

/// The trailer of the packet whose plaintext begins at `payload_at`.
fn trailer(packet: &Packet<'_>, payload_at: usize, layout: Layout) -> Result<Trailer, DropReason> {
    let plaintext_and_icv = packet.bytes().get(payload_at..).ok_or(DropReason::EspTruncated)?;
    let plaintext_len = plaintext_and_icv.len().checked_sub(layout.icv_len());
    let plaintext = plaintext_len
        .and_then(|len| plaintext_and_icv.get(..len))
        .ok_or(DropReason::EspTruncated)?;
    let trailer = Trailer::parse(plaintext)?;
    // RFC 4303 section 2.6: a dummy is marked by protocol 59, its payload "need not be well-formed", and "dummy packets
    // are discarded without prejudice".
    if trailer.next_header == PROTOCOL_NO_NEXT_HEADER {
        return Err(DropReason::Dummy);
    }
    Ok(trailer)
}
