//! A batch of jobs: packets of equal length side by side, and then the others.

use arrayvec::ArrayVec;

use super::across::{Across, MAX_BLOCKS};
use super::aes_ni::AesNi;
use super::batch::{Batch, MAX_BATCH, places};
use super::cpu::{BLOCK, Cpu, Work};
use super::item::{Item, Job};
use super::message::{LongAad, Message};
use super::scratch::{Room, Scratch, WIDEST, copy_back};

/// Jobs with their keys, which if `one_key` are one.
pub(super) struct Many<'a, 'i, J, const SEAL: bool> {
    pub(super) block: AesNi,
    pub(super) items: &'a mut ArrayVec<Item<'i, J>, MAX_BATCH>,
    pub(super) one_key: bool,
}

impl<C: Cpu, J: Job, const SEAL: bool> Work<C> for Many<'_, '_, J, SEAL> {
    type Output = ();

    #[inline(always)]
    fn run(self, cpu: C) {
        let Self {
            block,
            items,
            one_key,
        } = self;
        // Keys for each lane would have to be put together in every round.
        if one_key {
            let together = C::REGISTERS * C::LANES;
            let (mut lengths, mut counts, mut last, mut is_sorted) =
                ([0; MAX_BATCH], [0; MAX_BLOCKS + 1], 0, true);
            for (item, blocks) in items.iter_mut().zip(&mut lengths) {
                *blocks = item.blocks().unwrap_or(0) as u8;
                is_sorted &= last <= *blocks;
                last = *blocks;
            }
            if is_sorted && lengths[0] == last {
                // All are of one length. One by one each would wait for the count of the one before.
                counts[usize::from(last)] = items.len();
            } else {
                for blocks in &lengths[..items.len()] {
                    counts[usize::from(*blocks)] += 1;
                }
            }
            if counts[1..].iter().any(|count| *count >= together) {
                if !is_sorted {
                    let places = places(lengths[..items.len()].iter().copied());
                    sort(items, places);
                }
                let mut others = ArrayVec::<Item<'_, J>, MAX_BATCH>::new();
                let mut left = &mut items[..];
                for (blocks, count) in counts.into_iter().enumerate() {
                    let side_by_side = if blocks == 0 {
                        0
                    } else {
                        count / together * together
                    };
                    let (same, after) = left.split_at_mut(count);
                    let (groups, rest) = same.split_at_mut(side_by_side);
                    for items in groups.chunks_exact_mut(together) {
                        if const { C::REGISTERS == 4 } {
                            cpu.enter(Across::<J, 4, SEAL> { block, items, blocks });
                        } else {
                            cpu.enter(Across::<J, 8, SEAL> { block, items, blocks });
                        }
                    }
                    others.extend(rest.iter_mut().map(|item| Item {
                        key: item.key,
                        job: &mut *item.job,
                    }));
                    left = after;
                }
                if !others.is_empty() {
                    let items = &mut others;
                    cpu.enter(Others::<J, SEAL> {
                        block,
                        items,
                        one_key,
                    });
                }
                return;
            }
        }
        cpu.enter(Others::<J, SEAL> {
            block,
            items,
            one_key,
        });
    }
}

/// Packets of other lengths than others have: by the registers that they fill.
struct Others<'a, 'i, J, const SEAL: bool> {
    block: AesNi,
    items: &'a mut [Item<'i, J>],
    one_key: bool,
}

impl<C: Cpu, J: Job, const SEAL: bool> Work<C> for Others<'_, '_, J, SEAL> {
    type Output = ();

    #[inline(always)]
    fn run(self, cpu: C) {
        let Self {
            block,
            items,
            one_key,
        } = self;
        let mut tags = [[0; BLOCK]; MAX_BATCH];
        let mut room: Room = [[0; WIDEST]; MAX_BATCH];
        let mut scratch = Scratch::new(&mut room);
        let mut messages = ArrayVec::<Message<'_>, MAX_BATCH>::new();
        let (mut sorted, mut last, mut long) = (true, 0, false);
        for item in &mut *items {
            let (nonce, aad, data) = item.job.parts();
            let first = (*aad.first_block(), aad.len());
            messages.push(Message::new::<C>(item.key, nonce, first, data, &mut scratch));
            let Some(message) = messages.last_mut() else {
                continue;
            };
            sorted &= last <= message.kind;
            last = message.kind;
            long |= message.body.len() >= C::REGISTERS * C::WIDTH;
            if aad.len() > BLOCK {
                block.enter(LongAad {
                    message,
                    aad: aad.as_slice(),
                });
            }
        }
        let ends = scratch.into_copied();
        let places = (!sorted).then(|| places(messages.iter().map(|message| message.kind)));
        if let Some(places) = places {
            sort(&mut messages, places);
        }
        cpu.enter(Batch::<SEAL> {
            block,
            messages: &mut messages,
            tags: &mut tags,
            one_key,
            long,
        });
        if let Some(places) = places {
            let (sorted, count) = (tags, messages.len());
            for (tag, place) in tags.iter_mut().zip(places).take(count) {
                *tag = sorted[usize::from(place)];
            }
        }
        drop(messages);
        copy_back(&room, ends);
        for (item, made) in items.iter_mut().zip(&tags) {
            item.job.finish(made, item.key.tag_len());
        }
    }
}

/// Puts everything in its place.
#[inline(always)]
fn sort<T>(unsorted: &mut ArrayVec<T, MAX_BATCH>, places: [u8; MAX_BATCH]) {
    let mut slots = [const { None }; MAX_BATCH];
    for (one, place) in unsorted.drain(..).zip(places) {
        slots[usize::from(place)] = Some(one);
    }
    unsorted.extend(slots.into_iter().flatten());
}
