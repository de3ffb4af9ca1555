//! GHASH (NIST SP 800-38D section 6.4), many blocks between two reductions.
//!
//! Blocks are reversed, so that the first bit of a block is the highest of a number, and the hash key is multiplied by x
//! beforehand; then a product's 256 bits need no shift. (Gueron and Kounavis, "Intel Carry-Less Multiplication
//! Instruction and its Usage for Computing the GCM Mode", 2014.)

use std::arch::x86_64::__m128i;

use zeroize::Zeroize;

use super::aes_ni::AesNi;
use super::cpu::{BLOCK, Cpu, MAX_LANES};
use crate::prefetch::prefetch;

/// The highest power of the hash key that is kept: a packet of 16 blocks between its associated data and its lengths.
pub(super) const HIGHEST: usize = 18;

/// The highest power that a packet of up to six blocks needs: with associated data and lengths.
const LOWEST: usize = 8;

/// A register that begins at the lowest power reaches this far behind it, in blocks.
const BEHIND: usize = MAX_LANES - 1;

/// x^128 = x^127 + x^126 + x^121 + 1, in reverse: the upper half of it, in both halves.
const POLYNOMIAL: [u8; BLOCK] = [0, 0, 0, 0, 0, 0, 0, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0xc2];

/// Powers of the hash key, from high to low, so that those of successive blocks are side by side.
#[derive(Default, Zeroize)]
#[repr(C, align(64))]
pub(super) struct Powers {
    powers: [[u8; BLOCK]; HIGHEST + BEHIND],
    /// The sum of the halves of each, in both halves: for the middle products.
    sums: [[u8; BLOCK]; HIGHEST + BEHIND],
}

impl Powers {
    /// From the hash key, reversed.
    #[inline(always)]
    pub(super) fn fill(&mut self, cpu: AesNi, key: __m128i) {
        let mut bytes = [0; BLOCK];
        cpu.store(key, &mut bytes);
        let number = u128::from_le_bytes(bytes);
        // Multiplied by x: what falls out at the top comes back as the polynomial.
        let carry = 0_u128.wrapping_sub(number >> 127);
        let number = (number << 1) ^ (carry & (0xc2 << 120 | 1));
        bytes = number.to_le_bytes();
        let key = cpu.block(&bytes);
        let mut power = key;
        for exponent in 1..=HIGHEST {
            let at = HIGHEST - exponent;
            cpu.store(power, &mut self.powers[at]);
            cpu.store(cpu.xor(power, cpu.swap_halves(power)), &mut self.sums[at]);
            // By the first power, which is in its place from the first turn on.
            let mut product = Product::zero(cpu);
            product.add(cpu, power, self.from(1, 1), 0);
            power = product.reduce(cpu);
        }
        bytes.zeroize();
    }

    /// Has the cache fetch the powers that short packets need.
    #[inline]
    pub(super) fn prefetch_lowest(&self) {
        for (power, sum) in [1, LOWEST].map(|exponent| self.power(exponent)) {
            prefetch(power, BLOCK);
            prefetch(sum, BLOCK);
        }
    }

    /// A power, and the sum of its halves.
    #[inline(always)]
    pub(super) fn power(&self, exponent: usize) -> (&[u8; BLOCK], &[u8; BLOCK]) {
        let at = HIGHEST - exponent;
        (&self.powers[at], &self.sums[at])
    }

    /// The powers for successive blocks, of which the first has this exponent.
    #[inline(always)]
    pub(super) fn from(&self, exponent: usize, blocks: usize) -> Run<'_> {
        let at = HIGHEST - exponent;
        Run {
            powers: self.powers[at..at + blocks].as_flattened(),
            sums: self.sums[at..at + blocks].as_flattened(),
        }
    }
}

/// Some of the [`Powers`], from high to low.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    powers: &'a [u8],
    sums: &'a [u8],
}

/// A sum of products, not yet reduced, in each lane. The products of Karatsuba's method: low halves, sums of halves, high
/// halves.
#[derive(Clone, Copy)]
pub(super) struct Product<C: Cpu> {
    low: C::Lanes,
    sums: C::Lanes,
    high: C::Lanes,
}

