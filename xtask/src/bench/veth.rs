//! `cargo xtask bench veth`: a gateway over veth, and DPDK's in its place.

use anyhow::{Result, bail};
use nix::unistd::Uid;

use super::dpdk;
use crate::{build_ebpf, interrupt, program, setup, workspace::Workspace};

/// Measure a gateway over veth, AF_XDP in copy mode: Ravelin, DPDK's ipsec-secgw, plain forwarding, and what the generator reaches alone.
///
/// Installs DPDK if it is not there, and compiles its gateway. `cargo xtask bench veth --help` shows the options of the program that
/// does it, `--quick` and `--publish` among them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let has = |option: &str| args.options.iter().any(|one| one == option);
    if !has("--help") && !has("-h") && !Uid::effective().is_root() {
        bail!("namespaces need root; run: sudo -E env \"PATH=$PATH\" cargo xtask bench veth");
    }
    let toolchain = setup::ensure(workspace)?;
    build_ebpf::ensure(workspace, &toolchain)?;
    let (ravelin, features) = match has("--xsk-rs") {
        true => {
            setup::ensure_xsk_rs()?;
            (workspace.build_ravelin_with_xsk_rs()?, Some("xsk-rs"))
        }
        false => (workspace.build_ravelin()?, None),
    };
    let object = build_ebpf::ensure_bench(workspace, &toolchain)?;
    let mut command = super::bench_program_with(workspace, "bench-veth", features);
    command.arg("--ravelin").arg(ravelin).arg("--object").arg(object);
    match dpdk::ipsec_secgw(workspace) {
        Ok(peer) => command.arg("--secgw").arg(peer),
        // There is something to measure without it, and the report says what is missing.
        Err(error) => command.arg("--secgw-missing").arg(format!("{error:#}")),
    };
    // The program puts back what it changed; this waits for it.
    interrupt::install()?;
    program::run(command.args(&args.options))
}
