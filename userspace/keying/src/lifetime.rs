//! The lifetime that a policy gives an SA, in the terms of an SA.

use std::hash::{BuildHasher as _, RandomState};

use ravelin_esp::{Lifetime, Limits};
use ravelin_policy as policy;

/// Whether bytes are counted for a limit that the policy names. What an algorithm bears otherwise no restart helps to reach.
pub(crate) fn limits_bytes(policy: policy::Lifetime) -> bool {
    policy.bytes.soft.or(policy.bytes.hard).is_some()
}

/// Draws the SA's part of the jitter. `packets_before` may have been sent under its key, with `bytes_before`.
pub(crate) fn lifetime(policy: policy::Lifetime, packets_before: u64, bytes_before: u64) -> Lifetime {
    let limits = |policy::Limits { soft, hard }| Limits { soft, hard };
    Lifetime {
        seconds: limits(policy.seconds),
        bytes: limits(policy.bytes),
        packets: limits(policy.packets),
        packets_before,
        bytes_before,
        jitter_percent: policy.jitter_percent,
        // No secret, only a lot. The generator of aws-lc collects entropy for 50 ms before its first number, in which an engine that takes over from
        // another would seal nothing.
        random: RandomState::new().hash_one(packets_before),
    }
}
