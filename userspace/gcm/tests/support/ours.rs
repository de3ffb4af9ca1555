//! What our own implementations of AES-GCM are asked, beside AWS-LC and RustCrypto, which others wrote: lengths, places in
//! memory, batches.

use proptest::prelude::*;
use ravelin_gcm::{
    Aead, AesKey, Algorithm, AssociatedData, IcvLen, MAX_NONCE_LEN, Nonce, OpenJob, Provider, SealJob,
    open_mixed, seal_mixed,
};

use super::key;

const AES_KEYS: [AesKey; 3] = [AesKey::Aes128, AesKey::Aes192, AesKey::Aes256];

pub(crate) fn gcm(aes: AesKey) -> Algorithm {
    Algorithm::AesGcm(aes, IcvLen::Icv16)
}

/// Bytes that look random, for any number of them; `seed` is any number.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn nonce(seed: u64) -> Nonce {
    noise(seed ^ 0x5eed, MAX_NONCE_LEN).try_into().unwrap()
}

/// What AWS-LC and RustCrypto make of a message.
pub(crate) fn expected(
    aes: AesKey,
    bytes: &[u8],
    nonce: &Nonce,
    aad: &[u8],
    data: &[u8],
) -> (Vec<u8>, [u8; 16]) {
    let made = [Provider::AwsLc, Provider::RustCrypto].map(|provider| {
        let (mut data, mut tag) = (data.to_vec(), [0; 16]);
        let key = key(provider, gcm(aes), bytes);
        key.seal(nonce, aad, &mut data, &mut tag).unwrap();
        (data, tag)
    });
    assert_eq!(made[0], made[1]);
    made[0].clone()
}

/// Seals and opens one message of `len` bytes that begins `at` bytes behind a multiple of 64.
fn check_length(provider: Provider, aes: AesKey, len: usize, at: usize) {
    let (bytes, seed) = (noise(len as u64, aes.len()), (len * 64 + at) as u64);
    let (nonce, aad, plain) = (
        nonce(seed),
        noise(seed + 1, [8, 12][len % 2]),
        noise(seed + 2, len),
    );
    let (sealed, tag) = expected(aes, &bytes, &nonce, &aad, &plain);
    let key = key(provider, gcm(aes), &bytes);

    let mut memory = vec![0xa5; len + 256];
    let start = memory.as_ptr().align_offset(64) + at;
    memory[start..start + len].copy_from_slice(&plain);
    let mut made = [0; 16];
    key.seal(&nonce, &aad, &mut memory[start..start + len], &mut made)
        .unwrap();
    assert_eq!(
        memory[start..start + len],
        sealed,
        "{provider}: {len} bytes at {at}"
    );
    assert_eq!(made, tag, "{provider}: {len} bytes at {at}");
    key.open(&nonce, &aad, &mut memory[start..start + len], &tag)
        .unwrap();
    assert_eq!(
        memory[start..start + len],
        plain,
        "{provider}: {len} bytes at {at}"
    );
    let (before, behind) = (&memory[..start], &memory[start + len..]);
    assert!(
        before.iter().chain(behind).all(|byte| *byte == 0xa5),
        "{provider}: {len} bytes at {at}"
    );
}

/// Messages of these lengths, under keys of each length.
pub(crate) fn check_lengths(provider: Provider, lengths: impl Iterator<Item = usize>) {
    for len in lengths {
        for aes in AES_KEYS {
            check_length(provider, aes, len, len * 37 % 64);
        }
    }
}

/// Every place that a message can have in a line of the cache.
pub(crate) fn check_places(provider: Provider) {
    for len in [1, 16, 31, 64, 68, 257, 576, 1420] {
        for at in 0..64 {
            check_length(provider, AesKey::Aes256, len, at);
        }
    }
}

/// The 32-bit counter of GCM's blocks does not reach its end in a packet, so its carries are all there is to see: long ones.
pub(crate) fn check_carries(provider: Provider) {
    check_length(provider, AesKey::Aes128, (1 << 20) + 5, 3);
}

