//! Traffic flow confidentiality (RFC 4303 section 2.7): padding that hides how long packets are.

use crate::ip::{IpHeader, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP};

/// To what length short packets are padded before they are sealed. Longer ones go as they are, and nothing is padded beyond
/// the path MTU.
///
/// Only for peers that take it: in IKE, those that have not sent ESP_TFC_PADDING_NOT_SUPPORTED (RFC 7296 section 1.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TfcPadding {
    /// No padding but what the cipher's block needs.
    #[default]
    None,
    /// As if the clear packet had so many bytes, from its IP header on.
    To(u16),
    /// As if the clear packet were the longest that fits the path MTU; without a path MTU nothing is padded.
    PathMtu,
}

impl TfcPadding {
    /// The length in bytes that clear packets are padded to, as far as there is room.
    pub(crate) fn length(self, path_mtu: Option<u32>) -> usize {
        match self {
            Self::To(len) => len.into(),
            Self::PathMtu if path_mtu.is_some() => usize::MAX,
            Self::None | Self::PathMtu => 0,
        }
    }
}

/// Whether a receiver can tell `payload` from padding behind it.
///
/// RFC 4303 section 2.7: TFC padding "can be added only if the Payload Data field contains a specification of the length of
/// the IP datagram. This is always true in tunnel mode". In transport mode IP in IP and UDP say theirs; where UDP's is not all
/// there is, the rest may be options (RFC 9868).
pub(crate) fn tells_its_length(next_header: u8, payload: &[u8]) -> bool {
    match next_header {
        PROTOCOL_IPV4 | PROTOCOL_IPV6 => {
            IpHeader::parse(payload).is_ok_and(|header| header.total_len == payload.len())
        }
        PROTOCOL_UDP => payload
            .get(4..6)
            .is_some_and(|len| usize::from(u16::from_be_bytes([len[0], len[1]])) == payload.len()),
        _ => false,
    }
}
