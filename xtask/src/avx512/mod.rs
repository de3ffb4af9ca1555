//! `cargo xtask avx512`: AES-GCM on registers of AVX-512, run on a CPU that has them, whatever this machine has.
//!
//! QEMU emulates no AVX-512; Bochs does, with VAES and VPCLMULQDQ. It boots the kernel of `cargo xtask vm` with the same first
//! process, which runs userspace/gcm's test `avx512` there and nothing else.

mod bochs;
mod disk;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::{bochs::Bochs, disk::Disk};
use crate::{
    interrupt, program, setup,
    vm::{self, kernel::Kernel, root::Root},
    workspace::Workspace,
};

/// Run AES-GCM on registers of AVX-512 on an emulated CPU: vectors of others, and AWS-LC and RustCrypto beside it.
///
/// Bochs emulates it: root is needed only to install packages. Takes two to five minutes. Ends with a line `N passed, N failed`;
/// the exit status is 0 only if nothing failed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = SECONDS)]
    seconds: u64,
}

/// Several times as long as it takes two cores that have other work.
const SECONDS: u64 = 1800;

/// Where the machine has the program of tests, and NIST's vectors.
const PROGRAM: &str = "bin/avx512";
const VECTORS: &str = "vectors";

/// The vectors for AES-GCM, below the folder of the Python package that has them.
const VECTORS_OF_GCM: &str = "ciphers/AES/GCM";

/// Runs the task; whether everything passed.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<bool> {
    setup::ensure(workspace)?;
    let (passed, failed) = run_tests(workspace, Duration::from_secs(args.seconds))?;
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// Runs everything; how many tests passed and failed. Packages must be there.
pub(crate) fn tally(workspace: &Workspace) -> Result<(u64, u64)> {
    run_tests(workspace, Duration::from_secs(SECONDS))
}

fn run_tests(workspace: &Workspace, limit: Duration) -> Result<(u64, u64)> {
    interrupt::install()?;
    let start = Instant::now();
    let folder = workspace.target.join("avx512");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let kernel = Kernel::ensure(&vm::folder(workspace))?;
    let root = Root::new(folder.join("root"))?;
    for (program, place) in [
        (vm::build_init(workspace)?, "init"),
        (build_tests(workspace)?, PROGRAM),
    ] {
        root.program(&program, place)?;
        // An emulated BIOS reads what is left.
        program::run(
            Command::new("strip")
                .arg("--strip-debug")
                .arg(root.path().join(place)),
        )?;
    }
    copy_vectors(&root)?;
    let disk = Disk::make(&folder, &kernel, &root, &command_line(limit))?;
    eprintln!("avx512: booting {}", kernel.release());
    let mut bochs = Bochs::boot(&folder, &disk)?;
    let tally = bochs.follow(limit)?;
    println!("avx512: took {:.0} s", start.elapsed().as_secs_f32());
    Ok((tally.passed, tally.failed + tally.ignored))
}

/// For the kernel and its first process. Bochs 2.7 says that saving a thread's registers takes less memory than it does, which
/// the kernel does not put up with; without protection keys and compact saving it does not look. What the kernel does not know
/// itself, like the vectors' place, becomes the environment of the first process.
fn command_line(limit: Duration) -> String {
    format!(
        "console=ttyS0 quiet panic=-1 mitigations=off clearcpuid=pku,ospke,xsaves,xsavec \
         ravelin.seconds={} ravelin.program=/{PROGRAM} RAVELIN_VECTORS=/{VECTORS}",
        // The machine's seconds are not ours: it counts instructions.
        limit.as_secs() * 10
    )
}

/// Builds the program of tests with optimisation: that is the code that users run, and an emulator is slow. Where it is.
fn build_tests(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command
        .args([
            "test",
            "--release",
            "--package",
            "ravelin-gcm",
            "--test",
            "avx512",
        ])
        .args(["--no-run", "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let messages = program::output(&mut command)?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "avx512")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .context("cargo built no program of the test `avx512`")
}

/// NIST's vectors for AES-GCM, as far as the tests take them: to read all 17 MB would take the emulator a minute.
fn copy_vectors(root: &Root) -> Result<()> {
    let script = "import cryptography_vectors; print(cryptography_vectors.__path__[0])";
    let package = program::output(Command::new("/usr/bin/python3").args(["-c", script]))?;
    let folder = Path::new(package.trim()).join(VECTORS_OF_GCM);
    for kind in ["gcmDecrypt", "gcmEncryptExtIV"] {
        for bits in [128, 192, 256] {
            let name = format!("{kind}{bits}.rsp");
            let file = folder.join(&name);
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let wanted = with_nonces_of_ipsec(&text);
            ensure!(!wanted.is_empty(), "{} has no nonces of 96 bits", file.display());
            root.write(format!("{VECTORS}/{VECTORS_OF_GCM}/{name}"), wanted.as_bytes())?;
        }
    }
    Ok(())
}

/// The sections whose nonces have 96 bits.
fn with_nonces_of_ipsec(text: &str) -> String {
    let mut is_wanted = false;
    let mut wanted = String::new();
    for line in text.lines() {
        if line.starts_with("[IVlen") {
            is_wanted = line.trim_end() == "[IVlen = 96]";
        }
        if is_wanted {
            wanted.push_str(line);
            wanted.push('\n');
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::with_nonces_of_ipsec;

    #[test]
    fn only_sections_with_nonces_of_96_bits_are_left() {
        let text = "# CAVS\r\n\r\n[Keylen = 128]\r\n[IVlen = 96]\r\n[Taglen = 64]\r\n\r\nCount = 0\r\nIV = 00\r\n\r\n[Keylen = 128]\r\n\
                    [IVlen = 8]\r\n[Taglen = 64]\r\n\r\nCount = 0\r\nIV = 11\r\n\r\n[Keylen = 128]\r\n[IVlen = 96]\r\n";
        assert_eq!(
            with_nonces_of_ipsec(text),
            "[IVlen = 96]\n[Taglen = 64]\n\nCount = 0\nIV = 00\n\n[Keylen = 128]\n[IVlen = 96]\n"
        );
        assert_eq!(with_nonces_of_ipsec("[IVlen = 8]\nIV = 0\n"), "");
    }
}
