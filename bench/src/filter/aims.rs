//! What is aimed at, beside what was measured.

use std::fmt::Write as _;

use ravelin_bench::samples::{MET, MISSED, Samples};
use ravelin_policy::Family;

use crate::report::{SetRow, TraceRow};
use crate::sets::FEW_FLOWS;

/// Rules of the sets that the aims are about.
const RULES: usize = 100_000;

/// Nanoseconds for packets of established flows.
const ESTABLISHED: f64 = 60.0;

/// Nanoseconds for the worst trace, without the flow cache.
const UNCACHED: f64 = 500.0;

/// Milliseconds.
const COMPILE: f64 = 1000.0;
const SWAP: f64 = 50.0;

/// Bytes of maps.
const MEMORY: u64 = 64_000_000;

/// Writes a table of them, if sets of that size were measured.
pub(crate) fn write(sets: &[SetRow], text: &mut String) {
    let sets = || {
        sets.iter()
            .filter(|set| set.rules == RULES && set.refused.is_none())
    };
    if sets().next().is_none() {
        return;
    }
    let _ = write!(
        text,
        "\nWhat is aimed at with {RULES} rules: established flows ≤ {ESTABLISHED} ns, the worst trace without the flow cache ≤ {UNCACHED} ns, both \
         for IPv4; compiled in ≤ {COMPILE} ms and swapped in ≤ {SWAP} ms; maps of ≤ {} MB. The worst traces are named.\n\n\
         | rules | established flows, ns | without the flow cache, ns | compile, ms | swap, ms | maps, MB |\n|---|---|---|---:|---:|---:|\n",
        MEMORY / 1_000_000
    );
    for set in sets() {
        let aims = set.family == Family::V4;
        let established = worst(set, |row| row.flows == FEW_FLOWS, |row| &row.classify);
        let uncached = worst(set, |_| true, |row| &row.walk);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {}{} | {}{} | {:.0}{} |",
            set.name(),
            cell(established, aims.then_some(ESTABLISHED)),
            cell(uncached, aims.then_some(UNCACHED)),
            set.compile.cell(),
            set.compile.at_most(COMPILE),
            set.swap.cell(),
            set.swap.at_most(SWAP),
            set.memory as f64 / 1e6,
            if set.memory <= MEMORY { MET } else { MISSED },
        );
    }
}

/// The slowest of some traces.
fn worst<'s>(
    set: &'s SetRow,
    is_asked: impl Fn(&TraceRow) -> bool,
    of: impl Fn(&'s TraceRow) -> &'s Samples,
) -> Option<(&'s TraceRow, &'s Samples)> {
    let rows = set.traces.iter().filter(|row| is_asked(row));
    rows.map(|row| (row, of(row)))
        .max_by(|(_, a), (_, b)| a.median().total_cmp(&b.median()))
}

fn cell(worst: Option<(&TraceRow, &Samples)>, aim: Option<f64>) -> String {
    worst.map_or("–".to_owned(), |(row, samples)| {
        let verdict = aim.map_or("", |aim| samples.at_most(aim));
        format!("{}, {}{verdict}", row.name(), samples.cell())
    })
}
