//! The whole segments of long packets: everything but their ends.
//!
//! A segment is as many blocks as there are powers of the hash key for, and is reduced once. Those of all packets follow each
//! other without a gap: while one is encrypted, the one before is hashed, be it of another packet.

use std::array;

use super::aes_ctr::{Between, apply, key_stream};
use super::aes_ni::AesNi;
use super::cpu::{Cpu, Work};
use super::ghash::{Product, Run};
use super::message::Message;

/// Packets, of which those that are longer than `CHUNKS` registers lose segments of that length until they are not.
pub(super) struct Segments<'a, 'b, const CHUNKS: usize, const SEAL: bool> {
    pub(super) block: AesNi,
    pub(super) messages: &'a mut [Message<'b>],
}

impl<C: Cpu, const CHUNKS: usize, const SEAL: bool> Work<C> for Segments<'_, '_, CHUNKS, SEAL> {
    type Output = ();

    #[inline(always)]
    fn run(self, cpu: C) {
        let Self { block, messages } = self;
        let len = CHUNKS * C::WIDTH;
        // When sealing, what is encrypted and not yet hashed, and whose it is.
        let mut behind: Option<(usize, &[u8])> = None;
        for at in 0..messages.len() {
            if messages[at].body.len() >= len {
                messages[at].settle_prefix(block);
            }
            while messages[at].body.len() >= len {
                let segment = messages[at].split_off(len);
                let message = array::from_ref(&messages[at]);
                let of = if SEAL {
                    let Some((of, earlier)) = behind.take() else {
                        let [stream] = key_stream::<C, CHUNKS, 1, true>(cpu, message, &mut ());
                        apply(cpu, &stream, segment);
                        messages[at].count(len);
                        behind = Some((at, segment));
                        continue;
                    };
                    let mut hash = Hash::<C, CHUNKS>::new(cpu, block, &messages[of], earlier);
                    let [stream] = key_stream::<C, CHUNKS, 1, true>(cpu, message, &mut hash);
                    let prefix = hash.finish();
                    apply(cpu, &stream, segment);
                    behind = Some((at, segment));
                    messages[of].set_prefix(prefix);
                    at
                } else {
                    let mut hash = Hash::<C, CHUNKS>::new(cpu, block, &messages[at], segment);
                    let [stream] = key_stream::<C, CHUNKS, 1, true>(cpu, message, &mut hash);
                    let prefix = hash.finish();
                    apply(cpu, &stream, segment);
                    messages[at].set_prefix(prefix);
                    at
                };
                messages[of].count(len);
            }
        }
        if let Some((of, earlier)) = behind {
            let mut hash = Hash::<C, CHUNKS>::new(cpu, block, &messages[of], earlier);
            hash.all();
            let prefix = hash.finish();
            messages[of].set_prefix(prefix);
        }
    }
}

/// GHASH of a segment, a register in each step.
struct Hash<'a, C: Cpu, const CHUNKS: usize> {
    cpu: C,
    block: AesNi,
    powers: Run<'a>,
    prefix: C::Lanes,
    segment: &'a [u8],
    product: Product<C>,
}

impl<'a, C: Cpu, const CHUNKS: usize> Hash<'a, C, CHUNKS> {
    #[inline(always)]
    fn new(cpu: C, block: AesNi, message: &Message<'a>, segment: &'a [u8]) -> Self {
        Self {
            cpu,
            block,
            powers: message.key.powers.from(CHUNKS * C::LANES, CHUNKS * C::LANES),
            prefix: cpu.pair(block.reverse(block.block(message.prefix().0)), block.zero()),
            segment: &segment[..CHUNKS * C::WIDTH],
            product: Product::zero(cpu),
        }
    }

    /// The first register comes last: what is added to it was known last.
    #[inline(always)]
    fn add(&mut self, step: usize) {
        let (cpu, chunk) = (self.cpu, (step + 1) % CHUNKS);
        let mut data = cpu.reverse(cpu.load(&self.segment[chunk * C::WIDTH..]));
        if chunk == 0 {
            data = cpu.xor(data, self.prefix);
        }
        self.product.add(cpu, data, self.powers, chunk * C::LANES);
        self.product.pin(cpu);
    }

    #[inline(always)]
    fn all(&mut self) {
        let mut step = 0;
        while step < CHUNKS {
            self.add(step);
            step += 1;
        }
    }

    /// The hash, to be added to the next block.
    #[inline(always)]
    fn finish(self) -> [u8; 16] {
        let (cpu, none) = (self.cpu, Product::zero(self.cpu));
        let hash = Product::fold(cpu, [self.product, none, none, none]).reduce(cpu);
        let mut bytes = [0; 16];
        self.block.store(cpu.first(cpu.reverse(hash)), &mut bytes);
        bytes
    }
}

impl<C: Cpu, const CHUNKS: usize> Between for Hash<'_, C, CHUNKS> {
    const PINNED: bool = true;

    #[inline(always)]
    fn step<const STEP: usize>(&mut self) {
        if STEP < CHUNKS {
            self.add(STEP);
        }
    }
}
