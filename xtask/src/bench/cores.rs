//! `cargo xtask bench cores`: one SA on two cores, against one.

use anyhow::Result;

use crate::{build_ebpf, interrupt, program, setup, workspace::Workspace};

/// Measure what a crypto thread beside the worker brings one SA.
///
/// Takes a minute. `cargo xtask bench cores --help` shows the options of the program that does it, `--quick` and `--publish` among them.
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
    let mut command = super::bench_program(workspace, "bench-cores");
    interrupt::install()?;
    program::run(command.args(&args.options))
}
