//! AES-GCM behind the trait of all providers.

use std::any::Any;
use std::array;
use std::fmt;

use arrayvec::ArrayVec;

use super::aes_ni::AesNi;
use super::batch::{Batch, MAX_BATCH};
use super::cpu::{BLOCK, Cpu, MAX_LANES, Work};
use super::item::{Item, Job, check_len, give, verify};
use super::key::Key;
use super::many::Many;
use super::message::{LongAad, Message};
use super::scratch::{Scratch, WIDEST, copy_back};
use crate::{Aead, AeadError, Algorithm, KeyMaterial, Nonce, OpenJob, Provider, SealJob};

/// A key, and the proof that the CPU can work with it.
pub(super) struct AeadKey<C> {
    algorithm: Algorithm,
    cpu: C,
    block: AesNi,
    key: Key,
}

impl<C: Cpu> AeadKey<C> {
    pub(super) fn new(key: &KeyMaterial) -> Option<Box<Self>> {
        let (cpu, block) = (C::detect()?, AesNi::detect()?);
        let mut made = Box::new(Self {
            algorithm: key.algorithm(),
            cpu,
            block,
            key: Key::blank(key.encryption().len(), key.algorithm().tag_len())?,
        });
        made.key.expand(block, key.encryption());
        Some(made)
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
    fn many<J: Job, const SEAL: bool>(&self, jobs: &mut [J]) {
        let Self { cpu, block, key, .. } = self;
        let items = jobs.iter_mut().map(|job| Item { key, job });
        cpu.enter(Many::<_, SEAL> {
            block: *block,
            items: &mut items.collect(),
            one_key: true,
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
        let (ends, long) = (
            scratch.into_copied(),
            message.body.len() >= C::REGISTERS * C::WIDTH,
        );
        let mut tags = [[0; BLOCK]; MAX_LANES];
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

impl<C> fmt::Debug for AeadKey<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AeadKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl<C: Cpu> Aead for AeadKey<C> {
    fn prefetch(&self) {
        self.key.prefetch();
    }

    fn provider(&self) -> Provider {
        C::PROVIDER
    }

    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), AeadError> {
        check_len(data.len())?;
        let made = self.single::<true>(nonce, aad, data);
        if give(&made, self.key.tag_len(), tag) {
            return Ok(());
        }
        Err(AeadError::Length)
    }

    fn open(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), AeadError> {
        check_len(data.len())?;
        let made = self.single::<false>(nonce, aad, data);
        if verify(&made, self.key.tag_len(), tag) {
            return Ok(());
        }
        // Decrypted while it was hashed. Unverified plaintext must not survive in a frame that is used again.
        data.fill(0);
        Err(AeadError::NotAuthentic)
    }

    fn seal_batch(&self, jobs: &mut [SealJob<'_>]) {
        for jobs in jobs.chunks_mut(MAX_BATCH) {
            self.many::<_, true>(jobs);
        }
    }

    fn open_batch(&self, jobs: &mut [OpenJob<'_>]) {
        for jobs in jobs.chunks_mut(MAX_BATCH) {
            self.many::<_, false>(jobs);
        }
    }
}

/// At most [`MAX_BATCH`] jobs with a key for each; `None`, and nothing is done, if one is of another kind.
pub(super) fn mixed<C: Cpu, J: Job, const SEAL: bool>(jobs: &mut [(&dyn Aead, J)]) -> Option<()> {
    let (first, _) = jobs.first()?;
    let first: &dyn Any = *first;
    let one: &AeadKey<C> = first.downcast_ref()?;
    let (mut items, mut last) = (ArrayVec::<Item<'_, J>, MAX_BATCH>::new(), one);
    let mut one_key = true;
    for (key, job) in jobs {
        // Packets of one SA follow each other.
        if !std::ptr::addr_eq(*key, last) {
            let key: &dyn Any = *key;
            last = key.downcast_ref()?;
            one_key = false;
        }
        let key = &last.key;
        items.try_push(Item { key, job }).ok()?;
    }
    one.cpu.enter(Many::<_, SEAL> {
        block: one.block,
        items: &mut items,
        one_key,
    });
    Some(())
}