/// Associated data of lengths that a job does not hold.
pub(crate) fn check_associated_data(provider: Provider) {
    let (bytes, plain) = (noise(1, 16), noise(2, 77));
    let key = key(provider, Algorithm::AES_128_GCM, &bytes);
    for len in 0..200 {
        let (nonce, aad) = (nonce(len as u64), noise(3, len));
        for plain in [&plain[..], &[], &noise(9, 700)] {
            let (sealed, tag) = expected(AesKey::Aes128, &bytes, &nonce, &aad, plain);
            let (mut data, mut made) = (plain.to_vec(), [0; 16]);
            key.seal(&nonce, &aad, &mut data, &mut made).unwrap();
            assert_eq!(
                (&data, made),
                (&sealed, tag),
                "{provider}: {len} bytes of associated data"
            );
            key.open(&nonce, &aad, &mut data, &tag).unwrap();
            assert_eq!(data, plain);
        }
    }
}

/// A message of a batch, and which of its keys it has.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    key: usize,
    nonce: Nonce,
    aad: Vec<u8>,
    plain: Vec<u8>,
    /// Of ciphertext, tag and associated data together, modulo their length.
    flipped: Option<usize>,
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let len = prop_oneof![4 => 0_usize..80, 2 => Just(64), 1 => 200..300_usize, 1 => 0..2000_usize, 1 => 1400..1500_usize];
    let aad = prop_oneof![4 => Just(8_usize), 4 => Just(12), 1 => 0_usize..=20];
    let flipped = prop_oneof![3 => Just(None), 1 => any::<usize>().prop_map(Some)];
    (0_usize..5, any::<Nonce>(), aad, len, any::<u64>(), flipped).prop_map(
        |(key, nonce, aad, len, seed, flipped)| Message {
            key,
            nonce,
            aad: noise(seed, aad),
            plain: noise(seed + 1, len),
            flipped,
        },
    )
}

/// Two keys of AES-128, one of AES-192, two of AES-256.
fn key_of(number: usize) -> (AesKey, Vec<u8>) {
    let aes = [
        AesKey::Aes128,
        AesKey::Aes256,
        AesKey::Aes192,
        AesKey::Aes128,
        AesKey::Aes256,
    ][number];
    (aes, noise(number as u64 + 40, aes.len()))
}

/// `count` messages that differ in nonce and data alone; at most one is damaged.
pub(crate) fn of_one_length(message: &Message, count: usize) -> Vec<Message> {
    let messages = (0..count).map(|number| Message {
        nonce: nonce(number as u64),
        plain: noise(number as u64, message.plain.len()),
        flipped: message.flipped.filter(|bit| bit % count == number),
        ..message.clone()
    });
    messages.collect()
}

fn flip(bit: usize, parts: [&mut [u8]; 3]) {
    let mut bytes: Vec<&mut u8> = parts.into_iter().flatten().collect();
    let bit = bit % (bytes.len() * 8);
    *bytes[bit / 8] ^= 1 << (bit % 8);
}

pub(crate) fn check_batch(provider: Provider, messages: &[Message]) {
    let keys: Vec<Box<dyn Aead>> = (0..5)
        .map(|number| {
            let (aes, bytes) = key_of(number);
            key(provider, gcm(aes), &bytes)
        })
        .collect();
    let expected: Vec<_> = messages
        .iter()
        .map(|one| {
            let (aes, bytes) = key_of(one.key);
            expected(aes, &bytes, &one.nonce, &one.aad, &one.plain)
        })
        .collect();

    let mut made: Vec<_> = messages.iter().map(|one| (one.plain.clone(), [0; 16])).collect();
    let jobs = messages.iter().zip(&mut made).map(|(one, (data, tag))| {
        let aad = AssociatedData::new(&one.aad).unwrap();
        (&*keys[one.key], SealJob::new(one.nonce, aad, data, tag))
    });
    let mut jobs: Vec<_> = jobs.collect();
    seal_mixed(&mut jobs);
    assert!(jobs.iter().all(|(_, job)| job.is_sealed()));
    drop(jobs);
    assert_eq!(made, expected, "{provider}");

    let mut received = messages.to_vec();
    for (one, (data, tag)) in received.iter_mut().zip(&mut made) {
        if let Some(bit) = one.flipped {
            flip(bit, [data, tag, &mut one.aad]);
        }
    }
    let jobs = received.iter().zip(&mut made).map(|(one, (data, tag))| {
        let aad = AssociatedData::new(&one.aad).unwrap();
        (&*keys[one.key], OpenJob::new(one.nonce, aad, data, tag))
    });
    let mut jobs: Vec<_> = jobs.collect();
    open_mixed(&mut jobs);
    for (one, (_, job)) in messages.iter().zip(&jobs) {
        assert_eq!(job.is_verified(), one.flipped.is_none(), "{provider}");
    }
    drop(jobs);
    for (one, (data, _)) in messages.iter().zip(&made) {
        match one.flipped {
            None => assert_eq!(data, &one.plain, "{provider}"),
            Some(_) => assert!(
                data.iter().all(|byte| *byte == 0),
                "{provider}: something was released"
            ),
        }
    }
}

