//! Which provider is the fastest on this CPU: tried, since no list of features says it. On one with VAES and without
//! AVX-512 ours need half of AWS-LC's time, on one with both it depends on the lengths, and on the next who knows.

use std::iter;
use std::time::{Duration, Instant};

use crate::{Aead, Algorithm, KeyMaterial, Nonce, Provider, SealJob, Secret};

/// As a worker has them.
const PACKETS: usize = 32;

/// Bytes: small packets, those in between, and full ones.
const SIZES: [usize; 3] = [64, 576, 1420];

/// The shortest of so many times counts: whatever else the machine does can only make them longer. All together take a few
/// milliseconds.
const TIMES: usize = 24;

/// What another provider than the first has to stay below, in percent of its time: a choice must not hang on noise.
const CLEARLY: f64 = 90.0;

/// The fastest of `candidates`, by the geometric mean over the sizes; the first, unless another one is clearly faster.
pub(crate) fn fastest(candidates: &[Provider], algorithm: Algorithm) -> Option<Provider> {
    let scores: Vec<_> = candidates
        .iter()
        .filter_map(|provider| Some((*provider, score(*provider, algorithm)?)))
        .collect();
    let (first, to_beat) = scores.first()?;
    let best = scores.iter().min_by(|one, other| one.1.total_cmp(&other.1))?;
    Some(match best.1 * 100.0 < to_beat * CLEARLY {
        true => best.0,
        false => *first,
    })
}

/// The product of its times; `None` if it cannot.
fn score(provider: Provider, algorithm: Algorithm) -> Option<f64> {
    // A key that protects nothing.
    let secret = Secret::from(vec![0; algorithm.key_len()]);
    let key = provider.key(&KeyMaterial::new(algorithm, secret).ok()?).ok()?;
    let times: Option<Vec<_>> = SIZES.iter().map(|size| time(&*key, *size)).collect();
    let product: f64 = times?.iter().map(Duration::as_secs_f64).product();
    Some(product.powf(1.0 / SIZES.len() as f64))
}

/// The time of a batch of zeros, sealed again and again.
fn time(key: &dyn Aead, size: usize) -> Option<Duration> {
    let tag_len = key.algorithm().tag_len();
    let mut packets = vec![(vec![0; size], vec![0; tag_len]); PACKETS];
    let times = iter::repeat_with(|| {
        let jobs = packets
            .iter_mut()
            .map(|(data, tag)| SealJob::new(Nonce::default(), [0; 8], data, tag));
        let mut jobs: Vec<_> = jobs.collect();
        let start = Instant::now();
        key.seal_batch(&mut jobs);
        let time = start.elapsed();
        jobs.iter().all(SealJob::is_sealed).then_some(time)
    });
    times.take(TIMES).min().flatten()
}

#[cfg(test)]
mod tests {
    use super::fastest;
    use crate::{Algorithm, Provider};

    #[test]
    fn the_first_stays_unless_another_is_clearly_faster() {
        let algorithm = Algorithm::AES_256_GCM;
        let twice = [Provider::RustCrypto, Provider::RustCrypto];
        assert_eq!(fastest(&twice, algorithm), Some(Provider::RustCrypto));
        assert_eq!(fastest(&[], algorithm), None);
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
