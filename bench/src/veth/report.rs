//! The figures as a table and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use ravelin_bench::plot::{Bar, Bars};
use ravelin_bench::samples::{PLUS_MINUS, Samples, noisy_ones};
use ravelin_bench::{machine, secgw};
use serde_json::{Value, json};

use crate::gateway::{AfXdp, Kind};
use crate::traffic::Traffic;

/// How many times the peer's rate is aimed at.
const AIM: f64 = 1.1;

/// What ESP is to keep of plain forwarding, where packets are small.
const AIM_OF_FORWARDING: f64 = 0.85;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    quick: bool,
    cpus: String,
    no_huge_pages: Option<String>,
    kinds: Vec<Kind>,
    missing: Vec<(Kind, String)>,
    cells: Vec<Cell>,
}

/// One gateway under one kind of traffic.
#[derive(Debug)]
struct Cell {
    kind: Kind,
    traffic: Traffic,
    /// Thousands of packets per second.
    rate: Samples,
    /// Percent of a CPU that its process had.
    busy: Samples,
}

impl Report {
    pub(crate) fn new(
        machine: Value,
        quick: bool,
        cpus: &[usize],
        no_huge_pages: Option<String>,
        kinds: Vec<Kind>,
    ) -> Self {
        let (first, last) = (cpus.first().unwrap_or(&0), cpus.last().unwrap_or(&0));
        let cells = Traffic::ALL.into_iter().flat_map(|traffic| {
            kinds.iter().map(move |&kind| Cell {
                kind,
                traffic,
                rate: Samples::default(),
                busy: Samples::default(),
            })
        });
        let cells = cells.collect();
        Self {
            machine,
            quick,
            cpus: format!("the generator has CPU {first}, the gateway CPU {last}"),
            no_huge_pages,
            kinds,
            missing: Vec::new(),
            cells,
        }
    }

    /// One of them cannot be measured; what it did so far is no figure.
    pub(crate) fn missing(&mut self, kind: Kind, reason: String) {
        for cell in self.cells.iter_mut().filter(|cell| cell.kind == kind) {
            (cell.rate, cell.busy) = (Samples::default(), Samples::default());
        }
        self.missing.push((kind, reason));
    }

    pub(crate) fn is_missing(&self, kind: Kind) -> bool {
        self.missing.iter().any(|(missing, _)| *missing == kind)
    }

