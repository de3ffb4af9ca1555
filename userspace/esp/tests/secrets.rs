//! Keys stay where they are needed, and no longer: after an SA is dropped the whole memory of the process is searched for
//! them, and everything that can be printed is.

mod support;

use std::hint::black_box;
use std::time::Instant;

use ravelin_esp::{Algorithm, InboundSa, Mode, OutboundSa, Provider, SaParameters, Secret};
use ravelin_gcm::KeyMaterial;
use support::memory::copies;
use support::{ipv4, open_one, seal_one};

/// The bytes of a key, which stand nowhere: each is made when it is needed.
fn byte(seed: u64, index: usize) -> u8 {
    let mut x = black_box(seed).wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) as u8
}

fn key(seed: u64, len: usize) -> Secret {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend((0..len).map(|index| byte(seed, index)));
    Secret::from(bytes)
}

/// The SA that seals and the one that opens, under a key of their own.
fn sas(provider: Provider, algorithm: Algorithm, seed: u64) -> (OutboundSa, InboundSa) {
    let parameters = || {
        let key = key(seed, algorithm.keymat_len());
        SaParameters::new(0x1000, Mode::Transport, algorithm, key)
    };
    let now = Instant::now();
    let outbound = OutboundSa::new(parameters(), provider, 0, now).expect("valid");
    outbound.sequence().raise_ceiling(10);
    let inbound = InboundSa::new(parameters(), provider, 0, now).expect("valid");
    (outbound, inbound)
}

fn providers_and_algorithms() -> impl Iterator<Item = (Provider, Algorithm)> {
    Provider::ALL.iter().flat_map(|provider| {
        let made = Algorithm::ALL
            .iter()
            .filter(|algorithm| provider.has(**algorithm));
        made.map(|algorithm| (*provider, *algorithm))
    })
}

#[test]
fn no_key_outlives_its_sa() {
    let clear = ipv4(0, &[], b"payload");
    for ((provider, algorithm), seed) in providers_and_algorithms().zip(0x1234_5678..) {
        let len = algorithm.keymat_len();
        let pair = sas(provider, algorithm, seed);
        if (provider, algorithm) == (Provider::RustCrypto, Algorithm::AES_128_GCM) {
            assert!(
                !copies(|index| byte(seed, index), len).is_empty(),
                "the search finds a key that is there"
            );
        }
        drop(pair);
        assert_eq!(
            copies(|index| byte(seed, index), len),
            [],
            "{provider} {algorithm}, never used"
        );

        let (outbound, inbound) = sas(provider, algorithm, !seed);
        let (wire, _) = seal_one(&outbound, &clear).expect("sealed");
        open_one(&inbound, &wire).expect("opened");
        drop((outbound, inbound));
        let found = copies(|index| byte(!seed, index), len);
        if provider == Provider::AwsLc {
            assert_eq!(found, [], "{provider} {algorithm}, used");
        } else {
            // Compilers put round keys on the stack as they like, where the next batch overwrites them.
            let stack = std::ptr::from_ref(&found).addr() as u64;
            let elsewhere = found.iter().filter(|(at, end)| {
                !(*at..*end).contains(&stack) && !(at.saturating_sub(1 << 20)..*at).contains(&stack)
            });
            assert_eq!(elsewhere.count(), 0, "{provider} {algorithm}, used: {found:x?}");
        }
    }
}

/// Whether a text shows four bytes of the key one after the other, in hexadecimal or decimal digits, whatever is between
/// them.
fn shows(text: &str, seed: u64, len: usize) -> bool {
    let squeezed: String = text
        .to_lowercase()
        .replace("0x", "")
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let numbers: Vec<u64> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    (0..=len - 4).any(|from| {
        let bytes: Vec<u8> = (from..from + 4).map(|index| byte(seed, index)).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let decimal: Vec<u64> = bytes.iter().map(|byte| u64::from(*byte)).collect();
        squeezed.contains(&hex) || numbers.windows(4).any(|window| window == decimal)
    })
}

#[test]
fn nothing_that_can_be_printed_shows_a_key() {
    let seed = 0xfeed;
    let bytes: Vec<u8> = (0..36).map(|index| byte(seed, index)).collect();
    let plain = [
        format!("{bytes:?}"),
        format!("{bytes:#x?}"),
        format!("{bytes:02X?}"),
    ];
    assert!(
        plain.iter().all(|text| shows(text, seed, 36)),
        "the search finds what is there"
    );

    for (provider, algorithm) in providers_and_algorithms() {
        let len = algorithm.keymat_len();
        let parameters = SaParameters::new(0x1000, Mode::Transport, algorithm, key(seed, len));
        let material = KeyMaterial::new(algorithm, key(seed, algorithm.key_len())).expect("the right length");
        let expanded = provider.key(&material).expect("a key");
        let wrong = [
            KeyMaterial::new(algorithm, key(seed, len + 1))
                .expect_err("too long")
                .to_string(),
            OutboundSa::new(
                SaParameters::new(0x1000, Mode::Transport, algorithm, key(seed, len + 1)),
                provider,
                0,
                Instant::now(),
            )
            .expect_err("too long")
            .to_string(),
        ];
        let pair = sas(provider, algorithm, seed);
        seal_one(&pair.0, &ipv4(0, &[], b"payload")).expect("sealed");
        let printed = [
            format!("{parameters:?} {parameters:#?}"),
            format!("{material:?} {material:#?}"),
            format!("{expanded:?} {expanded:#?}"),
            format!("{pair:?} {pair:#?}"),
            format!("{:?} {:?}", pair.0.counters(), pair.0.lifetime(Instant::now())),
            format!("{wrong:?}"),
        ];
        for text in printed {
            assert!(!shows(&text, seed, len), "{provider} {algorithm}: {text}");
        }
    }
}
