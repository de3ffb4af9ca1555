//! Short packets, and the ends of long ones, several at a time.
//!
//! One packet of 64 bytes is two registers' work; alone it would leave the CPU waiting. So packets of equal length (in
//! registers) go through AES together. When sealing, what is hashed meanwhile is the ciphertext of those before them, when
//! opening, their own.

use std::arch::x86_64::__m128i;

use super::aes_ctr::{Between, apply, key_stream};
use super::aes_ni::AesNi;
use super::cpu::{BLOCK, Cpu, MAX_LANES, Work};
use super::ghash::{Product, Run};
use super::message::Message;
use super::scratch::WIDEST;

/// Steps of [`Between`].
const STEPS: usize = 9;

/// Packets that have `CHUNKS` registers left, the last perhaps not full, `PACKETS` at a time; a multiple of that. Their
/// keys have equal numbers of rounds. `masks` become tags.
pub(super) struct Tails<
    'a,
    'b,
    const CHUNKS: usize,
    const PACKETS: usize,
    const ONE_KEY: bool,
    const SEAL: bool,
> {
    pub(super) block: AesNi,
    pub(super) messages: &'a mut [Message<'b>],
    pub(super) masks: &'a mut [[u8; BLOCK]],
}

impl<C: Cpu, const CHUNKS: usize, const PACKETS: usize, const ONE_KEY: bool, const SEAL: bool> Work<C>
    for Tails<'_, '_, CHUNKS, PACKETS, ONE_KEY, SEAL>
{
    type Output = ();

    #[inline(always)]
    fn run(self, cpu: C) {
        let Self {
            block,
            messages,
            masks,
        } = self;
        let (groups, _) = messages.as_chunks_mut::<PACKETS>();
        let (masks, _) = masks.as_chunks_mut::<PACKETS>();
        if SEAL {
            seal::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, block, groups, masks);
        } else {
            open::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, block, groups, masks);
        }
    }
}

#[inline(always)]
fn seal<C: Cpu, const CHUNKS: usize, const PACKETS: usize, const ONE_KEY: bool>(
    cpu: C,
    block: AesNi,
    groups: &mut [[Message<'_>; PACKETS]],
    masks: &mut [[[u8; BLOCK]; PACKETS]],
) {
    let Some((first, mut left)) = groups.split_first_mut() else {
        return;
    };
    encrypt::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, first, &mut ());
    let (mut sealed, mut masks) = (&*first, masks.iter_mut());
    while let Some((next, after)) = left.split_first_mut() {
        let mut hash = Hash::<C, CHUNKS, PACKETS>::new(cpu, block, sealed);
        encrypt::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, next, &mut hash);
        finish::<C, PACKETS>(cpu, &hash.products, masks.next());
        (sealed, left) = (next, after);
    }
    let mut hash = Hash::<C, CHUNKS, PACKETS>::new(cpu, block, sealed);
    hash.all();
    finish::<C, PACKETS>(cpu, &hash.products, masks.next());
}

#[inline(always)]
fn open<C: Cpu, const CHUNKS: usize, const PACKETS: usize, const ONE_KEY: bool>(
    cpu: C,
    block: AesNi,
    groups: &mut [[Message<'_>; PACKETS]],
    masks: &mut [[[u8; BLOCK]; PACKETS]],
) {
    for (messages, masks) in groups.iter_mut().zip(masks) {
        let mut hash = Hash::<C, CHUNKS, PACKETS>::new(cpu, block, messages);
        let streams = key_stream::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut hash);
        let products = hash.products;
        for (stream, message) in streams.iter().zip(messages) {
            if let [body @ .., tail] = &stream[..] {
                apply(cpu, body, message.body);
                apply(cpu, &[*tail], message.tail);
            }
        }
        finish::<C, PACKETS>(cpu, &products, Some(masks));
    }
}

#[inline(always)]
fn encrypt<C: Cpu, const CHUNKS: usize, const PACKETS: usize, const ONE_KEY: bool>(
    cpu: C,
    messages: &mut [Message<'_>; PACKETS],
    between: &mut impl Between,
) {
    let streams = key_stream::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, between);
    for (stream, message) in streams.iter().zip(messages) {
        if let [body @ .., tail] = &stream[..] {
            apply(cpu, body, message.body);
            let data = cpu.xor(cpu.load(message.tail), *tail);
            cpu.store(cpu.keep(data, message.tail_len), message.tail);
        }
    }
}

/// Adds the hashes to the masks.
#[inline(always)]
fn finish<C: Cpu, const PACKETS: usize>(
    cpu: C,
    products: &[Product<C>; PACKETS],
    masks: Option<&mut [[u8; BLOCK]; PACKETS]>,
) {
    let Some(masks) = masks else { return };
    let mut done = 0;
    while done < PACKETS {
        let mut side_by_side = [Product::zero(cpu); MAX_LANES];
        for (at, product) in side_by_side.iter_mut().enumerate() {
            if at < C::LANES && done + at < PACKETS {
                *product = products[done + at];
            }
        }
        let hashes = cpu.reverse(Product::fold(cpu, side_by_side).reduce(cpu));
        let masks = masks[done..].as_flattened_mut();
        if done + C::LANES <= PACKETS {
            cpu.store(cpu.xor(hashes, cpu.load(masks)), masks);
        } else {
            // In a group of fewer packets than lanes the last lanes are nobody's.
            let mut bytes = [0; WIDEST];
            cpu.store(hashes, &mut bytes);
            for (mask, hash) in masks.iter_mut().zip(bytes) {
                *mask ^= hash;
            }
        }
        done += C::LANES;
    }
}

/// GHASH of the packets of a group, a few products in each step.
struct Hash<'a, C: Cpu, const CHUNKS: usize, const PACKETS: usize> {
    cpu: C,
    block: AesNi,
    sources: [Source<'a>; PACKETS],
    products: [Product<C>; PACKETS],
}

/// What is hashed of a packet, and multiplied with which powers.
#[derive(Clone, Copy)]
struct Source<'a> {
    prefix: &'a [u8; BLOCK],
    prefix_power: Run<'a>,
    body: &'a [u8],
    tail: &'a [u8],
    powers: Run<'a>,
    lengths: __m128i,
    key: Run<'a>,
}

