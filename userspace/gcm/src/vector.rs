//! AES-GCM of our own: several packets through one pipeline.
//!
//! One packet of 64 bytes waits for most of its time: a round of AES takes four cycles, and there is nothing else to do. So
//! the packets of a batch go through AES together, and while they do, others are hashed.
//!
//! A [`cpu::Cpu`] is a width of registers, one module for each; what is made of them is the same code for all: [short packets of
//! equal length](across) are done side by side; the rest of a [`batch`] is sorted by length; whole [`segments`] of long packets are encrypted and hashed one after the other; their
//! [`tails`] and short packets several at a time. Only the modules of the CPUs have unsafe code: their instructions.
//!
//! No branch and no address depends on a key, on data or on a tag, but on lengths only; tags are compared all at once.

mod across;
mod aead_key;
mod aes_ctr;
#[expect(unsafe_code, reason = "instructions of the CPU")]
mod aes_ni;
mod batch;
mod cpu;
mod ghash;
mod item;
mod key;
mod many;
mod message;
mod scratch;
mod segments;
mod tails;
#[expect(unsafe_code, reason = "instructions of the CPU")]
mod vaes_avx2;
#[expect(unsafe_code, reason = "instructions of the CPU")]
mod vaes_avx512;

use crate::{Aead, KeyMaterial, OpenJob, Provider, SealJob};
use aead_key::{AeadKey, mixed};
use aes_ni::AesNi;
use cpu::Cpu as _;
use vaes_avx2::VaesAvx2;
use vaes_avx512::VaesAvx512;

/// Whether the CPU has AES-NI.
pub(crate) fn has_aes_ni() -> bool {
    AesNi::detect().is_some()
}

/// Whether the CPU has VAES, for registers of AVX2.
pub(crate) fn has_vaes_avx2() -> bool {
    VaesAvx2::detect().is_some()
}

/// Whether the CPU has VAES, for registers of AVX-512.
pub(crate) fn has_vaes_avx512() -> bool {
    VaesAvx512::detect().is_some()
}

/// Expands a key of AES-GCM; `None` if the CPU lacks AES-NI.
pub(crate) fn expand_aes_ni(key: &KeyMaterial) -> Option<Box<dyn Aead>> {
    Some(AeadKey::<AesNi>::new(key)?)
}

/// Expands a key of AES-GCM; `None` if the CPU lacks VAES.
pub(crate) fn expand_vaes_avx2(key: &KeyMaterial) -> Option<Box<dyn Aead>> {
    Some(AeadKey::<VaesAvx2>::new(key)?)
}

/// Expands a key of AES-GCM; `None` if the CPU lacks VAES or AVX-512.
pub(crate) fn expand_vaes_avx512(key: &KeyMaterial) -> Option<Box<dyn Aead>> {
    Some(AeadKey::<VaesAvx512>::new(key)?)
}

/// The most jobs that [`seal_mixed`] and [`open_mixed`] take at a time.
pub(crate) const MAX_BATCH: usize = batch::MAX_BATCH;

/// Seals jobs with a key for each; false, and nothing is done, unless all keys are of the implementation of the first.
pub(crate) fn seal_mixed(jobs: &mut [(&dyn Aead, SealJob<'_>)]) -> bool {
    let done = match jobs.first().map(|(key, _)| key.provider()) {
        Some(Provider::VaesAvx512) => mixed::<VaesAvx512, _, true>(jobs),
        Some(Provider::VaesAvx2) => mixed::<VaesAvx2, _, true>(jobs),
        Some(Provider::AesNi) => mixed::<AesNi, _, true>(jobs),
        _ => None,
    };
    done.is_some()
}

/// Opens jobs as [`seal_mixed`] seals them.
pub(crate) fn open_mixed(jobs: &mut [(&dyn Aead, OpenJob<'_>)]) -> bool {
    let done = match jobs.first().map(|(key, _)| key.provider()) {
        Some(Provider::VaesAvx512) => mixed::<VaesAvx512, _, false>(jobs),
        Some(Provider::VaesAvx2) => mixed::<VaesAvx2, _, false>(jobs),
        Some(Provider::AesNi) => mixed::<AesNi, _, false>(jobs),
        _ => None,
    };
    done.is_some()
}
