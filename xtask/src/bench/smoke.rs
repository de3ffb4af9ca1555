//! Benches as tests: each works from end to end, however fast, and says what its peer would have been.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{program, workspace::Workspace};

/// What has to be in the report of a bench.
struct Expected {
    /// The bench, and its report's name.
    name: &'static str,
    options: &'static [&'static str],
    /// The array with the figures.
    rows: &'static str,
    /// How many there are at least.
    least: usize,
    /// The figure of a row, a median or a plain number.
    figure: &'static str,
}

const BENCHES: [Expected; 3] = [
    Expected {
        name: "gcm",
        options: &["--ipsec-mb-missing", "not wanted here"],
        rows: "rows",
        least: 40,
        figure: "/ns_per_packet/aws-lc/median",
    },
    Expected {
        name: "engine",
        options: &[
            "--secgw-missing",
            "not wanted here",
            "--sas",
            "1,64",
            "--sizes",
            "64",
            "--no-huge",
        ],
        rows: "rows",
        least: 4,
        figure: "/thousands_s/ravelin worker/median",
    },
    Expected {
        name: "stages",
        options: &[],
        rows: "columns",
        least: 6,
        figure: "/ns_per_packet",
    },
];

/// Runs the short form of every bench that needs no devices, as `cargo test` has built them; how many there were.
pub(crate) fn run(workspace: &Workspace) -> Vec<(&'static str, Result<()>)> {
    BENCHES
        .iter()
        .map(|bench| (bench.name, check(workspace, bench)))
        .collect()
}

/// As [`run`], over the veth pairs of `bench veth`.
pub(crate) fn veth(workspace: &Workspace, ravelin: &Path, object: &Path) -> Result<()> {
    let mut command = quick(workspace, "veth");
    command.arg("--ravelin").arg(ravelin).arg("--object").arg(object);
    command.args(["--secgw-missing", "not wanted here", "--no-huge"]);
    program::run(&mut command)?;
    let report = report(workspace, "veth")?;
    let cells = report["cells"].as_array().context("cells of the report")?;
    for kind in [
        "no gateway: the sink itself",
        "plain forwarding, AF_XDP",
        "Ravelin",
        "Ravelin, busy",
    ] {
        let of_kind: Vec<_> = cells.iter().filter(|cell| cell["gateway"] == kind).collect();
        ensure!(
            of_kind.len() == 4,
            "{} kinds of traffic with {kind}",
            of_kind.len()
        );
        for cell in of_kind {
            let rate = cell["thousands_s"]["median"].as_f64().unwrap_or_default();
            ensure!(rate > 0.0, "{kind}: nothing arrived: {cell}");
        }
    }
    says_what_is_missing(&report)
}

fn check(workspace: &Workspace, bench: &Expected) -> Result<()> {
    program::run(quick(workspace, bench.name).args(bench.options))?;
    let report = report(workspace, bench.name)?;
    let rows = report[bench.rows].as_array().context("rows of the report")?;
    ensure!(rows.len() >= bench.least, "only {} rows", rows.len());
    for row in rows {
        let figure = row.pointer(bench.figure).and_then(Value::as_f64);
        ensure!(
            figure.is_some_and(|figure| figure > 0.0),
            "no {} in {row}",
            bench.figure
        );
    }
    if bench.options.contains(&"not wanted here") {
        says_what_is_missing(&report)?;
    }
    Ok(())
}

/// A peer that is not there has no figure, and the table says why.
fn says_what_is_missing(report: &Value) -> Result<()> {
    ensure!(
        report.to_string().contains("not wanted here"),
        "the report does not say why there is no peer"
    );
    Ok(())
}

fn quick(workspace: &Workspace, name: &str) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["run", "--package", "ravelin-bench", "--bin"])
        .arg(format!("bench-{name}"))
        .args(["--", "--quick", "--out"])
        .arg(folder(workspace))
        .arg("--root")
        .arg(&workspace.root);
    command
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bench/smoke")
}

fn report(workspace: &Workspace, name: &str) -> Result<Value> {
    let path = folder(workspace).join(format!("{name}.json"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
