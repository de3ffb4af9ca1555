//! `cargo xtask build-ebpf`: the BPF programs, compiled to the object that the engine embeds.

use std::{env, fs, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context as _, Result};

use crate::{
    program,
    toolchain::{Choice, Task, Toolchain},
    workspace::Workspace,
};

/// Compile the BPF programs of xdp-ebpf/ into <target>/bpf/ravelin.bpf.o.
///
/// The engine embeds that file, so it must exist before the daemon can be compiled; load, demo and test see to it by
/// themselves.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compile the log lines of the BPF programs in (slow; for development)
    #[arg(long)]
    log: bool,

    /// Which compiler to use
    #[arg(long, value_enum, default_value = "auto")]
    toolchain: Choice,

    /// Let clippy read the BPF programs instead, with warnings as errors
    #[arg(long)]
    lint: bool,
}

/// Runs the task and says what it made.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let start = Instant::now();
    let toolchain = Toolchain::ensure(workspace, args.toolchain)?;
    if args.lint {
        let feature = if args.log { Feature::Log } else { Feature::Bench };
        program::run(&mut cargo(workspace, &toolchain, Task::Lint, feature))
            .context("clippy, for the BPF programs")?;
        eprintln!(
            "build-ebpf: no warnings by {toolchain} ({:.1} s)",
            start.elapsed().as_secs_f32()
        );
        return Ok(());
    }
    let feature = if args.log { Feature::Log } else { Feature::None };
    let object = compile(workspace, &toolchain, feature)?;
    eprintln!(
        "build-ebpf: {} by {toolchain} ({:.1} s)",
        workspace.shown(&object).display(),
        start.elapsed().as_secs_f32()
    );
    Ok(())
}

/// What the other tasks call: the object without log lines.
pub(crate) fn ensure(workspace: &Workspace, toolchain: &Toolchain) -> Result<PathBuf> {
    compile(workspace, toolchain, Feature::None)
}

/// The object with programs that measure the others, apart from the one that is shipped.
pub(crate) fn ensure_bench(workspace: &Workspace, toolchain: &Toolchain) -> Result<PathBuf> {
    compile(workspace, toolchain, Feature::Bench)
}

/// What is compiled in besides the programs themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    None,
    Log,
    Bench,
}

fn cargo(workspace: &Workspace, toolchain: &Toolchain, task: Task, feature: Feature) -> Command {
    let mut cargo = toolchain.cargo(task, &workspace.root.join("xdp-ebpf"), &rustflags(workspace));
    cargo
        .args([
            "--quiet",
            "--locked",
            "--release",
            "--target=bpfel-unknown-none",
            "--target-dir",
        ])
        .arg(target(workspace, feature));
    match feature {
        Feature::None => {}
        Feature::Log => {
            cargo.args(["--features", "log"]);
        }
        Feature::Bench => {
            cargo.args(["--features", "bench"]);
        }
    }
    cargo
}

/// Cargo's folder for the BPF programs: another compiler, so not the one of the workspace. Those for benches have one
/// of their own, so that neither object is compiled anew after the other.
fn target(workspace: &Workspace, feature: Feature) -> PathBuf {
    workspace.target.join(match feature {
        Feature::None | Feature::Log => "bpf",
        Feature::Bench => "bpf-bench",
    })
}

fn compile(workspace: &Workspace, toolchain: &Toolchain, feature: Feature) -> Result<PathBuf> {
    program::run(&mut cargo(workspace, toolchain, Task::Build, feature))
        .with_context(|| format!("the BPF programs did not compile with {toolchain}"))?;

    let target = target(workspace, feature);
    let built = target.join("bpfel-unknown-none/release/ravelin");
    let object = match feature {
        Feature::None | Feature::Log => workspace.bpf_object(),
        Feature::Bench => target.join("ravelin.bpf.o"),
    };
    let bytes = fs::read(&built).with_context(|| built.display().to_string())?;
    // An unchanged object keeps its time, so that cargo does not rebuild the engine that embeds it.
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        let partial = object.with_extension("partial");
        fs::write(&partial, &bytes)
            .and_then(|()| fs::rename(&partial, &object))
            .with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(object)
}

fn rustflags(workspace: &Workspace) -> Vec<String> {
    let mut flags = vec![
        // BTF for maps and functions, and source lines in the verifier's log.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit jumps and ALU (kernel 5.1).
        "-Ctarget-cpu=v3".to_owned(),
        // The parser reads fields at odd offsets; without this each read is put together from bytes.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        // Objects hold no path of the machine that built them.
        format!("--remap-path-prefix={}=ravelin", workspace.root.display()),
    ];
    if let Some(home) = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
    {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    flags
}
