//! VAES and VPCLMULQDQ on registers of AVX2: two blocks to a register.

use std::arch::asm;
use std::arch::x86_64::*;

use super::cpu::{BLOCK, Cpu, MAX_LANES, ONES_AND_ZEROS, Work};
use crate::Provider;

/// A CPU with VAES, VPCLMULQDQ and AVX2.
#[derive(Clone, Copy, Debug)]
pub(super) struct VaesAvx2(());

#[target_feature(enable = "aes,avx2,pclmulqdq,vaes,vpclmulqdq")]
#[inline(never)]
fn enter<W: Work<VaesAvx2>>(cpu: VaesAvx2, work: W) -> W::Output {
    work.run(cpu)
}

#[target_feature(enable = "avx")]
#[inline]
fn pin(mut lanes: __m256i) -> __m256i {
    // SAFETY: there is no instruction in it.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) lanes, options(nomem, nostack, preserves_flags));
    }
    lanes
}

// SAFETY, of every block below: the value of `VaesAvx2` that each method takes is made by `detect` alone, so the CPU has
// the instructions. Memory is reached through references to arrays of a register's size.
impl Cpu for VaesAvx2 {
    const PROVIDER: Provider = Provider::VaesAvx2;
    const LANES: usize = 2;
    const REGISTERS: usize = 8;

    type Lanes = __m256i;

    fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("avx2")
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
    fn load(self, bytes: &[u8]) -> __m256i {
        let bytes: &[u8; 32] = bytes.first_chunk().expect("a register's bytes");
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, lanes: __m256i, bytes: &mut [u8]) {
        let bytes: &mut [u8; 32] = bytes.first_chunk_mut().expect("a register's bytes");
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), lanes) }
    }

    #[inline(always)]
    fn broadcast(self, block: &[u8; BLOCK]) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(block.as_ptr().cast())) }
    }

    #[inline(always)]
    fn pair(self, first: __m128i, second: __m128i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set_m128i(second, first) }
    }

    #[inline(always)]
    fn lanes(self, mut block: impl FnMut(usize) -> __m128i) -> __m256i {
        let first = block(0);
        self.pair(first, block(1))
    }

    #[inline(always)]
    fn blocks(self, lanes: __m256i) -> [__m128i; MAX_LANES] {
        let first = self.first(lanes);
        // SAFETY: see above.
        let second = unsafe { _mm256_extracti128_si256::<1>(lanes) };
        [first, second, first, second]
    }

    #[inline(always)]
    fn first(self, lanes: __m256i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm256_castsi256_si128(lanes) }
    }

    #[inline(always)]
    fn zero(self) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn xor(self, one: __m256i, other: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_xor_si256(one, other) }
    }

    #[inline(always)]
    fn keep(self, lanes: __m256i, len: u8) -> __m256i {
        let ones = self.load(&ONES_AND_ZEROS[64 - usize::from(len)..]);
        // SAFETY: see above.
        unsafe { _mm256_and_si256(lanes, ones) }
    }

    #[inline(always)]
    fn reverse(self, lanes: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            _mm256_shuffle_epi8(lanes, _mm256_broadcastsi128_si256(order))
        }
    }

    #[inline(always)]
    fn reverse_nonce(self, lanes: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1, -1, -1, -1);
            _mm256_shuffle_epi8(lanes, _mm256_broadcastsi128_si256(order))
        }
    }

    #[inline(always)]
    fn tag_counter(self, lanes: __m256i) -> __m256i {
        let one = 1_u32.to_be().cast_signed();
        // SAFETY: see above.
        unsafe { _mm256_blend_epi32::<0b1000_1000>(lanes, _mm256_set1_epi32(one)) }
    }

    #[inline(always)]
    fn count(self, lanes: __m256i, first: u32) -> __m256i {
        let (one, other) = (first.cast_signed(), first.wrapping_add(1).cast_signed());
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(lanes, _mm256_set_epi32(0, 0, 0, other, 0, 0, 0, one)) }
    }

    #[inline(always)]
    fn advance(self, lanes: __m256i, by: u32) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let by = _mm_cvtsi32_si128(by.cast_signed());
            _mm256_add_epi32(lanes, _mm256_broadcastsi128_si256(by))
        }
    }

    #[inline(always)]
    fn aes_round(self, state: __m256i, key: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_aesenc_epi128(state, key) }
    }

    #[inline(always)]
    fn aes_last(self, state: __m256i, key: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_aesenclast_epi128(state, key) }
    }

    #[inline(always)]
    fn multiply_low(self, one: __m256i, other: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_clmulepi64_epi128::<0x00>(one, other) }
    }

    #[inline(always)]
    fn multiply_high(self, one: __m256i, other: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_clmulepi64_epi128::<0x11>(one, other) }
    }

    #[inline(always)]
    fn swap_halves(self, lanes: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_shuffle_epi32::<0x4e>(lanes) }
    }

    #[inline(always)]
    fn pin(self, lanes: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { pin(lanes) }
    }

    #[inline(always)]
    fn fold(self, sums: [__m256i; MAX_LANES]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_permute2x128_si256::<0x20>(sums[0], sums[1]);
            let high = _mm256_permute2x128_si256::<0x31>(sums[0], sums[1]);
            _mm256_xor_si256(low, high)
        }
    }
}
