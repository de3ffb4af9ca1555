//! AES-GCM behind the trait of all providers.

use std::any::Any;
use std::array;
use std::fmt;

use arrayvec::ArrayVec;

use super::aes_ni::AesNi;
use super::batch::{Batch, MAX_BATCH, places};
use super::cpu::{BLOCK, Cpu, SEGMENT, Work};
use super::key::Key;
use super::message::Message;
use super::scratch::{Room, Scratch, WIDEST, copy_back};
use crate::{
    Aead, AeadError, Algorithm, AssociatedData, KeyMaterial, Nonce, OpenJob, Provider, SealJob, constant_time,
};

/// NIST SP 800-38D section 5.2.1.1: "len(P) ≤ 2^39 - 256" bits.
const MAX_DATA_LEN: u64 = (1 << 36) - 32;

/// One for each message of a batch.
pub(super) type Tags = [[u8; BLOCK]; MAX_BATCH];

/// A key, and the proof that the CPU can work with it.
pub(super) struct AeadKey<C> {
    algorithm: Algorithm,
    cpu: C,
    block: AesNi,
    key: Box<Key>,
}

impl<C: Cpu> AeadKey<C> {
    pub(super) fn new(key: &KeyMaterial) -> Option<Self> {
        let (cpu, block) = (C::detect()?, AesNi::detect()?);
        Some(Self {
            algorithm: key.algorithm(),
            cpu,
            block,
            key: Key::new(block, key.encryption())?,
        })
    }

    /// One message by itself; its whole tag.
    fn single<const SEAL: bool>(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8]) -> [u8; BLOCK] {
        let Self { cpu, block, key, .. } = self;
        cpu.enter(Single::<SEAL> {
            block: *block,
            key,
            nonce,
            aad,
            data,
        })
    }

    /// At most [`MAX_BATCH`] jobs.
    fn many<J: Job, const SEAL: bool>(&self, jobs: &mut [J], tags: &mut Tags) {
        let (block, keys) = (self.block, &[&*self.key][..]);
        self.cpu.enter(Many::<_, SEAL> {
            block,
            keys,
            jobs,
            tags,
        });
    }
}

struct Single<'a, const SEAL: bool> {
    block: AesNi,
    key: &'a Key,
    nonce: &'a Nonce,
    aad: &'a [u8],
    data: &'a mut [u8],
}

impl<C: Cpu, const SEAL: bool> Work<C> for Single<'_, SEAL> {
    type Output = [u8; BLOCK];

    #[inline(always)]
    fn run(self, cpu: C) -> [u8; BLOCK] {
        let Self {
            block,
            key,
            nonce,
            aad,
            data,
        } = self;
        let mut room = [[0; WIDEST]];
        let mut scratch = Scratch::new(&mut room);
        let mut message = Message::new::<C>(key, nonce, ([0; BLOCK], 0), data, &mut scratch);
        block.enter(LongAad {
            message: &mut message,
            aad,
        });
        let (ends, long) = (scratch.into_copied(), message.body.len() >= SEGMENT * C::WIDTH);
        let mut tags = [[0; BLOCK]; 4];
        let messages = array::from_mut(&mut message);
        cpu.enter(Batch::<SEAL> {
            block,
            messages,
            tags: &mut tags,
            one_key: true,
            long,
        });
        copy_back(&room, ends);
        tags[0]
    }
}

/// At most [`MAX_BATCH`] jobs, with a key for each, or one for all.
struct Many<'a, J, const SEAL: bool> {
    block: AesNi,
    keys: &'a [&'a Key],
    jobs: &'a mut [J],
    tags: &'a mut Tags,
}

