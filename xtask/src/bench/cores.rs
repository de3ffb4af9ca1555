//! `cargo xtask bench cores`: one SA on two cores, against one.

use anyhow::Result;

use crate::workspace::Workspace;

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
    super::run_program(workspace, "bench-cores", &args.options)
}
