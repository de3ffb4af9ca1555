//! `cargo xtask bench gcm`: what AES-GCM costs by packet, with our engines and with others, in turns on one CPU.
#![forbid(unsafe_code)]

mod batch;
mod ipsec_mb;
mod report;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use ravelin_bench::machine;
use ravelin_bench::publish::Destination;
use ravelin_gcm::{Algorithm, Provider};

use crate::batch::Batch;
use crate::ipsec_mb::{Api, IpsecMb};
use crate::report::Report;

/// Bytes that are encrypted.
const SIZES: [usize; 5] = [64, 256, 576, 1420, 4096];

/// Keys of a batch.
const KEYS: [usize; 2] = [1, batch::PACKETS];

/// Measure AES-GCM: nanoseconds per packet, in batches of 32, of every implementation in Ravelin and of intel-ipsec-mb.
///
/// Takes half a minute. Give it a machine that does nothing else: figures that vary by more than 15 % are marked as noisy.
/// Writes gcm.md and gcm.json to <target>/bench.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench gcm")]
struct Args {
    /// Three rounds: a look, not a measurement
    #[arg(long)]
    quick: bool,

    /// Rounds over everything; medians are taken over them
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    #[command(flatten)]
    destination: Destination,

    /// The peer, compiled
    #[arg(long, value_name = "FILE", hide = true)]
    ipsec_mb: Option<PathBuf>,

    /// Why there is none
    #[arg(
        long,
        value_name = "REASON",
        hide = true,
        default_value = "it was not compiled"
    )]
    ipsec_mb_missing: String,
}

/// What a column of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Implementation {
    Provider(Provider),
    IpsecMb(Api),
}

impl Implementation {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Provider(provider) => provider.name().to_owned(),
            Self::IpsecMb(api) => format!("ipsec-mb {}", api.name()),
        }
    }
}

/// What a row is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) algorithm: Algorithm,
    pub(crate) opens: bool,
    pub(crate) keys: usize,
    /// Bytes of each packet.
    pub(crate) size: usize,
}

impl Work {
    /// How many times as fast as intel-ipsec-mb it is meant to be; with as many keys as packets only where the time is that of a wait.
    const fn aim(self) -> Option<f64> {
        match (self.keys, self.size) {
            (1, ..256) => Some(5.0),
            (1, 256..576) | (_, ..256) => Some(2.5),
            (1, 576..1420) => Some(1.5),
            (1, _) => Some(1.1),
            _ => None,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    args.destination.prepare(args.quick, args.rounds as usize)?;
    machine::pin_to_last_cpu()?;
    let machine = machine::describe()?;
    let mut peer = args.ipsec_mb.as_deref().map(IpsecMb::start).transpose()?;
    if let Some(peer) = &mut peer {
        compare(peer)?;
    }
    let providers = Provider::ALL
        .iter()
        .filter(|provider| provider.has(Algorithm::AES_256_GCM))
        .map(|provider| Implementation::Provider(*provider));
    let apis = Api::ALL.into_iter().filter(|_| peer.is_some());
    let implementations: Vec<_> = providers.chain(apis.map(Implementation::IpsecMb)).collect();
    let about_peer = match &peer {
        Some(peer) => peer.version().to_owned(),
        None => format!("intel-ipsec-mb was not measured: {}", args.ipsec_mb_missing),
    };
    let mut report = Report::new(machine, args.quick, about_peer, &implementations);
    for algorithm in [Algorithm::AES_256_GCM, Algorithm::AES_128_GCM] {
        for opens in [false, true] {
            for keys in KEYS {
                for size in SIZES {
                    report.add(Work {
                        algorithm,
                        opens,
                        keys,
                        size,
                    });
                }
            }
        }
    }
    let rounds = if args.quick { 3 } else { args.rounds };
    for round in 1..=rounds {
        eprint!("\rgcm: round {round} of {rounds}");
        for row in &mut report.rows {
            for (implementation, samples) in implementations.iter().zip(&mut row.samples) {
                samples.push(match implementation {
                    Implementation::Provider(provider) => Batch::new(*provider, row.work)?.measure()?,
                    Implementation::IpsecMb(api) => {
                        let peer = peer.as_mut().expect("only columns of peers that are there");
                        peer.measure(*api, row.work)?
                    }
                });
            }
        }
    }
    eprintln!();
    args.destination.plot("gcm", &report.to_svg()?)?;
    args.destination
        .save("gcm", &report.to_markdown(), &report.to_json()?)?;
    args.destination.show(&report.to_markdown());
    Ok(())
}

/// Both must make the same tags of the same packets, or they do not do the same.
fn compare(peer: &mut IpsecMb) -> Result<()> {
    for algorithm in [Algorithm::AES_256_GCM, Algorithm::AES_128_GCM] {
        for size in SIZES {
            let (opens, keys) = (false, batch::PACKETS);
            let work = Work {
                algorithm,
                opens,
                keys,
                size,
            };
            let ours = Batch::new(Provider::RustCrypto, work)?.tag()?;
            for api in Api::ALL {
                let theirs = peer.tag(api, work)?;
                ensure!(
                    ours == theirs,
                    "intel-ipsec-mb, {}, makes another tag of {size} bytes than RustCrypto: {theirs}, {ours}",
                    api.name()
                );
            }
        }
    }
    Ok(())
}
