//! The ends of packets that do not fill a register.
//!
//! They are worked on in copies with zeros behind, so that the code for registers need not know of them. Copied by moves of
//! fixed lengths, since a call of `memcpy` costs as much as hashing a block; which moves depends on the length alone, which
//! is no secret.

use std::slice::IterMut;

use arrayvec::ArrayVec;

use super::batch::MAX_BATCH;

/// Bytes of the widest register.
pub(super) const WIDEST: usize = 64;

/// Room for an end of every packet of a batch.
pub(super) type Room = [[u8; WIDEST]; MAX_BATCH];

/// What was copied out of packets, `'d`, into a [`Room`], `'r`.
pub(super) struct Scratch<'r, 'd> {
    free: IterMut<'r, [u8; WIDEST]>,
    copied: ArrayVec<&'d mut [u8], MAX_BATCH>,
}

impl<'r, 'd> Scratch<'r, 'd> {
    /// An empty room is all zeros.
    #[inline(always)]
    pub(super) fn new(room: &'r mut [[u8; WIDEST]]) -> Self {
        Self {
            free: room.iter_mut(),
            copied: ArrayVec::new(),
        }
    }

    /// A copy of `end`, shorter than a register, with zeros behind; there is one for each packet.
    pub(super) fn copy(&mut self, end: &'d mut [u8]) -> &'r mut [u8] {
        let Some(room) = self.free.next() else {
            return &mut [];
        };
        copy(end, &mut room[..end.len()]);
        self.copied.push(end);
        room
    }

    /// The packets' ends, in the order of their copies.
    #[inline(always)]
    pub(super) fn into_copied(self) -> ArrayVec<&'d mut [u8], MAX_BATCH> {
        self.copied
    }
}

/// Copies what has become of the copies back.
pub(super) fn copy_back(room: &[[u8; WIDEST]], ends: ArrayVec<&mut [u8], MAX_BATCH>) {
    for (room, end) in room.iter().zip(ends) {
        copy(&room[..end.len()], end);
    }
}

/// Copies fewer than 64 bytes.
#[inline(always)]
pub(super) fn copy(from: &[u8], to: &mut [u8]) {
    match from.len() {
        0 => {}
        1 => copy_ends::<1>(from, to),
        2..4 => copy_ends::<2>(from, to),
        4..8 => copy_ends::<4>(from, to),
        8..16 => copy_ends::<8>(from, to),
        16..32 => copy_ends::<16>(from, to),
        _ => copy_ends::<32>(from, to),
    }
}

/// Copies between `N` and `2 * N` bytes: the first and the last `N` of them, which may overlap.
#[inline(always)]
fn copy_ends<const N: usize>(from: &[u8], to: &mut [u8]) {
    if let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
        let (first, last) = (*first, *last);
        if let Some(to) = to.first_chunk_mut() {
            *to = first;
        }
        if let Some(to) = to.last_chunk_mut() {
            *to = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Scratch, WIDEST, copy_back};

    #[test]
    fn ends_of_every_length_go_there_and_back() {
        for len in 0..WIDEST {
            let mut data: Vec<u8> = (1..=len as u8).collect();
            let mut room = [[0; WIDEST]];
            let mut scratch = Scratch::new(&mut room);
            let copied = scratch.copy(&mut data);
            assert!(copied[..len].iter().copied().eq(1..=len as u8));
            assert!(copied[len..].iter().all(|byte| *byte == 0));
            copied.fill(0xee);
            let ends = scratch.into_copied();
            copy_back(&room, ends);
            assert_eq!(data, vec![0xee; len]);
        }
    }
}
