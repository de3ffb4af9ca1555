//! `cargo xtask bench engine`: all that a gateway does but the device, beside DPDK's.

use anyhow::Result;

use super::dpdk;
use crate::{build_ebpf, interrupt, program, setup, workspace::Workspace};

/// Measure what packets cost without devices: through a worker in memory, and through DPDK's ipsec-secgw.
///
/// Installs DPDK if it is not there, and compiles its gateway. Huge pages, which DPDK wants, need root. `cargo xtask bench engine --help`
/// shows the options of the program that does it, `--quick` and `--publish` among them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let toolchain = setup::ensure(workspace)?;
    build_ebpf::ensure(workspace, &toolchain)?;
    let mut command = super::bench_program(workspace, "bench-engine");
    match dpdk::ipsec_secgw(workspace) {
        Ok(peer) => command.arg("--secgw").arg(peer),
        // There is something to measure without it, and the report says what is missing.
        Err(error) => command.arg("--secgw-missing").arg(format!("{error:#}")),
    };
    // The program puts back what it changed; this waits for it.
    interrupt::install()?;
    program::run(command.args(&args.options))
}
