//! What ESP needs to know of an IPv4 or IPv6 header.

use ravelin_xdp_common::DropReason;

use crate::checksum;

/// IPv4 header without options, in bytes.
pub(crate) const IPV4_HEADER_LEN: usize = 20;
/// IPv6 header without extension headers, in bytes.
pub(crate) const IPV6_HEADER_LEN: usize = 40;
/// UDP header, in bytes.
pub(crate) const UDP_HEADER_LEN: usize = 8;

pub(crate) const PROTOCOL_IPV4: u8 = 4;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_IPV6: u8 = 41;
pub(crate) const PROTOCOL_FRAGMENT: u8 = 44;
pub(crate) const PROTOCOL_ESP: u8 = 50;
pub(crate) const PROTOCOL_AH: u8 = 51;
pub(crate) const PROTOCOL_NO_NEXT_HEADER: u8 = 59;
pub(crate) const PROTOCOL_HOP_BY_HOP: u8 = 0;
pub(crate) const PROTOCOL_ROUTING: u8 = 43;
pub(crate) const PROTOCOL_DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that are walked; the XDP side drops packets with more.
const MAX_EXTENSIONS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The next header value of a packet of this family inside a tunnel.
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::V4 => PROTOCOL_IPV4,
            Self::V6 => PROTOCOL_IPV6,
        }
    }
}

/// A validated fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpHeader {
    pub(crate) family: Family,
    /// Bytes of the IPv4 header with options, or of the fixed IPv6 header.
    pub(crate) header_len: usize,
    /// Bytes of the packet according to its header; at most the bytes given.
    pub(crate) total_len: usize,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    /// IPv6 only: the flow label.
    pub(crate) flow_label: u32,
    /// No router may fragment it: DF of IPv4, and every IPv6 packet.
    pub(crate) dont_fragment: bool,
    /// IPv4 only: more fragments or an offset.
    pub(crate) fragment: bool,
}

impl IpHeader {
    /// Parses the fixed header of the packet that `bytes` begin with.
    ///
    /// # Errors
    /// `IpTruncated`, `IpBadVersion`, `IpBadHeaderLength`, `IpBadTotalLength`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_ipv4(bytes),
            Some(6) => Self::parse_ipv6(bytes),
            Some(_) => Err(DropReason::IpBadVersion),
            None => Err(DropReason::IpTruncated),
        }
    }

    fn parse_ipv4(bytes: &[u8]) -> Result<Self, DropReason> {
        let fixed: &[u8; IPV4_HEADER_LEN] = bytes.first_chunk().ok_or(DropReason::IpTruncated)?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header_len < IPV4_HEADER_LEN || header_len > bytes.len() {
            return Err(DropReason::IpBadHeaderLength);
        }
        if total_len < header_len || total_len > bytes.len() {
            return Err(DropReason::IpBadTotalLength);
        }
        let flags_and_offset = u16::from_be_bytes([fixed[6], fixed[7]]);
        Ok(Self {
            family: Family::V4,
            header_len,
            total_len,
            traffic_class: fixed[1],
            flow_label: 0,
            dont_fragment: flags_and_offset & 0x4000 != 0,
            fragment: flags_and_offset & 0x3fff != 0,
        })
    }

    fn parse_ipv6(bytes: &[u8]) -> Result<Self, DropReason> {
        let fixed: &[u8; IPV6_HEADER_LEN] = bytes.first_chunk().ok_or(DropReason::IpTruncated)?;
        let total_len = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if total_len > bytes.len() {
            return Err(DropReason::IpBadTotalLength);
        }
        Ok(Self {
            family: Family::V6,
            header_len: IPV6_HEADER_LEN,
            total_len,
            traffic_class: fixed[0] << 4 | fixed[1] >> 4,
            flow_label: u32::from_be_bytes([0, fixed[1] & 0x0f, fixed[2], fixed[3]]),
            dont_fragment: true,
            fragment: false,
        })
    }
}

/// A place between headers: what follows, and which byte names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    /// Offset of the header that follows.
    pub(crate) offset: usize,
    /// Protocol of the header that follows.
    pub(crate) next_header: u8,
    /// Offset of the byte that holds `next_header`.
    pub(crate) next_header_at: usize,
}

/// The header chain of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeaderChain {
    /// Where the upper-layer header begins: the first that is no extension header.
    pub(crate) upper: Boundary,
    /// Where ESP belongs in transport mode.
    pub(crate) esp: Boundary,
    /// The packet is a fragment; then `upper` is what its fragment header names.
    pub(crate) fragment: bool,
}

