//! `cargo xtask bench gcm`: what AES-GCM costs by packet, with our engines and with others.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup::{self, Package};
use crate::{build_ebpf, program, workspace::Workspace};

/// Measure AES-GCM: nanoseconds per packet of every implementation in Ravelin, and of intel-ipsec-mb.
///
/// Installs intel-ipsec-mb if it is not there. `cargo xtask bench gcm --help` shows the options of the program that does it,
/// `--quick` and `--publish` among them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

const PEER: &[Package] = &[Package {
    name: "libipsec-mb-dev",
    shows_as: "/usr/include/intel-ipsec-mb.h",
    purpose: "what bench gcm compares with",
}];

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let toolchain = setup::ensure(workspace)?;
    build_ebpf::ensure(workspace, &toolchain)?;
    let mut command = super::bench_program(workspace, "bench-gcm");
    match compile_peer(workspace) {
        Ok(peer) => command.arg("--ipsec-mb").arg(peer),
        // There is something to measure without it, and the report says what is missing.
        Err(error) => command.arg("--ipsec-mb-missing").arg(format!("{error:#}")),
    };
    program::run(command.args(&args.options))
}

fn compile_peer(workspace: &Workspace) -> Result<PathBuf> {
    setup::install(PEER)?;
    let folder = workspace.target.join("bench/peers");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let peer = folder.join("ipsec_mb");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O2", "-Wall", "-o"])
        .arg(&peer)
        .arg(workspace.root.join("bench/peers/ipsec_mb.c"))
        .arg("-lIPSec_MB");
    program::output(&mut compiler)?;
    Ok(peer)
}
