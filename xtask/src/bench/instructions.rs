//! `cargo xtask bench instructions`: how many instructions a packet costs, which no other work on the machine changes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::setup::{self, Package};
use crate::{build_ebpf, program, workspace::Workspace};

/// Count the instructions that a packet costs, and compare them with bench/instructions.json.
///
/// Callgrind counts, and what else the machine does changes nothing. AES-GCM is that for AES-NI, since valgrind knows no VAES. With
/// another compiler than the baseline's, or on another CPU, for which the C library copies memory in other ways, figures may differ by a
/// quarter.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Make what was counted the baseline
    #[arg(long)]
    accept: bool,
}

const CASES: [&str; 4] = ["outbound-64", "outbound-1420", "inbound-64", "inbound-1420"];

/// Batches of 32 packets. What the longer of two runs has more is their work alone.
const BATCHES: [u64; 2] = [32, 544];

/// Percent that a figure may go up or down unseen.
const TOLERANCE: f64 = 3.0;

/// The same when another compiler or CPU was at work.
const OTHER_MAKER: f64 = 25.0;

const VALGRIND: &[Package] = &[Package {
    name: "valgrind",
    shows_as: "valgrind",
    purpose: "counts instructions",
}];

/// Figures, and what they were made by.
#[derive(Debug, Deserialize, Serialize)]
struct Counted {
    /// Compiler and CPU.
    made_by: String,
    /// Instructions per packet.
    instructions: BTreeMap<String, f64>,
}

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let toolchain = setup::ensure(workspace)?;
    build_ebpf::ensure(workspace, &toolchain)?;
    if args.accept {
        let counted = count(workspace)?;
        let text = serde_json::to_string_pretty(&counted).context("JSON")? + "\n";
        let path = path(workspace);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("bench: wrote {}", path.display());
        return Ok(());
    }
    compare(workspace)
}

/// Counts, and fails where a figure is not the baseline's. The BPF object must be there.
pub(crate) fn compare(workspace: &Workspace) -> Result<()> {
    let path = path(workspace);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let baseline: Counted = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let counted = count(workspace)?;
    let tolerance = if counted.made_by == baseline.made_by {
        TOLERANCE
    } else {
        println!(
            "bench: the baseline was made by {}, this by {}: {OTHER_MAKER} % are let pass",
            baseline.made_by, counted.made_by
        );
        OTHER_MAKER
    };
    println!(
        "{:<14} {:>12} {:>12} {:>8}",
        "instructions", "baseline", "now", "change"
    );
    let mut wrong = Vec::new();
    for (case, now) in &counted.instructions {
        let before = baseline.instructions.get(case).copied().unwrap_or(f64::NAN);
        let change = (now / before - 1.0) * 100.0;
        println!("{case:<14} {before:>12.1} {now:>12.1} {change:>+7.1} %");
        // A baseline without the case is none, too.
        if change.is_nan() || change.abs() > tolerance {
            wrong.push(format!("{case} ({change:+.1} %)"));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "instructions per packet are not those of {}: {}; if that is meant, `cargo xtask bench instructions --accept`",
            path.display(),
            wrong.join(", ")
        );
    }
    Ok(())
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.root.join("bench/instructions.json")
}

fn count(workspace: &Workspace) -> Result<Counted> {
    setup::install(VALGRIND)?;
    let mut build = workspace.cargo();
    build.args([
        "build",
        "--release",
        "--package",
        "ravelin-bench",
        "--bin",
        "bench-instructions",
    ]);
    program::run(&mut build)?;
    let program = workspace.target.join("release/bench-instructions");
    let mut instructions = BTreeMap::new();
    for case in CASES {
        eprintln!("bench: counting {case}");
        let [few, many] = BATCHES.map(|batches| callgrind(&program, case, batches));
        let packets = (BATCHES[1] - BATCHES[0]) * 32;
        let each = (many? as f64 - few? as f64) / packets as f64;
        instructions.insert(case.to_owned(), (each * 10.0).round() / 10.0);
    }
    let output = Command::new("rustc")
        .arg("--version")
        .output()
        .context("cannot start rustc")?;
    let compiler = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let made_by = format!("{compiler} on {}", super::processors()?.1);
    Ok(Counted {
        made_by,
        instructions,
    })
}

/// Instructions of a whole run.
fn callgrind(program: &std::path::Path, case: &str, batches: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([case, &batches.to_string()])
        .output()
        .context("cannot start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {}: {said}", output.status);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.with_context(|| format!("valgrind has counted nothing: {said}"))?;
    count
        .trim()
        .parse()
        .with_context(|| format!("no number: {count}"))
}
