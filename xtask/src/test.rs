//! `cargo xtask test`: all tests, and the demo as a test of the whole.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use nix::unistd::Uid;

use crate::{avx512, bench, build_ebpf, demo, program, setup, vm, workspace::Workspace};

/// Run every test: unit, property, kernel-side, namespaces (as root), the demo end to end, the benches, the virtual machine, and the
/// emulated CPU.
///
/// Ends with a line `N passed, N failed`. Nothing is skipped: what cannot run, fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
}

/// The parts of all tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The tests of all crates
    Cargo,
    /// The demo's scenarios
    Demo,
    /// `bench gcm`, `engine`, `stages`, `veth` and `host`, as short as they can be, and `bench instructions`
    Bench,
    /// Our ESP against a kernel's, in a virtual machine
    Vm,
    /// AES-GCM on registers of AVX-512, on an emulated CPU
    Avx512,
}

/// With the second backend, so that its tests are among them. Tests by themselves, with the feature and without, would have most
/// crates compiled twice. Without it are the program that `build_ravelin` makes, and all that drives that.
const FEATURES: &str = "ravelin/xsk-rs,ravelin-xsk/xsk-rs";

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

/// Runs the task; whether everything passed.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<bool> {
    if !Uid::effective().is_root() {
        bail!(
            "the tests with namespaces and XDP need root; run: sudo -E env \"PATH=$PATH\" cargo xtask test"
        );
    }
    let start = Instant::now();
    let toolchain = setup::ensure(workspace)?;
    eprintln!("test: building the BPF programs");
    build_ebpf::ensure(workspace, &toolchain)?;
    // Tests that drive the daemon take the program that users get.
    let ravelin = workspace.build_ravelin()?;

    let wanted = |part| args.only.is_none_or(|only| only == part);
    let mut tally = Tally::default();
    if wanted(Part::Cargo) {
        setup::ensure_xsk_rs()?;
        tally = cargo_test(workspace)?;
    }
    if tally.ignored > 0 {
        println!(
            "test: {} tests are ignored, which counts as failed",
            tally.ignored
        );
        tally.failed += tally.ignored;
    }
    if wanted(Part::Demo) {
        let (passed, failed) = demo::scenarios::run(&ravelin)?;
        tally.passed += passed;
        tally.failed += failed;
    }
    if wanted(Part::Bench) {
        let object = build_ebpf::ensure_bench(workspace, &toolchain)?;
        let mut benches = bench::smoke::run(workspace);
        benches.push(("veth", bench::smoke::veth(workspace, &ravelin, &object)));
        benches.push(("host", bench::host::smoke(workspace, &ravelin)));
        benches.push(("instructions", bench::instructions::compare(workspace)));
        for (name, done) in benches {
            match done {
                Ok(()) => tally.passed += 1,
                Err(error) => {
                    println!("test: bench {name}: {error:#}");
                    tally.failed += 1;
                }
            }
        }
    }
    if wanted(Part::Vm) {
        let (passed, failed) = vm::tally(workspace)?;
        tally.passed += passed;
        tally.failed += failed;
    }
    if wanted(Part::Avx512) {
        match avx512::tally(workspace) {
            Ok((passed, failed)) => {
                tally.passed += passed;
                tally.failed += failed;
            }
            Err(error) => {
                println!("test: avx512: {error:#}");
                tally.failed += 1;
            }
        }
    }
    println!("test: took {:.0} s", start.elapsed().as_secs_f32());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

/// Runs the tests of all crates, shows what cargo says, and counts.
fn cargo_test(workspace: &Workspace) -> Result<Tally> {
    let mut command = workspace.cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast", "--features", FEATURES])
        .stdout(Stdio::piped());
    let line = program::line(&command);
    eprintln!("test: {line}");
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let output = child.stdout.take().context("the output is piped")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("output of cargo test")?;
        println!("{line}");
        tally.add(&line);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{line}`"))?;
    if !status.success() && tally.failed == 0 {
        // A crate that does not compile, or a test that ended the whole process.
        println!("test: `{line}` failed without a failed test: {status}");
        tally.failed += 1;
    }
    Ok(tally)
}

impl Tally {
    /// Adds `test result: ok. 5 passed; 0 failed; 0 ignored; …`; other lines count nothing.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
        for part in counts.split("; ") {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn the_lines_of_cargos_runner_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 7 tests",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ] {
            tally.add(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 6,
                failed: 2,
                ignored: 1
            }
        );
    }
}
