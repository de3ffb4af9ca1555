//! ESP and AES-GCM per packet: `cargo bench -p ravelin-bench --bench seal_open`.
//!
//! All times are for ONE packet, measured in batches of 32 as a worker sees them. The sizes are those of inner IPv4
//! packets in tunnel mode over IPv4; the AEAD benches encrypt what ESP would encrypt for them.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may as well stop")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ravelin_esp::{
    Algorithm, DropReason, InboundSa, MAX_HEADROOM, MAX_TAILROOM, Mode, Opened, OutboundSa, Packet, Provider,
    SaParameters, Sealed, Secret,
};
use ravelin_gcm::{Aead, KeyMaterial, Nonce, OpenJob, SealJob};

const BATCH: usize = 32;
/// The fastest of each kind, and what old peers have.
const ALGORITHMS: [Algorithm; 3] = [
    Algorithm::AES_256_GCM,
    Algorithm::AES_128_GCM,
    Algorithm::ChaCha20Poly1305,
];

const SIZES: [usize; 3] = [64, 576, 1420];
const SPI: u32 = 0x1000;

criterion_group!(benches, esp, aead);
criterion_main!(benches);

/// Calls `bench` for every provider, algorithm and size.
fn for_each_kind(
    criterion: &mut Criterion,
    name: &str,
    mut bench: impl FnMut(&mut BenchmarkGroup<'_, WallTime>, Provider, Algorithm, usize),
) {
    let mut group = criterion.benchmark_group(name);
    for provider in Provider::ALL.iter().copied() {
        for algorithm in ALGORITHMS.into_iter().filter(|one| provider.has(*one)) {
            for size in SIZES {
                group.throughput(Throughput::Bytes(size as u64));
                bench(&mut group, provider, algorithm, size);
            }
        }
    }
    group.finish();
}

fn id(operation: &str, provider: Provider, algorithm: Algorithm, size: usize) -> BenchmarkId {
    BenchmarkId::new(format!("{operation}/{provider}/{algorithm}"), size)
}

/// Runs enough batches for `packets` packets; `batch` returns the time of one. The result is scaled to exactly
/// `packets`, so that criterion's "iteration" is a packet.
fn time_per_packet(packets: u64, mut batch: impl FnMut() -> Duration) -> Duration {
    let batches = packets.div_ceil(BATCH as u64);
    let total: Duration = (0..batches).map(|_| batch()).sum();
    total.mul_f64(packets as f64 / (batches * BATCH as u64) as f64)
}

/// An SA in both directions, and a batch of packets that go through it.
struct Tunnel {
    outbound: OutboundSa,
    inbound: InboundSa,
    clear: Vec<u8>,
    buffers: Vec<Vec<u8>>,
}

impl Tunnel {
    fn new(provider: Provider, algorithm: Algorithm, size: usize) -> Self {
        let (near, far) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let parameters = |local, remote| {
            let key = Secret::from(vec![7; algorithm.key_len() + 4]);
            let mut parameters = SaParameters::new(SPI, Mode::Tunnel { local, remote }, algorithm, key);
            // So that no run is long enough to use the numbers up.
            parameters.extended_sequence_numbers = true;
            parameters
        };
        let outbound = OutboundSa::new(parameters(near, far), provider, 0, Instant::now()).unwrap();
        outbound.sequence().raise_ceiling(u64::MAX);
        let inbound = InboundSa::new(parameters(far, near), provider, 0, Instant::now()).unwrap();
        let mut clear = vec![0x5a; size];
        clear[..4].copy_from_slice(&[0x45, 0, (size >> 8) as u8, size as u8]);
        Self {
            outbound,
            inbound,
            clear,
            buffers: vec![vec![0; MAX_HEADROOM + size + MAX_TAILROOM]; BATCH],
        }
    }

    /// Seals a batch; the time is that of sealing alone. What is sealed stays in the buffers.
    fn seal(&mut self) -> (Duration, ArrayVec<Packet<'_>, BATCH>) {
        let clear = &self.clear;
        let mut packets: ArrayVec<Packet<'_>, BATCH> = self
            .buffers
            .iter_mut()
            .map(|buffer| {
                let range = MAX_HEADROOM..MAX_HEADROOM + clear.len();
                buffer[range.clone()].copy_from_slice(clear);
                Packet::new(buffer, range).unwrap()
            })
            .collect();
        let mut outcomes: [Result<Sealed, DropReason>; BATCH] = [Err(DropReason::SaMissing); BATCH];
        let start = Instant::now();
        self.outbound
            .seal_batch(&mut packets, &mut outcomes, Instant::now());
        let time = start.elapsed();
        assert!(outcomes.iter().all(Result::is_ok));
        (time, packets)
    }

    /// Seals and opens a batch; the time is that of opening alone.
    fn open(&mut self) -> Duration {
        let mut packets: ArrayVec<_, BATCH> = self.seal().1.iter().map(Packet::range).collect();
        let mut packets: ArrayVec<Packet<'_>, BATCH> = self
            .buffers
            .iter_mut()
            .zip(packets.drain(..))
            .map(|(buffer, range)| Packet::new(buffer, range).unwrap())
            .collect();
        let mut outcomes: [Result<Opened, DropReason>; BATCH] = [Err(DropReason::SaMissing); BATCH];
        let start = Instant::now();
        self.inbound
            .open_batch(&mut packets, &mut outcomes, Instant::now());
        let time = start.elapsed();
        assert!(outcomes.iter().all(Result::is_ok));
        time
    }
}

fn esp(criterion: &mut Criterion) {
    for_each_kind(criterion, "esp", |group, provider, algorithm, size| {
        let mut tunnel = Tunnel::new(provider, algorithm, size);
        group.bench_function(id("seal", provider, algorithm, size), |bencher| {
            bencher.iter_custom(|packets| time_per_packet(packets, || tunnel.seal().0));
        });
        group.bench_function(id("open", provider, algorithm, size), |bencher| {
            bencher.iter_custom(|packets| time_per_packet(packets, || tunnel.open()));
        });
    });
}

/// A key and a batch of messages, each with its nonce, data and tag.
struct Messages {
    key: Box<dyn Aead>,
    sealed: u64,
    messages: Vec<(Nonce, Vec<u8>, [u8; 16])>,
}

impl Messages {
    fn new(provider: Provider, algorithm: Algorithm, size: usize) -> Self {
        let key = KeyMaterial::new(algorithm, Secret::from(vec![7; algorithm.key_len()])).unwrap();
        let data = vec![0x5a; (size + 2).next_multiple_of(4)];
        Self {
            key: provider.key(&key).unwrap(),
            sealed: 0,
            messages: vec![([0; 16], data, [0; 16]); BATCH],
        }
    }

    fn seal(&mut self) -> Duration {
        for (nonce, _, _) in &mut self.messages {
            self.sealed += 1;
            nonce[4..12].copy_from_slice(&self.sealed.to_be_bytes());
        }
        let start = Instant::now();
        let mut jobs: ArrayVec<SealJob<'_>, BATCH> = self
            .messages
            .iter_mut()
            .map(|(nonce, data, tag)| SealJob::new(*nonce, [0; 12], data, tag))
            .collect();
        self.key.seal_batch(black_box(&mut jobs));
        start.elapsed()
    }

    fn open(&mut self) -> Duration {
        self.seal();
        let start = Instant::now();
        let mut jobs: ArrayVec<OpenJob<'_>, BATCH> = self
            .messages
            .iter_mut()
            .map(|(nonce, data, tag)| OpenJob::new(*nonce, [0; 12], data, tag))
            .collect();
        self.key.open_batch(black_box(&mut jobs));
        let time = start.elapsed();
        assert!(jobs.iter().all(OpenJob::is_verified));
        time
    }
}

fn aead(criterion: &mut Criterion) {
    for_each_kind(criterion, "aead", |group, provider, algorithm, size| {
        let mut messages = Messages::new(provider, algorithm, size);
        group.bench_function(id("seal", provider, algorithm, size), |bencher| {
            bencher.iter_custom(|packets| time_per_packet(packets, || messages.seal()));
        });
        group.bench_function(id("open", provider, algorithm, size), |bencher| {
            bencher.iter_custom(|packets| time_per_packet(packets, || messages.open()));
        });
    });
}
