//! What routers may change on the way, and the ICV of AH therefore does not cover (RFC 4302 section 3.3.3.1 and
//! appendix A).

use ravelin_xdp_common::DropReason;

use crate::ip::{Family, IPV4_HEADER_LEN, IPV6_HEADER_LEN};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Which end computes the ICV. What is "mutable but predictable" stands in a sent packet as it will arrive only after it
/// was predicted; in a received one it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Sender,
    Receiver,
}

/// Makes `headers`, all that stands in front of AH, what the ICV is computed over.
///
/// # Errors
/// `IpBadHeaderLength` and `Ipv6ExtensionTruncated` for options that do not fit, `NextHeader` for a routing header whose
/// outcome cannot be predicted.
pub(crate) fn clear(headers: &mut [u8], family: Family, end: End) -> Result<(), DropReason> {
    match family {
        Family::V4 => clear_ipv4(headers, end),
        Family::V6 => clear_ipv6(headers, end),
    }
}

fn clear_ipv4(headers: &mut [u8], end: End) -> Result<(), DropReason> {
    let (fixed, mut options) = headers
        .split_first_chunk_mut::<IPV4_HEADER_LEN>()
        .ok_or(DropReason::IpTruncated)?;
    // Appendix A1.1: TOS, flags, fragment offset, TTL and checksum are mutable.
    fixed[1] = 0;
    fixed[6..9].fill(0);
    fixed[10..12].fill(0);
    // Appendix A1.2.
    const END_OF_LIST: u8 = 0;
    const NO_OPERATION: u8 = 1;
    while let [kind, ..] = *options {
        let len = match kind {
            END_OF_LIST => return Ok(()),
            NO_OPERATION => 1,
            _ => usize::from(*options.get(1).ok_or(DropReason::IpBadHeaderLength)?),
        };
        if len == 0 || (kind != NO_OPERATION && len < 2) || len > options.len() {
            return Err(DropReason::IpBadHeaderLength);
        }
        let (option, rest) = options.split_at_mut(len);
        match kind {
            // Security, extended security, commercial security, router alert, sender directed delivery.
            NO_OPERATION | 130 | 133 | 134 | 148 | 149 => {}
            // Source routes: the destination is "mutable but predictable", it ends as the last address of the list.
            131 | 137 => {
                if end == End::Sender
                    && let Some(last) = option.get(3..).and_then(<[u8]>::last_chunk::<4>)
                {
                    fixed[16..20].copy_from_slice(last);
                }
                option.fill(0);
            }
            _ => option.fill(0),
        }
        options = rest;
    }
    Ok(())
}

fn clear_ipv6(headers: &mut [u8], end: End) -> Result<(), DropReason> {
    let (fixed, mut extensions) = headers
        .split_first_chunk_mut::<IPV6_HEADER_LEN>()
        .ok_or(DropReason::IpTruncated)?;
    // Appendix A2.1: class, flow label and hop limit are mutable.
    fixed[0] = 0x60;
    fixed[1..4].fill(0);
    fixed[7] = 0;
    let mut next_header = fixed[6];
    while let Some(first) = extensions.first_chunk::<8>() {
        let units = if next_header == FRAGMENT { 0 } else { first[1] };
        let (following, len) = (first[0], (usize::from(units) + 1) * 8);
        let (extension, rest) = extensions
            .split_at_mut_checked(len)
            .ok_or(DropReason::Ipv6ExtensionTruncated)?;
        match next_header {
            HOP_BY_HOP | DESTINATION_OPTIONS => clear_options(&mut extension[2..])?,
            ROUTING => arrive(fixed, extension, end)?,
            _ => {}
        }
        next_header = following;
        extensions = rest;
    }
    Ok(())
}

/// Options of IPv6. RFC 8200 section 4.2: "The third-highest-order bit of the Option Type specifies whether or not the
/// Option Data of that option can change en route"; then "its entire Option Data field must be treated as zero-valued
/// octets".
fn clear_options(mut options: &mut [u8]) -> Result<(), DropReason> {
    const PAD1: u8 = 0;
    const CHANGES: u8 = 0x20;
    while let [kind, ..] = *options {
        let len = match kind {
            PAD1 => 1,
            _ => 2 + usize::from(*options.get(1).ok_or(DropReason::Ipv6ExtensionTruncated)?),
        };
        let (option, rest) = options
            .split_at_mut_checked(len)
            .ok_or(DropReason::Ipv6ExtensionTruncated)?;
        if kind & CHANGES != 0
            && let Some(data) = option.get_mut(2..)
        {
            data.fill(0);
        }
        options = rest;
    }
    Ok(())
}

