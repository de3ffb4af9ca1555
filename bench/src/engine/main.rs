//! `cargo xtask bench engine`: all that a gateway does but the device, beside DPDK's ipsec-secgw on the same CPU.
//!
//! For each row the peer is started once; then both take turns, and the one whose turn it is not is stopped.
#![forbid(unsafe_code)]

mod report;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use ravelin_bench::huge_pages::HugePages;
use ravelin_bench::ours::Part;
use ravelin_bench::publish::Destination;
use ravelin_bench::rig::Network;
use ravelin_bench::samples::Samples;
use ravelin_bench::secgw::{self, Compiled, Memory, Secgw, Setup};
use ravelin_bench::work::Work;
use ravelin_bench::{interrupt, machine, ours};
use ravelin_esp::Provider;
use ravelin_xdp_common::Direction;
use ravelin_xsk::Umem;

use crate::report::Report;

/// Packets that the peer may have on their way besides those of its capture.
const SPARE_BUFFERS: u32 = 8192;

/// Measure what packets cost without devices: tunnel mode, AES-256-GCM, through Ravelin and through DPDK's ipsec-secgw.
///
/// Takes about five minutes, `--quick` half a one. Give it a machine that does nothing else: figures that vary by more than 15 % are
/// marked as noisy. Writes engine.md and engine.json to <target>/bench.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench engine")]
struct Args {
    /// Two short rounds, up to 1,000 SAs: a look, not a measurement
    #[arg(long)]
    quick: bool,

    /// Rounds of each row; medians are taken over them
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Numbers of SAs; all of them are in use
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sas: Vec<u32>,

    /// Bytes of the inner packets
    #[arg(long, value_delimiter = ',', default_values_t = [64, 576, 1420], value_parser = clap::value_parser!(u16).range(28..=1420))]
    sizes: Vec<u16>,

    /// Only clear packets to be sealed, or only sealed ones to be opened
    #[arg(long, value_name = "DIRECTION")]
    only: Option<Way>,

    /// The peer's memory in ordinary pages
    #[arg(long)]
    no_huge: bool,

    #[command(flatten)]
    destination: Destination,

    #[command(flatten)]
    secgw: Compiled,
}

/// One of the directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    Outbound,
    Inbound,
}

/// MiB of our own packet memory, and some to spare.
const OURS: u64 = 16;

/// Where and for how long everything is measured.
#[derive(Clone, Copy, Debug)]
struct Rounds<'r> {
    count: u32,
    /// For each figure of a round.
    time: Duration,
    /// Of the peer, after it was woken.
    settle: Duration,
    cpus: &'r [usize],
    folder: &'r Path,
}

/// The peer's program and its memory, as far as they are there.
#[derive(Clone, Copy, Debug)]
struct Peer<'p> {
    program: Option<&'p Path>,
    pages: Option<&'p HugePages>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    args.destination.prepare(args.quick, args.rounds as usize)?;
    interrupt::install()?;
    let cpus = machine::two_cpus()?;
    machine::pin_to_last_cpu()?;
    let machine = machine::describe()?;
    let folder = args.destination.out().join("engine");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let counts = match (args.sas.is_empty(), args.quick) {
        (false, _) => args.sas.clone(),
        (true, quick) => Work::numbers_of_sas(quick).to_vec(),
    };
    let most = counts.iter().max().copied().unwrap_or(1);
    let memory_of_all = megabytes(most) + OURS;
    let (pages, no_huge_pages) = match args.no_huge {
        true => (None, Some("they were not asked for (`--no-huge`)".to_owned())),
        false => match HugePages::reserve(memory_of_all) {
            Ok(pages) => (Some(pages), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        },
    };
    let rounds = Rounds {
        count: if args.quick { 2 } else { args.rounds },
        time: Duration::from_millis(if args.quick { 150 } else { 400 }),
        settle: Duration::from_millis(100),
        cpus: &cpus,
        folder: &folder,
    };
    let provider = Provider::preferred();
    let mut report = Report::new(
        machine,
        args.quick,
        provider,
        args.secgw.program.is_some(),
        no_huge_pages,
    );
    if args.secgw.program.is_none() {
        report.peer_missing(&args.secgw.missing);
    }
    let directions: &[Direction] = match args.only {
        None => &[Direction::Outbound, Direction::Inbound],
        Some(Way::Outbound) => &[Direction::Outbound],
        Some(Way::Inbound) => &[Direction::Inbound],
    };
    let memory = ours::memory(pages.is_some())?;
    let peer = Peer {
        program: args.secgw.program.as_deref(),
        pages: pages.as_ref(),
    };
    for sas in counts {
        eprintln!("engine: making {sas} tunnels");
        let network = Network::new(sas, provider, false)?;
        for direction in directions {
            for size in &args.sizes {
                let size = usize::from(*size);
                let work = Work {
                    direction: *direction,
                    sas,
                    size,
                };
                measure(&mut report, &network, &memory, work, peer, rounds).with_context(|| work.name())?;
                // A long run that is interrupted leaves its first rows.
                let part = args.destination.for_now();
                part.save("engine", &report.to_markdown(), &report.to_json()?)?;
            }
        }
    }
    args.destination.plot("engine", &report.to_svg()?)?;
    args.destination
        .save("engine", &report.to_markdown(), &report.to_json()?)?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    args.destination.show(&report.to_markdown());
    Ok(())
}

