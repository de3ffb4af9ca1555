//! Short packets side by side: a packet to a lane, and a block of each at a time.
//!
//! Sixteen packets, in eight registers of two lanes or in four of four, keep the AES units busy, whatever their length, and
//! nothing depends on that but the number of turns: no packet is taken apart first, the mask of the tag is one block more, and
//! what a lane hashes is a packet's whole hash. While a block of every packet is encrypted, one of each is hashed, a register
//! between two rounds.

use std::arch::x86_64::__m128i;
use std::array;

use super::aes_ni::AesNi;
use super::cpu::{BLOCK, Cpu, Work};
use super::ghash::Product;
use super::item::{Item, Job};
use super::key::Key;
use super::scratch::copy;

/// The most blocks of data for which this is the faster way: longer packets keep the AES units busy a few at a time.
pub(super) const MAX_BLOCKS: usize = 8;

/// `REGISTERS * LANES` packets of so many blocks, from 1 to [`MAX_BLOCKS`], the last perhaps not full, and not more than a
/// block of associated data, all under one key.
pub(super) struct Across<'a, 'i, J, const REGISTERS: usize, const SEAL: bool> {
    pub(super) block: AesNi,
    pub(super) items: &'a mut [Item<'i, J>],
    pub(super) blocks: usize,
}

impl<C: Cpu, J: Job, const REGISTERS: usize, const SEAL: bool> Work<C>
    for Across<'_, '_, J, REGISTERS, SEAL>
{
    type Output = ();

    #[inline(always)]
    fn run(self, cpu: C) {
        let Self { block, items, blocks } = self;
        let items = &mut items[..REGISTERS * C::LANES];
        let key = items[0].key;
        let mut counters = [cpu.zero(); REGISTERS];
        let (power, sum) = powers(cpu, key, 1);
        let mut hash = Hash::<C, REGISTERS> {
            cpu,
            block,
            // The lengths, hashed last, are known first.
            products: array::from_fn(|register| {
                let items = &mut items[register * C::LANES..][..C::LANES];
                let lengths = cpu.lanes(|lane| {
                    let (aad, data) = (items[lane].job.aad().len(), items[lane].job.data().len());
                    block.halves(aad as u64 * 8, data as u64 * 8)
                });
                Product::of(cpu, lengths, power, sum)
            }),
            data: [cpu.zero(); REGISTERS],
            exponent: blocks + 2,
        };
        let mut has_partial = false;
        for register in 0..REGISTERS {
            let items = &mut items[register * C::LANES..][..C::LANES];
            for item in &mut *items {
                has_partial |= !item.job.data().len().is_multiple_of(BLOCK);
            }
            let nonces = cpu.lanes(|lane| block.block(items[lane].job.nonce()));
            counters[register] = cpu.reverse_nonce(nonces);
            let first = cpu.lanes(|lane| block.block(items[lane].job.aad().first_block()));
            hash.data[register] = cpu.reverse(first);
        }
        let masks = key_stream(cpu, key, &counters, TAG_COUNTER, Some(&mut hash));
        for number in 0..blocks {
            let counter = TAG_COUNTER + 1 + number as u32;
            let streams = if SEAL && number == 0 {
                key_stream(cpu, key, &counters, counter, None)
            } else {
                if SEAL {
                    // The block before this one.
                    hash.exponent = blocks + 2 - number;
                } else {
                    hash.exponent = blocks + 1 - number;
                    hash.load(items, number);
                }
                key_stream(cpu, key, &counters, counter, Some(&mut hash))
            };
            for register in 0..REGISTERS {
                let items = &mut items[register * C::LANES..][..C::LANES];
                let before = if SEAL {
                    cpu.lanes(|lane| load(block, items[lane].job.data(), number))
                } else {
                    cpu.reverse(hash.data[register])
                };
                let after = cpu.xor(streams[register], before);
                for (item, after) in items.iter_mut().zip(cpu.blocks(after)) {
                    store(block, after, item.job.data(), number);
                }
                if SEAL {
                    let sealed = if has_partial && number + 1 == blocks {
                        let sealed = cpu.blocks(after);
                        cpu.lanes(|lane| {
                            let left = items[lane].job.data().len() - number * BLOCK;
                            block.keep(sealed[lane], left.min(BLOCK) as u8)
                        })
                    } else {
                        after
                    };
                    hash.data[register] = cpu.reverse(sealed);
                }
            }
        }
        hash.exponent = 2;
        let powers = powers(cpu, key, hash.exponent);
        for register in 0..REGISTERS {
            if SEAL {
                hash.add(register, powers);
            }
            let hashes = cpu.reverse(hash.products[register].reduce(cpu));
            let tags = cpu.xor(hashes, masks[register]);
            let items = &mut items[register * C::LANES..][..C::LANES];
            for (item, tag) in items.iter_mut().zip(cpu.blocks(tags)) {
                finish(block, tag, item);
            }
        }
    }
}

/// NIST SP 800-38D section 7.1 counts from 1, and that is the tag's.
const TAG_COUNTER: u32 = 1;

