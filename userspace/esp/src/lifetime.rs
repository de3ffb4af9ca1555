//! How long an SA may be used (RFC 4301 section 4.4.2.1).
//!
//! "There SHOULD be two kinds of lifetime -- a soft lifetime that warns the implementation to initiate action such as
//! setting up a replacement SA, and a hard lifetime when the current SA ends and is destroyed." Whichever limit of time,
//! bytes and packets is met first counts.
//!
//! Without any word from the user an SA ends where its algorithm's use under one key does, [`KeyUsage`], or with its
//! sequence numbers.

use std::fmt;

use ravelin_gcm::{Algorithm, KeyUsage};

use crate::SequenceCounter;

/// The longest life in seconds: 136 years.
const MOST_SECONDS: u64 = u32::MAX as u64;
/// The most that soft limits may be shifted.
const MOST_JITTER: u8 = 50;

/// A soft and a hard limit of one measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Reaching it raises an event, once. `None` is nine tenths of the hard limit.
    pub soft: Option<u64>,
    /// The SA stops before it would be passed. `None` leaves what the algorithm permits.
    pub hard: Option<u64>,
}

/// What limits the use of an SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Seconds from the SA's start, 1 to 2^32 - 1.
    pub seconds: Limits,
    /// "The number of bytes to which the IPsec cryptographic algorithm is applied. … This includes pad bytes, etc."
    pub bytes: Limits,
    /// Packets.
    pub packets: Limits,
    /// Packets that may have been sent under the same key before this SA was started; they count too.
    pub packets_before: u64,
    /// Bytes that may have been encrypted or decrypted under the same key before; they count too.
    pub bytes_before: u64,
    /// By how many per cent at most soft limits come earlier, 0 to 50: so that not all SAs of a machine are replaced at
    /// once.
    pub jitter_percent: u8,
    /// Any number, best a random one: which part of the jitter this SA gets.
    pub random: u64,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Seconds since the SA's start.
    Seconds,
    /// Bytes encrypted or decrypted.
    Bytes,
    /// Packets sealed or accepted.
    Packets,
    /// ICVs checked, right and wrong ones.
    Icvs,
}

impl Measure {
    /// The word in messages and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Packets => "packets",
            Self::Icvs => "icvs",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happened to an SA's life; each happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifetimeEvent {
    /// A soft limit was reached: time for a new SA.
    Soft(Measure),
    /// A hard limit was reached: the SA carries nothing any more.
    Hard(Measure),
}

/// Which limit is wrong, and what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifetimeError {
    /// A limit of nothing.
    #[error("{kind} limit of {measure} is 0; use 1 or more, or no limit")]
    Zero {
        /// `soft` or `hard`.
        kind: &'static str,
        /// What it counts.
        measure: Measure,
    },
    /// A limit that is no limit.
    #[error("{kind} limit of {limit} {measure}; this SA takes at most {most}")]
    TooLarge {
        /// `soft` or `hard`.
        kind: &'static str,
        /// What it counts.
        measure: Measure,
        /// The limit given.
        limit: u64,
        /// The most.
        most: u64,
    },
    /// A warning that would come too late.
    #[error("soft limit of {soft} {measure} is beyond the hard limit of {hard}; use 1 to {hard}")]
    SoftBeyondHard {
        /// What they count.
        measure: Measure,
        /// The soft limit.
        soft: u64,
        /// The hard limit.
        hard: u64,
    },
    /// A jitter out of range.
    #[error("jitter of {percent} per cent; use 0 to {MOST_JITTER}")]
    Jitter {
        /// The jitter given.
        percent: u8,
    },
}

/// The limits of one SA, `u64::MAX` where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Seconds × 1000.
    pub(crate) milliseconds: u64,
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) icvs: u64,
}

impl Lifetime {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first limit that is wrong.
    pub(crate) fn validate(&self, algorithm: Algorithm, extended: bool) -> Result<(), LifetimeError> {
        if self.jitter_percent > MOST_JITTER {
            let percent = self.jitter_percent;
            return Err(LifetimeError::Jitter { percent });
        }
        let most = KeyUsage::most(algorithm);
        let numbers = SequenceCounter::limit_of(extended);
        for (measure, limits, most) in [
            (Measure::Seconds, self.seconds, MOST_SECONDS),
            (Measure::Bytes, self.bytes, most.bytes),
            (Measure::Packets, self.packets, most.packets.min(numbers)),
        ] {
            for (kind, limit) in [("soft", limits.soft), ("hard", limits.hard)] {
                match limit {
                    Some(0) => return Err(LifetimeError::Zero { kind, measure }),
                    Some(limit) if limit > most => {
                        return Err(LifetimeError::TooLarge {
                            kind,
                            measure,
                            limit,
                            most,
                        });
                    }
                    _ => {}
                }
            }
            if let (Some(soft), Some(hard)) = (limits.soft, limits.hard)
                && soft > hard
            {
                return Err(LifetimeError::SoftBeyondHard { measure, soft, hard });
            }
        }
        Ok(())
    }

