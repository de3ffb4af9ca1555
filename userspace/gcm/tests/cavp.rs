//! Vectors of NIST's Cryptographic Algorithm Validation Program and of some RFCs, for every provider, as far as they have
//! the lengths of IPsec.
//!
//! The files are those of the Python package `cryptography_vectors`; without it the tests fail.

mod support;

use ravelin_gcm::{AesKey, Algorithm, Hmac, IcvLen};
use support::vector_file::{Fields, vectors};
use support::{Vector, gcm_vectors, icv_of_cipher, keys, providers};

const AES_KEYS: [AesKey; 3] = [AesKey::Aes128, AesKey::Aes192, AesKey::Aes256];
const HMACS: [Hmac; 4] = [
    Hmac::Sha1_96,
    Hmac::Sha2_256_128,
    Hmac::Sha2_384_192,
    Hmac::Sha2_512_256,
];

// The counts below keep a change of a filter or of a file from emptying a test silently.

/// NIST SP 800-38D, ICVs of 8, 12 and 16 bytes.
#[test]
fn aes_gcm() {
    let run = gcm_vectors::check_nist(keys);
    let icvs = [IcvLen::Icv8, IcvLen::Icv12, IcvLen::Icv16];
    let of_each = icvs.map(|icv| providers(Algorithm::AesGcm(AesKey::Aes128, icv)));
    assert_eq!(run, gcm_vectors::NIST_OF_AN_ICV * of_each.iter().sum::<usize>());
}

/// NIST SP 800-38C. Of the nonces' lengths only 11 bytes are RFC 4309's, which are in one kind of file.
#[test]
fn aes_ccm() {
    let mut run = 0;
    for aes in AES_KEYS {
        let file = format!("ciphers/AES/CCM/VNT{}.rsp", aes.len() * 8);
        for fields in vectors(&file).iter().filter(|fields| fields.number("nlen") == 11) {
            assert_eq!(fields.number("tlen"), 16);
            let sealed = fields.bytes("ct");
            let (ciphertext, tag) = sealed.split_at(sealed.len() - 16);
            let vector = Vector {
                nonce: &fields.bytes("nonce"),
                aad: &fields.bytes("adata"),
                plaintext: &fields.bytes("payload"),
                ciphertext,
                tag,
            };
            for key in keys(Algorithm::AesCcm(aes, IcvLen::Icv16), &fields.bytes("key")) {
                vector.holds(&*key, &file);
                run += 1;
            }
        }
    }
    assert_eq!(run, 3 * 10);
}

/// Checks a cipher's vector under each HMAC; how many checks that were.
fn check_cipher(
    algorithm: impl Fn(Hmac) -> Algorithm,
    fields: &Fields,
    nonce: &[u8],
    context: &str,
) -> usize {
    let mut run = 0;
    for hmac in HMACS {
        let algorithm = algorithm(hmac);
        let integrity = vec![0x5a; hmac.key_len()];
        let ciphertext = fields.bytes("ciphertext");
        let tag = icv_of_cipher(algorithm, &integrity, nonce, &ciphertext);
        let vector = Vector {
            nonce,
            aad: &[],
            plaintext: &fields.bytes("plaintext"),
            ciphertext: &ciphertext,
            tag: &tag,
        };
        for key in keys(algorithm, &[&fields.bytes("key")[..], &integrity].concat()) {
            vector.holds(&*key, context);
            run += 1;
        }
    }
    run
}

/// NIST SP 800-38A.
#[test]
fn aes_cbc() {
    let mut run = 0;
    for aes in AES_KEYS {
        for kind in ["GFSbox", "KeySbox", "MMT", "VarKey", "VarTxt"] {
            let file = format!("ciphers/AES/CBC/CBC{kind}{}.rsp", aes.len() * 8);
            for fields in vectors(&file) {
                let algorithm = |hmac| Algorithm::AesCbcHmac(aes, hmac);
                run += check_cipher(algorithm, &fields, &fields.bytes("iv"), &file);
            }
        }
    }
    // Of each kind for the three key lengths, to encrypt and to decrypt, under four HMACs, with two providers.
    assert_eq!(
        run,
        ((7 + 6 + 5) + (21 + 24 + 16) + 3 * 10 + (128 + 192 + 256) + 3 * 128) * 2 * 4 * 2
    );
}

/// RFC 3686 section 6, all nine, which the package has in this form.
#[test]
fn aes_ctr() {
    let mut run = 0;
    for aes in AES_KEYS {
        let file = format!("ciphers/AES/CTR/aes-{}-ctr.txt", aes.len() * 8);
        for fields in vectors(&file) {
            let block = fields.bytes("iv");
            let (nonce, counter) = block.split_at(12);
            assert_eq!(counter, [0, 0, 0, 1], "the counter starts at 1");
            run += check_cipher(|hmac| Algorithm::AesCtrHmac(aes, hmac), &fields, nonce, &file);
        }
    }
    assert_eq!(run, 9 * 4 * 2);
}

/// RFC 2202 section 3, with keys of the length that RFC 2404 wants. RFC 4231's keys have other lengths.
#[test]
fn hmac_sha1() {
    let mut run = 0;
    for fields in vectors("HMAC/rfc-2202-sha1.txt") {
        let key = fields.bytes("key");
        if key.len() != Hmac::Sha1_96.key_len() {
            continue;
        }
        let message = fields.bytes("msg");
        let vector = Vector {
            nonce: &[],
            aad: &[],
            plaintext: &message,
            ciphertext: &message,
            tag: &fields.bytes("md")[..12],
        };
        for key in keys(Algorithm::NullHmac(Hmac::Sha1_96), &key) {
            vector.holds(&*key, "RFC 2202");
            run += 1;
        }
    }
    assert_eq!(run, 3 * 2);
}