/// A block of key stream for each packet, while a block of each is hashed if there is one.
#[inline(always)]
fn key_stream<C: Cpu, const REGISTERS: usize>(
    cpu: C,
    key: &Key,
    counters: &[C::Lanes; REGISTERS],
    counter: u32,
    mut hash: Option<&mut Hash<C, REGISTERS>>,
) -> [C::Lanes; REGISTERS] {
    let mut states = *counters;
    let round_key = cpu.broadcast(&key.round_keys[0]);
    for state in &mut states {
        *state = cpu.xor(cpu.reverse(cpu.advance(*state, counter)), round_key);
    }
    let powers = powers(cpu, key, hash.as_ref().map_or(1, |hash| hash.exponent));
    for register in 0..REGISTERS {
        let round_key = cpu.broadcast(&key.round_keys[register + 1]);
        for state in &mut states {
            *state = cpu.aes_round(*state, round_key);
        }
        if let Some(hash) = &mut hash {
            hash.add(register, powers);
        }
    }
    // There are at least ten rounds, more than registers.
    for round_key in &key.round_keys[REGISTERS + 1..key.rounds] {
        let round_key = cpu.broadcast(round_key);
        for state in &mut states {
            *state = cpu.aes_round(*state, round_key);
        }
    }
    let round_key = cpu.broadcast(&key.round_keys[key.rounds]);
    for state in &mut states {
        *state = cpu.aes_last(*state, round_key);
    }
    states
}

/// The hash of each packet.
struct Hash<C: Cpu, const REGISTERS: usize> {
    cpu: C,
    block: AesNi,
    products: [Product<C>; REGISTERS],
    /// The block of each that is hashed next, reversed.
    data: [C::Lanes; REGISTERS],
    /// The power of the hash key that it is multiplied with.
    exponent: usize,
}

impl<C: Cpu, const REGISTERS: usize> Hash<C, REGISTERS> {
    /// Takes the block with this number of each packet.
    #[inline(always)]
    fn load<J: Job>(&mut self, items: &mut [Item<'_, J>], number: usize) {
        for (register, data) in self.data.iter_mut().enumerate() {
            let items = &mut items[register * C::LANES..][..C::LANES];
            let blocks = self
                .cpu
                .lanes(|lane| load(self.block, items[lane].job.data(), number));
            *data = self.cpu.reverse(blocks);
        }
    }

    /// Adds the blocks in a register.
    #[inline(always)]
    fn add(&mut self, register: usize, (power, sum): (C::Lanes, C::Lanes)) {
        self.products[register].multiply(self.cpu, self.data[register], power, sum);
    }
}

/// A power of the hash key, and the sum of its halves.
#[inline(always)]
fn powers<C: Cpu>(cpu: C, key: &Key, exponent: usize) -> (C::Lanes, C::Lanes) {
    let (power, sum) = key.powers.power(exponent);
    (cpu.broadcast(power), cpu.broadcast(sum))
}

/// A block of data, with zeros behind the last byte.
#[inline(always)]
fn load(block: AesNi, data: &[u8], number: usize) -> __m128i {
    let data = &data[number * BLOCK..];
    match data.first_chunk() {
        Some(whole) => block.block(whole),
        None => {
            // In registers: what is written in parts cannot be read as a whole at once.
            let (low, high) = words(data);
            block.halves(high, low)
        }
    }
}

/// Overwrites a block of data, as far as that goes.
#[inline(always)]
fn store(block: AesNi, after: __m128i, data: &mut [u8], number: usize) {
    let data = &mut data[number * BLOCK..];
    match data.first_chunk_mut::<BLOCK>() {
        Some(whole) => block.store(after, whole),
        None => {
            let mut bytes = [0; BLOCK];
            block.store(after, &mut bytes);
            cut(&bytes, data);
        }
    }
}

/// A block that is not full as two words, with zeros behind its last byte. Where they come from depends on the length alone.
#[inline(always)]
fn words(end: &[u8]) -> (u64, u64) {
    let len = end.len() as u32;
    if let (Some(first), Some(last)) = (end.first_chunk(), end.last_chunk()) {
        let low = u64::from_le_bytes(*first);
        let last = u64::from_le_bytes(*last);
        // With 8 bytes nothing is left of the last ones, and a shift over all bits is none.
        return (low, last.checked_shr(8 * (16 - len)).unwrap_or(0));
    }
    if let (Some(first), Some(last)) = (end.first_chunk(), end.last_chunk()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return (u64::from(first) | u64::from(last) << (8 * (len - 4)), 0);
    }
    let bytes = end.iter().rev();
    (bytes.fold(0, |word, byte| word << 8 | u64::from(*byte)), 0)
}

#[inline(always)]
fn cut(bytes: &[u8; BLOCK], end: &mut [u8]) {
    copy(&bytes[..end.len()], end);
}

#[inline(always)]
fn finish<J: Job>(block: AesNi, tag: __m128i, item: &mut Item<'_, J>) {
    let mut bytes = [0; BLOCK];
    block.store(tag, &mut bytes);
    item.job.finish(&bytes, item.key.tag_len());
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, words};

    #[test]
    fn words_hold_a_block_of_any_length_and_zeros() {
        for len in 0..BLOCK {
            let mut block = [0; BLOCK];
            block[..len].copy_from_slice(
                &[
                    0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0xf6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                ][..len],
            );
            let (low, high) = words(&block[..len]);
            assert_eq!(
                [low.to_le_bytes(), high.to_le_bytes()].concat(),
                block,
                "{len} bytes"
            );
        }
    }
}
