//! The XDP program that lets everything pass, on a device, until the process is killed.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::programs::{Xdp, XdpMode};

/// The first argument of the process that does it.
pub(crate) const COMMAND: &str = "pass";

/// What it says when all passes.
pub(crate) const READY: &str = "pass: ready";

/// Attaches the program out of the BPF object for benches.
pub(crate) fn serve(object: &Path, device: &str) -> Result<()> {
    let mut bpf = EbpfLoader::new().btf(None).load_file(object)?;
    let program: &mut Xdp = bpf
        .program_mut("bench_pass")
        .context("no program `bench_pass`")?
        .try_into()?;
    program.load()?;
    program.attach(device, XdpMode::Driver)?;
    println!("{READY}");
    loop {
        std::thread::park();
    }
}