/// Puts a routing header and the destination as they will be at the final destination (appendix A2.2).
fn arrive(fixed: &mut [u8; IPV6_HEADER_LEN], routing: &mut [u8], end: End) -> Result<(), DropReason> {
    let left = usize::from(routing[3]);
    if end == End::Receiver || left == 0 {
        return Ok(());
    }
    // Type 0 (RFC 2460) and type 2 (RFC 6275): a list of addresses, of which the last `left` are still to be visited,
    // and each visited one is replaced by the one before.
    let kind = routing[2];
    let addresses = &mut routing[8..];
    let visited = (addresses.len() / 16).checked_sub(left);
    let Some(next) = visited.filter(|_| matches!(kind, 0 | 2) && addresses.len().is_multiple_of(16)) else {
        return Err(DropReason::NextHeader);
    };
    let (_, to_visit) = addresses.split_at_mut(next * 16);
    to_visit.rotate_right(16);
    // What was last is first now: the final destination. It changes places with the present one.
    to_visit[..16].swap_with_slice(&mut fixed[24..40]);
    routing[3] = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{End, clear};
    use crate::ip::Family;
    use ravelin_xdp_common::DropReason;

    fn ipv4(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0xb8, 1, 2, 3, 4, 0x40, 7, 63, 51, 9, 9];
        bytes.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend_from_slice(options);
        bytes
    }

    fn ipv6(next_header: u8, extensions: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x6b, 0x81, 2, 3, 0, 9, next_header, 63];
        bytes.extend_from_slice(&[0x11; 16]);
        bytes.extend_from_slice(&[0x22; 16]);
        bytes.extend_from_slice(extensions);
        bytes
    }

    #[test]
    fn ipv4_fixed_fields() {
        let mut bytes = ipv4(&[]);
        clear(&mut bytes, Family::V4, End::Sender).unwrap();
        assert_eq!(bytes[..12], [0x45, 0, 1, 2, 3, 4, 0, 0, 0, 51, 0, 0]);
        assert_eq!(bytes[12..], [10, 0, 0, 1, 10, 0, 0, 2]);
    }

    #[test]
    fn ipv4_options_by_kind() {
        // Router alert stays, record route and a time stamp go, what follows the end of the list stays.
        let mut bytes = ipv4(&[148, 4, 5, 6, 1, 7, 3, 4, 68, 4, 5, 1, 0, 9, 9, 9]);
        clear(&mut bytes, Family::V4, End::Sender).unwrap();
        assert_eq!(bytes[20..], [148, 4, 5, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9]);
        for options in [&[7, 0, 0, 0][..], &[7, 1, 0, 0], &[7, 5, 0, 0], &[1, 1, 1, 7]] {
            assert_eq!(
                clear(&mut ipv4(options), Family::V4, End::Sender),
                Err(DropReason::IpBadHeaderLength)
            );
        }
    }

    #[test]
    fn a_source_route_predicts_the_destination() {
        let options = [137, 11, 4, 10, 0, 0, 7, 10, 0, 0, 8, 0];
        for (end, destination) in [(End::Sender, [10, 0, 0, 8]), (End::Receiver, [10, 0, 0, 2])] {
            let mut bytes = ipv4(&options);
            clear(&mut bytes, Family::V4, end).unwrap();
            assert_eq!(bytes[16..20], destination);
            assert_eq!(bytes[20..], [0; 12]);
        }
    }

    #[test]
    fn ipv6_fixed_fields_and_options() {
        let extension = [60, 0, 0x3e, 2, 7, 7, 0, 0, 51, 0, 0x05, 2, 7, 7, 1, 0];
        let mut bytes = ipv6(0, &extension);
        clear(&mut bytes, Family::V6, End::Sender).unwrap();
        assert_eq!(bytes[..8], [0x60, 0, 0, 0, 0, 9, 0, 0]);
        assert_eq!(bytes[40..48], [60, 0, 0x3e, 2, 0, 0, 0, 0]);
        assert_eq!(bytes[48..], extension[8..]);
        let mut bytes = ipv6(0, &[51, 0, 0x3e, 5, 0, 0, 0, 0]);
        assert_eq!(
            clear(&mut bytes, Family::V6, End::Sender),
            Err(DropReason::Ipv6ExtensionTruncated)
        );
    }

    #[test]
    fn a_routing_header_is_as_it_arrives() {
        let list = |first: u8, second: u8, third: u8| [[first; 16], [second; 16], [third; 16]].concat();
        let mut extension = vec![51, 6, 0, 2, 0, 0, 0, 0];
        extension.extend(list(0xa1, 0xa2, 0xa3));
        let mut bytes = ipv6(43, &extension);
        clear(&mut bytes, Family::V6, End::Sender).unwrap();
        // The first was visited; the present destination comes second, the second third, and the third is the end.
        assert_eq!(bytes[24..40], [0xa3; 16]);
        assert_eq!(bytes[40..48], [51, 6, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[48..], list(0xa1, 0x22, 0xa2));

        let mut bytes = ipv6(43, &extension);
        clear(&mut bytes, Family::V6, End::Receiver).unwrap();
        assert_eq!(bytes[40..], extension[..]);
        for change in [(2, 4), (3, 4)] {
            let mut bytes = ipv6(43, &extension);
            bytes[40 + change.0] = change.1;
            assert_eq!(
                clear(&mut bytes, Family::V6, End::Sender),
                Err(DropReason::NextHeader)
            );
        }
    }
}
