//! Test vectors that RFCs print, for every provider. Those that are packets are in `esp/tests/vectors.rs`, those of
//! RFC 3686 in `cavp.rs`.

mod support;

use ravelin_gcm::{AesKey, Algorithm, Hmac};
use support::{Vector, hex, icv_of_cipher, keys};

/// RFC 3602 section 4, cases 1 to 4: key, IV, plaintext, ciphertext.
const AES_CBC: [[&str; 4]; 4] = [
    [
        "06a9214036b8a15b512e03d534120006",
        "3dafba429d9eb430b422da802c9fac41",
        "53696e676c6520626c6f636b206d7367",
        "e353779c1079aeb82708942dbe77181a",
    ],
    [
        "c286696d887c9aa0611bbb3e2025a45a",
        "562e17996d093d28ddb3ba695a2e6f58",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
    ],
    [
        "6c3ea0477630ce21a2ce334aa746c2cd",
        "c782dc4c098c66cbd9cd27d825682c81",
        "5468697320697320612034382d62797465206d657373616765202865786163746c7920332041455320626c6f636b7329",
        "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5021c19216bad525c8579695d83ba2684",
    ],
    [
        "56e47a38c5598974bc46903dba290349",
        "8ce82eefbea0da3c44699ed7db51b7d9",
        "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf",
        "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55",
    ],
];

#[test]
fn rfc_3602() {
    for [key, iv, plaintext, ciphertext] in AES_CBC.map(|case| case.map(hex)) {
        for hmac in [
            Hmac::Sha1_96,
            Hmac::Sha2_256_128,
            Hmac::Sha2_384_192,
            Hmac::Sha2_512_256,
        ] {
            let algorithm = Algorithm::AesCbcHmac(AesKey::Aes128, hmac);
            let integrity = vec![0x5a; hmac.key_len()];
            let vector = Vector {
                nonce: &iv,
                aad: &[],
                plaintext: &plaintext,
                ciphertext: &ciphertext,
                tag: &icv_of_cipher(algorithm, &integrity, &iv, &ciphertext),
            };
            for key in keys(algorithm, &[&key[..], &integrity].concat()) {
                vector.holds(&*key, "RFC 3602 section 4");
            }
        }
    }
}

/// RFC 4868 section 2.7.2: the truncated outputs for each hash, in the order of the RFC's four cases.
const HMAC: [(Hmac, [&str; 4]); 3] = [
    (
        Hmac::Sha2_256_128,
        [
            "198a607eb44bfbc69903a0f1cf2bbdc5",
            "167f928588c5cc2eef8e3093caa0e87c",
            "cdcb1220d1ecccea91e53aba3092f962",
            "372efcf9b40b35c2115b1346903d2ef4",
        ],
    ),
    (
        Hmac::Sha2_384_192,
        [
            "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
            "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d",
            "809f439be00274321d4a538652164b53554a508184a0c316",
            "5b540085c6e6358096532b2493609ed1cb298f774f87bb5c",
        ],
    ),
    (
        Hmac::Sha2_512_256,
        [
            "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
            "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454",
            "2ee7acd783624ca9398710f3ee05ae41b9f9b0510c87e49e586cc9bf961733d8",
            "5e6688e5a3daec826ca32eaea224eff5e700628947470e13ad01302561bab108",
        ],
    ),
];

/// The four cases of RFC 4868 section 2.7.2 with a key of `key_len` bytes.
fn hmac_cases(key_len: usize) -> [(Vec<u8>, Vec<u8>); 4] {
    // AUTH384-4 goes on with 0a after 20.
    let counting = if key_len == 48 {
        (1..=0x20).chain(0x0a..0x1a).collect()
    } else {
        (1..=key_len as u8).collect()
    };
    [
        (vec![0x0b; key_len], b"Hi There".to_vec()),
        (
            b"Jefe".repeat(key_len / 4),
            b"what do ya want for nothing?".to_vec(),
        ),
        (vec![0xaa; key_len], vec![0xdd; 50]),
        (counting, vec![0xcd; 50]),
    ]
}

#[test]
fn rfc_4868() {
    for (hmac, tags) in HMAC {
        for ((key, message), tag) in hmac_cases(hmac.key_len()).into_iter().zip(tags) {
            let vector = Vector {
                nonce: &[],
                aad: &[],
                plaintext: &message,
                ciphertext: &message,
                tag: &hex(tag),
            };
            for key in keys(Algorithm::NullHmac(hmac), &key) {
                vector.holds(&*key, "RFC 4868 section 2.7.2");
            }
        }
    }
}
