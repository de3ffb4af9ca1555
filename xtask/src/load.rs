//! `cargo xtask load`: build, attach to an existing interface, and run in the foreground.

use std::{convert::Infallible, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use nix::{net::if_::if_nametoindex, unistd::Uid};

use crate::{build_ebpf, program, setup, workspace::Workspace};

/// Build Ravelin, attach it to an existing interface and run it in the foreground (as root).
///
/// Ctrl-C detaches it again. Mind the connection you are logged in by: what the policy does not permit is dropped.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cargo xtask load --iface eth0 --inner eth1 --policy policy.toml --mode native"
)]
pub(crate) struct Args {
    /// The outer interface: the side that carries ESP
    #[arg(long, value_name = "IF")]
    iface: String,

    /// The inner interface: the side that carries clear packets
    #[arg(long, value_name = "IF")]
    inner: Option<String>,

    /// The policy, a TOML file (checked before anything is attached)
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,

    /// How XDP attaches: in the driver, or in the stack where the driver cannot
    #[arg(long, value_enum)]
    mode: Option<Mode>,
}

/// Where XDP runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Native,
    Generic,
}

/// Builds, then becomes the daemon.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Infallible> {
    // What the user can put right is checked before minutes of building.
    for name in [Some(&args.iface), args.inner.as_ref()].into_iter().flatten() {
        if if_nametoindex(name.as_str()).is_err() {
            bail!("no interface '{name}' in this network namespace; `ip link` lists them");
        }
    }
    let policy = args
        .policy
        .canonicalize()
        .with_context(|| format!("policy {}", args.policy.display()))?;
    if !Uid::effective().is_root() {
        bail!("attaching needs root; run: sudo -E env \"PATH=$PATH\" cargo xtask load …");
    }
    let toolchain = setup::ensure(workspace)?;
    build_ebpf::ensure(workspace, &toolchain)?;
    let ravelin = workspace.build_ravelin()?;

    let mut daemon = Command::new(&ravelin);
    daemon
        .args(["run", "--on-exit", "open"])
        .arg("--outer")
        .arg(&args.iface)
        .arg("--policy")
        .arg(&policy);
    if let Some(inner) = &args.inner {
        daemon.arg("--inner").arg(inner);
    }
    match args.mode {
        Some(Mode::Native) => daemon.args(["--xdp-mode", "native"]),
        Some(Mode::Generic) => daemon.args(["--xdp-mode", "generic"]),
        None => &mut daemon,
    };
    eprintln!("load: {}", program::line(&daemon));
    Err(daemon.exec()).with_context(|| format!("cannot start {}", ravelin.display()))
}