impl HeaderChain {
    /// Walks the extension headers of the packet `bytes`, whose fixed header is `header`.
    ///
    /// RFC 4303 section 3.1.1: "ESP is viewed as an end-to-end payload, and thus should appear after hop-by-hop,
    /// routing, and fragmentation extension headers. Destination options extension header(s) could appear before,
    /// after, or both before and after the ESP header". Options that a later routing header carries along stay in
    /// front, because intermediate destinations read them; the last ones are protected.
    ///
    /// # Errors
    /// `Ipv6ExtensionTruncated`, `Ipv6TooManyExtensions`.
    pub(crate) fn walk(bytes: &[u8], header: &IpHeader) -> Result<Self, DropReason> {
        let bytes = bytes.get(..header.total_len).ok_or(DropReason::IpTruncated)?;
        let next_header_at = match header.family {
            Family::V4 => 9,
            Family::V6 => 6,
        };
        let next_header = *bytes.get(next_header_at).ok_or(DropReason::IpTruncated)?;
        let mut upper = Boundary {
            offset: header.header_len,
            next_header,
            next_header_at,
        };
        let mut esp = upper;
        if header.family == Family::V4 {
            return Ok(Self {
                upper,
                esp,
                fragment: header.fragment,
            });
        }
        for _ in 0..MAX_EXTENSIONS {
            let (before_esp, fixed_len) = match upper.next_header {
                PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING => (true, None),
                PROTOCOL_FRAGMENT => (true, Some(8)),
                PROTOCOL_DESTINATION_OPTIONS => (false, None),
                _ => {
                    return Ok(Self {
                        upper,
                        esp,
                        fragment: false,
                    });
                }
            };
            let extension = bytes.get(upper.offset..).unwrap_or_default();
            let first: &[u8; 8] = extension
                .first_chunk()
                .ok_or(DropReason::Ipv6ExtensionTruncated)?;
            let len = fixed_len.unwrap_or((usize::from(first[1]) + 1) * 8);
            if len > extension.len() {
                return Err(DropReason::Ipv6ExtensionTruncated);
            }
            let is_fragment = upper.next_header == PROTOCOL_FRAGMENT
                // All but the two reserved bits; an atomic fragment (RFC 6946) has neither offset nor M.
                && u16::from_be_bytes([first[2], first[3]]) & 0xfff9 != 0;
            upper = Boundary {
                offset: upper.offset + len,
                next_header: first[0],
                next_header_at: upper.offset,
            };
            if before_esp {
                esp = upper;
            }
            if is_fragment {
                return Ok(Self {
                    upper,
                    esp,
                    fragment: true,
                });
            }
        }
        match upper.next_header {
            PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING | PROTOCOL_FRAGMENT | PROTOCOL_DESTINATION_OPTIONS => {
                Err(DropReason::Ipv6TooManyExtensions)
            }
            _ => Ok(Self {
                upper,
                esp,
                fragment: false,
            }),
        }
    }
}

/// Rewrites the length field (IPv4: the whole packet, IPv6: the payload) and the next header of the packet `bytes` after a header was put into its chain or taken out. The
/// IPv4 checksum is updated, not computed anew: a header that was damaged before stays visibly damaged, which matters
/// because in transport mode nothing else covers it.
pub(crate) fn rewrite_chain(
    bytes: &mut [u8],
    family: Family,
    next_header_at: usize,
    next_header: u8,
    len: u16,
) {
    match family {
        Family::V4 => {
            replace_ipv4_word(bytes, 2, len.to_be_bytes());
            replace_ipv4_word(bytes, 8, [bytes[8], next_header]);
        }
        Family::V6 => {
            bytes[next_header_at] = next_header;
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
        }
    }
}

/// The value of the length field of a packet of `total_len` bytes, header included.
pub(crate) fn length_field(family: Family, total_len: usize) -> Option<u16> {
    let len = match family {
        Family::V4 => total_len,
        Family::V6 => total_len.checked_sub(IPV6_HEADER_LEN)?,
    };
    u16::try_from(len).ok()
}

