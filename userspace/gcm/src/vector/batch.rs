//! From packets of all lengths to groups that are done together.

use std::array;

use super::across::MAX_BLOCKS;
use super::aes_ctr::{masks_of_many_keys, masks_of_one_key};
use super::aes_ni::AesNi;
use super::cpu::{BLOCK, Cpu, Work};
use super::message::Message;
use super::segments::Segments;
use super::tails::Tails;

/// The most packets in a batch.
pub(super) const MAX_BATCH: usize = 32;

/// Every kind of packet: three numbers of rounds, times the registers in the last segment, of which there may be none;
/// more than there are lengths of packets that go [side by side](super::across::Across).
const KINDS: usize = 27;
const _: () = assert!(MAX_BLOCKS < KINDS);

/// Packets sorted by [kind](Message::kind); what becomes of them is in `tags`, which has room for eight registers of them.
pub(super) struct Batch<'a, 'b, const SEAL: bool> {
    pub(super) block: AesNi,
    pub(super) messages: &'a mut [Message<'b>],
    pub(super) tags: &'a mut [[u8; BLOCK]],
    /// Whether all have the same key.
    pub(super) one_key: bool,
    /// Whether any has a whole segment in front of its last register.
    pub(super) long: bool,
}

/// The place of each packet among all, sorted by kind.
pub(super) fn places(kinds: impl Iterator<Item = u8> + Clone) -> [u8; MAX_BATCH] {
    let mut places = [0; MAX_BATCH];
    let mut before = [0; KINDS + 1];
    for kind in kinds.clone() {
        before[usize::from(kind) + 1] += 1;
    }
    for kind in 0..KINDS {
        before[kind + 1] += before[kind];
    }
    for (place, kind) in places.iter_mut().zip(kinds) {
        *place = before[usize::from(kind)];
        before[usize::from(kind)] += 1;
    }
    places
}

impl<C: Cpu, const SEAL: bool> Work<C> for Batch<'_, '_, SEAL> {
    type Output = ();

    #[inline(always)]
    fn run(self, cpu: C) {
        let Self {
            block,
            messages,
            tags,
            one_key,
            long,
        } = self;
        if one_key {
            one_key_masks(cpu, block, messages, tags);
        } else {
            many_keys_masks(block, messages, tags);
        }
        if long {
            if const { C::REGISTERS == 4 } {
                cpu.enter(Segments::<4, SEAL> { block, messages });
            } else {
                cpu.enter(Segments::<8, SEAL> { block, messages });
            }
        }
        let mut start = 0;
        while let Some(first) = messages.get(start) {
            let kind = first.kind;
            let same = messages[start..]
                .iter()
                .take_while(|message| message.kind == kind);
            let end = start + same.count();
            let (messages, tags) = (&mut messages[start..end], &mut tags[start..end]);
            if one_key {
                tails::<C, true, SEAL>(cpu, block, kind % 9, messages, tags);
            } else {
                tails::<C, false, SEAL>(cpu, block, kind % 9, messages, tags);
            }
            start = end;
        }
    }
}

/// Eight registers at a time, or one for few packets.
#[inline(always)]
fn one_key_masks<C: Cpu>(cpu: C, block: AesNi, messages: &[Message<'_>], masks: &mut [[u8; BLOCK]]) {
    let mut start = 0;
    while start < messages.len() {
        let (left, masks) = (&messages[start..], &mut masks[start..]);
        if left.len() > 2 * C::LANES {
            let end = left.len().min(8 * C::LANES);
            masks_of_one_key::<C, 8>(cpu, block, &left[..end], masks);
            start += 8 * C::LANES;
        } else {
            let end = left.len().min(C::LANES);
            masks_of_one_key::<C, 1>(cpu, block, &left[..end], masks);
            start += C::LANES;
        }
    }
}

/// Eight packets at a time if their keys have as many rounds, else one.
#[inline(always)]
fn many_keys_masks(block: AesNi, messages: &[Message<'_>], masks: &mut [[u8; BLOCK]]) {
    let mut start = 0;
    while start < messages.len() {
        let (left, masks) = (&messages[start..], &mut masks[start..]);
        match left.first_chunk::<8>() {
            // They are sorted.
            Some(eight) if eight[0].key.rounds == eight[7].key.rounds => {
                masks_of_many_keys(block, eight, masks);
                start += 8;
            }
            _ => {
                masks_of_many_keys(block, array::from_ref(&left[0]), masks);
                start += 1;
            }
        }
    }
}

/// How many packets are done together follows from their length: about eight registers.
#[inline(always)]
fn tails<C: Cpu, const ONE_KEY: bool, const SEAL: bool>(
    cpu: C,
    block: AesNi,
    chunks: u8,
    messages: &mut [Message<'_>],
    masks: &mut [[u8; BLOCK]],
) {
    match chunks {
        0 => groups::<C, 0, 1, ONE_KEY, SEAL>(cpu, block, messages, masks),
        1 => groups::<C, 1, 4, ONE_KEY, SEAL>(cpu, block, messages, masks),
        2 => groups::<C, 2, 4, ONE_KEY, SEAL>(cpu, block, messages, masks),
        3 => groups::<C, 3, 2, ONE_KEY, SEAL>(cpu, block, messages, masks),
        // The most of the widest registers, for which the others are not compiled.
        _ if chunks == 4 || const { C::REGISTERS == 4 } => {
            groups::<C, 4, 2, ONE_KEY, SEAL>(cpu, block, messages, masks);
        }
        5 => groups::<C, 5, 1, ONE_KEY, SEAL>(cpu, block, messages, masks),
        6 => groups::<C, 6, 1, ONE_KEY, SEAL>(cpu, block, messages, masks),
        7 => groups::<C, 7, 1, ONE_KEY, SEAL>(cpu, block, messages, masks),
        _ => groups::<C, 8, 1, ONE_KEY, SEAL>(cpu, block, messages, masks),
    }
}

#[inline(always)]
fn groups<C: Cpu, const CHUNKS: usize, const PACKETS: usize, const ONE_KEY: bool, const SEAL: bool>(
    cpu: C,
    block: AesNi,
    messages: &mut [Message<'_>],
    masks: &mut [[u8; BLOCK]],
) {
    let whole = messages.len() / PACKETS * PACKETS;
    let (messages, rest) = messages.split_at_mut(whole);
    let (masks, rest_masks) = masks.split_at_mut(whole);
    if PACKETS == 1 {
        cpu.enter(Tails::<CHUNKS, 1, true, SEAL> {
            block,
            messages,
            masks,
        });
        return;
    }
    if !messages.is_empty() {
        cpu.enter(Tails::<CHUNKS, PACKETS, ONE_KEY, SEAL> {
            block,
            messages,
            masks,
        });
    }
    if !rest.is_empty() {
        cpu.enter(Tails::<CHUNKS, 1, true, SEAL> {
            block,
            messages: rest,
            masks: rest_masks,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn places_are_sorted_by_kind_and_keep_the_order_within_one() {
        let kinds = [8, 2, 26, 2, 0, 8];
        assert_eq!(places(kinds.into_iter())[..6], [3, 1, 5, 2, 0, 4]);
        assert_eq!(places([7; 32].into_iter())[..], (0..32).collect::<Vec<u8>>());
    }
}
