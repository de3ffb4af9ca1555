//! Counter blocks through AES, with other work between the rounds.
//!
//! A round waits several cycles for its result, and the CPU can begin one or two others in each of them. So eight registers
//! or so go through each round together, and what is to be hashed is multiplied meanwhile.

use super::aes_ni::AesNi;
use super::cpu::{BLOCK, Cpu};
use super::message::Message;

/// Work in up to nine steps, the number of rounds that every key has before its last.
pub(super) trait Between {
    /// Whether each step stays between the rounds that it is written between: only where all registers that take part fit into the
    /// CPU.
    const PINNED: bool;

    /// Must be `#[inline(always)]`.
    fn step<const STEP: usize>(&mut self);
}

/// No work.
impl Between for () {
    const PINNED: bool = false;

    #[inline(always)]
    fn step<const STEP: usize>(&mut self) {}
}

/// The key stream of `PACKETS` packets, `CHUNKS` registers of each; their keys have equal numbers of rounds, and if
/// `ONE_KEY` are one.
#[inline(always)]
pub(super) fn key_stream<C: Cpu, const CHUNKS: usize, const PACKETS: usize, const ONE_KEY: bool>(
    cpu: C,
    messages: &[Message<'_>; PACKETS],
    between: &mut impl Between,
) -> [[C::Lanes; CHUNKS]; PACKETS] {
    let pinned = pinned(between);
    let mut states = [[cpu.zero(); CHUNKS]; PACKETS];
    for (state, message) in states.iter_mut().zip(messages) {
        let key = if ONE_KEY { messages[0].key } else { message.key };
        let (counters, key) = (message.counters(cpu), cpu.broadcast(&key.round_keys[0]));
        for (chunk, state) in state.iter_mut().enumerate() {
            let counters = cpu.count(counters, (chunk * C::LANES) as u32);
            *state = cpu.xor(cpu.reverse(counters), key);
        }
    }
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 1, pinned);
    between.step::<0>();
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 2, pinned);
    between.step::<1>();
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 3, pinned);
    between.step::<2>();
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 4, pinned);
    between.step::<3>();
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 5, pinned);
    between.step::<4>();
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 6, pinned);
    between.step::<5>();
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 7, pinned);
    between.step::<6>();
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 8, pinned);
    between.step::<7>();
    round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 9, pinned);
    between.step::<8>();
    let rounds = messages[0].key.rounds;
    if rounds > 10 {
        round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 10, pinned);
        round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 11, pinned);
    }
    if rounds > 12 {
        round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 12, pinned);
        round::<C, CHUNKS, PACKETS, ONE_KEY>(cpu, messages, &mut states, 13, pinned);
    }
    for (state, message) in states.iter_mut().zip(messages) {
        let key = if ONE_KEY { messages[0].key } else { message.key };
        let key = cpu.broadcast(&key.round_keys[rounds]);
        for state in state {
            *state = cpu.aes_last(*state, key);
        }
    }
    states
}

#[inline(always)]
fn round<C: Cpu, const CHUNKS: usize, const PACKETS: usize, const ONE_KEY: bool>(
    cpu: C,
    messages: &[Message<'_>; PACKETS],
    states: &mut [[C::Lanes; CHUNKS]; PACKETS],
    round: usize,
    pinned: bool,
) {
    for (state, message) in states.iter_mut().zip(messages) {
        let key = if ONE_KEY { messages[0].key } else { message.key };
        let key = cpu.broadcast(&key.round_keys[round]);
        for state in state {
            *state = cpu.aes_round(*state, key);
            if pinned {
                *state = cpu.pin(*state);
            }
        }
    }
}

#[inline(always)]
const fn pinned<B: Between>(_: &B) -> bool {
    B::PINNED
}

/// Adds the key stream to whole registers of data.
#[inline(always)]
pub(super) fn apply<C: Cpu>(cpu: C, stream: &[C::Lanes], data: &mut [u8]) {
    let data = &mut data[..stream.len() * C::WIDTH];
    for (chunk, stream) in stream.iter().enumerate() {
        let data = &mut data[chunk * C::WIDTH..];
        cpu.store(cpu.xor(*stream, cpu.load(data)), data);
    }
}

/// The masks of the tags of packets that have keys of their own, with equal numbers of rounds.
#[inline(always)]
pub(super) fn masks_of_many_keys<const PACKETS: usize>(
    block: AesNi,
    messages: &[Message<'_>; PACKETS],
    masks: &mut [[u8; BLOCK]],
) {
    let mut states = [block.zero(); PACKETS];
    for (state, message) in states.iter_mut().zip(messages) {
        let key = block.block(&message.key.round_keys[0]);
        *state = block.xor(block.tag_counter(block.block(message.nonce)), key);
    }
    let rounds = messages[0].key.rounds;
    for round in 1..rounds {
        for (state, message) in states.iter_mut().zip(messages) {
            *state = block.aes_round(*state, block.block(&message.key.round_keys[round]));
        }
    }
    for ((state, message), mask) in states.iter().zip(messages).zip(masks) {
        let key = block.block(&message.key.round_keys[rounds]);
        block.store(block.aes_last(*state, key), mask);
    }
}

/// The masks of the tags of packets that have one key, as many as `REGISTERS` hold or fewer; there is room for as many as
/// they hold.
#[inline(always)]
pub(super) fn masks_of_one_key<C: Cpu, const REGISTERS: usize>(
    cpu: C,
    block: AesNi,
    messages: &[Message<'_>],
    masks: &mut [[u8; BLOCK]],
) {
    let Some(last) = messages.last() else { return };
    let key = last.key;
    let mut states = [cpu.zero(); REGISTERS];
    let first = cpu.broadcast(&key.round_keys[0]);
    for (register, state) in states.iter_mut().enumerate() {
        // A lane that is nobody's has another's block, not zeros: under the key they become the hash key.
        let at = register * C::LANES;
        let nonces = cpu.lanes(|lane| block.block(messages.get(at + lane).unwrap_or(last).nonce));
        *state = cpu.xor(cpu.tag_counter(nonces), first);
    }
    for round_key in &key.round_keys[1..key.rounds] {
        let round_key = cpu.broadcast(round_key);
        for state in &mut states {
            *state = cpu.aes_round(*state, round_key);
        }
    }
    let last = cpu.broadcast(&key.round_keys[key.rounds]);
    for (register, state) in states.iter().enumerate() {
        let masks = masks[register * C::LANES..].as_flattened_mut();
        cpu.store(cpu.aes_last(*state, last), masks);
    }
}
