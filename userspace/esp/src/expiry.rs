//! An SA's life as it passes: what was spent of its limits, and which of them was reached.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use ravelin_gcm::Algorithm;
use ravelin_xdp_common::DropReason;

use crate::lifetime::{Lifetime, LifetimeEvent, Limits, Measure, Thresholds};

/// The limits of one SA.
#[derive(Debug)]
pub(crate) struct Expiry {
    soft: Thresholds,
    hard: Thresholds,
    /// Packets before the SA's start.
    before: u64,
    /// Bytes before the SA's start.
    bytes_before: u64,
    /// Outbound: the sequence number it started after.
    last_used: u64,
    /// What stops the SA when it has no packet left.
    no_packet_left: DropReason,
}

/// How much of an SA's life is over. Written with every batch.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Spent {
    bytes: AtomicU64,
    /// The first soft and the first hard limit that was reached, as [`code`]s.
    soft: AtomicU8,
    hard: AtomicU8,
    /// Bits [`SOFT`] and [`HARD`]: which events were told.
    told: AtomicU8,
}

/// How many threads may spend of a counter at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spenders {
    /// The caller alone, who sees to that: exchanging would cost it as much as all the rest.
    One,
    Many,
}

const SOFT: u8 = 1;
const HARD: u8 = 2;

/// An SA's life at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeStatus {
    /// Since the SA's start.
    pub age: Duration,
    /// Bytes encrypted or decrypted, with padding, and with those before the SA's start.
    pub bytes: u64,
    /// Packets sealed or accepted, with those before the SA's start.
    pub packets: u64,
    /// Seconds, `None` without a limit. Soft limits are as the jitter has made them.
    pub seconds_limits: Limits,
    /// Bytes.
    pub bytes_limits: Limits,
    /// Packets.
    pub packets_limits: Limits,
    /// The limit that was reached, a hard one before a soft one.
    pub reached: Option<LifetimeEvent>,
}

impl Expiry {
    /// The limits of an outbound SA that goes on after the number `last_used` of `space`.
    pub(crate) fn outbound(lifetime: &Lifetime, algorithm: Algorithm, last_used: u64, space: u64) -> Self {
        let numbers = lifetime.packets_before.saturating_add(space - last_used);
        let (soft, hard) = lifetime.thresholds(algorithm, numbers);
        Self {
            soft,
            hard,
            before: lifetime.packets_before,
            bytes_before: lifetime.bytes_before,
            last_used,
            no_packet_left: if hard.packets < numbers {
                DropReason::LifetimeExpired
            } else {
                DropReason::SequenceExhausted
            },
        }
    }

    /// The limits of an inbound SA. How many sequence numbers there are is the replay window's to know.
    pub(crate) fn inbound(lifetime: &Lifetime, algorithm: Algorithm) -> Self {
        let (soft, hard) = lifetime.thresholds(algorithm, u64::MAX);
        Self {
            soft,
            hard,
            before: lifetime.packets_before,
            bytes_before: lifetime.bytes_before,
            last_used: 0,
            no_packet_left: DropReason::LifetimeExpired,
        }
    }

    /// What is spent when the SA starts.
    pub(crate) fn begin(&self) -> Spent {
        let spent = Spent {
            bytes: AtomicU64::new(self.bytes_before),
            ..Spent::default()
        };
        if self.bytes_before >= self.hard.bytes {
            spent.stop(Measure::Bytes);
        }
        self.notice(&spent, 0, self.before);
        spent
    }

    /// Outbound: the last sequence number that a packet may have.
    pub(crate) fn last_number(&self) -> u64 {
        let left = self.hard.packets.saturating_sub(self.before);
        self.last_used.saturating_add(left)
    }

    /// Outbound: how many packets have been sent when the last one had the number `sequence`.
    pub(crate) fn packets_at(&self, sequence: u64) -> u64 {
        self.before.saturating_add(sequence - self.last_used)
    }

    /// Why the SA carries nothing any more, if so, when it is `age` milliseconds old.
    pub(crate) fn over(&self, spent: &Spent, age: u64) -> Option<DropReason> {
        if age >= self.hard.milliseconds {
            spent.stop(Measure::Seconds);
        }
        match decode(spent.hard.load(Ordering::Relaxed))? {
            Measure::Packets => Some(self.no_packet_left),
            Measure::Seconds | Measure::Bytes | Measure::Icvs => Some(DropReason::LifetimeExpired),
        }
    }

    /// Spends the bytes of as many packets, in order, as the limit has room for, and stops the SA at the first that does
    /// not fit. How many did.
    pub(crate) fn spend_bytes(
        &self,
        spent: &Spent,
        lengths: &(impl Iterator<Item = u64> + Clone),
        spenders: Spenders,
    ) -> usize {
        self.spend(spent, Measure::Bytes, &spent.bytes, lengths, spenders)
    }

