//! Repeated measurements of one thing.

use std::fmt;

use serde_json::{Value, json};

/// Percent of the median. Where the [spread](Samples::spread) is larger, the machine did other things as well: tables say
/// so beside the figure.
pub const NOISY: f64 = 15.0;

/// Measurements, in the order in which they were taken.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle one; not a number if there are none.
    #[must_use]
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
            (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => (below + above) / 2.0,
            (_, Some(value)) => *value,
            _ => f64::NAN,
        }
    }

    /// Half the distance between lowest and highest, in percent of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.first(), sorted.last()) {
            (Some(low), Some(high)) => (high - low) * 50.0 / self.median(),
            _ => f64::NAN,
        }
    }

    /// Whether the spread is too large for a figure to be quoted.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        self.spread() > NOISY
    }

    /// Nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order in which they were taken.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// A cell of a table: median and spread in percent, marked if that is too large, or a dash.
    #[must_use]
    pub fn cell(&self) -> String {
        match self.0.len() {
            0 => "–".to_owned(),
            1 => format!("{self} (once)"),
            _ if self.is_noisy() => format!("{self} (±{:.0}, **noisy**)", self.spread()),
            _ => format!("{self} (±{:.0})", self.spread()),
        }
    }

    /// Median, spread and all samples.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "median": self.median(), "spread_percent": self.spread(), "samples": self.0 })
    }

    /// The median of what each of these is to the one that was taken in the same round.
    #[must_use]
    pub fn ratio(&self, to: &Self) -> Ratio {
        let mut each = Self::default();
        for (one, other) in self.0.iter().zip(&to.0) {
            each.push(one / other);
        }
        Ratio {
            median: each.median(),
            noisy: self.is_noisy() || to.is_noisy(),
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// The median, as a whole number from 10 on.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&figure(self.median()))
    }
}

/// What one thing is to another; of [`Samples::ratio`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    median: f64,
    noisy: bool,
}

impl Ratio {
    /// The ratio, if both were measured and neither is noisy.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        (!self.noisy && !self.median.is_nan()).then_some(self.median)
    }

    /// A cell of a table, in percent.
    #[must_use]
    pub fn percent(&self) -> String {
        self.marked(&format!("{:.0} %", self.median * 100.0))
    }

    fn marked(&self, text: &str) -> String {
        match (self.median.is_nan(), self.noisy) {
            (true, _) => "–".to_owned(),
            (false, true) => format!("{text} (**noisy**)"),
            (false, false) => text.to_owned(),
        }
    }
}

/// A cell of a table.
impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.marked(&format!("{:.2}", self.median)))
    }
}

/// Three digits at most before the point, and none behind it that mean nothing.
#[must_use]
pub fn figure(value: f64) -> String {
    match value {
        _ if value.is_nan() => "–".to_owned(),
        _ if value < 10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Samples, figure};

    #[test]
    fn medians() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(Samples::default().median().is_nan());
        assert_eq!(Samples(vec![90.0, 100.0, 110.0]).spread(), 10.0);
    }

    #[test]
    fn a_noisy_figure_says_so() {
        assert_eq!(Samples(vec![90.0, 100.0, 110.0]).cell(), "100 (±10)");
        assert_eq!(Samples(vec![80.0, 100.0, 120.0]).cell(), "100 (±20, **noisy**)");
        assert_eq!(Samples(vec![80.0]).cell(), "80 (once)");
        assert_eq!(Samples::default().cell(), "–");
    }

    #[test]
    fn a_ratio_is_that_of_the_rounds_and_as_noisy_as_the_worse() {
        let (ours, theirs) = (Samples(vec![2.0, 2.1, 2.0]), Samples(vec![1.0, 1.1, 1.0]));
        let ratio = ours.ratio(&theirs);
        assert_eq!((ratio.to_string().as_str(), ratio.value()), ("2.00", Some(2.0)));
        assert_eq!(ratio.percent(), "200 %");
        let ratio = ours.ratio(&Samples(vec![1.0, 2.0, 1.0]));
        assert_eq!(
            (ratio.to_string().as_str(), ratio.value()),
            ("2.00 (**noisy**)", None)
        );
        let ratio = ours.ratio(&Samples::default());
        assert_eq!((ratio.to_string().as_str(), ratio.value()), ("–", None));
    }

    #[test]
    fn digits() {
        assert_eq!((figure(9.96).as_str(), figure(12.3).as_str()), ("10.0", "12"));
        assert_eq!(figure(f64::NAN), "–");
    }
}
