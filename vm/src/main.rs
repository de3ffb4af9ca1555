//! The program that `cargo xtask vm` boots a kernel with: userspace/esp on one side, the kernel's XFRM on the other.
//!
//! It is the machine's first process and its only test. In the order of a run:
//! - [`boot`] mounts what a kernel expects and loads modules.
//! - [`topology`] makes three namespaces in a row: `ours` with clear traffic, `wire` with our ESP, `theirs` with the
//!   kernel's.
//! - [`case`] is the matrix; [`algorithm`] names what the kernel knows by other names, a line each; [`xfrm`] tells it.
//! - [`esp`] takes each case through [`traffic`], attacks and a rekey, with a small gateway around userspace/esp.
//! - [`daemon`] has the whole of Ravelin in the middle instead, as a gateway, and rekeys it.
//! - [`pump`] has datagrams run while either rekeys.
//!
//! For `cargo xtask avx512` it runs another program instead ([`program`]), on a CPU that few machines have.
//!
//! What it finds goes to the second serial port, a line per case and in the end `N passed, N failed`. It never tests
//! time: under emulation nothing is fast.
#![forbid(unsafe_code)]

mod algorithm;
mod boot;
mod case;
mod daemon;
mod esp;
mod hosts;
mod ip;
mod namespace;
mod program;
mod pump;
mod report;
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
    if let Some(path) = &wanted.program {
        return program::run(path);
    }
    boot::load_modules()?;
    let wanted = wanted.words;
    let report = Report::open()?;
    // One that cannot be set up is a failure among others.
    if let Err(error) = esp::run(&wanted, &report) {
        report.case("esp", Err(error))?;
    }
    if let Err(error) = daemon::run(&wanted, &report) {
        report.case("daemon", Err(error))?;
    }
    report.finish()
}
