//! Changed and repeated packets, which both sides must refuse without losing the good one.

use anyhow::{Context as _, Result, ensure};
use ravelin_esp::{DropReason, checksum::Sum};

use super::{association::open, gateway::sequence_at, session::Session};
use crate::{
    case::{Direction, Generation},
    traffic::payload,
};

/// Changed copies that are sent for each good packet.
pub(crate) const CHANGED: u64 = 4;
/// Repeated ones.
pub(crate) const REPEATED: u64 = 1;

const PAYLOAD: usize = 200;

const UDP: u8 = 17;
const IPV6_HEADER: usize = 40;

/// Attacks both sides. What the kernel thought of it is read from its counters afterwards.
pub(crate) fn attack(session: &Session<'_>) -> Result<()> {
    kernel(session).context("attack on the kernel")?;
    ours(session).context("attack on us")
}

fn kernel(session: &Session<'_>) -> Result<()> {
    let direction = Direction::ToTheirs;
    let payload = payload(&session.case, PAYLOAD);
    let packet = session.catch(direction, &payload)?;
    for changed in changed(&packet)? {
        session.gateway.send_sealed(&changed)?;
    }
    // The changed ones must neither have been delivered nor have moved the window.
    session.gateway.send_sealed(&packet)?;
    session.hosts.expect(direction, &payload)?;
    session.gateway.send_sealed(&packet)?;
    // Had the repeated one been delivered, this would not be the next datagram.
    session.hosts.deliver(direction, b"after the attack")
}

fn ours(session: &Session<'_>) -> Result<()> {
    let direction = Direction::ToOurs;
    let payload = payload(&session.case, PAYLOAD);
    let packet = session.catch(direction, &payload)?;
    let inbound = &session.pair(Generation::First).inbound;
    for changed in changed(&packet)? {
        let outcome = open(inbound, &changed).map(drop);
        ensure!(
            outcome == Err(DropReason::IcvMismatch),
            "a changed packet ended as {outcome:?}"
        );
    }
    let clear = open(inbound, &packet)
        .map_err(|reason| anyhow::anyhow!("the good packet was dropped: {}", reason.name()))?;
    session.gateway.send_clear(&clear)?;
    session.hosts.expect(direction, &payload)?;
    let outcome = open(inbound, &packet).map(drop);
    ensure!(
        outcome == Err(DropReason::ReplayDuplicate),
        "a repeated packet ended as {outcome:?}"
    );
    session.hosts.deliver(direction, b"after the attack")
}

/// `packet` with one bit changed: in the sequence number, behind it, in the middle, at the end.
fn changed(packet: &[u8]) -> Result<[Vec<u8>; CHANGED as usize]> {
    let sequence_at = sequence_at(packet).context("not an ESP packet")?;
    let behind = sequence_at + 4;
    let middle = usize::midpoint(behind, packet.len());
    // The number's bit 22: far beyond the window, so that it is the ICV that tells.
    let bits = [
        (sequence_at + 1, 0x40),
        (behind, 0x01),
        (middle, 0x10),
        (packet.len() - 1, 0x80),
    ];
    Ok(bits.map(|(at, bit)| {
        let mut changed = packet.to_vec();
        changed[at] ^= bit;
        if changed[0] >> 4 == 6 && changed[6] == UDP {
            correct_udp_checksum(&mut changed);
        }
        changed
    }))
}

/// An attacker would, and the ICV must tell all the same.
fn correct_udp_checksum(packet: &mut [u8]) {
    let (header, udp) = packet.split_at_mut(IPV6_HEADER);
    udp[6..8].fill(0);
    let checksum = Sum::default()
        .add(&header[8..])
        .add(&(udp.len() as u32).to_be_bytes())
        .add_word(UDP.into())
        .add(udp)
        .checksum();
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
}