/// Sets DSCP and ECN, and updates the IPv4 checksum.
pub(crate) fn set_traffic_class(bytes: &mut [u8], family: Family, traffic_class: u8) {
    match family {
        Family::V4 => replace_ipv4_word(bytes, 0, [bytes[0], traffic_class]),
        Family::V6 => {
            bytes[0] = 0x60 | traffic_class >> 4;
            bytes[1] = bytes[1] & 0x0f | traffic_class << 4;
        }
    }
}

fn replace_ipv4_word(header: &mut [u8], at: usize, new: [u8; 2]) {
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let checksum = checksum::update(word(10), word(at), u16::from_be_bytes(new));
    header[at..at + 2].copy_from_slice(&new);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::{Boundary, HeaderChain, IpHeader};
    use ravelin_xdp_common::DropReason;

    fn ipv6(chain: &[(u8, usize)], last: u8) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x60;
        let mut next_header_at = 6;
        for (protocol, units) in chain {
            bytes[next_header_at] = *protocol;
            next_header_at = bytes.len();
            bytes.resize(bytes.len() + units * 8, 0);
            bytes[next_header_at + 1] = u8::try_from(units - 1).unwrap();
        }
        bytes[next_header_at] = last;
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        let payload_len = u16::try_from(bytes.len() - 40).unwrap();
        bytes[4..6].copy_from_slice(&payload_len.to_be_bytes());
        bytes
    }

    fn walk(bytes: &[u8]) -> Result<HeaderChain, DropReason> {
        HeaderChain::walk(bytes, &IpHeader::parse(bytes)?)
    }

    #[test]
    fn esp_goes_after_hop_by_hop_and_routing_and_before_the_last_destination_options() {
        let bytes = ipv6(&[(0, 1), (60, 2), (43, 3), (60, 1)], 6);
        let chain = walk(&bytes).unwrap();
        assert_eq!(
            chain.esp,
            Boundary {
                offset: 40 + 48,
                next_header: 60,
                next_header_at: 40 + 24
            }
        );
        assert_eq!(
            chain.upper,
            Boundary {
                offset: 40 + 56,
                next_header: 6,
                next_header_at: 40 + 48
            }
        );
        let bytes = ipv6(&[(60, 1)], 17);
        assert_eq!(
            walk(&bytes).unwrap().esp,
            Boundary {
                offset: 40,
                next_header: 60,
                next_header_at: 6
            }
        );
    }

    #[test]
    fn more_than_eight_extension_headers_are_refused() {
        assert!(walk(&ipv6(&[(60, 1); 8], 6)).is_ok());
        assert_eq!(
            walk(&ipv6(&[(60, 1); 9], 6)),
            Err(DropReason::Ipv6TooManyExtensions)
        );
    }

    #[test]
    fn truncated_extension_headers_are_refused() {
        let mut bytes = ipv6(&[(0, 2)], 6);
        bytes[41] = 2;
        assert_eq!(walk(&bytes), Err(DropReason::Ipv6ExtensionTruncated));
    }

    #[test]
    fn fragments_are_told_from_atomic_fragments() {
        let mut bytes = ipv6(&[(44, 1)], 6);
        bytes[41] = 0;
        assert!(!walk(&bytes).unwrap().fragment);
        bytes[43] = 1;
        assert!(walk(&bytes).unwrap().fragment);
        bytes[43] = 8;
        assert!(walk(&bytes).unwrap().fragment);
    }

    #[test]
    fn lying_lengths_are_refused() {
        let mut bytes = [0; 24];
        bytes[0] = 0x45;
        bytes[3] = 24;
        assert!(IpHeader::parse(&bytes).is_ok());
        bytes[3] = 25;
        assert_eq!(IpHeader::parse(&bytes), Err(DropReason::IpBadTotalLength));
        bytes[3] = 19;
        assert_eq!(IpHeader::parse(&bytes), Err(DropReason::IpBadTotalLength));
        bytes[0] = 0x44;
        assert_eq!(IpHeader::parse(&bytes), Err(DropReason::IpBadHeaderLength));
        bytes[0] = 0x4f;
        assert_eq!(IpHeader::parse(&bytes), Err(DropReason::IpBadHeaderLength));
        bytes[0] = 0x55;
        assert_eq!(IpHeader::parse(&bytes), Err(DropReason::IpBadVersion));
        assert_eq!(IpHeader::parse(&[]), Err(DropReason::IpTruncated));
        assert_eq!(IpHeader::parse(&[0x45; 19]), Err(DropReason::IpTruncated));
        assert_eq!(IpHeader::parse(&[0x60; 39]), Err(DropReason::IpTruncated));
    }
}
