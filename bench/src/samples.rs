//! Repeated measurements of one thing.

use std::fmt;

use serde_json::{Value, json};

/// Percent of the median. Where the [spread](Samples::spread) is larger, the machine did other things as well: tables say
/// so beside the figure.
const NOISY: f64 = 15.0;

/// What tables say of the figure behind ±.
pub const PLUS_MINUS: &str = "± half of the distance between their quartiles, in percent";

/// What is put behind a figure that reaches what is aimed at.
pub const MET: &str = ": met";

/// What is put behind one that does not.
pub const MISSED: &str = ": **missed**";

/// Rounds below which nothing is said about an aim.
pub const ENOUGH: usize = 5;

/// Measurements, in the order in which they were taken. One that failed has its place among them and no number.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one; what is no finite number has failed.
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

    /// The distance between the quartiles, in percent of the median: half of the rounds lie within it, and one round in which the
    /// machine did something else does not change it.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let sorted = self.sorted();
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let quartile = |number: usize| {
            let (below, part) = (last * number / 4, (last * number % 4) as f64 / 4.0);
            sorted[below] + (sorted[last.min(below + 1)] - sorted[below]) * part
        };
        (quartile(3) - quartile(1)).abs() * 100.0 / self.median().abs()
    }

    /// Whether the spread is too large for a figure to be quoted, or a round failed.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        self.failed() > 0 || self.spread() > NOISY
    }

    /// Rounds that gave no number.
    fn failed(&self) -> usize {
        self.0.iter().filter(|value| !value.is_finite()).count()
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
            count if self.failed() > 0 => format!("{self} (**{} of {count} rounds failed**)", self.failed()),
            1 => format!("{self} (once)"),
            _ if self.is_noisy() => format!("{self} (±{}, **noisy**)", self.plus_minus()),
            _ => format!("{self} (±{})", self.plus_minus()),
        }
    }

    /// Half of the [spread](Self::spread), as a table has it.
    #[must_use]
    pub fn plus_minus(&self) -> String {
        format!("{:.0}", self.spread() / 2.0)
    }

    /// What [`cell`](Self::cell) puts behind a figure that was made of these.
    #[must_use]
    pub fn mark(&self) -> &'static str {
        if self.is_noisy() { " (**noisy**)" } else { "" }
    }

    /// Median, spread and all samples.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "median": self.median(), "spread_percent": self.spread(), "samples": self.0 })
    }

    /// Whether it is at most what is aimed at; as [`Ratio::verdict`].
    #[must_use]
    pub fn at_most(&self, aim: f64) -> &'static str {
        self.verdict(|value| value <= aim)
    }

    /// Whether rounds are as they should be, to be put behind a figure.
    fn verdict(&self, is_met: impl Fn(f64) -> bool) -> &'static str {
        if self.0.is_empty() {
            return "";
        }
        if self.0.len() < ENOUGH || self.failed() > 0 {
            return ": not said, too few rounds";
        }
        let rounds = self.0.iter().filter(|value| is_met(**value)).count();
        match (self.is_noisy(), is_met(self.median())) {
            (false, true) => MET,
            (false, false) => MISSED,
            (true, true) if rounds == self.0.len() => MET,
            (true, false) if rounds == 0 => MISSED,
            (true, _) => ": not said, too noisy",
        }
    }

    /// What each of these is to the one that was taken in the same round. What slows a whole round down is in neither, so a ratio can be
    /// good where both figures are noisy.
    #[must_use]
    pub fn ratio(&self, to: &Self) -> Ratio {
        Ratio(self.with(to, |one, other| one / other))
    }

    /// What each of these is more than the one that was taken in the same round.
    #[must_use]
    pub fn difference(&self, to: &Self) -> Self {
        self.with(to, |one, other| one - other)
    }

    /// The least of each round, of those that were measured; `None` if none was.
    #[must_use]
    pub fn least<'s>(of: impl Iterator<Item = &'s Self>) -> Option<Self> {
        of.filter(|one| !one.is_empty())
            .cloned()
            .reduce(|least, one| least.with(&one, f64::min))
    }

    fn with(&self, to: &Self, of: impl Fn(f64, f64) -> f64) -> Self {
        Self(
            self.0
                .iter()
                .zip(&to.0)
                .map(|(one, other)| match one.is_finite() && other.is_finite() {
                    true => of(*one, *other),
                    false => f64::NAN,
                })
                .collect(),
        )
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.retain(|value| value.is_finite());
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

/// What one thing is to another, round by round; of [`Samples::ratio`].
#[derive(Clone, Debug)]
pub struct Ratio(Samples);

impl Ratio {
    /// The median, if both were measured and it is not noisy.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        let median = self.0.median();
        (!self.0.is_noisy() && median.is_finite()).then_some(median)
    }

    /// A cell of a table, in percent.
    #[must_use]
    pub fn percent(&self) -> String {
        self.marked(&format!("{:.0} %", self.0.median() * 100.0))
    }

    /// Whether what is aimed at was reached, to be put behind it. Of a noisy figure that can be said where all rounds agree.
    #[must_use]
    pub fn verdict(&self, aim: f64) -> &'static str {
        self.0.verdict(|value| value >= aim)
    }

    fn marked(&self, text: &str) -> String {
        if self.0.is_empty() {
            return "–".to_owned();
        }
        format!("{text}{}", self.0.mark())
    }
}

