//! One suite that every provider passes, with every algorithm that it has.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::HashSet;

use proptest::prelude::*;
use ravelin_gcm::{
    Aead, AeadError, AesKey, Algorithm, AssociatedData, IcvLen, KeyError, KeyMaterial, Nonce, OpenJob,
    Provider, SealJob, Secret,
};
use support::{all, key, keys, nonce_of};

#[test]
fn the_oracle_has_every_algorithm() {
    let oracle = all().filter(|(provider, _)| *provider == Provider::RustCrypto);
    assert_eq!(oracle.count(), 50);
    let fast = all().filter(|(provider, _)| *provider == Provider::AwsLc);
    assert_eq!(fast.count(), 3 + 1 + 12 + 12 + 4);
}

#[test]
fn what_a_key_says_of_itself_is_what_was_asked_for() {
    for (provider, algorithm) in all() {
        let key = key(provider, algorithm, &vec![1; algorithm.key_len()]);
        assert_eq!((key.provider(), key.algorithm()), (provider, algorithm));
    }
}

#[test]
fn a_provider_refuses_what_it_does_not_have() {
    let algorithm = "aes-128-ccm".parse().unwrap();
    let material = KeyMaterial::new(algorithm, Secret::copy_from(&[0; 16])).unwrap();
    let provider = Provider::AwsLc;
    assert_eq!(
        provider.key(&material).unwrap_err(),
        KeyError::Unsupported { provider, algorithm }
    );
}

#[test]
fn nothing_unauthenticated_has_a_name() {
    let names = [
        "null",
        "null-null",
        "aes-128-cbc",
        "aes-256-ctr",
        "aes-128-cbc-null",
        "aes-128-gcm-4",
        "",
    ];
    for name in names {
        assert!(name.parse::<Algorithm>().is_err(), "{name}");
    }
}

#[test]
fn an_undone_job_is_neither_sealed_nor_verified() {
    let (mut data, mut tag) = ([0; 4], [0; 16]);
    assert!(!SealJob::new([0; 16], [0; 8], &mut data, &mut tag).is_sealed());
    assert!(!OpenJob::new([0; 16], [0; 8], &mut data, &tag).is_verified());
}

#[test]
fn debug_output_holds_no_key_byte() {
    for (provider, algorithm) in all() {
        let printed = format!("{:?}", key(provider, algorithm, &vec![0xa7; algorithm.key_len()]));
        for leak in ["167", "a7", "A7"] {
            assert!(!printed.contains(leak), "{printed}");
        }
    }
}

/// One message of a batch, with the key length left to the batch.
#[derive(Clone, Debug)]
struct Message {
    nonce: Nonce,
    aad: Vec<u8>,
    data: Vec<u8>,
}

fn message() -> impl Strategy<Value = Message> {
    let length = prop_oneof![0_usize..80, 240_usize..272, 0_usize..3000];
    let data = length.prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
    let aad = prop_oneof![Just(8_usize), Just(12), 0_usize..=20];
    let aad = aad.prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
    (any::<Nonce>(), aad, data).prop_map(|(nonce, aad, data)| Message { nonce, aad, data })
}

/// Bytes for the longest key.
fn key_bytes() -> impl Strategy<Value = Vec<u8>> {
    let longest = Algorithm::ALL
        .iter()
        .map(|algorithm| algorithm.key_len())
        .max()
        .unwrap();
    prop::collection::vec(any::<u8>(), longest)
}

/// The messages with as much data of each as the algorithm's blocks can hold.
fn in_blocks(algorithm: Algorithm, messages: &[Message]) -> Vec<Message> {
    let mut messages = messages.to_vec();
    for message in &mut messages {
        let rest = message.data.len() % algorithm.block_len();
        message.data.truncate(message.data.len() - rest);
    }
    messages
}

