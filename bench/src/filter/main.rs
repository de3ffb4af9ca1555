//! `cargo xtask bench filter`: the classifier in the kernel, over many rule sets and traces, and nftables beside it.
//!
//! It needs the BPF object that `cargo xtask build-ebpf` makes with the programs of `xdp-ebpf/src/bench.rs` in it; the
//! task sees to that. Network namespaces that it makes have no name and end with the process, however that ends.
#![forbid(unsafe_code)]

mod aims;
mod kernel;
mod nft;
mod report;
mod sets;
mod wire;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use ravelin_bench::publish::Destination;
use ravelin_bench::{Profile, machine};
use ravelin_policy::Family;

use crate::report::Report;

/// Measure the classifier in the kernel: nanoseconds per packet, memory, compile and swap time; nftables beside it.
///
/// Before anything is measured, kernel, host and a plain reference must agree about every trace. The whole table takes
/// about twenty minutes; `--quick` takes a few. Give it a machine that does nothing else. Writes filter.md and
/// filter.json to <target>/bench.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench filter")]
struct Args {
    /// Fewer packets and rounds, and at most 1,000 rules: a look, not a measurement
    #[arg(long)]
    quick: bool,

    /// Sizes of rule sets
    #[arg(long, value_delimiter = ',', value_name = "COUNT", default_values_t = [10, 1000, 10_000, 100_000])]
    rules: Vec<usize>,

    /// Kinds of rule sets
    #[arg(long, value_delimiter = ',', value_name = "NAME", default_values = ["acl", "fw", "ipc"])]
    profiles: Vec<String>,

    /// IP versions
    #[arg(long, value_delimiter = ',', value_name = "VERSION", default_values_t = [4, 6])]
    family: Vec<u8>,

    /// Rounds over all traces; medians are taken over them
    #[arg(long, default_value_t = 7)]
    rounds: usize,

    /// Leave out nftables and the veth pair
    #[arg(long)]
    no_wire: bool,

    /// Leave out the classifier by itself
    #[arg(long)]
    only_wire: bool,

    /// Seconds that nftables may take to load a rule set
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    nft_patience: u64,

    #[command(flatten)]
    destination: Destination,
}

/// What to measure, checked.
#[derive(Debug)]
struct Plan {
    profiles: Vec<Profile>,
    families: Vec<Family>,
    rules: Vec<usize>,
    rounds: usize,
    /// Flows of a trace that no cache holds.
    flows: usize,
    /// Seconds of traffic per run over the wire.
    seconds: f64,
    nft_patience: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let plan = plan(&args)?;
    args.destination.prepare(args.quick, args.rounds)?;
    machine::pin_to_last_cpu()?;
    let mut report = Report::new(machine::describe()?, args.quick, args.destination);
    if !args.only_wire {
        sets::measure(&plan, &mut report)?;
    }
    if !args.no_wire {
        wire::measure(&plan, &mut report)?;
    }
    report.finish()?;
    println!("{}", report.to_markdown());
    Ok(())
}

fn plan(args: &Args) -> Result<Plan> {
    let profiles = args.profiles.iter().map(|name| {
        Profile::named(name)
            .with_context(|| format!("there is no profile `{name}`; known are acl, fw and ipc"))
    });
    let families = args.family.iter().map(|version| match version {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        other => bail!("there is no IP version {other}; known are 4 and 6"),
    });
    let most = if args.quick { 1000 } else { 250_000 };
    let rules: Vec<usize> = args
        .rules
        .iter()
        .copied()
        .filter(|count| (1..=most).contains(count))
        .collect();
    if rules.is_empty() || args.rounds == 0 {
        bail!("nothing to measure: give --rules from 1 to {most}, and at least one round");
    }
    Ok(Plan {
        profiles: profiles.collect::<Result<_>>()?,
        families: families.collect::<Result<_>>()?,
        rules,
        rounds: if args.quick {
            args.rounds.min(3)
        } else {
            args.rounds
        },
        flows: if args.quick { 1 << 13 } else { 1 << 17 },
        seconds: if args.quick { 0.2 } else { 0.4 },
        nft_patience: args.nft_patience,
    })
}
