//! Which provider is the fastest on this CPU: tried, since no list of features says it. On one with VAES and without
//! AVX-512 ours need half of AWS-LC's time, on one with both it depends on the lengths, and on the next who knows. What is fast
//! and wrong is not taken either.

use std::time::{Duration, Instant};

use crate::{Aead, Algorithm, KeyMaterial, Nonce, Provider, SealJob, Secret};

/// As a worker has them.
const PACKETS: usize = 32;

/// Bytes: small packets, those in between, and full ones.
const SIZES: [usize; 3] = [64, 576, 1420];

/// The shortest of so many times counts: whatever else the machine does can only make them longer. All together take a few
/// milliseconds. Odd: sealed twice with one nonce, data is clear again.
const TIMES: usize = 25;

/// What another provider than the first has to stay below, in percent of its time: a choice must not hang on noise.
const CLEARLY: f64 = 90.0;

/// The fastest of `candidates`, by the geometric mean over the sizes; the first, unless another one is clearly faster.
pub(crate) fn fastest(candidates: &[Provider], algorithm: Algorithm) -> Option<Provider> {
    choose(&trials(candidates, algorithm))
}

/// What those of `candidates` need that can. They take turns: a machine that is slow for a while is slow for all of them.
fn trials(candidates: &[Provider], algorithm: Algorithm) -> Vec<Trial> {
    let running = candidates
        .iter()
        .filter_map(|provider| Running::new(*provider, algorithm));
    let mut running: Vec<_> = running.collect();
    for size in SIZES {
        for one in &mut running {
            one.begin(size);
        }
        for _ in 0..TIMES {
            running.retain_mut(|one| one.go_on().is_some());
        }
        for one in &mut running {
            one.end();
        }
    }
    running.into_iter().map(|one| one.trial).collect()
}

/// Whoever makes other packets than the first is out, however fast.
fn choose(trials: &[Trial]) -> Option<Provider> {
    let first = trials.first()?;
    let best = trials
        .iter()
        .filter(|trial| trial.made == first.made)
        .min_by(|one, other| one.score.total_cmp(&other.score))?;
    Some(match best.score * 100.0 < first.score * CLEARLY {
        true => best.provider,
        false => first.provider,
    })
}

struct Trial {
    provider: Provider,
    /// The geometric mean of its times.
    score: f64,
    /// Data and tags that it made, over all sizes.
    made: Vec<Packet>,
}

/// Data and tag.
type Packet = (Vec<u8>, Vec<u8>);

struct Running {
    trial: Trial,
    key: Box<dyn Aead>,
    /// Of the size whose turn it is, and the shortest time for them so far.
    packets: Vec<Packet>,
    shortest: Duration,
}

impl Running {
    /// `None` if the provider has no such key here.
    fn new(provider: Provider, algorithm: Algorithm) -> Option<Self> {
        // A key that protects nothing.
        let secret = Secret::from(vec![0; algorithm.key_len()]);
        Some(Self {
            trial: Trial {
                provider,
                score: 1.0,
                made: Vec::new(),
            },
            key: provider.key(&KeyMaterial::new(algorithm, secret).ok()?).ok()?,
            packets: Vec::new(),
            shortest: Duration::MAX,
        })
    }

    fn begin(&mut self, size: usize) {
        let tag = vec![0; self.key.algorithm().tag_len()];
        self.packets = vec![(vec![0; size], tag); PACKETS];
        self.shortest = Duration::MAX;
    }

    /// Seals the packets once more. `None` if they are not sealed then.
    fn go_on(&mut self) -> Option<()> {
        let jobs = (0_u8..).zip(&mut self.packets).map(|(number, (data, tag))| {
            let mut nonce = Nonce::default();
            nonce[0] = number;
            SealJob::new(nonce, [1; 8], data, tag)
        });
        let mut jobs: Vec<_> = jobs.collect();
        let start = Instant::now();
        self.key.seal_batch(&mut jobs);
        let time = start.elapsed();
        self.shortest = self.shortest.min(time);
        jobs.iter().all(SealJob::is_sealed).then_some(())
    }

    fn end(&mut self) {
        self.trial.score *= self.shortest.as_secs_f64().powf(1.0 / SIZES.len() as f64);
        self.trial.made.append(&mut self.packets);
    }
}

#[cfg(test)]
mod tests {
    use super::{Trial, choose, fastest, trials};
    use crate::{Algorithm, Provider};

    #[test]
    fn the_first_stays_unless_another_is_clearly_faster() {
        let algorithm = Algorithm::AES_256_GCM;
        let twice = [Provider::RustCrypto, Provider::RustCrypto];
        assert_eq!(fastest(&twice, algorithm), Some(Provider::RustCrypto));
        assert_eq!(fastest(&[], algorithm), None);
    }

    #[test]
    fn one_that_makes_other_packets_is_not_chosen() {
        let trial = |provider, score, tag| Trial {
            provider,
            score,
            made: vec![(vec![1; 64], vec![tag; 16])],
        };
        let first = || trial(Provider::AwsLc, 100.0, 2);
        let chosen = |other| choose(&[first(), other]);
        assert_eq!(chosen(trial(Provider::AesNi, 50.0, 2)), Some(Provider::AesNi));
        assert_eq!(chosen(trial(Provider::AesNi, 95.0, 2)), Some(Provider::AwsLc));
        assert_eq!(chosen(trial(Provider::AesNi, 50.0, 3)), Some(Provider::AwsLc));
    }

    #[test]
    fn all_of_this_cpu_make_the_same() {
        let algorithm = Algorithm::AES_256_GCM;
        let trials = trials(Provider::ALL, algorithm).into_iter();
        let made: Vec<_> = trials.map(|trial| trial.made).collect();
        assert!(made.len() >= 2, "AWS-LC and RustCrypto run anywhere");
        assert!(made.iter().all(|one| *one == made[0]));
        // Nothing is left as it was, and no two packets are alike.
        let mut packets = made[0].clone();
        packets.sort();
        packets.dedup();
        assert_eq!(packets.len(), made[0].len());
    }

    #[test]
    fn one_that_cannot_is_not_chosen() {
        let algorithm = Algorithm::ChaCha20Poly1305;
        let candidates = [
            Provider::VaesAvx512,
            Provider::VaesAvx2,
            Provider::AesNi,
            Provider::AwsLc,
        ];
        assert_eq!(fastest(&candidates, algorithm), Some(Provider::AwsLc));
    }
}
