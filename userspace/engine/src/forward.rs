//! What a router does to a packet that it forwards (RFC 1812 section 5.3.1, RFC 8200 section 3).

use ravelin_esp::checksum;
use ravelin_xdp_common::DropReason;

/// Checks the IPv4 header checksum, if `packet` is IPv4. It starts at its IP header, which the driver has parsed.
///
/// # Errors
///
/// `IpBadChecksum`, or `IpTruncated` if the header is not there after all.
pub(crate) fn verify_checksum(packet: &[u8]) -> Result<(), DropReason> {
    let first = *packet.first().ok_or(DropReason::IpTruncated)?;
    if first >> 4 != 4 {
        return Ok(());
    }
    let header = packet
        .get(..usize::from(first & 15) * 4)
        .ok_or(DropReason::IpTruncated)?;
    if checksum::ipv4_header(header) == 0 {
        Ok(())
    } else {
        Err(DropReason::IpBadChecksum)
    }
}

/// Whether a packet may go another hop.
///
/// # Errors
///
/// As [`decrement_ttl`].
pub(crate) fn check_ttl(packet: &[u8]) -> Result<(), DropReason> {
    let at = match packet.first().map(|first| first >> 4) {
        Some(4) => 8,
        Some(6) => 7,
        _ => return Err(DropReason::IpBadVersion),
    };
    match packet.get(at) {
        Some(0 | 1) => Err(DropReason::TtlExceeded),
        Some(_) => Ok(()),
        None => Err(DropReason::IpTruncated),
    }
}

/// Takes one from the TTL or hop limit.
///
/// # Errors
///
/// `TtlExceeded`, and the packet is as it was; `IpTruncated`.
pub(crate) fn decrement_ttl(packet: &mut [u8]) -> Result<(), DropReason> {
    check_ttl(packet)?;
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let header: &mut [u8; 20] = packet.first_chunk_mut().ok_or(DropReason::IpTruncated)?;
            let old = u16::from_be_bytes([header[8], header[9]]);
            header[8] -= 1;
            let new = u16::from_be_bytes([header[8], header[9]]);
            let sum = checksum::update(u16::from_be_bytes([header[10], header[11]]), old, new);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            Ok(())
        }
        Some(6) => {
            let header: &mut [u8; 40] = packet.first_chunk_mut().ok_or(DropReason::IpTruncated)?;
            header[7] -= 1;
            Ok(())
        }
        _ => Err(DropReason::IpBadVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(ttl: u8) -> Vec<u8> {
        let mut header = vec![
            0x45, 0, 0, 20, 1, 2, 0, 0, ttl, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        let sum = checksum::ipv4_header(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    #[test]
    fn a_decremented_header_still_verifies() {
        for ttl in 2..=255 {
            let mut packet = header(ttl);
            verify_checksum(&packet).unwrap();
            decrement_ttl(&mut packet).unwrap();
            assert_eq!(packet[8], ttl - 1);
            verify_checksum(&packet).unwrap();
        }
    }

    #[test]
    fn the_last_hop_is_refused_and_left_alone() {
        for ttl in [0, 1] {
            let mut packet = header(ttl);
            assert_eq!(decrement_ttl(&mut packet), Err(DropReason::TtlExceeded));
            assert_eq!(packet, header(ttl));
        }
    }

    #[test]
    fn a_damaged_header_is_noticed() {
        let mut packet = header(64);
        packet[15] ^= 1;
        assert_eq!(verify_checksum(&packet), Err(DropReason::IpBadChecksum));
    }
}
