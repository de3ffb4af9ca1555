//! What the code above needs of a CPU, at any width of register.

use std::arch::x86_64::__m128i;
use std::fmt::Debug;

use crate::Provider;

/// A block of AES and GHASH.
pub(super) const BLOCK: usize = 16;

/// The most blocks in a register.
pub(super) const MAX_LANES: usize = 4;

/// Ones, then zeros: a register that begins `n` bytes in front of the middle has `n` bytes of ones.
pub(super) const ONES_AND_ZEROS: [u8; 128] = {
    let mut bytes = [0; 128];
    let mut at = 0;
    while at < 64 {
        bytes[at] = 0xff;
        at += 1;
    }
    bytes
};

/// Proof that this CPU has the instructions of one implementation: only [`Cpu::detect`] makes one. That is why its
/// methods are safe to call.
///
/// A register is [`Cpu::LANES`] blocks side by side, and every method works on each lane by itself, unless it says
/// otherwise. Nothing here branches on what is in a register, or reads memory at a place that depends on it.
///
/// Every method must be inlined into what [`Cpu::enter`] runs: called from elsewhere it is right, but slow.
pub(super) trait Cpu: Copy + Debug + Send + Sync + 'static {
    /// The implementation.
    const PROVIDER: Provider;

    /// Blocks in a register: 1, 2 or 4.
    const LANES: usize;

    /// Registers that keep AES busy, 8 or 4: those of a segment, which is the longest piece of a packet that is encrypted and
    /// hashed in one go, and those of packets side by side. A segment takes at most 16 powers of the hash key.
    const REGISTERS: usize;

    /// Bytes in a register.
    const WIDTH: usize = BLOCK * Self::LANES;

    /// A register.
    type Lanes: Copy;

    /// The proof, if this CPU has what it takes.
    fn detect() -> Option<Self>;

    /// Runs `work` as code that is compiled for this CPU.
    fn enter<W: Work<Self>>(self, work: W) -> W::Output;

    /// The first [`Cpu::WIDTH`] bytes.
    fn load(self, bytes: &[u8]) -> Self::Lanes;

    /// Writes the first [`Cpu::WIDTH`] bytes.
    fn store(self, lanes: Self::Lanes, bytes: &mut [u8]);

    /// The block in every lane.
    fn broadcast(self, block: &[u8; BLOCK]) -> Self::Lanes;

    /// One block to a lane, and zeros in the lanes left; with a single lane the second block is lost.
    fn pair(self, first: __m128i, second: __m128i) -> Self::Lanes;

    /// The block of each number in the lane with that number.
    fn lanes(self, block: impl FnMut(usize) -> __m128i) -> Self::Lanes;

    /// The block in each lane; behind the last one whatever.
    fn blocks(self, lanes: Self::Lanes) -> [__m128i; MAX_LANES];

    /// The first lane.
    fn first(self, lanes: Self::Lanes) -> __m128i;

    /// All bits clear.
    fn zero(self) -> Self::Lanes;

    /// Bit for bit.
    fn xor(self, one: Self::Lanes, other: Self::Lanes) -> Self::Lanes;

    /// The first `len` bytes, and zeros behind.
    fn keep(self, lanes: Self::Lanes, len: u8) -> Self::Lanes;

    /// A block's bytes in reverse order, which makes a number of it.
    fn reverse(self, lanes: Self::Lanes) -> Self::Lanes;

    /// The first twelve bytes of a nonce, reversed, over a counter of zero.
    fn reverse_nonce(self, lanes: Self::Lanes) -> Self::Lanes;

    /// The first twelve bytes of a nonce, and behind them 1, highest byte first: the counter block of the tag.
    fn tag_counter(self, lanes: Self::Lanes) -> Self::Lanes;

    /// Counts each lane's lowest 32 bits on by `first`, `first + 1` and so on, wrapping.
    fn count(self, lanes: Self::Lanes, first: u32) -> Self::Lanes;

    /// The same for every lane.
    fn advance(self, lanes: Self::Lanes, by: u32) -> Self::Lanes;

    /// A middle round of AES.
    fn aes_round(self, state: Self::Lanes, key: Self::Lanes) -> Self::Lanes;

    /// The last round of AES.
    fn aes_last(self, state: Self::Lanes, key: Self::Lanes) -> Self::Lanes;

    /// The carry-less product of the low halves.
    fn multiply_low(self, one: Self::Lanes, other: Self::Lanes) -> Self::Lanes;

    /// The carry-less product of the high halves.
    fn multiply_high(self, one: Self::Lanes, other: Self::Lanes) -> Self::Lanes;

    /// High half and low half in each other's place.
    fn swap_halves(self, lanes: Self::Lanes) -> Self::Lanes;

    /// The same, computed neither earlier nor later than this: a compiler that may choose puts what is to go side by side through
    /// the units of the CPU one behind the other, and then lacks registers as well.
    fn pin(self, lanes: Self::Lanes) -> Self::Lanes;

    /// The sum of the lanes of each of the first [`Cpu::LANES`] registers, in the lane with its number.
    fn fold(self, sums: [Self::Lanes; MAX_LANES]) -> Self::Lanes;
}

/// What is compiled for a CPU. `run` must be `#[inline(always)]`, and so must all that it calls on registers.
pub(super) trait Work<C> {
    type Output;

    fn run(self, cpu: C) -> Self::Output;
}