impl<C: Cpu> Product<C> {
    #[inline(always)]
    pub(super) fn zero(cpu: C) -> Self {
        Self {
            low: cpu.zero(),
            sums: cpu.zero(),
            high: cpu.zero(),
        }
    }

    /// The product of reversed blocks with a power.
    #[inline(always)]
    pub(super) fn of(cpu: C, blocks: C::Lanes, power: C::Lanes, power_sums: C::Lanes) -> Self {
        Self {
            low: cpu.multiply_low(blocks, power),
            sums: cpu.multiply_low(cpu.xor(blocks, cpu.swap_halves(blocks)), power_sums),
            high: cpu.multiply_high(blocks, power),
        }
    }

    /// Adds the product of reversed blocks with powers, from that of this block on.
    #[inline(always)]
    pub(super) fn add(&mut self, cpu: C, blocks: C::Lanes, powers: Run<'_>, first: usize) {
        let power = cpu.load(&powers.powers[first * BLOCK..]);
        self.multiply(cpu, blocks, power, cpu.load(&powers.sums[first * BLOCK..]));
    }

    /// Adds the product of the first of two reversed blocks with a power, and of the last one with the hash key itself.
    #[inline(always)]
    pub(super) fn add_ends(
        &mut self,
        cpu: C,
        block: AesNi,
        (first, power): (__m128i, Run<'_>),
        (last, key): (__m128i, Run<'_>),
    ) {
        let (power, sum) = (block.load(power.powers), block.load(power.sums));
        let (key, key_sum) = (block.load(key.powers), block.load(key.sums));
        if C::LANES == 1 {
            let none = block.zero();
            self.multiply(
                cpu,
                cpu.pair(first, none),
                cpu.pair(power, none),
                cpu.pair(sum, none),
            );
            self.multiply(
                cpu,
                cpu.pair(last, none),
                cpu.pair(key, none),
                cpu.pair(key_sum, none),
            );
        } else {
            self.multiply(
                cpu,
                cpu.pair(first, last),
                cpu.pair(power, key),
                cpu.pair(sum, key_sum),
            );
        }
    }

    #[inline(always)]
    pub(super) fn multiply(&mut self, cpu: C, blocks: C::Lanes, power: C::Lanes, power_sums: C::Lanes) {
        let product = Self::of(cpu, blocks, power, power_sums);
        self.low = cpu.xor(self.low, product.low);
        self.high = cpu.xor(self.high, product.high);
        self.sums = cpu.xor(self.sums, product.sums);
    }

    /// Has it be there now: see [`Cpu::pin`].
    #[inline(always)]
    pub(super) fn pin(&mut self, cpu: C) {
        self.low = cpu.pin(self.low);
        self.sums = cpu.pin(self.sums);
        self.high = cpu.pin(self.high);
    }

    /// As many products as there are lanes, the lanes of each added up, side by side.
    #[inline(always)]
    pub(super) fn fold(cpu: C, products: [Self; MAX_LANES]) -> Self {
        let [a, b, c, d] = products;
        Self {
            low: cpu.fold([a.low, b.low, c.low, d.low]),
            sums: cpu.fold([a.sums, b.sums, c.sums, d.sums]),
            high: cpu.fold([a.high, b.high, c.high, d.high]),
        }
    }

    /// Each lane modulo the polynomial.
    #[inline(always)]
    pub(super) fn reduce(self, cpu: C) -> C::Lanes {
        let polynomial = cpu.broadcast(&POLYNOMIAL);
        let Self { low, sums, high } = self;
        let middle = cpu.xor(cpu.xor(sums, low), high);
        let folded = cpu.xor(cpu.swap_halves(low), cpu.multiply_low(low, polynomial));
        let middle = cpu.xor(middle, folded);
        let folded = cpu.xor(cpu.swap_halves(middle), cpu.multiply_low(middle, polynomial));
        cpu.xor(high, folded)
    }
}
