//! `cargo xtask vm`: our ESP against the kernel's, in a virtual machine with a kernel that has it.

mod cpio;
mod initramfs;
pub(crate) mod kernel;
mod machine;
pub(crate) mod root;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use self::{initramfs::Initramfs, kernel::Kernel, machine::Machine};
use crate::{build_ebpf, interrupt, program, setup, workspace::Workspace};

/// Boot a Linux kernel in QEMU and have its ESP talk to ours: every algorithm, mode, family and encapsulation, and the
/// daemon as a gateway.
///
/// The machine is emulated: no KVM is needed, and root only to install packages. Kernel and packages are fetched once. Ends with a line
/// `N passed, N failed`; the exit status is 0 only if nothing failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm                                     the whole matrix
  cargo xtask vm --only aes-256-gcm --only tunnel    the cases whose names contain both")]
pub(crate) struct Args {
    /// Only cases whose names contain WORD; may be repeated, then all must be contained
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,

    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    seconds: u64,
}

/// How often the machine is started when the emulator is at fault.
const MOST_BOOTS: u32 = 3;

/// Runs the task; whether everything passed.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<bool> {
    let toolchain = setup::ensure(workspace)?;
    build_ebpf::ensure(workspace, &toolchain)?;
    workspace.build_ravelin()?;
    let (passed, failed) = cases(workspace, &args.only, args.seconds)?;
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// Runs everything; how many cases passed and failed. Packages and the daemon must be there.
pub(crate) fn tally(workspace: &Workspace) -> Result<(u64, u64)> {
    cases(workspace, &[], 900)
}

/// Where kernels are kept, and what is made for the machine.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("vm")
}

/// Builds the first process.
pub(crate) fn build_init(workspace: &Workspace) -> Result<PathBuf> {
    program::run(
        workspace
            .cargo()
            .args(["build", "--release", "--package", "ravelin-vm"]),
    )?;
    Ok(workspace.target.join("release/ravelin-vm"))
}

fn cases(workspace: &Workspace, only: &[String], seconds: u64) -> Result<(u64, u64)> {
    interrupt::install()?;
    if let Some(word) = only
        .iter()
        .find(|word| word.contains(|c: char| !c.is_ascii_graphic()))
    {
        bail!("'{word}' is in no case's name; names are like esp/aes-128-gcm/tunnel-6-in-4/esn/udp/aws-lc");
    }
    let start = Instant::now();
    let folder = folder(workspace);
    let kernel = Kernel::ensure(&folder)?;
    let init = build_init(workspace)?;
    let initramfs = Initramfs::build(&folder, &kernel, &init, &workspace.ravelin())?;
    let mut boots = 0;
    let tally = loop {
        boots += 1;
        eprintln!("vm: booting {}", kernel.release());
        let mut machine = Machine::boot(&folder, &kernel, &initramfs, only, seconds)?;
        match machine.follow(Duration::from_secs(seconds)) {
            Err(error) if boots < MOST_BOOTS && machine.was_mistranslated() => {
                eprintln!("vm: QEMU broke the kernel, so all of it runs again: {error:#}");
            }
            outcome => break outcome?,
        }
    };
    println!("vm: took {:.0} s", start.elapsed().as_secs_f32());
    Ok(tally)
}
