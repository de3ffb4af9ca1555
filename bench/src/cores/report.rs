//! The figures as a table and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use ravelin_bench::machine;
use ravelin_bench::samples::{MISSED, PLUS_MINUS, Samples, noisy_ones};
use ravelin_bench::work::Work;
use ravelin_esp::Provider;
use serde_json::{Value, json};

/// How many times the rate of one core is aimed at, if anything is.
const fn aim(work: Work) -> Option<f64> {
    match work.size {
        1420 => Some(1.7),
        _ => None,
    }
}

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    quick: bool,
    provider: Provider,
    rows: Vec<Row>,
}

/// Thousands of packets per second of one work.
#[derive(Debug)]
pub(crate) struct Row {
    work: Work,
    /// On one core and on two.
    pub(crate) rates: [Samples; 2],
    /// Packets that came behind one with a higher number.
    pub(crate) overtaken: usize,
}

impl Report {
    pub(crate) const fn new(machine: Value, quick: bool, provider: Provider) -> Self {
        Self {
            machine,
            quick,
            provider,
            rows: Vec::new(),
        }
    }

    /// Adds a row without figures.
    pub(crate) fn add(&mut self, work: Work) -> &mut Row {
        self.rows.push(Row {
            work,
            rates: Default::default(),
            overtaken: 0,
        });
        self.rows.last_mut().expect("just pushed")
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let rows = self.rows.iter().map(|row| {
            let [one, two] = &row.rates;
            json!({
                "direction": row.work.way(),
                "bytes": row.work.size,
                "aim": aim(row.work),
                "overtaken": row.overtaken,
                "thousands_s": { "one core": one.to_json(), "two cores": two.to_json() },
                "ratio": two.ratio(one).value(),
            })
        });
        let value = json!({
            "machine": self.machine,
            "quick": self.quick,
            "provider": self.provider.name(),
            "rows": rows.collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = machine::heading(&self.machine, self.quick);
        let rounds = self.rows.iter().map(|row| row.rates[0].values().len()).max();
        let _ = write!(
            text,
            "\nThousands of packets a second, by the clock on the wall: medians of {} rounds ({PLUS_MINUS}). One SA, tunnel mode, AES-256-GCM with {}; sizes are those of the inner IPv4 packet. *One core* is a worker \
             by itself, *two cores* the same worker on the same CPU with one crypto thread on another (`--crypto-threads 1`); nothing else has \
             the second one to do. The worker copies each packet in, and looks at each that goes out; *overtaken* are those of both that \
             came out behind a later one. Ratios are medians of the rounds' ratios.\n\n\
             | work | one core | two cores | two / one | aim | overtaken |\n|---|---:|---:|---:|---|---:|\n",
            rounds.unwrap_or(0),
            self.provider.name(),
        );
        for row in &self.rows {
            let [one, two] = &row.rates;
            let ratio = two.ratio(one);
            let aim = aim(row.work).map_or("–".to_owned(), |aim| {
                let met = match row.overtaken {
                    0 => ratio.verdict(aim),
                    _ => MISSED,
                };
                format!("≥ {aim:.1}, none overtaken{met}")
            });
            let _ = writeln!(
                text,
                "| {} | {} | {} | {ratio} | {aim} | {} |",
                row.work.name(),
                one.cell(),
                two.cell(),
                row.overtaken,
            );
        }
        text += &noisy_ones(self.rows.iter().flat_map(|row| &row.rates));
        text
    }
}