fn seal_batch(key: &dyn Aead, messages: &[Message]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out: Vec<(Vec<u8>, Vec<u8>)> = messages
        .iter()
        .map(|message| (message.data.clone(), vec![0; key.algorithm().tag_len()]))
        .collect();
    let jobs = messages.iter().zip(&mut out);
    let mut jobs: Vec<SealJob<'_>> = jobs
        .map(|(message, (data, tag))| {
            SealJob::new(
                message.nonce,
                AssociatedData::new(&message.aad).unwrap(),
                data,
                tag,
            )
        })
        .collect();
    key.seal_batch(&mut jobs);
    assert!(jobs.iter().all(SealJob::is_sealed));
    drop(jobs);
    out
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    for (provider, algorithm) in all() {
        let key = key(provider, algorithm, &vec![1; algorithm.key_len()]);
        let nonce = nonce_of(&[]);
        let right = algorithm.tag_len();
        for len in (0..=40).filter(|len| *len != right) {
            let sealed = key.seal(&nonce, &[0; 8], &mut [7; 32], &mut vec![0; len]);
            assert_eq!(sealed, Err(AeadError::Length), "{key:?}, tag of {len} bytes");
        }
        let (mut data, mut tag) = ([7; 32], vec![0; right]);
        key.seal(&nonce, &[0; 8], &mut data, &mut tag).unwrap();
        tag.push(0);
        for len in (0..=right + 1).filter(|len| *len != right) {
            let opened = key.open(&nonce, &[0; 8], &mut data.clone(), &tag[..len]);
            assert_eq!(
                opened,
                Err(AeadError::NotAuthentic),
                "{key:?}, tag of {len} bytes"
            );
        }
        for len in (0..64).filter(|len| len % algorithm.block_len() != 0) {
            let sealed = key.seal(&nonce, &[0; 8], &mut vec![7; len], &mut tag[..right]);
            assert_eq!(sealed, Err(AeadError::Length), "{key:?}, data of {len} bytes");
        }
    }
}

