//! AES-NI and PCLMULQDQ: one block to a register.

use std::arch::asm;
use std::arch::x86_64::*;

use super::cpu::{BLOCK, Cpu, MAX_LANES, ONES_AND_ZEROS, Work};
use crate::Provider;

/// A CPU with AES-NI, PCLMULQDQ and AVX.
#[derive(Clone, Copy, Debug)]
pub(super) struct AesNi(());

#[target_feature(enable = "aes,avx,pclmulqdq,sse4.1,ssse3")]
#[inline(never)]
fn enter<W: Work<AesNi>>(cpu: AesNi, work: W) -> W::Output {
    work.run(cpu)
}

#[target_feature(enable = "sse2")]
#[inline]
fn pin(mut lanes: __m128i) -> __m128i {
    // SAFETY: there is no instruction in it.
    unsafe {
        asm!("/* {0} */", inout(xmm_reg) lanes, options(nomem, nostack, preserves_flags));
    }
    lanes
}

// SAFETY, of every block below: the value of `AesNi` that each method takes is made by `detect` alone, so the CPU has
// the instructions. Memory is reached through references to arrays of a register's size.
impl AesNi {
    /// SubWord of FIPS 197 section 5.2.
    #[inline(always)]
    pub(super) fn substitute(self, word: u32) -> u32 {
        // SAFETY: see above.
        unsafe {
            let word = _mm_set1_epi32(word.cast_signed());
            _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(word)).cast_unsigned()
        }
    }

    /// The block as it is.
    #[inline(always)]
    pub(super) fn block(self, block: &[u8; BLOCK]) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
    }

    /// A block from its two halves, as numbers.
    #[inline(always)]
    pub(super) fn halves(self, high: u64, low: u64) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_set_epi64x(high.cast_signed(), low.cast_signed()) }
    }
}

impl Cpu for AesNi {
    const PROVIDER: Provider = Provider::AesNi;
    const LANES: usize = 1;
    const REGISTERS: usize = 8;

    type Lanes = __m128i;

    fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("sse4.1")
            && is_x86_feature_detected!("ssse3");
        has.then_some(Self(()))
    }

    fn enter<W: Work<Self>>(self, work: W) -> W::Output {
        // SAFETY: see above.
        unsafe { enter(self, work) }
    }

    #[inline(always)]
    fn load(self, bytes: &[u8]) -> __m128i {
        let bytes: &[u8; 16] = bytes.first_chunk().expect("a register's bytes");
        // SAFETY: see above.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, lanes: __m128i, bytes: &mut [u8]) {
        let bytes: &mut [u8; 16] = bytes.first_chunk_mut().expect("a register's bytes");
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), lanes) }
    }

    #[inline(always)]
    fn broadcast(self, block: &[u8; BLOCK]) -> __m128i {
        self.block(block)
    }

    #[inline(always)]
    fn pair(self, first: __m128i, _: __m128i) -> __m128i {
        first
    }

    #[inline(always)]
    fn lanes(self, mut block: impl FnMut(usize) -> __m128i) -> __m128i {
        block(0)
    }

    #[inline(always)]
    fn blocks(self, lanes: __m128i) -> [__m128i; MAX_LANES] {
        [lanes; MAX_LANES]
    }

    #[inline(always)]
    fn first(self, lanes: __m128i) -> __m128i {
        lanes
    }

    #[inline(always)]
    fn zero(self) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_setzero_si128() }
    }

    #[inline(always)]
    fn xor(self, one: __m128i, other: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_xor_si128(one, other) }
    }

    #[inline(always)]
    fn keep(self, lanes: __m128i, len: u8) -> __m128i {
        let ones = self.load(&ONES_AND_ZEROS[64 - usize::from(len)..]);
        // SAFETY: see above.
        unsafe { _mm_and_si128(lanes, ones) }
    }

    #[inline(always)]
    fn reverse(self, lanes: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe {
            _mm_shuffle_epi8(
                lanes,
                _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            )
        }
    }

    #[inline(always)]
    fn reverse_nonce(self, lanes: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe {
            _mm_shuffle_epi8(
                lanes,
                _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1, -1, -1, -1),
            )
        }
    }

    #[inline(always)]
    fn tag_counter(self, lanes: __m128i) -> __m128i {
        let one = 1_u32.to_be().cast_signed();
        // SAFETY: see above.
        unsafe { _mm_insert_epi32::<3>(lanes, one) }
    }

    #[inline(always)]
    fn count(self, lanes: __m128i, first: u32) -> __m128i {
        self.advance(lanes, first)
    }

    #[inline(always)]
    fn advance(self, lanes: __m128i, by: u32) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_add_epi32(lanes, _mm_cvtsi32_si128(by.cast_signed())) }
    }

    #[inline(always)]
    fn aes_round(self, state: __m128i, key: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_aesenc_si128(state, key) }
    }

    #[inline(always)]
    fn aes_last(self, state: __m128i, key: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_aesenclast_si128(state, key) }
    }

    #[inline(always)]
    fn multiply_low(self, one: __m128i, other: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_clmulepi64_si128::<0x00>(one, other) }
    }

    #[inline(always)]
    fn multiply_high(self, one: __m128i, other: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_clmulepi64_si128::<0x11>(one, other) }
    }

    #[inline(always)]
    fn swap_halves(self, lanes: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_shuffle_epi32::<0x4e>(lanes) }
    }

    #[inline(always)]
    fn pin(self, lanes: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { pin(lanes) }
    }

    #[inline(always)]
    fn fold(self, sums: [__m128i; MAX_LANES]) -> __m128i {
        sums[0]
    }
}
