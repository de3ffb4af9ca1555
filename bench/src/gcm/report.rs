//! The figures as a table and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use ravelin_bench::machine;
use ravelin_bench::plot::{Bar, Bars};
use ravelin_bench::samples::{PLUS_MINUS, Ratio, Samples, noisy_ones};
use serde_json::{Value, json};

use crate::{Implementation, Work};

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    quick: bool,
    /// Its version, or why it is not there.
    about_peer: String,
    implementations: Vec<Implementation>,
    pub(crate) rows: Vec<Row>,
}

/// Nanoseconds per packet of one work, for each implementation.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) work: Work,
    pub(crate) samples: Vec<Samples>,
}

impl Report {
    pub(crate) fn new(
        machine: Value,
        quick: bool,
        about_peer: String,
        implementations: &[Implementation],
    ) -> Self {
        Self {
            machine,
            quick,
            about_peer,
            implementations: implementations.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row without figures.
    pub(crate) fn add(&mut self, work: Work) {
        let samples = vec![Samples::default(); self.implementations.len()];
        self.rows.push(Row { work, samples });
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let rows = self.rows.iter().map(|row| {
            let names = self.implementations.iter().map(|one| one.name());
            let figures = names.zip(row.samples.iter().map(Samples::to_json));
            json!({
                "algorithm": row.work.algorithm.name(),
                "operation": row.operation(),
                "keys": row.work.keys,
                "bytes": row.work.size,
                "ns_per_packet": figures.collect::<serde_json::Map<_, _>>(),
            })
        });
        let value = json!({
            "machine": self.machine,
            "quick": self.quick,
            "peer": self.about_peer,
            "rows": rows.collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    /// The same as a picture.
    pub(crate) fn to_svg(&self) -> Result<String> {
        let groups = self.rows.iter().map(|row| {
            let figures = row.samples.iter().map(Bar::from);
            (row.name(), figures.collect())
        });
        let bars = Bars {
            title: "AES-GCM: nanoseconds per packet, fewer are better".to_owned(),
            series: self.implementations.iter().map(|one| one.name()).collect(),
            groups: groups.collect(),
        };
        bars.to_svg()
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = machine::heading(&self.machine, self.quick);
        let _ = write!(
            text,
            "\nNanoseconds per packet in batches of 32, in place, 8 bytes of associated data, tags of 16: medians of {} rounds ({PLUS_MINUS}). {}. The last column is the faster way of \
             intel-ipsec-mb beside the fastest of ours in each round, a median of the rounds' ratios: above 1 ours is faster.\n\n| work |",
            self.rows
                .first()
                .and_then(|row| Some(row.samples.first()?.values().len()))
                .unwrap_or(0),
            self.about_peer,
        );
        for one in &self.implementations {
            let _ = write!(text, " {} |", one.name());
        }
        let _ = writeln!(
            text,
            " ipsec-mb / ours | aim |\n|---|{}---|",
            "---:|".repeat(self.implementations.len() + 1)
        );
        for row in &self.rows {
            let _ = write!(text, "| {} |", row.name());
            for samples in &row.samples {
                let _ = write!(text, " {} |", samples.cell());
            }
            let _ = match self.ratio(row) {
                Some(ratio) => match row.work.aim() {
                    Some(aim) => writeln!(text, " {ratio} | ≥ {aim:.1}{} |", ratio.verdict(aim)),
                    None => writeln!(text, " {ratio} | – |"),
                },
                None => writeln!(text, " – | – |"),
            };
        }
        text += &noisy_ones(self.rows.iter().flat_map(|row| &row.samples));
        text
    }

    fn ratio(&self, row: &Row) -> Option<Ratio> {
        let fastest = |wanted: fn(&Implementation) -> bool| {
            let columns = self.implementations.iter().zip(&row.samples);
            let columns = columns.filter(|(one, _)| wanted(one));
            Samples::least(columns.map(|(_, samples)| samples))
        };
        let ours = fastest(|one| matches!(one, Implementation::Provider(_)));
        let theirs = fastest(|one| matches!(one, Implementation::IpsecMb(_)));
        Some(theirs?.ratio(&ours?))
    }
}

impl Row {
    fn name(&self) -> String {
        let work = self.work;
        let keys = if work.keys == 1 { "one key" } else { "32 keys" };
        let (algorithm, size) = (work.algorithm.name(), work.size);
        format!("{algorithm} {}, {keys}, {size} B", self.operation())
    }

    const fn operation(&self) -> &'static str {
        if self.work.opens { "open" } else { "seal" }
    }
}