/// RFC 4106 section 3.1: "the IV MUST NOT repeat". RFC 3602 section 3, for CBC: "it MUST NOT be predictable".
#[test]
fn ivs_do_not_repeat_and_those_of_cbc_are_no_counter() {
    let sequences = (0..2000).chain([u64::from(u32::MAX), 1 << 32, u64::MAX - 1, u64::MAX]);
    for algorithm in Algorithm::ALL
        .iter()
        .copied()
        .filter(|algorithm| algorithm.iv_len() > 0)
    {
        let keys = keys(algorithm, &(0..algorithm.key_len() as u8).collect::<Vec<_>>());
        let mut seen = HashSet::new();
        for sequence in sequences.clone() {
            let ivs = keys.iter().map(|key| {
                let mut iv = vec![0; algorithm.iv_len()];
                key.iv(sequence, &mut iv);
                iv
            });
            let ivs: Vec<_> = ivs.collect();
            assert!(
                ivs.iter().all(|iv| *iv == ivs[0]),
                "{algorithm}: providers differ"
            );
            if matches!(algorithm, Algorithm::AesCbcHmac(..)) {
                assert!(!ivs[0].ends_with(&sequence.to_be_bytes()), "{algorithm}");
            } else {
                assert_eq!(ivs[0], sequence.to_be_bytes(), "{algorithm}");
            }
            assert!(seen.insert(ivs[0].clone()), "{algorithm}: {sequence}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every provider gives the same ciphertext and tag, alone and in a batch, and opens the others' output.
    #[test]
    fn providers_agree(bytes in key_bytes(), messages in prop::collection::vec(message(), 0..20)) {
        for algorithm in Algorithm::ALL.iter().copied() {
            let bytes = &bytes[..algorithm.key_len()];
            let messages = in_blocks(algorithm, &messages);
            let reference = seal_batch(&*key(Provider::RustCrypto, algorithm, bytes), &messages);
            for key in keys(algorithm, bytes) {
                prop_assert_eq!(&seal_batch(&*key, &messages), &reference);
                for (message, (ciphertext, tag)) in messages.iter().zip(&reference) {
                    let mut data = message.data.clone();
                    let mut sealed = vec![0; tag.len()];
                    prop_assert_eq!(key.seal(&message.nonce, &message.aad, &mut data, &mut sealed), Ok(()));
                    prop_assert_eq!(&sealed, tag);
                    prop_assert_eq!(&data, ciphertext);
                    // One byte in 256 is encrypted to itself: only of long messages it is no chance.
                    if !algorithm.encrypts() {
                        prop_assert_eq!(&data, &message.data);
                    } else if data.len() >= 16 {
                        prop_assert_ne!(&data, &message.data);
                    }
                    prop_assert_eq!(key.open(&message.nonce, &message.aad, &mut data, tag), Ok(()));
                    prop_assert_eq!(&data, &message.data);
                }
            }
        }
    }

    /// In a batch with damaged messages exactly those fail, and their buffers do not hold the plaintext.
    #[test]
    fn one_flipped_bit_fails_one_job(
        bytes in key_bytes(),
        messages in prop::collection::vec((message(), any::<bool>(), any::<prop::sample::Index>()), 1..20),
    ) {
        for algorithm in Algorithm::ALL.iter().copied() {
            let plain: Vec<Message> = messages.iter().map(|(message, _, _)| message.clone()).collect();
            let plain = in_blocks(algorithm, &plain);
            let damages = messages.iter().map(|(_, damaged, place)| damaged.then_some(place));
            for key in keys(algorithm, &bytes[..algorithm.key_len()]) {
                let mut sealed = seal_batch(&*key, &plain);
                let mut received = plain.clone();
                for ((damage, (data, tag)), message) in damages.clone().zip(&mut sealed).zip(&mut received) {
                    if let Some(place) = damage {
                        // Not in the salt: it never travels, and a MAC of its own does not cover it.
                        let nonce = &mut message.nonce[algorithm.salt_len()..algorithm.nonce_len()];
                        let places = data.iter_mut().chain(tag).chain(nonce).chain(&mut message.aad);
                        let mut places: Vec<&mut u8> = places.collect();
                        let bit = place.index(places.len() * 8);
                        *places[bit / 8] ^= 1 << (bit % 8);
                    }
                }
                let jobs = sealed.iter_mut().zip(&received).map(|((data, tag), message)| {
                    OpenJob::new(message.nonce, AssociatedData::new(&message.aad).unwrap(), data, tag)
                });
                let mut jobs: Vec<OpenJob<'_>> = jobs.collect();
                key.open_batch(&mut jobs);
                for (damage, job) in damages.clone().zip(&jobs) {
                    prop_assert_eq!(job.is_verified(), damage.is_none(), "{:?}", key);
                }
                drop(jobs);
                for ((damage, (data, _)), message) in damages.clone().zip(&sealed).zip(&plain) {
                    if damage.is_none() {
                        prop_assert_eq!(data, &message.data);
                    } else if data.len() >= 16 {
                        // Long enough that neither zeros nor ciphertext equals it by chance, unless it was all zeros.
                        prop_assert!(data != &message.data || message.data.iter().all(|byte| *byte == 0), "{:?}", key);
                    }
                }
            }
        }
    }

    /// RFC 4303 section 3.3.2.1 and 2.2.1: a MAC of its own covers SPI, low half of the sequence number, IV, ciphertext, and
    /// last the high half.
    #[test]
    fn the_icv_of_a_mac_covers_the_packet_in_its_order(
        bytes in key_bytes(), nonce: Nonce, aad: [u8; 12], blocks in prop::collection::vec(any::<[u8; 16]>(), 0..40),
    ) {
        for algorithm in Algorithm::ALL.iter().copied() {
            let (Algorithm::AesCbcHmac(_, hmac) | Algorithm::AesCtrHmac(_, hmac)) = algorithm else {
                continue;
            };
            let bytes = &bytes[..algorithm.key_len()];
            let mac = key(Provider::RustCrypto, Algorithm::NullHmac(hmac), &bytes[algorithm.encryption_key_len()..]);
            for key in keys(algorithm, bytes) {
                let iv = &nonce[algorithm.salt_len()..algorithm.nonce_len()];
                // RFC 4106 section 5: SPI, high half, low half.
                let [spi, high, low] = [0, 4, 8].map(|at| &aad[at..at + 4]);
                for (aad, front, behind) in [(&aad[..8], &aad[..8], &[][..]), (&aad, &[spi, low].concat(), high)] {
                    let mut data = blocks.as_flattened().to_vec();
                    let (mut tag, mut expected) = (vec![0; hmac.tag_len()], vec![0; hmac.tag_len()]);
                    key.seal(&nonce, aad, &mut data, &mut tag).unwrap();
                    let mut covered = [front, iv, &data, behind].concat();
                    mac.seal(&nonce, &[], &mut covered, &mut expected).unwrap();
                    prop_assert_eq!(&tag, &expected, "{:?}", key);
                }
            }
        }
    }

    /// RFC 4543 section 3.3: GMAC is GCM without a plaintext, over the associated data, the IV and the payload.
    #[test]
    fn gmac_is_gcm_of_nothing(
        bytes: [u8; 32], nonce: Nonce, aad in prop::collection::vec(any::<u8>(), 0..=20),
        data in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        for aes in [AesKey::Aes128, AesKey::Aes192, AesKey::Aes256] {
            let bytes = &bytes[..aes.len()];
            let gcm = key(Provider::AwsLc, Algorithm::AesGcm(aes, IcvLen::Icv16), bytes);
            let (mut tag, mut expected) = ([0; 16], [0; 16]);
            let covered = [&aad, &nonce[4..12], &data].concat();
            gcm.seal(&nonce, &covered, &mut [], &mut expected).unwrap();
            for gmac in keys(Algorithm::AesGmac(aes), bytes) {
                gmac.seal(&nonce, &aad, &mut data.clone(), &mut tag).unwrap();
                prop_assert_eq!(tag, expected, "{:?}", gmac);
            }
        }
    }
}