impl<C: Cpu, J: Job, const SEAL: bool> Work<C> for Many<'_, J, SEAL> {
    type Output = ();

    #[inline(always)]
    fn run(self, cpu: C) {
        let Self {
            block,
            keys,
            jobs,
            tags,
        } = self;
        let [first, others @ ..] = keys else { return };
        let one_key = others.is_empty();
        let mut room: Room = [[0; WIDEST]; MAX_BATCH];
        let mut scratch = Scratch::new(&mut room);
        let mut messages = ArrayVec::<Message<'_>, MAX_BATCH>::new();
        let (mut sorted, mut last, mut long) = (true, 0, false);
        for (at, job) in jobs.iter_mut().enumerate() {
            let key = if one_key { first } else { keys[at] };
            let (nonce, aad, data) = job.parts();
            let first = (aad.first_block(), aad.len());
            messages.push(Message::new::<C>(key, nonce, first, data, &mut scratch));
            let Some(message) = messages.last_mut() else {
                continue;
            };
            sorted &= last <= message.kind;
            last = message.kind;
            long |= message.body.len() >= SEGMENT * C::WIDTH;
            if aad.len() > BLOCK {
                block.enter(LongAad {
                    message,
                    aad: aad.as_slice(),
                });
            }
        }
        let ends = scratch.into_copied();
        if sorted {
            cpu.enter(Batch::<SEAL> {
                block,
                messages: &mut messages,
                tags,
                one_key,
                long,
            });
        } else {
            let places = places(messages.iter().map(|message| message.kind));
            let count = messages.len();
            let mut slots = [const { None }; MAX_BATCH];
            for (message, place) in messages.drain(..).zip(places) {
                slots[usize::from(place)] = Some(message);
            }
            messages.extend(slots.into_iter().flatten());
            cpu.enter(Batch::<SEAL> {
                block,
                messages: &mut messages,
                tags,
                one_key,
                long,
            });
            let sorted = *tags;
            for (tag, place) in tags.iter_mut().zip(places).take(count) {
                *tag = sorted[usize::from(place)];
            }
        }
        drop(messages);
        copy_back(&room, ends);
    }
}

/// What a batch must know of a job.
pub(super) type Parts<'a> = (&'a Nonce, &'a AssociatedData, &'a mut [u8]);

pub(super) trait Job {
    /// Without data if that is too long: the counter would begin again.
    fn parts(&mut self) -> Parts<'_>;
}

impl Job for SealJob<'_> {
    #[inline(always)]
    fn parts(&mut self) -> Parts<'_> {
        (&self.nonce, &self.aad, protected(self.data))
    }
}

impl Job for OpenJob<'_> {
    #[inline(always)]
    fn parts(&mut self) -> Parts<'_> {
        (&self.nonce, &self.aad, protected(self.data))
    }
}

impl<J: Job> Job for (&dyn Aead, J) {
    #[inline(always)]
    fn parts(&mut self) -> Parts<'_> {
        self.1.parts()
    }
}

#[inline(always)]
fn protected(data: &mut [u8]) -> &mut [u8] {
    if check_len(data.len()).is_ok() {
        data
    } else {
        &mut []
    }
}

/// Rare, hence apart.
struct LongAad<'a, 'b> {
    message: &'a mut Message<'b>,
    aad: &'a [u8],
}

impl Work<AesNi> for LongAad<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self, block: AesNi) {
        self.message.hash_aad(block, self.aad);
    }
}

impl<C> fmt::Debug for AeadKey<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AeadKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl<C: Cpu> Aead for AeadKey<C> {
    fn provider(&self) -> Provider {
        C::PROVIDER
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), AeadError> {
        check_len(data.len())?;
        let made = self.single::<true>(nonce, aad, data);
        if give(&made, self.algorithm, tag) {
            return Ok(());
        }
        Err(AeadError::Length)
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), AeadError> {
        check_len(data.len())?;
        let made = self.single::<false>(nonce, aad, data);
        if verify(&made, self.algorithm, tag) {
            return Ok(());
        }
        // Decrypted while it was hashed. Unverified plaintext must not survive in a frame that is used again.
        data.fill(0);
        Err(AeadError::NotAuthentic)
    }

