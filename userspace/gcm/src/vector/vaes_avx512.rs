//! VAES and VPCLMULQDQ on registers of AVX-512: four blocks to a register.

use std::arch::asm;
use std::arch::x86_64::*;

use super::cpu::{BLOCK, Cpu, MAX_LANES, ONES_AND_ZEROS, Work};
use crate::Provider;

/// A CPU with VAES, VPCLMULQDQ, AVX2 and AVX-512.
#[derive(Clone, Copy, Debug)]
pub(super) struct VaesAvx512(());

#[target_feature(enable = "aes,avx2,avx512bw,avx512f,avx512vl,pclmulqdq,vaes,vpclmulqdq")]
#[inline(never)]
fn enter<W: Work<VaesAvx512>>(cpu: VaesAvx512, work: W) -> W::Output {
    work.run(cpu)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn pin(mut lanes: __m512i) -> __m512i {
    // SAFETY: there is no instruction in it.
    unsafe {
        asm!("/* {0} */", inout(zmm_reg) lanes, options(nomem, nostack, preserves_flags));
    }
    lanes
}

// SAFETY, of every block below: the value of `VaesAvx512` that each method takes is made by `detect` alone, so the CPU has
// the instructions. Memory is reached through references to arrays of a register's size.
impl VaesAvx512 {
    /// The sums of each register's first two lanes and of its last two: those of one register, then those of the other.
    #[inline(always)]
    fn add_neighbours(self, one: __m512i, other: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let even = _mm512_shuffle_i64x2::<0b10_00_10_00>(one, other);
            let odd = _mm512_shuffle_i64x2::<0b11_01_11_01>(one, other);
            _mm512_xor_si512(even, odd)
        }
    }
}

impl Cpu for VaesAvx512 {
    const PROVIDER: Provider = Provider::VaesAvx512;
    const LANES: usize = 4;
    const REGISTERS: usize = 4;

    type Lanes = __m512i;

    fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq");
        has.then_some(Self(()))
    }

    fn enter<W: Work<Self>>(self, work: W) -> W::Output {
        // SAFETY: see above.
        unsafe { enter(self, work) }
    }

    #[inline(always)]
    fn load(self, bytes: &[u8]) -> __m512i {
        let bytes: &[u8; 64] = bytes.first_chunk().expect("a register's bytes");
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, lanes: __m512i, bytes: &mut [u8]) {
        let bytes: &mut [u8; 64] = bytes.first_chunk_mut().expect("a register's bytes");
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), lanes) }
    }

    #[inline(always)]
    fn broadcast(self, block: &[u8; BLOCK]) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(block.as_ptr().cast())) }
    }

    #[inline(always)]
    fn pair(self, first: __m128i, second: __m128i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_inserti32x4::<1>(_mm512_zextsi128_si512(first), second) }
    }

    #[inline(always)]
    fn lanes(self, mut block: impl FnMut(usize) -> __m128i) -> __m512i {
        let (first, second) = (block(0), block(1));
        let (third, fourth) = (block(2), block(3));
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm256_set_m128i(second, first), _mm256_set_m128i(fourth, third));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }

    #[inline(always)]
    fn blocks(self, lanes: __m512i) -> [__m128i; MAX_LANES] {
        // SAFETY: see above.
        unsafe {
            [
                _mm512_castsi512_si128(lanes),
                _mm512_extracti32x4_epi32::<1>(lanes),
                _mm512_extracti32x4_epi32::<2>(lanes),
                _mm512_extracti32x4_epi32::<3>(lanes),
            ]
        }
    }

    #[inline(always)]
    fn first(self, lanes: __m512i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm512_castsi512_si128(lanes) }
    }

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn xor(self, one: __m512i, other: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_xor_si512(one, other) }
    }

    #[inline(always)]
    fn keep(self, lanes: __m512i, len: u8) -> __m512i {
        let ones = self.load(&ONES_AND_ZEROS[64 - usize::from(len)..]);
        // SAFETY: see above.
        unsafe { _mm512_and_si512(lanes, ones) }
    }

    #[inline(always)]
    fn reverse(self, lanes: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            _mm512_shuffle_epi8(lanes, _mm512_broadcast_i32x4(order))
        }
    }

    #[inline(always)]
    fn reverse_nonce(self, lanes: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1, -1, -1, -1);
            _mm512_shuffle_epi8(lanes, _mm512_broadcast_i32x4(order))
        }
    }

    #[inline(always)]
    fn tag_counter(self, lanes: __m512i) -> __m512i {
        let one = 1_u32.to_be().cast_signed();
        // SAFETY: see above.
        unsafe { _mm512_mask_set1_epi32(lanes, 0b1000_1000_1000_1000, one) }
    }

    #[inline(always)]
    fn count(self, lanes: __m512i, first: u32) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let numbers = _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0);
            self.advance(_mm512_add_epi32(lanes, numbers), first)
        }
    }

    #[inline(always)]
    fn advance(self, lanes: __m512i, by: u32) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let by = _mm_cvtsi32_si128(by.cast_signed());
            _mm512_add_epi32(lanes, _mm512_broadcast_i32x4(by))
        }
    }

    #[inline(always)]
    fn aes_round(self, state: __m512i, key: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_aesenc_epi128(state, key) }
    }

    #[inline(always)]
    fn aes_last(self, state: __m512i, key: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_aesenclast_epi128(state, key) }
    }

    #[inline(always)]
    fn multiply_low(self, one: __m512i, other: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_clmulepi64_epi128::<0x00>(one, other) }
    }

    #[inline(always)]
    fn multiply_high(self, one: __m512i, other: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_clmulepi64_epi128::<0x11>(one, other) }
    }

    #[inline(always)]
    fn swap_halves(self, lanes: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_shuffle_epi32::<0x4e>(lanes) }
    }

    #[inline(always)]
    fn pin(self, lanes: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { pin(lanes) }
    }

    #[inline(always)]
    fn fold(self, sums: [__m512i; MAX_LANES]) -> __m512i {
        let [a, b, c, d] = sums;
        self.add_neighbours(self.add_neighbours(a, b), self.add_neighbours(c, d))
    }
}
