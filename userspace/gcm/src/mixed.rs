//! Batches in which each job has a key of its own.

use crate::{Aead, OpenJob, SealJob, vector};

/// Seals every job with the key beside it, as [`Aead::seal_batch`] does with one key: keys of our own implementations
/// share the pipeline, whatever their lengths.
pub fn seal_mixed(jobs: &mut [(&dyn Aead, SealJob<'_>)]) {
    for jobs in jobs.chunks_mut(vector::MAX_BATCH) {
        if !vector::seal_mixed(jobs) {
            for (key, job) in jobs {
                key.seal_batch(std::slice::from_mut(job));
            }
        }
    }
}

/// Opens every job with the key beside it, as [`Aead::open_batch`] does with one key.
pub fn open_mixed(jobs: &mut [(&dyn Aead, OpenJob<'_>)]) {
    for jobs in jobs.chunks_mut(vector::MAX_BATCH) {
        if !vector::open_mixed(jobs) {
            for (key, job) in jobs {
                key.open_batch(std::slice::from_mut(job));
            }
        }
    }
}
