//! `cargo xtask bench stages`: where the nanoseconds of a packet go, from a profile.
#![forbid(unsafe_code)]

mod profile;
mod report;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use ravelin_bench::huge_pages::HugePages;
use ravelin_bench::ours::{self, Part};
use ravelin_bench::publish::Destination;
use ravelin_bench::rig::Network;
use ravelin_bench::samples::ENOUGH;
use ravelin_bench::work::Work;
use ravelin_bench::{interrupt, machine};
use ravelin_esp::Provider;
use ravelin_xdp_common::Direction;

use crate::profile::Profile;
use crate::report::Report;

/// Profile what packets cost without devices: nanoseconds per packet of each stage and each source file.
///
/// The path is that of `bench engine`. The kernel interrupts it a thousand times for a second of its CPU's time, and where it was is
/// looked up in the program's line table. Takes about three minutes. Writes stages.md and stages.json to <target>/bench.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench stages")]
struct Args {
    /// A second for each column, up to 1,000 SAs: a look, not a measurement
    #[arg(long)]
    quick: bool,

    /// Seconds of work in each column
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    #[command(flatten)]
    destination: Destination,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // One profile for each column, of thousands of samples.
    args.destination.prepare(args.quick, ENOUGH)?;
    interrupt::install()?;
    machine::pin_to_last_cpu()?;
    let machine = machine::describe()?;
    let seconds = if args.quick { 1 } else { args.seconds };
    // As `bench engine` has it; without huge pages these are ordinary ones.
    let pages = HugePages::reserve(16).ok();
    let memory = ours::memory(pages.is_some())?;
    let provider = Provider::preferred();
    let mut profile = Profile::new()?;
    let mut report = Report::new(machine, args.quick, provider, seconds);
    for &sas in Work::numbers_of_sas(args.quick) {
        eprintln!("stages: making {sas} tunnels");
        let network = Network::new(sas, provider, false)?;
        let drivers = network.drivers();
        for direction in [Direction::Outbound, Direction::Inbound] {
            for size in [64, 1420] {
                // Many SAs cost the same with every size.
                if sas > 1 && size > 64 {
                    continue;
                }
                let work = Work { direction, sas, size };
                eprintln!("stages: {}: {seconds} s", work.name());
                let time = Duration::from_secs(seconds);
                let rate = ours::measure(&network, &drivers, &memory, work, Part::Whole, time, |on| {
                    profile.run(on)
                })
                .with_context(|| work.name())?;
                let places = profile.places().with_context(|| work.name())?;
                report.add(work, 1e9 / rate, &places);
            }
        }
    }
    args.destination.plot("stages", &report.to_svg()?)?;
    args.destination
        .save("stages", &report.to_markdown(), &report.to_json()?)?;
    args.destination.show(&report.to_markdown());
    Ok(())
}
