//! One packet on its way through the batch.

use std::arch::x86_64::__m128i;

use super::aes_ni::AesNi;
use super::cpu::{BLOCK, Cpu, Work};
use super::ghash::Product;
use super::key::Key;
use super::scratch::Scratch;
use crate::Nonce;

/// The counter of the first block of data: NIST SP 800-38D section 7.1 keeps 1 for the tag.
const FIRST_COUNTER: u32 = 2;

/// Powers of the hash key by which a block of its own is ahead of the next one.
const AHEAD: usize = 1;

/// What is left to do of a packet.
pub(super) struct Message<'a> {
    pub(super) key: &'a Key,
    pub(super) nonce: &'a Nonce,
    /// Whole registers of data, all but the last. Becomes shorter at its front.
    pub(super) body: &'a mut [u8],
    /// The last register: that of the data itself, or if it is not full, a copy with zeros behind.
    pub(super) tail: &'a mut [u8],
    /// What is hashed before `body`.
    prefix: [u8; BLOCK],
    /// Bits of associated data and of data, in the order of a reversed block.
    lengths: [u64; 2],
    /// Of the first block that is left.
    counter: u32,
    /// Bytes of data in `tail`.
    pub(super) tail_len: u8,
    /// What packets must have in common to be done together: the rounds of their keys and the registers that they have left
    /// behind whole segments, none only if there is no data. [`Key::kind`] and that number.
    pub(super) kind: u8,
}

impl<'a> Message<'a> {
    /// Associated data of up to 16 bytes is given as a block filled up with zeros.
    #[inline(always)]
    pub(super) fn new<'d: 'a, C: Cpu>(
        key: &'a Key,
        nonce: &'a Nonce,
        (prefix, aad_len): ([u8; BLOCK], usize),
        data: &'d mut [u8],
        scratch: &mut Scratch<'a, 'd>,
    ) -> Self {
        let len = data.len();
        let registers = len.div_ceil(C::WIDTH);
        let tail_len = len - registers.saturating_sub(1) * C::WIDTH;
        let (body, tail) = data.split_at_mut(len - tail_len);
        Self {
            key,
            nonce,
            body,
            tail: if tail_len == C::WIDTH {
                tail
            } else {
                scratch.copy(tail)
            },
            prefix,
            lengths: [len as u64 * 8, aad_len as u64 * 8],
            counter: FIRST_COUNTER,
            tail_len: tail_len as u8,
            kind: key.kind
                + if registers == 0 {
                    0
                } else {
                    ((registers - 1) % C::REGISTERS + 1) as u8
                },
        }
    }

    /// Takes associated data of any length into the prefix.
    pub(super) fn hash_aad(&mut self, block: AesNi, aad: &[u8]) {
        self.lengths[1] = aad.len() as u64 * 8;
        let mut blocks = aad.chunks(BLOCK);
        self.prefix = blocks.next().map_or([0; BLOCK], padded);
        for one in blocks {
            self.settle_prefix(block);
            let sum = u128::from_ne_bytes(padded(one)) ^ u128::from_ne_bytes(self.prefix);
            self.prefix = sum.to_ne_bytes();
        }
    }

    /// Makes of a prefix that is a block of its own one that is added to the next block.
    #[inline(always)]
    pub(super) fn settle_prefix(&mut self, block: AesNi) {
        let mut product = Product::zero(block);
        let prefix = block.reverse(block.block(&self.prefix));
        product.add(block, prefix, self.key.powers.from(1, 1), 0);
        block.store(block.reverse(product.reduce(block)), &mut self.prefix);
    }

    /// The counter block of the first block that is left in each lane; reversed.
    #[inline(always)]
    pub(super) fn counters<C: Cpu>(&self, cpu: C) -> C::Lanes {
        cpu.advance(cpu.reverse_nonce(cpu.broadcast(self.nonce)), self.counter)
    }

    /// What is hashed before `body`; how many powers of the hash key it is ahead of that.
    #[inline(always)]
    pub(super) fn prefix(&self) -> (&[u8; BLOCK], usize) {
        // What follows on a segment is added to its hash.
        (
            &self.prefix,
            if self.counter == FIRST_COUNTER { AHEAD } else { 0 },
        )
    }

    /// What is hashed last, reversed.
    #[inline(always)]
    pub(super) fn lengths(&self, block: AesNi) -> __m128i {
        block.halves(self.lengths[1], self.lengths[0])
    }

    /// Sets the hash of all that was in front of `body`.
    #[inline(always)]
    pub(super) fn set_prefix(&mut self, hash: [u8; BLOCK]) {
        self.prefix = hash;
    }

    /// The first `len` bytes of `body`, which is then without them.
    #[inline(always)]
    pub(super) fn split_off(&mut self, len: usize) -> &'a mut [u8] {
        let (front, body) = std::mem::take(&mut self.body).split_at_mut(len);
        self.body = body;
        front
    }

    /// Counts on over `len` bytes, whole blocks.
    #[inline(always)]
    pub(super) fn count(&mut self, len: usize) {
        self.counter = self.counter.wrapping_add((len / BLOCK) as u32);
    }
}

/// Rare, hence apart.
pub(super) struct LongAad<'a, 'b> {
    pub(super) message: &'a mut Message<'b>,
    pub(super) aad: &'a [u8],
}

impl Work<AesNi> for LongAad<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self, block: AesNi) {
        self.message.hash_aad(block, self.aad);
    }
}

fn padded(block: &[u8]) -> [u8; BLOCK] {
    let mut padded = [0; BLOCK];
    padded[..block.len()].copy_from_slice(block);
    padded
}
