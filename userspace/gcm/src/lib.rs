//! Batched authenticated encryption behind one trait.
//!
//! A [`Secret`] becomes [`KeyMaterial`] of one [`Algorithm`]; a [`Provider`] turns that into a boxed [`Aead`],
//! which seals and opens in place, one packet at a time or a batch of [`SealJob`]s and [`OpenJob`]s.
//!
//! The batch is the unit of work because one small packet cannot fill the AES units of a current CPU: a provider
//! may interleave the packets of a batch, as long as each job ends exactly as if it had been done alone. Every
//! provider passes the same suite, `tests/conformance.rs`.
//!
//! Unsafe code is in the modules of `vector` that name a CPU's instructions, one such instruction is in `prefetch`, and nowhere else.
//!
//! This crate never chooses nonces, never allocates after a key is made, and never releases plaintext whose tag
//! did not verify.

#![deny(unsafe_code)]

mod aead;
mod algorithm;
mod aws_lc;
mod constant_time;
mod encrypt_then_mac;
mod job;
mod key;
mod key_usage;
mod mixed;
mod prefetch;
mod provider;
mod rustcrypto;
mod secret;
mod trial;
#[cfg(target_arch = "x86_64")]
mod vector;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_vector.rs"]
mod vector;

pub use aead::{Aead, AeadError, MAX_NONCE_LEN, MAX_TAG_LEN, Nonce};
pub use algorithm::{AesKey, Algorithm, Hmac, IcvLen, UnknownAlgorithm};
pub use job::{AadTooLong, AssociatedData, MAX_AAD_LEN, OpenJob, SealJob};
pub use key::{KeyError, KeyMaterial};
pub use key_usage::KeyUsage;
pub use mixed::{open_mixed, seal_mixed};
pub use prefetch::prefetch;
pub use provider::{Provider, UnknownProvider};
pub use secret::Secret;
