//! `cargo xtask bench all`: one bench after the other.

use anyhow::{Result, bail};

use crate::{interrupt, program, workspace::Workspace};

const BENCHES: [&str; 7] = ["gcm", "engine", "cores", "stages", "veth", "host", "filter"];

/// Measure everything: gcm, engine, cores, stages, veth, host, filter.
///
/// Takes about an hour, a third of it for the filter. A bench that fails is named at the end; the others are done all the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Short rounds: a look, not a measurement
    #[arg(long, conflicts_with = "publish")]
    quick: bool,

    /// Write tables, plots and raw figures to bench/results as well, and the tables to docs/benchmarks.md
    #[arg(long)]
    publish: bool,
}

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let options = [("--quick", args.quick), ("--publish", args.publish)];
    let options: Vec<_> = options
        .iter()
        .filter(|(_, chosen)| *chosen)
        .map(|(option, _)| option)
        .collect();
    interrupt::install()?;
    let mut failed = Vec::new();
    for name in BENCHES {
        eprintln!("bench: {name}");
        // With `cargo xtask`, so that it is the one that users run.
        let mut command = workspace.cargo();
        command.args(["xtask", "bench", name]).args(&options);
        if name == "veth" {
            command.arg("--xsk-rs");
        }
        let done = program::run(&mut command);
        interrupt::check()?;
        if let Err(error) = done {
            eprintln!("bench: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("these benches failed: {}", failed.join(", "));
    }
    Ok(())
}
