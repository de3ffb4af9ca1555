//! Figures as bars, in SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::{IntoDrawingArea as _, RGBColor, Rectangle, SVGBackend, Text, WHITE};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color as _, IntoFont as _, TextStyle};

use crate::samples::{self, Samples};

/// Pixels.
const WIDTH: i32 = 900;
const LEFT: i32 = 260;
const RIGHT: i32 = 70;
const TOP: i32 = 70;
const BOTTOM: i32 = 30;
const BAR: i32 = 14;
const GAP: i32 = 10;

/// Colours that those who see no red or green tell apart too (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(240, 228, 66),
    RGBColor(0, 0, 0),
];

const FAINT: RGBColor = RGBColor(200, 200, 200);

/// How much is left of the colour of a bar whose figure is noisy.
const PALE: f64 = 0.35;

/// A figure in a picture.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// What is not a number is left out.
    pub figure: f64,
    /// It is drawn, and not written.
    pub noisy: bool,
}

impl From<&Samples> for Bar {
    fn from(samples: &Samples) -> Self {
        Self {
            figure: samples.median(),
            noisy: samples.is_noisy(),
        }
    }
}

/// Groups of bars, one below the other; each group has one bar of each series.
#[derive(Clone, Debug, Default)]
pub struct Bars {
    /// What is shown, and in which unit.
    pub title: String,
    /// What the colours mean.
    pub series: Vec<String>,
    /// A name, and a figure of each series.
    pub groups: Vec<(String, Vec<Bar>)>,
}

impl Bars {
    /// The picture.
    ///
    /// # Errors
    /// It cannot be drawn.
    pub fn to_svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&mut text)
            .map_err(|error| anyhow!("a plot of {}: {error}", self.title))?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let group = self.series.len() as i32 * BAR + GAP;
        let height = TOP + BOTTOM + group * self.groups.len() as i32;
        let root = SVGBackend::with_string(text, (WIDTH as u32, height as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let style = |size: i32, horizontal, vertical| -> TextStyle<'_> {
            let font = ("sans-serif", size).into_font().color(&BLACK);
            font.pos(Pos::new(horizontal, vertical))
        };
        let write = |words: &str, place: (i32, i32), size, horizontal| {
            root.draw(&Text::new(
                words.to_owned(),
                place,
                style(size, horizontal, VPos::Center),
            ))
        };
        write(&self.title, (10, 18), 17, HPos::Left)?;
        let mut x = 10;
        for (name, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            root.draw(&Rectangle::new([(x, 38), (x + 12, 50)], colour.filled()))?;
            write(name, (x + 18, 44), 13, HPos::Left)?;
            x += 40 + 8 * name.chars().count() as i32;
        }
        let bars = || self.groups.iter().flat_map(|(_, bars)| bars);
        if bars().any(|bar| bar.noisy && bar.figure.is_finite()) {
            let words = "pale: noisy, and no figure to quote";
            write(words, (WIDTH - 10, 18), 12, HPos::Right)?;
        }
        let most = bars()
            .map(|bar| bar.figure)
            .filter(|figure| figure.is_finite())
            .fold(0.0, f64::max);
        let step = step(most);
        let scale = f64::from(WIDTH - LEFT - RIGHT) / most.max(step);
        let mut mark = 0.0;
        while mark <= most {
            let x = LEFT + (mark * scale) as i32;
            root.draw(&Rectangle::new(
                [(x, TOP - 4), (x + 1, height - BOTTOM)],
                FAINT.filled(),
            ))?;
            write(&mark.to_string(), (x, height - BOTTOM / 2), 12, HPos::Center)?;
            mark += step;
        }
        for (index, (name, bars)) in self.groups.iter().enumerate() {
            let top = TOP + index as i32 * group;
            write(name, (LEFT - 8, top + (group - GAP) / 2), 13, HPos::Right)?;
            let bars = bars.iter().zip(COLOURS.iter().cycle()).zip(0..);
            for ((bar, colour), number) in bars.filter(|((bar, _), _)| bar.figure.is_finite()) {
                let top = top + number * BAR;
                let end = LEFT + (bar.figure * scale) as i32;
                let colour = colour.mix(if bar.noisy { PALE } else { 1.0 });
                root.draw(&Rectangle::new(
                    [(LEFT, top), (end, top + BAR - 2)],
                    colour.filled(),
                ))?;
                let figure = match bar.noisy {
                    true => "noisy".to_owned(),
                    false => samples::figure(bar.figure),
                };
                write(&figure, (end + 4, top + BAR / 2 - 1), 11, HPos::Left)?;
            }
        }
        root.present()?;
        Ok(())
    }
}

/// Between marks: 1, 2 or 5 times a power of ten, so that there are 4 to 10 of them.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most.max(1e-9) / 4.0).log10().floor());
    let times = [5.0, 2.0, 1.0]
        .into_iter()
        .find(|times| times * power * 4.0 <= most);
    times.unwrap_or(1.0) * power
}

#[cfg(test)]
mod tests {
    use super::{Bar, Bars, step};
    use crate::samples::Samples;

    #[test]
    fn marks_are_round_and_few() {
        assert_eq!([3.9, 10.0, 4300.0, 9999.0].map(step), [0.5, 2.0, 1000.0, 2000.0]);
    }

    #[test]
    fn what_was_measured_is_drawn_and_the_rest_is_not() {
        let bar = |figure| Bar { figure, noisy: false };
        let bars = Bars {
            title: "Speed".to_owned(),
            series: vec!["ours".to_owned(), "theirs".to_owned()],
            groups: vec![
                ("64 B".to_owned(), vec![bar(1234.0), bar(f64::NAN)]),
                ("576 B".to_owned(), vec![bar(617.0), bar(20.0)]),
            ],
        };
        let svg = bars.to_svg().unwrap();
        for words in ["Speed", "ours", "theirs", "64 B", "576 B", "1234", "617"] {
            assert!(svg.contains(words), "no {words}");
        }
        // Background, two of the legend, three bars, and a line for each of 0, 200, … 1200.
        assert_eq!(svg.matches("<rect").count(), 1 + 2 + 3 + 7);
        assert!(!svg.contains("noisy"));
    }

    #[test]
    fn what_is_noisy_is_no_figure() {
        let bar = |values: [f64; 5]| {
            let mut samples = Samples::default();
            values.into_iter().for_each(|value| samples.push(value));
            Bar::from(&samples)
        };
        let bars = Bars {
            title: "Speed".to_owned(),
            series: vec!["ours".to_owned(), "theirs".to_owned()],
            groups: vec![(
                "64 B".to_owned(),
                vec![bar([777.0; 5]), bar([100.0, 200.0, 333.0, 500.0, 600.0])],
            )],
        };
        let svg = bars.to_svg().unwrap();
        let is_written = |words: &str| svg.lines().any(|line| line == words);
        assert!(
            is_written("777") && is_written("noisy") && !is_written("333"),
            "{svg}"
        );
        assert!(svg.contains("pale: noisy"), "{svg}");
        assert_eq!(svg.matches("opacity=\"0.35\"").count(), 1, "{svg}");
    }
}