/// Every bit of a tag counts, in every place of a batch.
pub(crate) fn check_flipped_tags(provider: Provider) {
    let bytes = noise(7, 32);
    let key = key(provider, Algorithm::AES_256_GCM, &bytes);
    for (place, bit) in (0..8).flat_map(|place| (0..128).map(move |bit| (place, bit))) {
        let mut made: Vec<_> = (0..8).map(|number| (noise(number, 64), [0; 16])).collect();
        let jobs = made.iter_mut().enumerate();
        let jobs = jobs.map(|(at, (data, tag))| SealJob::new(nonce(at as u64), [7; 8], data, tag));
        key.seal_batch(&mut jobs.collect::<Vec<_>>());
        made[place].1[bit / 8] ^= 1 << (bit % 8);
        let jobs = made.iter_mut().enumerate();
        let jobs = jobs.map(|(at, (data, tag))| OpenJob::new(nonce(at as u64), [7; 8], data, tag));
        let mut jobs: Vec<_> = jobs.collect();
        key.open_batch(&mut jobs);
        let verified = jobs
            .iter()
            .enumerate()
            .all(|(at, job)| job.is_verified() == (at != place));
        assert!(verified, "{provider}: bit {bit} of tag {place}");
    }
}

/// Enough packets of one length to go side by side, with others between them: each ends as if it had been alone, and the one
/// that was changed on its way is erased.
pub(crate) fn check_short_batches(provider: Provider) {
    for len in 1..150 {
        let algorithm = Algorithm::AesGcm(
            AES_KEYS[len % 3],
            [IcvLen::Icv16, IcvLen::Icv12, IcvLen::Icv8][len / 3 % 3],
        );
        let bytes = noise(len as u64, algorithm.key_len());
        let (ours, oracle) = (
            key(provider, algorithm, &bytes),
            key(Provider::RustCrypto, algorithm, &bytes),
        );
        let packets = (0..32).map(|at: u64| {
            let len = if at % 5 == 4 { len * 3 } else { len };
            let aad = AssociatedData::new(&noise(at + 1, [8, 12, 0, 20][at as usize % 7 % 4])).unwrap();
            (nonce(at), aad, noise(at, len))
        });
        let packets: Vec<_> = packets.collect();
        let mut made: Vec<_> = packets
            .iter()
            .map(|(_, _, data)| (data.clone(), vec![0; algorithm.tag_len()]))
            .collect();
        let jobs = made.iter_mut().zip(&packets);
        let mut jobs: Vec<_> = jobs
            .map(|((data, tag), (nonce, aad, _))| SealJob::new(*nonce, *aad, data, tag))
            .collect();
        ours.seal_batch(&mut jobs);
        assert!(jobs.iter().all(SealJob::is_sealed), "{provider}: {len} bytes");
        for ((data, tag), (nonce, aad, plain)) in made.iter().zip(&packets) {
            let (mut sealed, mut icv) = (plain.clone(), vec![0; algorithm.tag_len()]);
            oracle.seal(nonce, aad.as_slice(), &mut sealed, &mut icv).unwrap();
            assert_eq!((data, tag), (&sealed, &icv), "{provider}: {len} bytes");
        }
        let changed = len % 32;
        *made[changed].1.last_mut().unwrap() ^= 1;
        let jobs = made.iter_mut().zip(&packets);
        let mut jobs: Vec<_> = jobs
            .map(|((data, tag), (nonce, aad, _))| OpenJob::new(*nonce, *aad, data, tag))
            .collect();
        ours.open_batch(&mut jobs);
        for (at, (job, (_, _, plain))) in jobs.iter().zip(&packets).enumerate() {
            let zeros = vec![0; plain.len()];
            let expected = if at == changed { &zeros } else { plain };
            assert_eq!(job.is_verified(), at != changed, "{provider}: {len} bytes");
            assert_eq!(&*job.data, &**expected, "{provider}: {len} bytes");
        }
    }
}