    /// The same for packets, which `packets` counts.
    pub(crate) fn spend_packets(
        &self,
        spent: &Spent,
        packets: &AtomicU64,
        wanted: usize,
        spenders: Spenders,
    ) -> usize {
        let each = std::iter::repeat_n(1, wanted);
        self.spend(spent, Measure::Packets, packets, &each, spenders)
    }

    /// The same for ICVs to be checked, which `icvs` counts.
    pub(crate) fn spend_icvs(&self, spent: &Spent, icvs: &AtomicU64, wanted: usize) -> usize {
        if self.hard.icvs == u64::MAX {
            return wanted;
        }
        let each = std::iter::repeat_n(1, wanted);
        let granted = self.spend(spent, Measure::Icvs, icvs, &each, Spenders::Many);
        if icvs.load(Ordering::Relaxed) >= self.soft.icvs {
            spent.warn(Measure::Icvs);
        }
        granted
    }

    fn spend(
        &self,
        spent: &Spent,
        measure: Measure,
        counter: &AtomicU64,
        amounts: &(impl Iterator<Item = u64> + Clone),
        spenders: Spenders,
    ) -> usize {
        let limit = match measure {
            Measure::Bytes => self.hard.bytes,
            Measure::Packets => self.hard.packets,
            Measure::Icvs => self.hard.icvs,
            // Time passes by itself.
            Measure::Seconds => return 0,
        };
        if amounts.clone().next().is_none() {
            return 0;
        }
        let mut used = counter.load(Ordering::Relaxed);
        // The exchange succeeds only if nobody has spent anything since `used` was read: the counter never passes the
        // limit, and what is granted is this caller's alone.
        let (granted, fits) = loop {
            let (mut after, mut granted, mut fits) = (used, 0, true);
            for amount in amounts.clone() {
                match after.checked_add(amount) {
                    Some(sum) if sum <= limit => after = sum,
                    _ => {
                        fits = false;
                        break;
                    }
                }
                granted += 1;
            }
            if spenders == Spenders::One {
                counter.store(after, Ordering::Relaxed);
                break (granted, fits && after < limit);
            }
            match counter.compare_exchange_weak(used, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break (granted, fits && after < limit),
                Err(seen) => used = seen,
            }
        };
        if !fits && limit != u64::MAX {
            spent.stop(measure);
        }
        granted
    }

    /// Notices soft limits that were reached, and that no packet is left.
    pub(crate) fn notice(&self, spent: &Spent, age: u64, packets: u64) {
        if packets >= self.hard.packets {
            spent.stop(Measure::Packets);
        }
        if spent.soft.load(Ordering::Relaxed) != 0 {
            return;
        }
        if age >= self.soft.milliseconds {
            spent.warn(Measure::Seconds);
        } else if packets >= self.soft.packets {
            spent.warn(Measure::Packets);
        } else if spent.bytes.load(Ordering::Relaxed) >= self.soft.bytes {
            spent.warn(Measure::Bytes);
        }
    }

    /// What has happened and was not told yet. A hard limit makes the soft ones old news.
    pub(crate) fn event(&self, spent: &Spent, age: u64, packets: u64) -> Option<LifetimeEvent> {
        self.over(spent, age);
        self.notice(spent, age, packets);
        let event = spent.reached()?;
        let bits = match event {
            LifetimeEvent::Soft(_) => SOFT,
            LifetimeEvent::Hard(_) => SOFT | HARD,
        };
        let told = spent.told.fetch_or(bits, Ordering::Relaxed);
        (told & bits != bits).then_some(event)
    }

    pub(crate) fn status(&self, spent: &Spent, age: u64, packets: u64) -> LifetimeStatus {
        self.over(spent, age);
        self.notice(spent, age, packets);
        let limits = |measure: fn(&Thresholds) -> u64, unit: u64| {
            let limit = |thresholds| Some(measure(thresholds)).filter(|limit| *limit != u64::MAX);
            Limits {
                soft: limit(&self.soft).map(|limit| limit / unit),
                hard: limit(&self.hard).map(|limit| limit / unit),
            }
        };
        LifetimeStatus {
            age: Duration::from_millis(age),
            bytes: spent.bytes.load(Ordering::Relaxed),
            packets,
            seconds_limits: limits(|thresholds| thresholds.milliseconds, 1000),
            bytes_limits: limits(|thresholds| thresholds.bytes, 1),
            packets_limits: limits(|thresholds| thresholds.packets, 1),
            reached: spent.reached(),
        }
    }
}

impl Spent {
    /// The first limit that was reached stays the reason.
    fn stop(&self, measure: Measure) {
        let _ = self
            .hard
            .compare_exchange(0, code(measure), Ordering::Relaxed, Ordering::Relaxed);
    }

