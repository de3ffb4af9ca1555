//! The program that `cargo xtask vm` boots a kernel with: userspace/esp on one side, the kernel's XFRM on the other.
//!
//! It is the machine's first process and its only test. In the order of a run:
//! - [`boot`] mounts what a kernel expects and loads modules.
//! - [`topology`] makes three namespaces in a row: `ours` with clear traffic, `wire` with nothing but our [`gateway`],
//!   `theirs` with the kernel's ESP.
//! - [`case`] is the matrix; [`algorithm`] names what the kernel knows by other names, a line each.
//! - [`suite`] takes the cases of one algorithm through [`traffic`], [`attack`], [`agreement`] and [`rekey`].
//!
//! What it finds goes to the second serial port, a line per case and in the end `N passed, N failed`. It never tests
//! time: under emulation nothing is fast.
#![forbid(unsafe_code)]

mod agreement;
mod algorithm;
mod association;
mod attack;
mod boot;
mod case;
mod fragments;
mod gateway;
mod ip;
mod namespace;
mod port;
mod reassembly;
mod rekey;
mod report;
mod session;
mod suite;
mod topology;
mod traffic;
mod xfrm;

use anyhow::Result;

use crate::report::Report;

fn main() {
    // Whatever happens, the machine must go off: the host waits for that.
    if let Err(error) = run() {
        eprintln!("vm: {error:#}");
    }
    boot::power_off();
}

fn run() -> Result<()> {
    let wanted = boot::start()?;
    let report = Report::open()?;
    suite::run(&wanted, &report)?;
    report.finish()
}
