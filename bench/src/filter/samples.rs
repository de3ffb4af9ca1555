//! Repeated measurements of one thing.

use std::fmt;

use serde_json::{Value, json};

/// Measurements, in the order in which they were taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle one; not a number if there are none.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
            (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => (below + above) / 2.0,
            (_, Some(value)) => *value,
            _ => f64::NAN,
        }
    }

    /// Half the distance between lowest and highest, in percent of the median.
    pub(crate) fn spread(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.first(), sorted.last()) {
            (Some(low), Some(high)) => (high - low) * 50.0 / self.median(),
            _ => f64::NAN,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "median": self.median(), "samples": self.0 })
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

/// Three digits at most before the point, and none behind it that mean nothing.
pub(crate) fn figure(value: f64) -> String {
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
        assert_eq!((figure(9.96).as_str(), figure(12.3).as_str()), ("10.0", "12"));
        assert_eq!(figure(f64::NAN), "–");
    }
}