    fn warn(&self, measure: Measure) {
        let _ = self
            .soft
            .compare_exchange(0, code(measure), Ordering::Relaxed, Ordering::Relaxed);
    }

    fn reached(&self) -> Option<LifetimeEvent> {
        let hard = decode(self.hard.load(Ordering::Relaxed)).map(LifetimeEvent::Hard);
        hard.or_else(|| decode(self.soft.load(Ordering::Relaxed)).map(LifetimeEvent::Soft))
    }
}

/// A measure as a number that is not 0.
const fn code(measure: Measure) -> u8 {
    match measure {
        Measure::Seconds => 1,
        Measure::Bytes => 2,
        Measure::Packets => 3,
        Measure::Icvs => 4,
    }
}

const fn decode(code: u8) -> Option<Measure> {
    match code {
        1 => Some(Measure::Seconds),
        2 => Some(Measure::Bytes),
        3 => Some(Measure::Packets),
        4 => Some(Measure::Icvs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        AtomicU64, DropReason, Expiry, LifetimeEvent, Measure, Ordering, Spenders, Spent, Thresholds,
    };

    const NONE: Thresholds = Thresholds {
        milliseconds: u64::MAX,
        bytes: u64::MAX,
        packets: u64::MAX,
        icvs: u64::MAX,
    };

    fn expiry(soft: Thresholds, hard: Thresholds) -> Expiry {
        Expiry {
            soft,
            hard,
            before: 0,
            bytes_before: 0,
            last_used: 0,
            no_packet_left: DropReason::LifetimeExpired,
        }
    }

    /// What no test can reach with packets, there being 2^29 of them.
    #[test]
    fn no_icv_is_checked_beyond_the_limit() {
        let of = |icvs| Thresholds { icvs, ..NONE };
        let expiry = expiry(of(9), of(10));
        let (spent, icvs) = (Spent::default(), AtomicU64::new(0));
        assert_eq!(expiry.spend_icvs(&spent, &icvs, 8), 8);
        assert_eq!(expiry.event(&spent, 0, 0), None);
        assert_eq!(expiry.spend_icvs(&spent, &icvs, 1), 1);
        assert_eq!(
            expiry.event(&spent, 0, 0),
            Some(LifetimeEvent::Soft(Measure::Icvs))
        );
        assert_eq!(expiry.over(&spent, 0), None);
        assert_eq!(expiry.spend_icvs(&spent, &icvs, 5), 1);
        assert_eq!(expiry.over(&spent, 0), Some(DropReason::LifetimeExpired));
        assert_eq!(icvs.load(Ordering::Relaxed), 10);
        assert_eq!(
            expiry.event(&spent, 0, 0),
            Some(LifetimeEvent::Hard(Measure::Icvs))
        );
        assert_eq!(expiry.event(&spent, 0, 0), None, "told once");
    }

    #[test]
    fn without_a_limit_icvs_are_not_counted() {
        let (spent, icvs) = (Spent::default(), AtomicU64::new(0));
        assert_eq!(expiry(NONE, NONE).spend_icvs(&spent, &icvs, 64), 64);
        assert_eq!(icvs.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_sum_beyond_64_bits_is_no_sum() {
        let expiry = expiry(
            NONE,
            Thresholds {
                bytes: u64::MAX - 1,
                ..NONE
            },
        );
        let spent = Spent::default();
        assert_eq!(
            expiry.spend_bytes(&spent, &[u64::MAX - 2].into_iter(), Spenders::Many),
            1
        );
        assert_eq!(
            expiry.spend_bytes(&spent, &[u64::MAX].into_iter(), Spenders::Many),
            0
        );
        assert_eq!(expiry.over(&spent, 0), Some(DropReason::LifetimeExpired));
    }

    #[test]
    fn time_ends_an_sa_that_carries_nothing() {
        let of = |milliseconds| Thresholds { milliseconds, ..NONE };
        let expiry = expiry(of(900), of(1000));
        let spent = Spent::default();
        assert_eq!(expiry.event(&spent, 899, 0), None);
        assert_eq!(
            expiry.event(&spent, 900, 0),
            Some(LifetimeEvent::Soft(Measure::Seconds))
        );
        assert_eq!(expiry.event(&spent, 999, 0), None);
        assert_eq!(
            expiry.event(&spent, 1000, 0),
            Some(LifetimeEvent::Hard(Measure::Seconds))
        );
        assert_eq!(
            expiry.over(&spent, 999),
            Some(DropReason::LifetimeExpired),
            "for good, also for a worker whose clock was read earlier"
        );
        let late = Spent::default();
        assert_eq!(
            expiry.event(&late, 5000, 0),
            Some(LifetimeEvent::Hard(Measure::Seconds))
        );
        assert_eq!(
            expiry.event(&late, 5000, 0),
            None,
            "nobody need be warned any more"
        );
    }
}
