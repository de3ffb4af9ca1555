//! A batch of packets for one of our providers.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use arrayvec::ArrayVec;
use ravelin_bench::samples::Samples;
use ravelin_gcm::{
    Aead, AssociatedData, KeyMaterial, Nonce, OpenJob, Provider, SealJob, Secret, open_mixed, seal_mixed,
};

use crate::Work;

/// Packets of a batch, as a worker has them.
pub(crate) const PACKETS: usize = 32;

/// Batches for each figure of a round.
const SAMPLES: usize = 201;

/// Packets with the keys to seal or open them; bench/peers/ipsec_mb.c makes the same ones.
pub(crate) struct Batch {
    opens: bool,
    keys: Vec<Box<dyn Aead>>,
    packets: Vec<(Nonce, Vec<u8>, [u8; 16])>,
}

impl Batch {
    pub(crate) fn new(provider: Provider, work: Work) -> Result<Self> {
        let algorithm = work.algorithm;
        let keys = (0..work.keys as u8).map(|number| {
            let secret = Secret::from(vec![7 + number; algorithm.key_len()]);
            Ok(provider.key(&KeyMaterial::new(algorithm, secret)?)?)
        });
        let packets = (0..PACKETS as u8).map(|number| {
            let mut nonce = Nonce::default();
            // Always the same: nothing of this is ever sent.
            nonce[11] = number;
            (nonce, vec![0; work.size], [0; 16])
        });
        Ok(Self {
            opens: work.opens,
            keys: keys.collect::<Result<_>>()?,
            packets: packets.collect(),
        })
    }

    /// Nanoseconds per packet.
    pub(crate) fn measure(&mut self) -> Result<f64> {
        let mut times = Samples::default();
        for _ in 0..SAMPLES {
            let mut nanoseconds = self.seal()?;
            if self.opens {
                nanoseconds = self.open()?;
            }
            times.push(nanoseconds / PACKETS as f64);
        }
        Ok(times.median())
    }

    /// The tag of the last packet in hexadecimal.
    pub(crate) fn tag(&mut self) -> Result<String> {
        self.seal()?;
        let (_, _, tag) = self.packets.last().context("a packet")?;
        Ok(tag.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// Nanoseconds of the batch.
    fn seal(&mut self) -> Result<f64> {
        let aad = AssociatedData::from([0; 8]);
        let start = Instant::now();
        let jobs = self
            .packets
            .iter_mut()
            .map(|(nonce, data, tag)| SealJob::new(*nonce, aad, data, tag));
        if let [key] = &*self.keys {
            let mut jobs: ArrayVec<_, PACKETS> = jobs.collect();
            key.seal_batch(black_box(&mut jobs));
            let time = start.elapsed();
            ensure!(jobs.iter().all(SealJob::is_sealed), "a packet was not sealed");
            return Ok(time.as_nanos() as f64);
        }
        let mut jobs: ArrayVec<_, PACKETS> = self.keys.iter().map(|key| &**key).zip(jobs).collect();
        seal_mixed(black_box(&mut jobs));
        let time = start.elapsed();
        ensure!(
            jobs.iter().all(|(_, job)| job.is_sealed()),
            "a packet was not sealed"
        );
        Ok(time.as_nanos() as f64)
    }

    /// Nanoseconds of the batch, which was sealed before.
    fn open(&mut self) -> Result<f64> {
        let aad = AssociatedData::from([0; 8]);
        let start = Instant::now();
        let jobs = self
            .packets
            .iter_mut()
            .map(|(nonce, data, tag)| OpenJob::new(*nonce, aad, data, tag));
        if let [key] = &*self.keys {
            let mut jobs: ArrayVec<_, PACKETS> = jobs.collect();
            key.open_batch(black_box(&mut jobs));
            let time = start.elapsed();
            ensure!(jobs.iter().all(OpenJob::is_verified), "a packet was not opened");
            return Ok(time.as_nanos() as f64);
        }
        let mut jobs: ArrayVec<_, PACKETS> = self.keys.iter().map(|key| &**key).zip(jobs).collect();
        open_mixed(black_box(&mut jobs));
        let time = start.elapsed();
        ensure!(
            jobs.iter().all(|(_, job)| job.is_verified()),
            "a packet was not opened"
        );
        Ok(time.as_nanos() as f64)
    }
}
