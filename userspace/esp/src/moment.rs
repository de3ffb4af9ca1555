//! The time as SAs count it: milliseconds in one word, read off the clock once for a batch.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Where counting begins: a day before the first use, so that clocks that were read a while ago are behind it.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_hours(24)).unwrap_or(now)
});

/// Milliseconds since [`EPOCH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Milliseconds from `since` to this; 0 if this is before, which a clock read by another worker may be.
    #[inline]
    pub(crate) fn age(self, since: Self) -> u64 {
        self.0.saturating_sub(since.0)
    }

    /// So many milliseconds after this; not after the clock that it was read off, and less than one before.
    pub(crate) fn after(self, milliseconds: u64) -> Instant {
        let since = Duration::from_millis(self.0.saturating_add(milliseconds));
        EPOCH.checked_add(since).unwrap_or(*EPOCH)
    }
}

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Self {
        let since = instant.saturating_duration_since(*EPOCH);
        let seconds = since.as_secs().saturating_mul(1000);
        Self(seconds.saturating_add(since.subsec_millis().into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Moment;

    #[test]
    fn whole_milliseconds_are_counted_and_none_before() {
        let since = Instant::now();
        for milliseconds in [0, 1, 999, 1000, 1001, 86_400_000] {
            let now = since + Duration::from_millis(milliseconds);
            assert_eq!(Moment::from(now).age(since.into()), milliseconds);
            assert_eq!(Moment::from(since).age(now.into()), 0);
            let back = now.checked_duration_since(Moment::from(since).after(milliseconds));
            assert!(
                back.is_some_and(|back| back < Duration::from_millis(1)),
                "{back:?}"
            );
        }
    }
}
