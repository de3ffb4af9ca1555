//! Fragmenting what is too long for a link.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use ravelin_esp::checksum;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;
const NEXT_HEADER_FRAGMENT: u8 = 44;

/// `packet`, which has no options or extension headers, in packets of at most `mtu` bytes.
pub(crate) fn fragments(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>> {
    if packet.len() <= mtu {
        return Ok(vec![packet.to_vec()]);
    }
    if packet[0] >> 4 == 4 {
        ipv4(packet, mtu)
    } else {
        Ok(ipv6(packet, mtu))
    }
}

fn ipv4(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>> {
    ensure!(
        packet[6..8] == [0, 0],
        "a packet of {} bytes is too long for the link, but has DF or is a fragment already",
        packet.len()
    );
    let (header, payload) = packet.split_at(IPV4_HEADER);
    let size = (mtu - IPV4_HEADER) / 8 * 8;
    let last = payload.len().div_ceil(size) - 1;
    let fragment = |(index, part): (usize, &[u8])| {
        let mut fragment = [header, part].concat();
        let more = if index == last { 0 } else { 0x2000 };
        let total_len = fragment.len() as u16;
        fragment[2..4].copy_from_slice(&total_len.to_be_bytes());
        fragment[6..8].copy_from_slice(&(more | (index * size / 8) as u16).to_be_bytes());
        fragment[10..12].fill(0);
        let sum = checksum::ipv4_header(&fragment[..IPV4_HEADER]);
        fragment[10..12].copy_from_slice(&sum.to_be_bytes());
        fragment
    };
    Ok(payload.chunks(size).enumerate().map(fragment).collect())
}

fn ipv6(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let identification = NEXT.fetch_add(1, Ordering::Relaxed);
    let (header, payload) = packet.split_at(IPV6_HEADER);
    let size = (mtu - IPV6_HEADER - FRAGMENT_HEADER) / 8 * 8;
    let last = payload.len().div_ceil(size) - 1;
    let fragment = |(index, part): (usize, &[u8])| {
        let more = u16::from(index != last);
        let [a, b] = ((index * size) as u16 | more).to_be_bytes();
        let [i, j, k, l] = identification.to_be_bytes();
        let mut fragment = [header, &[header[6], 0, a, b, i, j, k, l], part].concat();
        fragment[6] = NEXT_HEADER_FRAGMENT;
        let payload_len = (fragment.len() - IPV6_HEADER) as u16;
        fragment[4..6].copy_from_slice(&payload_len.to_be_bytes());
        fragment
    };
    payload.chunks(size).enumerate().map(fragment).collect()
}