/// A cell of a table.
impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.marked(&format!("{:.2}", self.0.median())))
    }
}

/// A paragraph about those that are noisy, if any are.
#[must_use]
pub fn noisy_ones<'s>(figures: impl Iterator<Item = &'s Samples>) -> String {
    let (mut all, mut noisy) = (0, 0);
    for samples in figures.filter(|samples| !samples.is_empty()) {
        all += 1;
        noisy += usize::from(samples.is_noisy());
    }
    match noisy {
        0 => String::new(),
        _ => format!(
            "\n**{noisy} of {all} figures are noisy** (quartiles more than {NOISY:.0} % of the median apart): this machine did other things \
             meanwhile, and they are not to be quoted.\n"
        ),
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
    use super::{Samples, figure, noisy_ones};

    #[test]
    fn the_least_is_that_of_each_round() {
        let [one, other, none] = [vec![3.0, 1.0, f64::NAN], vec![2.0, 5.0, 1.0], vec![]].map(Samples);
        let least = Samples::least([&one, &none, &other].into_iter()).unwrap();
        assert_eq!(least.values()[..2], [2.0, 1.0]);
        assert!(least.values()[2].is_nan());
        assert!(Samples::least([&none].into_iter()).is_none());
    }

    #[test]
    fn medians() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn the_spread_is_that_of_the_middle_half() {
        assert_eq!(Samples(vec![90.0, 100.0, 110.0]).spread(), 10.0);
        assert_eq!(Samples(vec![100.0, 106.0, 96.0, 104.0, 100.0]).spread(), 4.0);
        assert_eq!(Samples(vec![100.0, 900.0, 96.0, 104.0, 100.0]).spread(), 4.0);
        assert_eq!(Samples(vec![-4.0, -1.0, -2.0, -2.0, -3.0]).spread(), 50.0);
        assert!(Samples::default().spread().is_nan());
    }

    #[test]
    fn a_noisy_figure_says_so() {
        let (calm, noisy) = (
            Samples(vec![90.0, 100.0, 110.0]),
            Samples(vec![80.0, 100.0, 120.0]),
        );
        assert_eq!(calm.cell(), "100 (±5)");
        assert_eq!(noisy.cell(), "100 (±10, **noisy**)");
        assert_eq!(Samples(vec![80.0]).cell(), "80 (once)");
        assert_eq!(Samples::default().cell(), "–");
        assert_eq!(noisy_ones([&calm].into_iter()), "");
        assert!(noisy_ones([&calm, &noisy, &Samples::default()].into_iter()).contains("1 of 2 "));
    }

    #[test]
    fn a_ratio_is_that_of_the_rounds_and_as_noisy_as_they_differ() {
        let (ours, theirs) = (
            Samples(vec![2.0, 2.1, 2.0, 2.0, 2.0]),
            Samples(vec![1.0, 1.05, 1.0, 1.0, 1.0]),
        );
        let ratio = ours.ratio(&theirs);
        assert_eq!((ratio.to_string().as_str(), ratio.value()), ("2.00", Some(2.0)));
        assert_eq!(ratio.percent(), "200 %");
        assert_eq!(
            (ratio.verdict(2.0), ratio.verdict(2.5)),
            (": met", ": **missed**")
        );
        let slower_together = Samples(vec![2.0, 4.0, 2.0]).ratio(&Samples(vec![1.0, 2.0, 1.0]));
        assert_eq!(slower_together.value(), Some(2.0));
        let ratio = ours.ratio(&Samples(vec![1.0, 2.0, 1.0, 2.0, 1.0]));
        assert_eq!(
            (ratio.to_string().as_str(), ratio.value()),
            ("2.00 (**noisy**)", None)
        );
        let verdicts = [1.0, 1.5, 2.5].map(|aim| ratio.verdict(aim));
        assert_eq!(verdicts, [": met", ": not said, too noisy", ": **missed**"]);
        let ratio = ours.ratio(&Samples::default());
        assert_eq!((ratio.to_string().as_str(), ratio.value()), ("–", None));
        assert_eq!(ours.difference(&theirs).median(), 1.0);
    }

    #[test]
    fn what_failed_is_no_figure_and_no_verdict() {
        let ours = Samples(vec![8.0; 5]);
        for failed in [f64::NAN, f64::INFINITY, -f64::NAN] {
            let theirs = Samples(vec![4.0, 4.0, failed, 4.0, 4.0]);
            assert_eq!(theirs.median(), 4.0);
            assert_eq!(theirs.cell(), "4.0 (**1 of 5 rounds failed**)");
            let ratio = ours.ratio(&theirs);
            assert_eq!(
                (ratio.value(), ratio.verdict(2.0)),
                (None, ": not said, too few rounds")
            );
        }
        let dead = ours.ratio(&Samples(vec![0.0; 5]));
        assert_eq!(
            (dead.value(), dead.verdict(2.0)),
            (None, ": not said, too few rounds")
        );
        let once = Samples(vec![8.0]).ratio(&Samples(vec![4.0]));
        assert_eq!(once.verdict(1.5), ": not said, too few rounds");
    }

    #[test]
    fn digits() {
        assert_eq!((figure(9.96).as_str(), figure(12.3).as_str()), ("10.0", "12"));
        assert_eq!(figure(f64::NAN), "–");
    }
}
