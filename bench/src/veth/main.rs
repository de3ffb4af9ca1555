//! `cargo xtask bench veth`: a gateway over veth, in AF_XDP's copy mode, and DPDK's in its place.
//!
//! Each turn makes the wires anew, puts one gateway between them, sends each kind of traffic, and takes all away; rounds go over all
//! gateways in turn.
#![forbid(unsafe_code)]

mod forward;
mod gateway;
mod report;
mod traffic;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use ravelin_bench::huge_pages::HugePages;
use ravelin_bench::publish::Destination;
use ravelin_bench::secgw::Compiled;
use ravelin_bench::{interrupt, machine, namespace};

use crate::gateway::{Gateway, Kind, MEMORY, Means};
use crate::report::Report;
use crate::traffic::Traffic;
use crate::wire::Wires;

/// Measure a gateway over veth in AF_XDP's copy mode: packets per second, sealed by Ravelin and by DPDK's ipsec-secgw, and just forwarded.
///
/// Takes about two minutes, `--quick` half a one. Give it a machine that does nothing else: figures that vary by more than 15 % are
/// marked as noisy. Writes veth.md and veth.json to <target>/bench.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench veth")]
struct Args {
    /// Two short rounds: a look, not a measurement
    #[arg(long)]
    quick: bool,

    /// Rounds over all gateways; medians are taken over them
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// The peer's memory in ordinary pages
    #[arg(long)]
    no_huge: bool,

    /// Also with the sockets of the crate xsk-rs in the place of Ravelin's own; installs what its C parts are compiled with
    #[arg(long)]
    xsk_rs: bool,

    #[command(flatten)]
    destination: Destination,

    /// The daemon
    #[arg(long, value_name = "FILE", hide = true)]
    ravelin: PathBuf,

    /// The BPF object for benches
    #[arg(long, value_name = "FILE", hide = true)]
    object: PathBuf,

    #[command(flatten)]
    secgw: Compiled,
}

fn main() -> Result<()> {
    let args = Args::parse();
    args.destination.prepare(args.quick, args.rounds as usize)?;
    interrupt::install()?;
    let cpus = machine::two_cpus()?;
    let machine = machine::describe()?;
    let folder = namespace::hide_files()?;
    let (pages, no_huge_pages) = match args.no_huge {
        true => (None, Some("they were not asked for (`--no-huge`)".to_owned())),
        // As much again for Ravelin's packet memory.
        false => match HugePages::reserve(2 * MEMORY) {
            Ok(pages) => (Some(pages), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        },
    };
    let means = Means {
        ravelin: &args.ravelin,
        secgw: args.secgw.program.as_deref(),
        huge_pages: pages.is_some(),
        folder: &folder,
        cpus: &cpus,
    };
    if args.xsk_rs && !cfg!(feature = "xsk-rs") {
        bail!("this was built without the feature xsk-rs; run `cargo xtask bench veth --xsk-rs`");
    }
    let kinds = Kind::all(args.xsk_rs);
    let mut report = Report::new(machine, args.quick, &cpus, no_huge_pages, kinds.clone());
    if args.secgw.program.is_none() {
        report.missing(Kind::Secgw, args.secgw.missing.clone());
    }
    let time = Duration::from_millis(if args.quick { 250 } else { 800 });
    let rounds = if args.quick { 2 } else { args.rounds };
    for round in 1..=rounds {
        for &kind in &kinds {
            if report.is_missing(kind) {
                continue;
            }
            eprintln!("veth: round {round} of {rounds}: {}", kind.name());
            if let Some(pages) = &pages {
                pages.replenish(2 * MEMORY)?;
            }
            match turn(&mut report, kind, &args.object, means, time) {
                Err(error) if kind == Kind::Secgw => {
                    interrupt::check()?;
                    eprintln!("veth: {}: {error:#}", kind.name());
                    report.missing(kind, format!("in round {round} {error:#}"));
                }
                turned => turned.with_context(|| kind.name())?,
            }
        }
        // A long run that is interrupted leaves its first rounds.
        let part = args.destination.for_now();
        part.save("veth", &report.to_markdown(), &report.to_json()?)?;
    }
    args.destination.plot("veth", &report.to_svg()?)?;
    args.destination
        .save("veth", &report.to_markdown(), &report.to_json()?)?;
    args.destination.show(&report.to_markdown());
    Ok(())
}

/// One turn of one gateway.
fn turn(report: &mut Report, kind: Kind, object: &Path, means: Means<'_>, time: Duration) -> Result<()> {
    const SETTLE: Duration = Duration::from_millis(200);
    // The last CPU is the gateway's: the first takes most interrupts, and the generator is the kernel anyway.
    let generator = means.cpus.first().copied().unwrap_or(0);
    let cpu = means.cpus.last().copied().unwrap_or(0);
    let mut wires = Wires::new(object, generator)?;
    wires.attach_sink(kind != Kind::None)?;
    let gateway = Gateway::start(kind, &mut wires, cpu, means)?;
    for traffic in Traffic::ALL {
        let mut work = Vec::new();
        let arrived = wires.send(traffic, SETTLE, time, || {
            work.extend(gateway.work()?);
            Ok(())
        })?;
        wire::check(arrived, kind.seals()).with_context(|| traffic.name())?;
        let busy = match work[..] {
            [before, after] => Some((after - before).as_secs_f64() / arrived.time.as_secs_f64()),
            _ => None,
        };
        let rate = arrived.packets as f64 / arrived.time.as_secs_f64();
        report.push(kind, traffic, rate / 1e3, busy.map(|busy| busy * 100.0));
    }
    Ok(())
}
