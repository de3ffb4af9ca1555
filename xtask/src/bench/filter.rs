//! `cargo xtask bench filter`: the classifier in the kernel, and nftables beside it.

use anyhow::{Result, bail};
use nix::unistd::Uid;

use crate::{build_ebpf, program, setup, workspace::Workspace};

/// Measure the classifier in the kernel: nanoseconds per packet by size, kind of rule set and trace; memory, compile and
/// swap time; and nftables on the same kind of veth pair.
///
/// `cargo xtask bench filter --help` shows the options of the program that does it, `--quick` and `--publish` among them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let help = args
        .options
        .iter()
        .any(|option| option == "--help" || option == "-h");
    if !help && !Uid::effective().is_root() {
        bail!(
            "BPF programs and namespaces need root; run: sudo -E env \"PATH=$PATH\" cargo xtask bench filter"
        );
    }
    let toolchain = setup::ensure(workspace)?;
    let object = build_ebpf::ensure_bench(workspace, &toolchain)?;
    let mut command = super::bench_program(workspace, "bench-filter");
    command
        .args(&args.options)
        // The engine embeds this object in place of the shipped one.
        .env("RAVELIN_BPF_OBJECT", object);
    program::run(&mut command)
}
