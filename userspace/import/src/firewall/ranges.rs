//! Sets of numbers: addresses, ports, protocols, ICMP types.

/// Numbers from 0 to some maximum, as ranges: ascending, disjoint, not touching.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// The union of `ranges`, each from its first to its last number.
    pub(crate) fn new(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub(crate) fn one(number: u128) -> Self {
        Self(vec![(number, number)])
    }

    pub(crate) fn as_slice(&self) -> &[(u128, u128)] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything up to `max` that is not in the set.
    pub(crate) fn complement(&self, max: u128) -> Self {
        let mut ranges = Vec::with_capacity(self.0.len() + 1);
        let mut next = Some(0);
        for (first, last) in &self.0 {
            if let Some(next) = next
                && next < *first
            {
                ranges.push((next, first - 1));
            }
            next = last.checked_add(1);
        }
        if let Some(next) = next
            && next <= max
        {
            ranges.push((next, max));
        }
        Self(ranges)
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some((a_first, a_last)), Some((b_first, b_last))) = (a.peek(), b.peek()) {
            let (first, last) = (*a_first.max(b_first), *a_last.min(b_last));
            if first <= last {
                ranges.push((first, last));
            }
            if a_last < b_last {
                a.next();
            } else {
                b.next();
            }
        }
        Self(ranges)
    }

    /// The numbers one by one; only for sets known to be small.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u128> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// How many numbers there are.
    pub(crate) fn count(&self) -> u128 {
        self.0.iter().fold(0, |sum, (first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Ranges;
    use proptest::prelude::*;

    fn set() -> impl Strategy<Value = Ranges> {
        proptest::collection::vec((0..40_u128, 0..6_u128), 0..6).prop_map(|ranges| {
            Ranges::new(
                ranges
                    .into_iter()
                    .map(|(first, width)| (first, first + width))
                    .collect(),
            )
        })
    }

    fn contains(set: &Ranges, number: u128) -> bool {
        set.as_slice()
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&number))
    }

    proptest! {
        #[test]
        fn sets_hold_what_they_should(a in set(), b in set()) {
            let (both, rest) = (a.intersection(&b), a.complement(63));
            for number in 0..64 {
                prop_assert_eq!(contains(&both, number), contains(&a, number) && contains(&b, number));
                prop_assert_eq!(contains(&rest, number), !contains(&a, number));
            }
            prop_assert_eq!(a.numbers().count() as u128, a.count());
            for pair in a.as_slice().windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0);
            }
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let all = Ranges::new(vec![(0, u128::MAX)]);
        assert!(all.complement(u128::MAX).is_empty());
        assert_eq!(all.count(), u128::MAX);
        assert_eq!(
            Ranges::one(u128::MAX).complement(u128::MAX).as_slice(),
            [(0, u128::MAX - 1)]
        );
    }
}
