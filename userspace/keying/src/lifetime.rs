//! The lifetime that a policy gives an SA, in the terms of an SA.

use aws_lc_rs::rand;
use ravelin_esp::{Lifetime, Limits};
use ravelin_policy as policy;

/// Draws the SA's part of the jitter. `packets_before` may have been sent under its key.
pub(crate) fn lifetime(policy: policy::Lifetime, packets_before: u64) -> Lifetime {
    let limits = |policy::Limits { soft, hard }| Limits { soft, hard };
    let mut random = [0; 8];
    // Without random numbers all warnings come at their time, which is as well.
    let _ = rand::fill(&mut random);
    Lifetime {
        seconds: limits(policy.seconds),
        bytes: limits(policy.bytes),
        packets: limits(policy.packets),
        packets_before,
        jitter_percent: policy.jitter_percent,
        random: u64::from_ne_bytes(random),
    }
}
