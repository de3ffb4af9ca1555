//! `cargo xtask fuzz`: every fuzz target for a while.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::program;
use crate::workspace::Workspace;

/// Fuzz the parsers of what strangers send: packets, ESP, policies, other filters' rules.
///
/// Starts from the inputs in fuzz/seeds and from those in fuzz/corpus, where it keeps what it finds interesting.
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
        let mut run = command(workspace, &fuzz);
        run.args(["run", target]).args(corpora(workspace, target)?);
        program::run(run.args(["--", &limit, "-print_final_stats=1"]))?;
    }
    Ok(())
}

/// Where inputs are kept, and where those to start from are.
fn corpora(workspace: &Workspace, target: &str) -> Result<Vec<PathBuf>> {
    let fuzz = workspace.root.join("fuzz");
    let corpus = fuzz.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let seeds = fuzz.join("seeds").join(target);
    let seeds = seeds.is_dir().then_some(seeds);
    Ok(std::iter::once(corpus).chain(seeds).collect())
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
