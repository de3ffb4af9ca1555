//! Our own AES-GCM beside AWS-LC and RustCrypto: batches of any lengths and keys, sealed, and opened with or without damage.
//!
//! The input is a list of messages: five bytes that say what it is (key, length of the associated data, length of the data,
//! which bit is damaged if any), then as many bytes of data as are left of it, repeated to its length.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ravelin_gcm::{
    Aead, AesKey, Algorithm, AssociatedData, IcvLen, KeyMaterial, MAX_AAD_LEN, Nonce, OpenJob, Provider,
    SealJob, Secret, open_mixed, seal_mixed,
};

/// More than a batch, so that some are left over.
const MOST_MESSAGES: usize = 40;

/// Two keys of each length; of each the implementations, ours first.
static KEYS: LazyLock<Vec<Vec<Box<dyn Aead>>>> = LazyLock::new(|| {
    let lengths = [AesKey::Aes128, AesKey::Aes192, AesKey::Aes256];
    let numbered = (0_u8..).zip(lengths.into_iter().chain(lengths));
    let keys = numbered.map(|(number, aes)| {
        let algorithm = Algorithm::AesGcm(aes, IcvLen::Icv16);
        let providers = [
            Provider::VaesAvx512,
            Provider::VaesAvx2,
            Provider::AesNi,
            Provider::AwsLc,
            Provider::RustCrypto,
        ];
        let providers = providers.into_iter().filter(|provider| provider.has(algorithm));
        let keys = providers.map(|provider| {
            let bytes = (0..aes.len() as u8)
                .map(|at| at.wrapping_mul(31) ^ number)
                .collect::<Vec<_>>();
            let key = KeyMaterial::new(algorithm, Secret::from(bytes)).expect("as long as it says");
            provider.key(&key).expect("a key")
        });
        keys.collect()
    });
    keys.collect()
});

struct Message {
    keys: &'static [Box<dyn Aead>],
    nonce: Nonce,
    aad: AssociatedData,
    data: Vec<u8>,
    damage: Option<usize>,
}

fuzz_target!(|input: &[u8]| {
    let messages = messages(input);
    let Some(implementations) = messages.iter().map(|message| message.keys.len()).min() else {
        return;
    };
    let expected = seal(&messages, implementations - 1);
    for implementation in 0..implementations {
        let mut sealed = seal(&messages, implementation);
        assert_eq!(sealed, expected, "{:?}", messages[0].keys[implementation]);
        for (message, (data, tag)) in messages.iter().zip(&mut sealed) {
            if let Some(bit) = message.damage {
                let mut bytes: Vec<&mut u8> = data.iter_mut().chain(tag).collect();
                let bit = bit % (bytes.len() * 8);
                *bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let jobs = messages.iter().zip(&mut sealed).map(|(message, (data, tag))| {
            (
                &*message.keys[implementation],
                OpenJob::new(message.nonce, message.aad, data, tag),
            )
        });
        let mut jobs: Vec<_> = jobs.collect();
        open_mixed(&mut jobs);
        for (message, (_, job)) in messages.iter().zip(&jobs) {
            assert_eq!(job.is_verified(), message.damage.is_none());
        }
        drop(jobs);
        for (message, (data, _)) in messages.iter().zip(&sealed) {
            if message.damage.is_none() {
                assert_eq!(data, &message.data);
            } else if data.len() >= 16 && message.data.iter().any(|byte| *byte != 0) {
                assert_ne!(data, &message.data);
            }
        }
    }
});

fn messages(mut input: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let [key, aad, low, high, damage, rest @ ..] = input {
        if messages.len() == MOST_MESSAGES {
            break;
        }
        let len = usize::from(u16::from_le_bytes([*low, *high])) % 9001;
        let given = &rest[..rest.len().min(len)];
        input = &rest[given.len()..];
        let mut data: Vec<u8> = given.iter().copied().cycle().take(len).collect();
        data.resize(len, 0);
        let mut nonce = [0x33; 16];
        nonce[11] = messages.len() as u8;
        let aad = vec![*aad; usize::from(*aad) % (MAX_AAD_LEN + 1)];
        messages.push(Message {
            keys: &KEYS[usize::from(*key) % KEYS.len()],
            nonce,
            aad: AssociatedData::new(&aad).expect("not too long"),
            data,
            damage: (damage & 1 == 1).then_some(usize::from(*damage) * 257),
        });
    }
    messages
}

fn seal(messages: &[Message], implementation: usize) -> Vec<(Vec<u8>, [u8; 16])> {
    let mut sealed: Vec<_> = messages
        .iter()
        .map(|message| (message.data.clone(), [0; 16]))
        .collect();
    let jobs = messages.iter().zip(&mut sealed).map(|(message, (data, tag))| {
        (
            &*message.keys[implementation],
            SealJob::new(message.nonce, message.aad, data, tag),
        )
    });
    let mut jobs: Vec<_> = jobs.collect();
    seal_mixed(&mut jobs);
    assert!(jobs.iter().all(|(_, job)| job.is_sealed()));
    drop(jobs);
    sealed
}
