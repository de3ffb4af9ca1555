//! One piece of the fast path, so many times over: what `cargo xtask bench instructions` runs under callgrind.
//!
//! AES-GCM is that for AES-NI, whatever the CPU has, since that is what valgrind knows.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::hint::black_box;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use ravelin_bench::rig::{BATCH, Network, Ready};
use ravelin_bench::{Kind, Order, Profile, RuleList, Trace};
use ravelin_classifier::compile;
use ravelin_esp::Provider;
use ravelin_policy::{Family, Policy};
use ravelin_xdp_common::Direction;

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
    /// A look-up in 10,000 rules like those of a router
    #[value(name = "walk")]
    Walk,
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
        Case::Walk => walk(batches),
    }
}

fn outbound(size: usize, batches: usize) -> Result<()> {
    let network = Network::new(TUNNELS, Provider::AesNi)?;
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
    let network = Network::new(TUNNELS, Provider::AesNi)?;
    let memory = Network::memory()?;
    let mut worker = network.worker(&memory)?;
    for _ in 0..batches {
        worker.open(&network.sealed_frames(size, BATCH)?)?;
    }
    Ok(())
}

fn walk(batches: usize) -> Result<()> {
    let list = RuleList::generate(Profile::Acl, Family::V4, 10_000, 1);
    let (policy, _) = Policy::parse(&list.to_policy(Order::Position), "bench")?;
    let rules = compile(&policy)?;
    let trace = Trace::generate(Kind::InRule, &list, 4096, 4096, 1);
    let packets = trace.packets().iter().cycle();
    for packet in packets.take(batches * BATCH) {
        black_box(rules.classify(&packet.flow(), Direction::Inbound));
    }
    Ok(())
}
