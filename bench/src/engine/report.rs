//! The figures as a table and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use ravelin_bench::machine;
use ravelin_bench::plot::{Bar, Bars};
use ravelin_bench::samples::{PLUS_MINUS, Samples, noisy_ones};
use ravelin_bench::secgw;
use ravelin_bench::work::Work;
use ravelin_esp::Provider;
use serde_json::{Value, json};

/// What is to be kept of the rate of one SA, and with how many.
const KEPT: f64 = 0.75;
const MANY: u32 = 100_000;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    quick: bool,
    provider: Provider,
    peer: String,
    /// Why there are none.
    no_huge_pages: Option<String>,
    /// What could not be measured, and why.
    pub(crate) notes: Vec<String>,
    rows: Vec<Row>,
}

/// Thousands of packets per second of one work.
#[derive(Debug)]
pub(crate) struct Row {
    work: Work,
    /// With and without the driver's decision.
    pub(crate) ours: [Samples; 2],
    pub(crate) theirs: Samples,
}

impl Report {
    pub(crate) fn new(
        machine: Value,
        quick: bool,
        provider: Provider,
        has_peer: bool,
        no_huge_pages: Option<String>,
    ) -> Self {
        let peer = match has_peer {
            true => format!("DPDK {}", secgw::version()),
            false => "not there".to_owned(),
        };
        Self {
            machine,
            quick,
            provider,
            peer,
            no_huge_pages,
            notes: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn peer_missing(&mut self, reason: &str) {
        self.notes.push(format!("ipsec-secgw was not measured: {reason}"));
    }

    /// Adds a row without figures.
    pub(crate) fn add(&mut self, work: Work) -> &mut Row {
        self.rows.push(Row {
            work,
            ours: Default::default(),
            theirs: Samples::default(),
        });
        self.rows.last_mut().expect("just pushed")
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let rows = self.rows.iter().map(|row| {
            let [whole, worker] = &row.ours;
            json!({
                "direction": row.work.way(),
                "sas": row.work.sas,
                "bytes": row.work.size,
                "aim": row.work.aim(),
                "thousands_s": {
                    "ravelin": whole.to_json(),
                    "ravelin worker": worker.to_json(),
                    "ipsec-secgw": row.theirs.to_json(),
                },
            })
        });
        let value = json!({
            "machine": self.machine,
            "quick": self.quick,
            "provider": self.provider.name(),
            "peer": self.peer,
            "no_huge_pages": self.no_huge_pages,
            "notes": self.notes,
            "rows": rows.collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    /// The same as a picture.
    pub(crate) fn to_svg(&self) -> Result<String> {
        let groups = self.rows.iter().map(|row| {
            let [whole, worker] = &row.ours;
            (
                row.work.name(),
                [whole, worker, &row.theirs].map(Bar::from).to_vec(),
            )
        });
        let bars = Bars {
            title: "Engine only: thousands of packets for a second of one CPU".to_owned(),
            series: ["Ravelin", "its worker", "ipsec-secgw"]
                .map(str::to_owned)
                .to_vec(),
            groups: groups.collect(),
        };
        bars.to_svg()
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = machine::heading(&self.machine, self.quick);
        let _ = write!(
            text,
            "\nThousands of packets for a second of one CPU's time: medians of {} rounds ({PLUS_MINUS}). Tunnel mode, AES-256-GCM, 32-bit sequence numbers; sizes are those of the inner IPv4 packet, and a frame has 14 bytes \
             more. SAs take turns packet by packet. Ravelin seals and opens with {}, and checks for replay; ipsec-secgw of {} with \
             crypto_aesni_mb and librte_ipsec, and does not, since its capture repeats. The memory of both is in {}. *Ravelin* decides for each \
             packet what its XDP program would, on the same CPU; *its worker* is without that. Ratios are medians of the rounds' ratios.\n\n\
             | work | Ravelin | its worker | ipsec-secgw | Ravelin / ipsec-secgw | worker / ipsec-secgw | aim | of 1 SA, Ravelin, aim ≥ 75 % with {MANY} | \
             of 1 SA, ipsec-secgw |\n|---|---:|---:|---:|---:|---:|---|---:|---:|\n",
            self.rows
                .iter()
                .map(|row| row.ours[0].values().len())
                .max()
                .unwrap_or(0),
            self.provider.name(),
            self.peer,
            match &self.no_huge_pages {
                None => "huge pages".to_owned(),
                Some(reason) => format!("**ordinary pages**: no huge ones, {reason}"),
            },
        );
        for row in &self.rows {
            let [whole, worker] = &row.ours;
            let ratio = whole.ratio(&row.theirs);
            let single = self
                .rows
                .iter()
                .find(|other| other.work == Work { sas: 1, ..row.work } && row.work.sas > 1);
            let of_single = |of: fn(&Row) -> &Samples, aim: Option<f64>| {
                let ratio = single.map(|single| of(row).ratio(of(single)));
                ratio.map_or("–".to_owned(), |ratio| {
                    format!("{}{}", ratio.percent(), aim.map_or("", |aim| ratio.verdict(aim)))
                })
            };
            let keep = (row.work.sas == MANY).then_some(KEPT);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {ratio} | {} | ≥ {:.1}{} | {} | {} |",
                row.work.name(),
                whole.cell(),
                worker.cell(),
                row.theirs.cell(),
                worker.ratio(&row.theirs),
                row.work.aim(),
                ratio.verdict(row.work.aim()),
                of_single(|row| &row.ours[0], keep),
                of_single(|row| &row.theirs, None),
            );
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}.\n");
        }
        let figures = self.rows.iter();
        text += &noisy_ones(figures.flat_map(|row| row.ours.iter().chain([&row.theirs])));
        text
    }
}
