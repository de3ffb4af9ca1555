//! `cargo xtask bench host`: two hosts, what Ravelin costs between them, and its peers beside it.
//!
//! Each turn makes the hosts anew, sets up one kind of link, measures, and takes all away; rounds go over all links in turn.
#![forbid(unsafe_code)]

mod datagrams;
mod lab;
mod link;
mod pass;
mod report;
mod round_trip;
mod stream;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use ravelin_bench::publish::Destination;
use ravelin_bench::{machine, namespace};

use crate::lab::{Cpus, End, Lab};
use crate::link::Link;
use crate::report::{Report, Row};

/// Between questions when the workers are to fall asleep.
const PAUSE: Duration = Duration::from_millis(1);

/// Measure two hosts over one link: TCP, small datagrams and round trips, plain, through Ravelin and through its peers.
///
/// Takes about eight minutes, `--quick` one. Give it a machine that does nothing else: figures that vary by more than 15 %
/// are marked as noisy. Writes host.md and host.json to <target>/bench.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench host")]
struct Args {
    /// One short round: a look, not a measurement
    #[arg(long)]
    quick: bool,

    /// Rounds over all links; medians are taken over them
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Leave out workers that never sleep
    #[arg(long)]
    no_busy: bool,

    /// Leave out WireGuard and the kernel's ESP
    #[arg(long)]
    no_peers: bool,

    #[command(flatten)]
    destination: Destination,

    #[command(flatten)]
    programs: Programs,
}

/// What was built for this.
#[derive(Debug, clap::Args)]
struct Programs {
    /// The daemon
    #[arg(long, value_name = "FILE", hide = true)]
    ravelin: PathBuf,

    /// The BPF object for benches
    #[arg(long, value_name = "FILE", hide = true)]
    object: Option<PathBuf>,
}

/// How long each thing is measured.
#[derive(Clone, Copy, Debug)]
struct Durations {
    /// In whole seconds: iperf3 knows no others.
    stream: u32,
    datagrams: f64,
    round_trips: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [command, object, device] = &arguments[..]
        && command == pass::COMMAND
    {
        return pass::serve(object.as_ref(), device);
    }
    let args = Args::parse();
    args.destination.prepare(args.quick, args.rounds as usize)?;
    let cpus = Cpus::share_out(&machine::two_cpus()?)?;
    ensure!(
        args.programs.ravelin.is_file(),
        "no {}: start this with `cargo xtask bench host`",
        args.programs.ravelin.display()
    );
    let machine = machine::describe()?;
    let folder = namespace::hide_files()?;
    let (rounds, durations) = if args.quick {
        let (stream, datagrams, round_trips) = (1, 0.3, 0.3);
        (
            1,
            Durations {
                stream,
                datagrams,
                round_trips,
            },
        )
    } else {
        let (stream, datagrams, round_trips) = (3, 1.0, 1.0);
        (
            args.rounds,
            Durations {
                stream,
                datagrams,
                round_trips,
            },
        )
    };
    let mut report = Report::new(machine, args.quick, cpus);
    for link in Link::all(!args.no_busy, !args.no_peers) {
        let missing = link.check(&Lab::new(cpus, &folder)?).err();
        if let Some(reason) = &missing {
            eprintln!("host: {} is not measured: {reason:#}", link.name());
        }
        let reason = missing.map(|reason| reason.to_string());
        report.rows.push(Row::new(link, reason));
    }
    for round in 1..=rounds {
        for row in report.rows.iter_mut().filter(|row| row.missing.is_none()) {
            eprintln!("host: round {round} of {rounds}: {}", row.link.name());
            let measured = measure(row, cpus, &folder, &args.programs, durations);
            measured.with_context(|| row.link.name())?;
        }
        // A long run that is interrupted leaves its first rounds.
        let part = args.destination.for_now();
        part.save("host", &report.to_markdown(), &report.to_json()?)?;
    }
    args.destination.plot("host", &report.to_svg()?)?;
    args.destination
        .save("host", &report.to_markdown(), &report.to_json()?)?;
    args.destination.show(&report.to_markdown());
    Ok(())
}

/// One turn of one link.
fn measure(
    row: &mut Row,
    cpus: Cpus,
    folder: &Path,
    programs: &Programs,
    durations: Durations,
) -> Result<()> {
    let lab = Lab::new(cpus, folder)?;
    let _daemons = row.link.establish(&lab, programs)?;
    let [a, b] = End::BOTH.map(|end| row.link.address(end));
    let addresses = [a.as_str(), b.as_str()];
    round_trip::wait_until_up(&lab, addresses)?;
    let idle = round_trip::measure(&lab, addresses, durations.round_trips, PAUSE)?;
    let without_pause = round_trip::measure(&lab, addresses, durations.round_trips, Duration::ZERO)?;
    let bits = stream::measure(&lab, addresses[1], durations.stream)?;
    let rate = datagrams::measure(&lab, addresses, durations.datagrams)?;
    row.push(bits, rate, without_pause, idle);
    Ok(())
}
