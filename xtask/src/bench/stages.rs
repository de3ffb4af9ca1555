//! `cargo xtask bench stages`: where the nanoseconds of a packet go.

use anyhow::Result;

use crate::workspace::Workspace;

/// Profile what packets cost without devices, by stage and by source file.
///
/// `cargo xtask bench stages --help` shows the options of the program that does it, `--quick` and `--publish` among them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    super::run_program(workspace, "bench-stages", &args.options)
}
