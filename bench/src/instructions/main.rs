//! One piece of the fast path, so many times over: what `cargo xtask bench instructions` runs under callgrind.
//!
//! AES-GCM is that for AES-NI, whatever the CPU has, since that is what valgrind knows.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use ravelin_bench::rig::{BATCH, Network, Ready};
use ravelin_esp::Provider;

/// Tunnels of the gateway.
const TUNNELS: u32 = 64;

#[derive(Debug, Parser)]
struct Arguments {
    /// What to do
    case: Case,

    /// How often; a batch has 32 packets
    batches: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Case {
    /// A worker's way from the clear side to the wire, packets of 64 bytes
    #[value(name = "outbound-64")]
    Outbound64,
    /// The same with 1420 bytes
    #[value(name = "outbound-1420")]
    Outbound1420,
    /// A worker's way from the wire to the clear side, packets of 64 bytes
    #[value(name = "inbound-64")]
    Inbound64,
    /// The same with 1420 bytes
    #[value(name = "inbound-1420")]
    Inbound1420,
}

fn main() -> Result<()> {
    let Arguments { case, batches } = Arguments::parse();
    ensure!(
        Provider::AesNi.has(ravelin_esp::Algorithm::AES_256_GCM),
        "no AES-NI"
    );
    match case {
        Case::Outbound64 => outbound(64, batches),
        Case::Outbound1420 => outbound(1420, batches),
        Case::Inbound64 => inbound(64, batches),
        Case::Inbound1420 => inbound(1420, batches),
    }
}

fn outbound(size: usize, batches: usize) -> Result<()> {
    let network = Network::new(TUNNELS, Provider::AesNi, true)?;
    let memory = Network::memory()?;
    let mut worker = network.worker(&memory)?;
    let mut frames: VecDeque<Ready> = network.clear_frames(size);
    for _ in 0..batches {
        worker.seal(frames.iter().take(BATCH))?;
        frames.rotate_left(BATCH);
    }
    Ok(())
}

/// The other ends seal as well, one packet at a time; that is counted with it.
fn inbound(size: usize, batches: usize) -> Result<()> {
    let network = Network::new(TUNNELS, Provider::AesNi, true)?;
    let memory = Network::memory()?;
    let mut worker = network.worker(&memory)?;
    for _ in 0..batches {
        worker.open(&network.sealed_frames(size, BATCH)?)?;
    }
    Ok(())
}
