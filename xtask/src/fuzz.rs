//! `cargo xtask fuzz`: every fuzz target for a while.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::program;
use crate::workspace::Workspace;

/// Fuzz the parsers of what strangers send: packets, ESP, policies.
///
/// Installs cargo-fuzz into the target folder if it is not there. What it finds lies in fuzz/artifacts, and ends this
/// command with an error that says how to see it again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,

    /// Only this target [default: all]
    target: Option<String>,
}

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let fuzz = cargo_fuzz(workspace)?;
    let output = program::output(command(workspace, &fuzz).arg("list"))?;
    let mut targets: Vec<&str> = output.lines().collect();
    if let Some(wanted) = &args.target {
        if !targets.contains(&wanted.as_str()) {
            bail!("no target `{wanted}`; there are: {}", targets.join(", "));
        }
        targets = vec![wanted];
    }
    for target in targets {
        eprintln!("fuzz: {target}, {} s", args.seconds);
        let limit = format!("-max_total_time={}", args.seconds);
        program::run(command(workspace, &fuzz).args(["run", target, "--", &limit, "-print_final_stats=1"]))?;
    }
    Ok(())
}

fn command(workspace: &Workspace, fuzz: &PathBuf) -> Command {
    let mut command = Command::new(fuzz);
    // The instrumentation is unstable; everything else is the stable toolchain's.
    command
        .arg("fuzz")
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(&workspace.root);
    command
}

/// cargo-fuzz in the target folder.
fn cargo_fuzz(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target.join("cargo-fuzz");
    let program = root.join("bin/cargo-fuzz");
    if !program.exists() {
        eprintln!(
            "fuzz: installing cargo-fuzz into {}",
            workspace.shown(&root).display()
        );
        let mut install = workspace.cargo();
        install
            .args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"])
            .arg(&root);
        program::run(&mut install).context("cannot install cargo-fuzz")?;
    }
    Ok(program)
}