    pub(crate) fn push(&mut self, kind: Kind, traffic: Traffic, rate: f64, busy: Option<f64>) {
        let cell = self
            .cells
            .iter_mut()
            .find(|cell| (cell.kind, cell.traffic) == (kind, traffic));
        if let Some(cell) = cell {
            cell.rate.push(rate);
            if let Some(busy) = busy {
                cell.busy.push(busy);
            }
        }
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let cells = self.cells.iter().map(|cell| {
            json!({
                "gateway": cell.kind.name(),
                "traffic": cell.traffic.name(),
                "thousands_s": cell.rate.to_json(),
                "busy_percent": cell.busy.to_json(),
            })
        });
        let missing = self
            .missing
            .iter()
            .map(|(kind, reason)| json!({ "gateway": kind.name(), "reason": reason }));
        let value = json!({
            "machine": self.machine,
            "quick": self.quick,
            "cpus": self.cpus,
            "peer": format!("DPDK {}", secgw::version()),
            "no_huge_pages": self.no_huge_pages,
            "not_measured": missing.collect::<Vec<_>>(),
            "cells": cells.collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    /// The same as a picture.
    pub(crate) fn to_svg(&self) -> Result<String> {
        let groups = Traffic::ALL.map(|traffic| {
            let figures = self.kinds.iter().map(|kind| Bar::from(self.rate(*kind, traffic)));
            (traffic.name(), figures.collect())
        });
        let bars = Bars {
            title: "Over veth, AF_XDP in copy mode: thousands of packets per second".to_owned(),
            series: self.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            groups: groups.to_vec(),
        };
        bars.to_svg()
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = machine::heading(&self.machine, self.quick);
        let rounds = self.cells.iter().map(|cell| cell.rate.values().len()).max();
        let _ = write!(
            text,
            "\nThousands of packets per second that arrive at the sink: medians of {} rounds ({PLUS_MINUS}). Two veth pairs of one queue, AF_XDP in copy mode; {}. One SA in tunnel mode with AES-256-GCM, clear to \
             sealed, 4,096 flows; sizes are those of the inner IPv4 packet, IMIX is seven of 64 bytes, four of 576, one of 1,420. The peer is that of \
             DPDK {} with net_af_xdp, crypto_aesni_mb and librte_ipsec, its memory in {}. It never sleeps, nor does plain forwarding; Ravelin does while there is nothing to do, and *busy* does not (`--busy-poll`). \
             Ratios are medians of the rounds' ratios.\n\n| |",
            rounds.unwrap_or(0),
            self.cpus,
            secgw::version(),
            match &self.no_huge_pages {
                None => "huge pages".to_owned(),
                Some(reason) => format!("**ordinary pages**: no huge ones, {reason}"),
            },
        );
        for traffic in Traffic::ALL {
            let _ = write!(text, " {} |", traffic.name());
        }
        text += "\n|---|---:|---:|---:|---:|\n";
        for &kind in &self.kinds {
            self.row(&mut text, kind.name(), |traffic| self.rate(kind, traffic).cell());
        }
        for &kind in self.kinds.iter().filter(|kind| kind.seals()) {
            let name = format!("{}, percent of a CPU", kind.name());
            self.row(&mut text, &name, |traffic| {
                let cell = self.cell(kind, traffic);
                cell.map_or_else(|| "–".to_owned(), |cell| cell.busy.to_string())
            });
        }
        let of = |kind, to, traffic| self.rate(kind, traffic).ratio(self.rate(to, traffic));
        for kind in [Kind::Ravelin(AfXdp::Ours), Kind::RavelinBusy] {
            let name = format!("{} / ipsec-secgw, aim ≥ {AIM}", kind.name());
            self.row(&mut text, &name, |traffic| {
                let ratio = of(kind, Kind::Secgw, traffic);
                format!("{ratio}{}", ratio.verdict(AIM))
            });
            let name = format!(
                "{} / plain forwarding, aim ≥ {AIM_OF_FORWARDING} up to 576 B",
                kind.name()
            );
            self.row(&mut text, &name, |traffic| {
                let ratio = of(kind, Kind::Forward(AfXdp::Ours), traffic);
                match traffic.is_small() {
                    true => format!("{ratio}{}", ratio.verdict(AIM_OF_FORWARDING)),
                    false => ratio.to_string(),
                }
            });
            let name = format!("{} / no gateway", kind.name());
            self.row(&mut text, &name, |traffic| {
                of(kind, Kind::None, traffic).to_string()
            });
        }
        for by in [Kind::Forward, Kind::Ravelin] {
            let (theirs, ours) = (by(AfXdp::XskRs), by(AfXdp::Ours));
            if self.kinds.contains(&theirs) {
                let name = format!("{} / {}", theirs.name(), ours.name());
                self.row(&mut text, &name, |traffic| of(theirs, ours, traffic).to_string());
            }
        }
        for (kind, reason) in &self.missing {
            let _ = write!(text, "\n{} was not measured: {reason}.\n", kind.name());
        }
        text += &noisy_ones(self.cells.iter().map(|cell| &cell.rate));
        text
    }

    fn row(&self, text: &mut String, name: &str, cell: impl Fn(Traffic) -> String) {
        let _ = write!(text, "| {name} |");
        for traffic in Traffic::ALL {
            let _ = write!(text, " {} |", cell(traffic));
        }
        text.push('\n');
    }

    fn cell(&self, kind: Kind, traffic: Traffic) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| (cell.kind, cell.traffic) == (kind, traffic))
    }

    fn rate(&self, kind: Kind, traffic: Traffic) -> &Samples {
        let cell = self.cell(kind, traffic);
        &cell
            .expect("every gateway has a cell for each kind of traffic")
            .rate
    }
}
