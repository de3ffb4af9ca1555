//! The figures as a table and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use ravelin_bench::machine;
use ravelin_bench::plot::{Bar, Bars};
use ravelin_bench::samples::{PLUS_MINUS, Samples, noisy_ones};
use serde_json::{Value, json};

use crate::datagrams::Rate;
use crate::lab::Cpus;
use crate::link::Link;
use crate::round_trip::Times;

/// What the best edge is to reach of the TCP of others.
const AIM_OF_WIREGUARD_GO: f64 = 5.0;
const AIM_OF_PLAIN: f64 = 0.3;

/// What traffic that is let pass is to keep of what any XDP program leaves it.
const AIM_OF_PERMITTED: f64 = 0.97;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    quick: bool,
    cpus: Cpus,
    pub(crate) rows: Vec<Row>,
}

/// One link.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) link: Link,
    /// Why it was not measured.
    pub(crate) missing: Option<String>,
    /// Gbit/s.
    stream: Samples,
    /// Thousands per second.
    sent: Samples,
    /// Thousands per second.
    received: Samples,
    /// Microseconds, one question after the other.
    median: Samples,
    p99: Samples,
    /// Microseconds, a pause before each question.
    idle_median: Samples,
    idle_p99: Samples,
}

impl Report {
    pub(crate) fn new(machine: Value, quick: bool, cpus: Cpus) -> Self {
        Self {
            machine,
            quick,
            cpus,
            rows: Vec::new(),
        }
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let value = json!({
            "machine": self.machine,
            "quick": self.quick,
            "cpus": self.cpus.describe(),
            "links": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    /// What both tables have in common, as a picture.
    pub(crate) fn to_svg(&self) -> Result<String> {
        let measured = self.rows.iter().filter(|row| row.missing.is_none());
        let groups = measured.map(|row| (row.link.name(), vec![Bar::from(&row.stream)]));
        let bars = Bars {
            title: "Two hosts: TCP, one stream, Gbit/s".to_owned(),
            series: vec!["median of the rounds".to_owned()],
            groups: groups.collect(),
        };
        bars.to_svg()
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = machine::heading(&self.machine, self.quick);
        let _ = write!(
            text,
            "\nTwo hosts on a veth pair of one queue, MTU 1500; {}. Medians of {} rounds ({PLUS_MINUS}). Ratios are medians of the rounds' ratios.\n",
            self.cpus.describe(),
            self.rows
                .iter()
                .map(|row| row.stream.values().len())
                .max()
                .unwrap_or(0),
        );
        let is_permitted =
            |row: &&Row| matches!(row.link, Link::Permitted | Link::Pass | Link::PlainSegmented);
        let (permitted, protected): (Vec<_>, Vec<_>) = self.rows.iter().partition(is_permitted);
        let plain = self.measured(Link::Plain);
        text.push_str(
            "\nEncrypted (Ravelin: ESP in transport mode, AES-256-GCM). TCP is one stream; datagrams have 18 bytes, sent without a pause, and \
             those count that the other application received; round trips are of 64 bytes, in microseconds: `added` is what \
             they take longer than over the plain link.\n\n\
             | link | TCP, Gbit/s | of plain | of wireguard-go | datagrams, thousands/s | round trip, median | p99 | added | \
             1 ms after the last: median | p99 | added |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for row in protected {
            let go = self.measured(Link::WireguardGo);
            let _ = match &row.missing {
                Some(reason) => writeln!(
                    text,
                    "| {} | not measured: {reason} | | | | | | | | | |",
                    row.link.name()
                ),
                None => writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    row.link.name(),
                    row.stream.cell(),
                    ratio(row, plain, |row| &row.stream),
                    ratio(row, go, |row| &row.stream),
                    row.received.cell(),
                    row.median.cell(),
                    row.p99.cell(),
                    added(row, plain, |row| &row.median),
                    row.idle_median.cell(),
                    row.idle_p99.cell(),
                    added(row, plain, |row| &row.idle_median),
                ),
            };
        }
        self.write_aims(&mut text);
        text.push_str(
            "\nPermitted: what the attached programs cost traffic that they let pass, beside what any XDP program costs a veth pair. It takes \
             segmentation from the other end and makes it receive with NAPI: the first line is a pair that does so without a program. And each \
             packet of TCP is copied once more in front of it. Network cards do none of that.\n\n\
             | link | TCP, Gbit/s | of the first line | of any program | datagrams, thousands/s | of the first line | of any program | \
             round trip, median | of the first line | of any program | p99 |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        let (bare, any) = (self.measured(Link::PlainSegmented), self.measured(Link::Pass));
        for row in permitted {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.link.name(),
                row.stream.cell(),
                ratio(row, bare, |row| &row.stream),
                ratio(row, any, |row| &row.stream),
                row.received.cell(),
                ratio(row, bare, |row| &row.received),
                ratio(row, any, |row| &row.received),
                row.median.cell(),
                ratio(row, bare, |row| &row.median),
                ratio(row, any, |row| &row.median),
                row.p99.cell(),
            );
        }
        self.write_aim_of_permitted(&mut text);
        let figures = self.rows.iter().flat_map(Row::figures);
        text += &noisy_ones(figures.map(|(_, samples)| samples));
        text
    }

    /// What the best of the edges reaches.
    fn write_aims(&self, text: &mut String) {
        let edges = self
            .rows
            .iter()
            .filter(|row| row.link.is_edge() && row.missing.is_none());
        let Some(best) = edges.max_by(|a, b| a.stream.median().total_cmp(&b.stream.median())) else {
            return;
        };
        let _ = write!(text, "\nTCP of the best edge, {}:", best.link.name());
        let aims = [
            (Link::WireguardGo, AIM_OF_WIREGUARD_GO),
            (Link::Plain, AIM_OF_PLAIN),
        ];
        for (place, (link, aim)) in aims.into_iter().enumerate() {
            let base = self.measured(link);
            let said = base.map_or("– (not measured)".to_owned(), |base| {
                let ratio = best.stream.ratio(&base.stream);
                format!("{ratio} × {}, aim ≥ {aim}{}", link.name(), ratio.verdict(aim))
            });
            let _ = write!(text, "{} {said}", if place == 0 { "" } else { ";" });
        }
        text.push_str(".\n");
    }

    /// What permitted traffic keeps.
    fn write_aim_of_permitted(&self, text: &mut String) {
        let (Some(ours), Some(any)) = (self.measured(Link::Permitted), self.measured(Link::Pass)) else {
            return;
        };
        let kept = [
            ("TCP", ours.stream.ratio(&any.stream)),
            ("datagrams", ours.received.ratio(&any.received)),
            // A time: the other way round, to be as good when it is as large.
            ("pace of round trips", any.median.ratio(&ours.median)),
        ];
        let said = kept.map(|(what, ratio)| format!("{what} {ratio}{}", ratio.verdict(AIM_OF_PERMITTED)));
        let _ = writeln!(
            text,
            "\nPermitted, of any program, aim ≥ {AIM_OF_PERMITTED}: {}.",
            said.join("; ")
        );
    }

    fn measured(&self, link: Link) -> Option<&Row> {
        let mut measured = self.rows.iter().filter(|row| row.missing.is_none());
        measured.find(|row| row.link == link)
    }
}

/// What `row` has for each that `base` has.
fn ratio(row: &Row, base: Option<&Row>, of: impl Fn(&Row) -> &Samples) -> String {
    base.map_or_else(|| "–".to_owned(), |base| of(row).ratio(of(base)).to_string())
}

/// What `row` has more than `base`; noisy if what it is made of is, since the difference itself can be next to nothing.
fn added(row: &Row, base: Option<&Row>, of: impl Fn(&Row) -> &Samples) -> String {
    let Some(base) = base else {
        return "–".to_owned();
    };
    let (one, other) = (of(row), of(base));
    let mark = if one.is_noisy() { one.mark() } else { other.mark() };
    format!("{:.0}{mark}", one.difference(other).median())
}

impl Row {
    pub(crate) fn new(link: Link, missing: Option<String>) -> Self {
        let none = Samples::default;
        Self {
            link,
            missing,
            stream: none(),
            sent: none(),
            received: none(),
            median: none(),
            p99: none(),
            idle_median: none(),
            idle_p99: none(),
        }
    }

    /// Adds a round.
    pub(crate) fn push(&mut self, bits: f64, rate: Rate, without_pause: Times, idle: Times) {
        self.stream.push(bits / 1e9);
        self.sent.push(rate.sent / 1e3);
        self.received.push(rate.received / 1e3);
        self.median.push(without_pause.median);
        self.p99.push(without_pause.p99);
        self.idle_median.push(idle.median);
        self.idle_p99.push(idle.p99);
    }

    fn figures(&self) -> impl Iterator<Item = (&'static str, &Samples)> + Clone {
        [
            ("tcp_gbit_s", &self.stream),
            ("datagrams_sent_thousands_s", &self.sent),
            ("datagrams_received_thousands_s", &self.received),
            ("round_trip_median_us", &self.median),
            ("round_trip_p99_us", &self.p99),
            ("round_trip_after_pause_median_us", &self.idle_median),
            ("round_trip_after_pause_p99_us", &self.idle_p99),
        ]
        .into_iter()
    }

    fn to_json(&self) -> Value {
        let mut value = json!({ "link": self.link.name(), "not_measured": self.missing });
        for (name, samples) in self.figures().filter(|(_, samples)| !samples.is_empty()) {
            value[name] = samples.to_json();
        }
        value
    }
}
