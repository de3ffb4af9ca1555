//! What expanding a key leaves on the stack.

use zeroize::Zeroize as _;

/// More bytes than any provider uses to expand a key: schedules are built on the stack and moved from frame to frame.
const DEPTH: usize = 64 << 10;

/// Calls `expand` and erases what it has left below this frame.
pub(crate) fn wiping_stack<T>(expand: impl FnOnce() -> T) -> T {
    let result = apart(expand);
    wipe();
    result
}

/// In a frame of its own, which `wipe` then covers.
#[inline(never)]
fn apart<T>(expand: impl FnOnce() -> T) -> T {
    expand()
}

#[inline(never)]
fn wipe() {
    let mut frame = [0_u128; DEPTH / size_of::<u128>()];
    frame.zeroize();
    std::hint::black_box(&mut frame);
}
