//! `cargo xtask bench cores`: one SA through a worker alone, and through a worker with a crypto thread on a second core.
//!
//! Both take turns on the same CPU, over ports in memory.
#![forbid(unsafe_code)]

mod path;
mod report;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use ravelin_bench::publish::Destination;
use ravelin_bench::rig::Network;
use ravelin_bench::{interrupt, machine};
use ravelin_esp::Provider;
use ravelin_xdp_common::Direction;

use crate::report::Report;
use ravelin_bench::work::Work;

/// Measure what a crypto thread beside the worker brings one SA: tunnel mode, AES-256-GCM, over ports in memory.
///
/// Takes a minute, `--quick` some seconds. Give it a machine that does nothing else: figures that vary by more than 15 % are marked as
/// noisy. Writes cores.md and cores.json to <target>/bench.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench cores")]
struct Args {
    /// Two short rounds: a look, not a measurement
    #[arg(long)]
    quick: bool,

    /// Rounds of each row; medians are taken over them
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Bytes of the inner packets
    #[arg(long, value_delimiter = ',', default_values_t = [64, 576, 1420], value_parser = clap::value_parser!(u16).range(32..=1420))]
    sizes: Vec<u16>,

    #[command(flatten)]
    destination: Destination,
}

fn main() -> Result<()> {
    let args = Args::parse();
    args.destination.prepare(args.quick, args.rounds as usize)?;
    interrupt::install()?;
    let cpus = machine::two_cpus()?;
    let (worker, crypto) = (cpus[0], cpus[1]);
    machine::pin_to(worker)?;
    let (rounds, time) = match args.quick {
        true => (2, Duration::from_millis(100)),
        false => (args.rounds, Duration::from_millis(400)),
    };
    let provider = Provider::preferred();
    let mut report = Report::new(machine::describe()?, args.quick, provider);
    let memory = path::memory()?;
    let network = Network::new(1, provider, false)?;
    for direction in [Direction::Outbound, Direction::Inbound] {
        for size in &args.sizes {
            let work = Work {
                direction,
                sas: 1,
                size: (*size).into(),
            };
            let row = report.add(work);
            for round in 1..=rounds {
                eprintln!("cores: {}: round {round} of {rounds}", work.name());
                for (cpu, samples) in [None, Some(crypto)].into_iter().zip(&mut row.rates) {
                    let measured = path::measure(&network, &memory, work, cpu, time);
                    let (rate, overtaken) = measured.with_context(|| work.name())?;
                    samples.push(rate / 1e3);
                    row.overtaken += overtaken;
                }
            }
            args.destination
                .save("cores", &report.to_markdown(), &report.to_json()?)?;
        }
    }
    args.destination.show(&report.to_markdown());
    Ok(())
}
