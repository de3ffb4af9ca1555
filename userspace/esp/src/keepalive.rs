//! NAT keepalives (RFC 3948 section 2.3).

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use crate::ip::{Family, IPV6_HEADER_LEN, IpHeader, PROTOCOL_UDP, UDP_HEADER_LEN};
use crate::outer_header::{self, OuterHeader};
use crate::outer_options::OuterOptions;

/// Bytes of the longest keepalive, which is over IPv6.
pub const MAX_KEEPALIVE_LEN: usize = IPV6_HEADER_LEN + UDP_HEADER_LEN + 1;

/// The IP packet that keeps a NAT's mapping alive; `None` for addresses of two families.
///
/// RFC 3948 section 2.3: "The sender MUST use a one-octet-long payload with the value 0xFF", and the UDP checksum "SHOULD be
/// transmitted as a zero value" over IPv4.
#[must_use]
pub fn nat_keepalive(source: SocketAddr, destination: SocketAddr) -> Option<ArrayVec<u8, MAX_KEEPALIVE_LEN>> {
    let (local, remote) = (source.ip(), destination.ip());
    let family = match (local, remote) {
        (IpAddr::V4(_), IpAddr::V4(_)) => Family::V4,
        (IpAddr::V6(_), IpAddr::V6(_)) => Family::V6,
        _ => return None,
    };
    let (source_port, destination_port) = (source.port(), destination.port());
    let options = OuterOptions::default();
    let header = OuterHeader::new(local, remote, PROTOCOL_UDP, 0, &options);
    let udp_at = header.len();
    let len = udp_at + UDP_HEADER_LEN + 1;
    let mut packet: ArrayVec<u8, MAX_KEEPALIVE_LEN> = std::iter::repeat_n(0, len).collect();
    // What a keepalive would be inside of: one that is not to be fragmented.
    let inner = IpHeader {
        family,
        header_len: 0,
        total_len: 0,
        traffic_class: 0,
        flow_label: 0,
        dont_fragment: true,
        fragment: false,
    };
    header.write(&mut packet, len as u16, &inner, 0);
    let udp = packet.get_mut(udp_at..)?.first_chunk_mut()?;
    outer_header::write_udp(udp, source_port, destination_port, UDP_HEADER_LEN as u16 + 1);
    *packet.last_mut()? = 0xff;
    if family == Family::V6 {
        outer_header::complete_udp_checksum(&mut packet, udp_at);
    }
    Some(packet)
}
