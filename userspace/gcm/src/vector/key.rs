//! What a key becomes before the first packet: AES's round keys, and powers of GHASH's key.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::aes_ni::AesNi;
use super::cpu::{BLOCK, Cpu, Work};
use super::ghash::Powers;
use crate::prefetch::prefetch;

/// Round keys of AES-256: one more than its rounds.
pub(super) const MAX_ROUND_KEYS: usize = 15;

/// A key of AES-GCM, the same for every CPU. 1 KiB, of which a short packet reads the round keys and a few powers.
#[derive(Zeroize, ZeroizeOnDrop)]
#[repr(C, align(64))]
pub(super) struct Key {
    /// In the order of their use; those behind the last are zeros.
    pub(super) round_keys: [[u8; BLOCK]; MAX_ROUND_KEYS],
    /// 10, 12 or 14.
    pub(super) rounds: usize,
    /// The least [kind](super::message::Message::kind) of packets under this key: nine for each number of rounds.
    pub(super) kind: u8,
    tag_len: u8,
    pub(super) powers: Powers,
}

impl Key {
    /// Room for an AES key of `len` bytes, 16, 24 or 32, that is not [expanded](Self::expand) yet; `None` for another length.
    pub(super) fn blank(len: usize, tag_len: usize) -> Option<Self> {
        Some(Self {
            round_keys: [[0; BLOCK]; MAX_ROUND_KEYS],
            rounds: match len {
                16 | 24 | 32 => len / 4 + 6,
                _ => return None,
            },
            kind: (len / 8 - 2) as u8 * 9,
            // At most 16.
            tag_len: tag_len as u8,
            powers: Powers::default(),
        })
    }

    /// Bytes of its tags, 16 at most.
    #[inline(always)]
    pub(super) fn tag_len(&self) -> usize {
        self.tag_len.into()
    }

    /// Expands an AES key, of the length that this was made for, where it will stay.
    pub(super) fn expand(&mut self, cpu: AesNi, key: &[u8]) {
        cpu.enter(Expand { made: self, key });
    }

    /// Has the cache fetch what a packet of a few blocks needs.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(self, std::mem::offset_of!(Self, powers));
        self.powers.prefetch_lowest();
    }
}

// What is read of every key but its powers is four lines.
const _: () = assert!(std::mem::offset_of!(Key, powers) == 256);

struct Expand<'a> {
    made: &'a mut Key,
    key: &'a [u8],
}

impl Work<AesNi> for Expand<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self, cpu: AesNi) {
        let Self { made, key } = self;
        // KeyExpansion of FIPS 197 section 5.2.
        let words = made.round_keys.as_flattened_mut();
        words[..key.len()].copy_from_slice(key);
        let length = key.len() / 4;
        let mut constant = 1_u8;
        for word in length..4 * (made.rounds + 1) {
            let at = |word: usize| word * 4..word * 4 + 4;
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&words[at(word - 1)]);
            let mut last = u32::from_le_bytes(bytes);
            if word % length == 0 {
                // The first byte is the lowest: RotWord rotates to the right.
                last = cpu.substitute(last).rotate_right(8) ^ u32::from(constant);
                constant = (constant << 1) ^ (0x1b * (constant >> 7));
            } else if length > 6 && word % length == 4 {
                last = cpu.substitute(last);
            }
            bytes.copy_from_slice(&words[at(word - length)]);
            let new = u32::from_le_bytes(bytes) ^ last;
            words[at(word)].copy_from_slice(&new.to_le_bytes());
        }

        // NIST SP 800-38D section 7.1: "Let H = CIPH_K(0^128)."
        let mut state = cpu.block(&made.round_keys[0]);
        for round_key in &made.round_keys[1..made.rounds] {
            state = cpu.aes_round(state, cpu.block(round_key));
        }
        state = cpu.aes_last(state, cpu.block(&made.round_keys[made.rounds]));
        made.powers.fill(cpu, cpu.reverse(state));
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpu::Cpu as _;
    use super::{AesNi, Key};

    /// FIPS 197 appendix A: the last round key of each of its three examples.
    #[test]
    fn the_last_round_keys_are_those_of_fips_197() {
        let examples: [(&[u8], [u8; 16]); 3] = [
            (
                &0x2b7e1516_28aed2a6_abf71588_09cf4f3c_u128.to_be_bytes(),
                0xd014f9a8_c9ee2589_e13f0cc8_b6630ca6_u128.to_be_bytes(),
            ),
            (
                &[
                    0x8e, 0x73, 0xb0, 0xf7, 0xda, 0x0e, 0x64, 0x52, 0xc8, 0x10, 0xf3, 0x2b, 0x80, 0x90, 0x79,
                    0xe5, 0x62, 0xf8, 0xea, 0xd2, 0x52, 0x2c, 0x6b, 0x7b,
                ],
                0xe98ba06f_448c773c_8ecc7204_01002202_u128.to_be_bytes(),
            ),
            (
                &[
                    0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77,
                    0x81, 0x1f, 0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14,
                    0xdf, 0xf4,
                ],
                0xfe4890d1_e6188d0b_046df344_706c631e_u128.to_be_bytes(),
            ),
        ];
        let cpu = AesNi::detect().expect("tests of this module need AES-NI");
        for (key, last) in examples {
            let mut made = Key::blank(key.len(), 16).unwrap();
            made.expand(cpu, key);
            assert_eq!(made.round_keys[made.rounds], last);
        }
        assert!(Key::blank(20, 16).is_none());
    }
}
