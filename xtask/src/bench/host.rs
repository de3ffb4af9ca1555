//! `cargo xtask bench host`: two hosts, what Ravelin costs between them, and its peers beside it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Uid;
use serde_json::Value;

use crate::setup::{self, Package};
use crate::{build_ebpf, program, workspace::Workspace};

/// Measure two hosts over one link: TCP, small datagrams and round trips; plain, through Ravelin, and through WireGuard.
///
/// Installs wireguard-go if it is not there. `cargo xtask bench host --help` shows the options of the program that does it,
/// `--quick` and `--publish` among them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

const PEERS: &[Package] = &[
    Package {
        name: "wireguard-go",
        shows_as: "wireguard-go",
        purpose: "what bench host compares with",
    },
    Package {
        name: "wireguard-tools",
        shows_as: "wg",
        purpose: "its keys and peers",
    },
];

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let has = |option: &str| args.options.iter().any(|one| one == option);
    let help = has("--help") || has("-h");
    if !help && !Uid::effective().is_root() {
        bail!("namespaces need root; run: sudo -E env \"PATH=$PATH\" cargo xtask bench host");
    }
    let toolchain = setup::ensure(workspace)?;
    if !help && !has("--no-peers") {
        // Without them there is still something to measure, and the report says what is missing.
        if let Err(error) = setup::install(PEERS) {
            eprintln!("bench: {error:#}");
        }
    }
    build_ebpf::ensure(workspace, &toolchain)?;
    let ravelin = workspace.build_ravelin()?;
    let object = build_ebpf::ensure_bench(workspace, &toolchain)?;
    let mut command = workspace.cargo();
    command.args(["run", "--release"]);
    let command = command_line(&mut command, workspace, &workspace.target.join("bench"), &ravelin);
    program::run(command.arg("--object").arg(object).args(&args.options))
}

/// The whole way with the shortest of rounds, as a test: it works from end to end, however fast.
pub(crate) fn smoke(workspace: &Workspace, ravelin: &Path) -> Result<()> {
    let out = workspace.target.join("bench/smoke");
    let mut command = workspace.cargo();
    // As `cargo test` has built it.
    command.arg("run");
    program::run(command_line(&mut command, workspace, &out, ravelin).args([
        "--quick",
        "--no-busy",
        "--no-peers",
    ]))?;
    let path = out.join("host.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let report: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let links = report["links"].as_array().context("links of the report")?;
    ensure!(links.len() >= 5, "only {} links were measured", links.len());
    for link in links {
        for figure in [
            "tcp_gbit_s",
            "datagrams_received_thousands_s",
            "round_trip_median_us",
            "round_trip_after_pause_p99_us",
        ] {
            let median = link[figure]["median"].as_f64().unwrap_or_default();
            ensure!(median > 0.0, "{}: no {figure}", link["link"]);
        }
    }
    Ok(())
}

fn command_line<'c>(
    command: &'c mut Command,
    workspace: &Workspace,
    out: &Path,
    ravelin: &Path,
) -> &'c mut Command {
    command
        .args(["--package", "ravelin-bench", "--bin", "bench-host", "--", "--out"])
        .arg(out)
        .arg("--root")
        .arg(&workspace.root)
        .arg("--ravelin")
        .arg(ravelin)
}