impl<'a> Source<'a> {
    /// All slices have lengths known to the compiler, so that only here something is checked.
    #[inline(always)]
    fn new<C: Cpu, const CHUNKS: usize>(block: AesNi, message: &'a Message<'_>) -> Self {
        let powers = &message.key.powers;
        // The last block is followed by the lengths, so it has the second power. Without a block the lengths take the
        // place of the first one.
        let first = match CHUNKS {
            0 => 1,
            _ => (CHUNKS - 1) * C::LANES + usize::from(message.tail_len).div_ceil(BLOCK) + 1,
        };
        let (prefix, ahead) = message.prefix();
        Self {
            prefix,
            prefix_power: powers.from(first + ahead, 1),
            body: &message.body[..CHUNKS.saturating_sub(1) * C::WIDTH],
            tail: &message.tail[..CHUNKS.min(1) * C::WIDTH],
            powers: powers.from(first, CHUNKS * C::LANES),
            lengths: message.lengths(block),
            key: powers.from(1, 1),
        }
    }
}

impl<'a, C: Cpu, const CHUNKS: usize, const PACKETS: usize> Hash<'a, C, CHUNKS, PACKETS> {
    #[inline(always)]
    fn new(cpu: C, block: AesNi, messages: &'a [Message<'_>; PACKETS]) -> Self {
        let mut sources = [Source::new::<C, CHUNKS>(block, &messages[0]); PACKETS];
        for (source, message) in sources.iter_mut().zip(messages).skip(1) {
            *source = Source::new::<C, CHUNKS>(block, message);
        }
        Self {
            cpu,
            block,
            sources,
            products: [Product::zero(cpu); PACKETS],
        }
    }

    /// The products with these numbers, of all packets' products: for each packet its registers, then its ends.
    #[inline(always)]
    fn add(&mut self, from: usize, to: usize) {
        let mut number = from;
        while number < to {
            let (packet, chunk) = (number / (CHUNKS + 1), number % (CHUNKS + 1));
            let (cpu, block) = (self.cpu, self.block);
            let (source, product) = (&self.sources[packet], &mut self.products[packet]);
            if chunk == CHUNKS {
                let prefix = block.reverse(block.block(source.prefix));
                let (first, last) = ((prefix, source.prefix_power), (source.lengths, source.key));
                product.add_ends(cpu, block, first, last);
            } else {
                let data = if chunk + 1 == CHUNKS {
                    cpu.load(source.tail)
                } else {
                    cpu.load(&source.body[chunk * C::WIDTH..])
                };
                product.add(cpu, cpu.reverse(data), source.powers, chunk * C::LANES);
            }
            product.pin(cpu);
            number += 1;
        }
    }

    #[inline(always)]
    fn all(&mut self) {
        self.add(0, PACKETS * (CHUNKS + 1));
    }
}

impl<C: Cpu, const CHUNKS: usize, const PACKETS: usize> Between for Hash<'_, C, CHUNKS, PACKETS> {
    const PINNED: bool = true;

    #[inline(always)]
    fn step<const STEP: usize>(&mut self) {
        let products = PACKETS * (CHUNKS + 1);
        self.add(products * STEP / STEPS, products * (STEP + 1) / STEPS);
    }
}
