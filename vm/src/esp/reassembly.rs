//! Joining the fragments of what the kernel made too long for the outer link.

use std::collections::HashMap;

/// Datagrams of which some fragments are still missing. Only for well-behaved peers: nothing is ever given up.
#[derive(Debug, Default)]
pub(crate) struct Reassembly(HashMap<Vec<u8>, Vec<Part>>);

#[derive(Debug)]
struct Part {
    offset: usize,
    payload: Vec<u8>,
    more: bool,
}

impl Reassembly {
    /// The datagram that `packet` is or completes.
    pub(crate) fn add(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        match packet.first()? >> 4 {
            4 => self.ipv4(packet),
            _ => self.ipv6(packet),
        }
    }

    fn ipv4(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (header, rest) = packet.split_at_checked(20)?;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let field = u16::from_be_bytes([header[6], header[7]]);
        let (more, offset) = (field & 0x2000 != 0, usize::from(field & 0x1fff) * 8);
        if !more && offset == 0 {
            return Some(packet.to_vec());
        }
        let key = [&header[4..6], &header[9..10], &header[12..20]].concat();
        let payload = rest.get(..total_len.checked_sub(20)?)?;
        let payload = self.join(&key, offset, payload, more)?;
        let mut datagram = [header, &payload].concat();
        let total_len = datagram.len() as u16;
        datagram[2..4].copy_from_slice(&total_len.to_be_bytes());
        datagram[6..8].fill(0);
        datagram[10..12].fill(0);
        let sum = ravelin_esp::checksum::ipv4_header(&datagram[..20]);
        datagram[10..12].copy_from_slice(&sum.to_be_bytes());
        Some(datagram)
    }

    fn ipv6(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (header, rest) = packet.split_at_checked(40)?;
        if header[6] != 44 {
            return Some(packet.to_vec());
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let (fragment, payload) = rest.get(..payload_len)?.split_at_checked(8)?;
        let field = u16::from_be_bytes([fragment[2], fragment[3]]);
        let key = [&header[8..40], &fragment[4..8]].concat();
        let payload = self.join(&key, usize::from(field & 0xfff8), payload, field & 1 != 0)?;
        let mut datagram = [header, &payload].concat();
        datagram[6] = fragment[0];
        datagram[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        Some(datagram)
    }

    /// The whole payload, once its last part is there.
    fn join(&mut self, key: &[u8], offset: usize, payload: &[u8], more: bool) -> Option<Vec<u8>> {
        let parts = self.0.entry(key.to_owned()).or_default();
        parts.push(Part {
            offset,
            payload: payload.to_vec(),
            more,
        });
        parts.sort_by_key(|part| part.offset);
        let mut whole = Vec::new();
        for part in parts.iter() {
            if part.offset != whole.len() {
                return None;
            }
            whole.extend_from_slice(&part.payload);
        }
        if parts.last()?.more {
            return None;
        }
        self.0.remove(key);
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::Reassembly;
    use crate::esp::fragments::fragments;

    fn check(mut packet: Vec<u8>, payload_len: usize) {
        packet.extend((0..payload_len).map(|n| n as u8));
        let mut parts = fragments(&packet, 1500).unwrap();
        assert!(parts.iter().all(|part| part.len() <= 1500));
        assert_eq!(parts.len(), packet.len().div_ceil(1450));
        let last = parts.remove(0);
        let mut reassembly = Reassembly::default();
        for part in &parts {
            assert_eq!(reassembly.add(part), None);
        }
        assert_eq!(reassembly.add(&last), Some(packet));
        assert!(reassembly.0.is_empty());
    }

    #[test]
    fn what_is_fragmented_is_joined_again() {
        let mut v4 = vec![
            0x45, 0, 0x0f, 0xa0, 0, 7, 0, 0, 64, 50, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        let sum = ravelin_esp::checksum::ipv4_header(&v4);
        v4[10..12].copy_from_slice(&sum.to_be_bytes());
        check(v4, 4000 - 20);
        let mut v6 = vec![0; 40];
        v6[0] = 0x60;
        v6[4..6].copy_from_slice(&3960_u16.to_be_bytes());
        v6[6] = 50;
        check(v6, 3960);
    }
}