/// All rounds of one row.
fn measure(
    report: &mut Report,
    network: &Network,
    memory: &Umem,
    work: Work,
    peer: Peer<'_>,
    rounds: Rounds<'_>,
) -> Result<()> {
    let drivers = network.drivers();
    let mut running = None;
    if let Some(program) = peer.program {
        eprintln!("engine: {}: starting ipsec-secgw", work.name());
        match start(program, network, work, peer.pages, rounds) {
            Ok(started) => running = Some(started),
            Err(error) => {
                interrupt::check()?;
                let reason = format!("{}: {error:#}", work.name());
                eprintln!("engine: {reason}");
                report.notes.push(reason);
            }
        }
    }
    let row = report.add(work);
    let mut failed = None;
    for round in 1..=rounds.count {
        eprintln!("engine: {}: round {round} of {}", work.name(), rounds.count);
        for (part, samples) in Part::ALL.into_iter().zip(&mut row.ours) {
            let rate = ours::measure(network, &drivers, memory, work, part, rounds.time, |_| Ok(()))?;
            samples.push(rate / 1e3);
        }
        if let Some(peer) = &mut running {
            match ask(peer, rounds) {
                Ok(rate) => row.theirs.push(rate / 1e3),
                Err(error) => {
                    interrupt::check()?;
                    failed = Some(format!("{}: in round {round} {error:#}", work.name()));
                    running = None;
                }
            }
        }
    }
    if let Some(reason) = failed {
        eprintln!("engine: {reason}");
        // What it did before it failed is no figure.
        row.theirs = Samples::default();
        report
            .notes
            .push(format!("ipsec-secgw was not measured: {reason}"));
    }
    Ok(())
}

/// The peer with its capture, stopped.
fn start(
    program: &Path,
    network: &Network,
    work: Work,
    pages: Option<&HugePages>,
    rounds: Rounds<'_>,
) -> Result<Secgw> {
    let [packets, none] = ["packets.pcap", "none.pcap"].map(|name| rounds.folder.join(name));
    let frames = work.packets(network)?;
    secgw::write_capture(&packets, frames.iter().map(|ready| &*ready.frame))?;
    secgw::write_capture(&none, [])?;
    let repeating = format!("rx_pcap={},infinite_rx=1", packets.display());
    let silent = format!("rx_pcap={}", none.display());
    let [inner, outer] = match work.direction {
        Direction::Outbound => [repeating, silent],
        Direction::Inbound => [silent, repeating],
    };
    let size = megabytes(work.sas);
    if let Some(pages) = pages {
        pages.replenish(size)?;
    }
    let peer = Secgw::start(&Setup {
        program,
        folder: rounds.folder,
        tunnels: work.sas,
        directions: &[work.direction],
        devices: [format!("net_pcap0,{inner}"), format!("net_pcap1,{outer}")],
        neighbours: ["02:00:00:00:00:07", "02:00:00:00:00:09"],
        namespace: None,
        cpu: rounds.cpus.last().copied().unwrap_or(0),
        cpus: rounds.cpus,
        memory: match pages {
            Some(_) => Memory::Huge(size),
            None => Memory::Ordinary(size),
        },
        buffers: work.count() as u32 + SPARE_BUFFERS,
    })?;
    peer.pause()?;
    Ok(peer)
}

/// Packets per second of the peer's work, for which it is woken.
fn ask(peer: &mut Secgw, rounds: Rounds<'_>) -> Result<f64> {
    peer.resume()?;
    interrupt::sleep(rounds.settle)?;
    let before = peer.count()?;
    interrupt::sleep(rounds.time)?;
    let after = peer.count()?;
    peer.pause()?;
    let (received, sent) = (after.received - before.received, after.sent - before.sent);
    // What is on its way at either count is a burst or two.
    ensure!(
        sent > 0 && received.abs_diff(sent) <= received / 100 + 1024,
        "ipsec-secgw sent {sent} of the {received} packets that it received: it does not do what it is compared for"
    );
    ensure!(after.work > before.work, "ipsec-secgw has had no time of a CPU");
    Ok(sent as f64 * 1e9 / (after.work - before.work) as f64)
}

/// Memory that the peer needs for so many SAs.
const fn megabytes(sas: u32) -> u64 {
    512 + sas as u64 * 12 / 1024
}