    /// The soft and the hard limits of an SA whose sequence numbers are enough for `numbers` packets, with those before its
    /// start; `u64::MAX` if it does not stop for them.
    pub(crate) fn thresholds(&self, algorithm: Algorithm, numbers: u64) -> (Thresholds, Thresholds) {
        let most = KeyUsage::most(algorithm);
        let most_packets = most.packets.min(numbers);
        let hard = Thresholds {
            milliseconds: self.seconds.hard.map_or(u64::MAX, |seconds| seconds * 1000),
            bytes: self.bytes.hard.unwrap_or(most.bytes),
            packets: self.packets.hard.unwrap_or(most_packets).min(most_packets),
            icvs: most.icvs,
        };
        let soft = |limit: Option<u64>, hard: u64| match (limit, hard) {
            (Some(limit), _) => self.earlier(limit),
            (None, u64::MAX) => u64::MAX,
            // Early enough to act, and late enough not to cost much.
            (None, hard) => self.earlier(hard - hard / 10),
        };
        let milliseconds = self.seconds.soft.map(|seconds| seconds * 1000);
        let soft = Thresholds {
            milliseconds: soft(milliseconds, hard.milliseconds),
            bytes: soft(self.bytes.soft, hard.bytes),
            packets: soft(self.packets.soft, hard.packets),
            icvs: soft(None, hard.icvs),
        };
        (soft, hard)
    }

    /// A soft limit with this SA's part of the jitter; at least half of it, and not 0 if it was not.
    fn earlier(&self, limit: u64) -> u64 {
        let span = u128::from(limit) * u128::from(self.jitter_percent) / 100;
        limit - ((span * u128::from(self.random)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Algorithm, Lifetime, LifetimeError, Limits, Measure, Thresholds};

    const GCM: Algorithm = Algorithm::AES_128_GCM;

    fn limits(soft: u64, hard: u64) -> Limits {
        let given = |limit| (limit != u64::MAX).then_some(limit);
        Limits {
            soft: given(soft),
            hard: given(hard),
        }
    }

    fn refused(change: impl FnOnce(&mut Lifetime)) -> String {
        let mut lifetime = Lifetime::default();
        change(&mut lifetime);
        let error = lifetime.validate(GCM, false).expect_err("must be refused");
        error.to_string()
    }

    #[test]
    fn each_wrong_limit_is_named() {
        const NONE: u64 = u64::MAX;
        let texts = [
            (
                refused(|l| l.seconds = limits(0, NONE)),
                "soft limit of seconds is 0",
            ),
            (refused(|l| l.bytes = limits(5, 0)), "hard limit of bytes is 0"),
            (
                refused(|l| l.packets = limits(NONE, 0)),
                "hard limit of packets is 0",
            ),
            (
                refused(|l| l.seconds = limits(NONE, 1 << 32)),
                "hard limit of 4294967296 seconds; this SA takes at most 4294967295",
            ),
            (
                refused(|l| l.packets = limits(NONE, 1 << 32)),
                "hard limit of 4294967296 packets; this SA takes at most 4294967295",
            ),
            (
                refused(|l| l.bytes = limits((1 << 52) + 1, NONE)),
                "soft limit of 4503599627370497 bytes; this SA takes at most 4503599627370496",
            ),
            (
                refused(|l| l.bytes = limits(8, 7)),
                "soft limit of 8 bytes is beyond the hard limit of 7; use 1 to 7",
            ),
            (
                refused(|l| l.jitter_percent = 51),
                "jitter of 51 per cent; use 0 to 50",
            ),
        ];
        for (text, expected) in texts {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn equal_limits_are_taken_and_those_of_the_algorithm_too() {
        let mut lifetime = Lifetime {
            seconds: limits(u64::from(u32::MAX), u64::from(u32::MAX)),
            bytes: limits(1, 1),
            packets: limits(1 << 46, 1 << 46),
            jitter_percent: 50,
            ..Lifetime::default()
        };
        assert_eq!(lifetime.validate(GCM, true), Ok(()));
        let short = "aes-256-gcm-8".parse().unwrap();
        assert_eq!(
            lifetime.validate(short, true),
            Err(LifetimeError::TooLarge {
                kind: "soft",
                measure: Measure::Packets,
                limit: 1 << 46,
                most: 1 << 29
            })
        );
        lifetime.packets = limits(1 << 29, 1 << 29);
        assert_eq!(lifetime.validate(short, true), Ok(()));
    }

    #[test]
    fn without_a_word_the_algorithm_and_the_number_space_limit() {
        let lifetime = Lifetime::default();
        let (soft, hard) = lifetime.thresholds(GCM, u64::from(u32::MAX));
        assert_eq!(
            hard,
            Thresholds {
                milliseconds: u64::MAX,
                bytes: 1 << 52,
                packets: u64::from(u32::MAX),
                icvs: u64::MAX
            }
        );
        assert_eq!(soft.packets, 3_865_470_566, "nine tenths");
        assert_eq!((soft.milliseconds, soft.icvs), (u64::MAX, u64::MAX));
        let (soft, hard) = lifetime.thresholds(Algorithm::ChaCha20Poly1305, u64::MAX);
        assert_eq!((soft, hard), (hard, soft));
        assert_eq!((hard.packets, hard.bytes), (u64::MAX, u64::MAX));
    }

    proptest! {
        #[test]
        fn jitter_comes_earlier_by_at_most_its_per_cents(
            limit in 1_u64.., percent in 0_u8..=50, random: u64,
        ) {
            let lifetime = |random| Lifetime { jitter_percent: percent, random, ..Lifetime::default() };
            let shifted = lifetime(random).earlier(limit);
            prop_assert!(shifted <= limit && shifted > 0);
            let most = (u128::from(limit) * u128::from(percent)).div_ceil(100);
            prop_assert!(u128::from(limit - shifted) <= most);
            prop_assert_eq!(lifetime(0).earlier(limit), limit);
            // All of the span is used.
            let last = lifetime(u64::MAX).earlier(limit);
            prop_assert!(u128::from(limit - last) + 2 >= most);
        }
    }
}
