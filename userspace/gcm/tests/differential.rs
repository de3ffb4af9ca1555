//! Our own implementations of AES-GCM, those that this CPU can run. `cargo xtask avx512` emulates a CPU for the widest.

mod support;

use proptest::prelude::*;
use ravelin_gcm::{AesKey, Algorithm, Provider, SealJob, seal_mixed};
use support::key;
use support::ours::{
    check_associated_data, check_batch, check_carries, check_flipped_tags, check_lengths, check_places,
    check_short_batches, expected, gcm, message, noise, nonce, of_one_length,
};

const LONGEST: usize = 9000;
const OURS: [Provider; 3] = [Provider::VaesAvx512, Provider::VaesAvx2, Provider::AesNi];

/// Those that this CPU can run. All tests here need the narrowest at least.
fn ours() -> Vec<Provider> {
    let ours = OURS.into_iter().filter(|one| one.has(Algorithm::AES_128_GCM));
    let ours: Vec<_> = ours.collect();
    assert!(
        !ours.is_empty(),
        "these tests need a CPU with AES-NI, PCLMULQDQ and AVX"
    );
    ours
}

#[test]
fn every_length_up_to_9000() {
    for provider in ours() {
        check_lengths(provider, 0..=LONGEST);
    }
}

#[test]
fn every_place_in_memory() {
    ours().into_iter().for_each(check_places);
}

#[test]
fn counters_carry() {
    ours().into_iter().for_each(check_carries);
}

#[test]
fn associated_data_of_every_length() {
    ours().into_iter().for_each(check_associated_data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Mixed lengths, mixed keys, flipped bits: more jobs than a batch holds, and fewer.
    #[test]
    fn mixed_batches(messages in prop::collection::vec(message(), 0..80)) {
        for provider in ours() {
            check_batch(provider, &messages);
        }
    }

    /// The lanes and registers of packets that go together, all of one key.
    #[test]
    fn batches_of_one_length(message in message(), count in 1_usize..40) {
        for provider in ours() {
            check_batch(provider, &of_one_length(&message, count));
        }
    }
}

#[test]
fn a_flipped_bit_of_a_tag_is_found() {
    ours().into_iter().for_each(check_flipped_tags);
}

/// Keys of others in a batch: each job is done by its own.
#[test]
fn keys_of_other_providers_may_be_mixed_in() {
    let keys = [Provider::AwsLc, ours()[0], Provider::RustCrypto]
        .map(|one| key(one, gcm(AesKey::Aes128), &noise(3, 16)));
    let plain = noise(8, 100);
    let (sealed, tag) = expected(AesKey::Aes128, &noise(3, 16), &nonce(1), &[5; 8], &plain);
    let mut made: Vec<_> = keys.iter().map(|_| (plain.clone(), [0; 16])).collect();
    let jobs = keys.iter().zip(&mut made);
    let jobs = jobs.map(|(key, (data, tag))| (&**key, SealJob::new(nonce(1), [5; 8], data, tag)));
    seal_mixed(&mut jobs.collect::<Vec<_>>());
    assert!(made.iter().all(|one| *one == (sealed.clone(), tag)));
}

#[test]
fn batches_of_every_short_length_under_one_key() {
    ours().into_iter().for_each(check_short_batches);
}
