//! Memory that will be read soon.

/// Has the cache fetch the first `len` bytes of a value, or all of it if it has fewer, and goes on at once.
#[inline(always)]
pub fn prefetch<T>(value: &T, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let first: *const i8 = std::ptr::from_ref(value).cast();
        for offset in (0..len.min(size_of::<T>())).step_by(LINE) {
            #[expect(unsafe_code, reason = "an instruction of the CPU")]
            // SAFETY: the instruction is in SSE, which x86-64 includes, and reads nothing that a program could see. The address is
            // within the value.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(first.add(offset));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, len);
}
