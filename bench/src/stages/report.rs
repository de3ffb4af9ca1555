//! The profile as tables and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use ravelin_bench::machine;
use ravelin_bench::plot::{Bar, Bars};
use ravelin_bench::samples::figure;
use ravelin_bench::work::Work;
use ravelin_esp::Provider;
use serde_json::{Value, json};

use crate::profile::{C_LIBRARY, Places};

/// Percent of a column that a file has to have somewhere, to be named.
const NAMED: f64 = 2.0;

/// Stages of a packet's way, and where their sources are. The first that fits counts.
const STAGES: [(&str, &[&str]); 7] = [
    (
        "decision, as the XDP program makes it",
        &["xdp-common/", "classifier/"],
    ),
    ("AES-GCM", &["gcm/"]),
    ("ESP: SA, replay, headers, padding", &["esp/"]),
    ("engine: connections, checks, next hops, counters", &["engine/"]),
    ("frames and batches", &["xsk/"]),
    ("port in memory: letting go, taking in", &["bench/"]),
    ("copies by the C library, most of them the port's", &[C_LIBRARY]),
];

/// What was profiled.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    quick: bool,
    provider: Provider,
    seconds: u64,
    columns: Vec<Column>,
}

/// One work.
#[derive(Debug)]
struct Column {
    work: Work,
    /// Nanoseconds per packet.
    time: f64,
    places: Places,
}

impl Column {
    fn samples(&self) -> u64 {
        self.places.values().sum()
    }

    /// Nanoseconds per packet in files that are wanted.
    fn time_in(&self, wanted: impl Fn(&str) -> bool) -> f64 {
        let there: u64 = self
            .places
            .iter()
            .filter(|(file, _)| wanted(file))
            .map(|(_, count)| count)
            .sum();
        self.time * there as f64 / self.samples() as f64
    }
}

fn stage_of(file: &str) -> Option<usize> {
    STAGES
        .iter()
        .position(|(_, folders)| folders.iter().any(|folder| file.starts_with(folder)))
}

impl Report {
    pub(crate) fn new(machine: Value, quick: bool, provider: Provider, seconds: u64) -> Self {
        Self {
            machine,
            quick,
            provider,
            seconds,
            columns: Vec::new(),
        }
    }

    /// Adds a column; `time` is in nanoseconds per packet.
    pub(crate) fn add(&mut self, work: Work, time: f64, places: &Places) {
        self.columns.push(Column {
            work,
            time,
            places: places.clone(),
        });
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let columns = self.columns.iter().map(|column| {
            json!({
                "direction": column.work.way(),
                "sas": column.work.sas,
                "bytes": column.work.size,
                "ns_per_packet": column.time,
                "samples": column.places,
            })
        });
        let value = json!({
            "machine": self.machine,
            "quick": self.quick,
            "provider": self.provider.name(),
            "seconds": self.seconds,
            "columns": columns.collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    /// The stages as a picture.
    pub(crate) fn to_svg(&self) -> Result<String> {
        let groups = self.columns.iter().map(|column| {
            let stages = 0..STAGES.len();
            let times = stages.map(|stage| Bar {
                figure: column.time_in(|file| stage_of(file) == Some(stage)),
                noisy: false,
            });
            (column.work.name(), times.collect())
        });
        let short = |name: &str| name.split([':', ',']).next().unwrap_or(name).to_owned();
        let bars = Bars {
            title: "Where the nanoseconds of a packet go".to_owned(),
            series: STAGES.iter().map(|(name, _)| short(name)).collect(),
            groups: groups.collect(),
        };
        bars.to_svg()
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = machine::heading(&self.machine, self.quick);
        let samples = self.columns.iter().map(Column::samples).min().unwrap_or(0);
        // Of a binomial share of one half, the least certain one; two standard deviations.
        let doubt = 100.0 / (samples.max(1) as f64).sqrt();
        let _ = write!(
            text,
            "\nNanoseconds per packet, tunnel mode, AES-256-GCM with {}: the path of `bench engine`, profiled for {} s in each column. Shares \
             are of {samples} samples or more, so they are good to {doubt:.0} % of a column.\n\n",
            self.provider.name(),
            self.seconds,
        );
        self.head(&mut text, "stage");
        for (stage, (name, _)) in STAGES.iter().enumerate() {
            self.row(&mut text, name, |file| stage_of(file) == Some(stage));
        }
        self.row(&mut text, "elsewhere", |file| stage_of(file).is_none());
        self.row(&mut text, "**all**", |_| true);
        let _ = write!(
            text,
            "\nThe same by source file, where one has {NAMED:.0} % of any column:\n\n"
        );
        self.head(&mut text, "file");
        let named = |column: &Column| {
            let all = column.samples() as f64;
            let files = column.places.iter();
            files
                .filter(|(_, count)| **count as f64 * 100.0 >= NAMED * all)
                .map(|(file, _)| file.clone())
                .collect::<Vec<_>>()
        };
        let files: BTreeSet<_> = self.columns.iter().flat_map(named).collect();
        for file in files {
            self.row(&mut text, &format!("`{file}`"), |other| other == file);
        }
        text
    }

    fn head(&self, text: &mut String, what: &str) {
        let _ = write!(text, "| {what} |");
        for column in &self.columns {
            let _ = write!(text, " {} |", column.work.name());
        }
        let _ = writeln!(text, "\n|---|{}", "---:|".repeat(self.columns.len()));
    }

    fn row(&self, text: &mut String, name: &str, wanted: impl Fn(&str) -> bool) {
        let _ = write!(text, "| {name} |");
        for column in &self.columns {
            let _ = write!(text, " {} |", figure(column.time_in(&wanted)));
        }
        text.push('\n');
    }
}