    fn seal_batch(&self, jobs: &mut [SealJob<'_>]) {
        for jobs in jobs.chunks_mut(MAX_BATCH) {
            let mut tags = [[0; BLOCK]; MAX_BATCH];
            self.many::<_, true>(jobs, &mut tags);
            for (job, made) in jobs.iter_mut().zip(&tags) {
                finish_seal(job, self.algorithm, made);
            }
        }
    }

    fn open_batch(&self, jobs: &mut [OpenJob<'_>]) {
        for jobs in jobs.chunks_mut(MAX_BATCH) {
            let mut tags = [[0; BLOCK]; MAX_BATCH];
            self.many::<_, false>(jobs, &mut tags);
            for (job, made) in jobs.iter_mut().zip(&tags) {
                finish_open(job, self.algorithm, made);
            }
        }
    }
}

/// The tags of at most [`MAX_BATCH`] jobs with a key for each; `None`, and nothing is done, if one is of another kind.
pub(super) fn mixed<C: Cpu, J: Job, const SEAL: bool>(jobs: &mut [(&dyn Aead, J)]) -> Option<Tags> {
    let (first, _) = jobs.first()?;
    let first: &dyn Any = *first;
    let one: &AeadKey<C> = first.downcast_ref()?;
    let (mut keys, mut last) = (ArrayVec::<&Key, MAX_BATCH>::new(), one);
    let mut one_key = true;
    for (key, _) in &*jobs {
        // Packets of one SA follow each other.
        if !std::ptr::addr_eq(*key, last) {
            let key: &dyn Any = *key;
            last = key.downcast_ref()?;
            one_key = false;
        }
        keys.try_push(&last.key).ok()?;
    }
    let mut tags = [[0; BLOCK]; MAX_BATCH];
    one.cpu.enter(Many::<_, SEAL> {
        block: one.block,
        keys: if one_key { &keys[..1] } else { &keys },
        jobs,
        tags: &mut tags,
    });
    Some(tags)
}

/// Writes the tag, if the message was sealed.
pub(super) fn finish_seal(job: &mut SealJob<'_>, algorithm: Algorithm, made: &[u8; BLOCK]) {
    let sealed = give(made, algorithm, job.tag) && check_len(job.data.len()).is_ok();
    job.finish(sealed);
}

/// Erases what does not fit its tag.
pub(super) fn finish_open(job: &mut OpenJob<'_>, algorithm: Algorithm, made: &[u8; BLOCK]) {
    let verified = verify(made, algorithm, job.tag) && check_len(job.data.len()).is_ok();
    if !verified {
        // See `open`.
        job.data.fill(0);
    }
    job.finish(verified);
}

fn check_len(len: usize) -> Result<(), AeadError> {
    if len as u64 > MAX_DATA_LEN {
        return Err(AeadError::Length);
    }
    Ok(())
}

/// Writes as much of the tag as the algorithm has, if there is room for exactly that.
#[inline(always)]
fn give(made: &[u8; BLOCK], algorithm: Algorithm, tag: &mut [u8]) -> bool {
    if tag.len() != algorithm.tag_len() {
        return false;
    }
    match tag.first_chunk_mut() {
        // A move instead of a call.
        Some(tag) => *tag = *made,
        None => tag.copy_from_slice(&made[..tag.len()]),
    }
    true
}

/// Whether the tag is as much of the one made as the algorithm has. The bytes are compared all at once.
#[inline(always)]
fn verify(made: &[u8; BLOCK], algorithm: Algorithm, tag: &[u8]) -> bool {
    if tag.len() != algorithm.tag_len() {
        return false;
    }
    match tag.first_chunk() {
        Some(tag) => u128::from_ne_bytes(*made) ^ u128::from_ne_bytes(*tag) == 0,
        None => constant_time::are_equal(&made[..tag.len()], tag),
    }
}
