//! `cargo xtask bench`: the figures that the documentation quotes, in one table.

mod all;
mod cores;
mod dpdk;
mod engine;
mod filter;
mod gcm;
pub(crate) mod host;
pub(crate) mod instructions;
pub(crate) mod smoke;
mod stages;
mod veth;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::Value;

use crate::workspace::Workspace;
use crate::{build_ebpf, interrupt, program, setup};

const PROVIDERS: [&str; 2] = ["aws-lc", "rustcrypto"];
const ALGORITHMS: [&str; 2] = ["aes-128-gcm", "aes-256-gcm"];
const SIZES: [&str; 3] = ["64", "576", "1420"];

/// Measure what a packet costs, and TCP through both gateways beside plain forwarding.
///
/// Writes a Markdown table and the raw estimates behind it to a folder, `bench/results` by default. Figures of one run
/// compare with each other; between runs and machines only ratios do. Takes about five minutes.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,

    /// Folder for the table and the raw results
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Shorter samples: a look, not a measurement
    #[arg(long)]
    quick: bool,
}

/// Other tables.
#[derive(Debug, Subcommand)]
enum Part {
    All(all::Args),
    Cores(cores::Args),
    Engine(engine::Args),
    Filter(filter::Args),
    Gcm(gcm::Args),
    Host(host::Args),
    Instructions(instructions::Args),
    Stages(stages::Args),
    Veth(veth::Args),
}

/// Runs the task.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    match &args.part {
        Some(Part::All(args)) => return all::run(workspace, args),
        Some(Part::Cores(args)) => return cores::run(workspace, args),
        Some(Part::Engine(args)) => return engine::run(workspace, args),
        Some(Part::Filter(args)) => return filter::run(workspace, args),
        Some(Part::Gcm(args)) => return gcm::run(workspace, args),
        Some(Part::Host(args)) => return host::run(workspace, args),
        Some(Part::Instructions(args)) => return instructions::run(workspace, args),
        Some(Part::Stages(args)) => return stages::run(workspace, args),
        Some(Part::Veth(args)) => return veth::run(workspace, args),
        None => {}
    }
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| workspace.root.join("bench/results"));
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut command = workspace.cargo();
    command.args([
        "bench",
        "--package",
        "ravelin-bench",
        "--bench",
        "seal_open",
        "--",
        "--noplot",
    ]);
    let length: &[&str] = if args.quick {
        &["--quick"]
    } else {
        &["--measurement-time", "1", "--warm-up-time", "0.5"]
    };
    program::run(command.args(length))?;
    let estimates = estimates(&workspace.target.join("criterion"))?;

    eprintln!("bench: the demo, for TCP");
    // With `cargo xtask`, so that the demo is the one that users run.
    let demo = program::output(workspace.cargo().args(["xtask", "demo"]))?;
    let speed = tcp_speed(&demo).context("the demo printed no table of TCP speed")?;

    let commit = program::output(
        Command::new("git")
            .args(["rev-parse", "HEAD"])
            .current_dir(&workspace.root),
    )?;
    let mut text = format!("Commit `{}`, {}.\n\n", commit.trim(), machine()?);
    text += &table(&estimates);
    write!(
        text,
        "\nTCP, one stream, MTU 1500, everything on the same CPUs:\n\n```\n{speed}```\n"
    )?;
    let report = out.join("first.md");
    fs::write(&report, &text).with_context(|| format!("cannot write {}", report.display()))?;
    let raw = out.join("first.json");
    fs::write(&raw, serde_json::to_string_pretty(&estimates)? + "\n")?;
    println!(
        "{text}\nwritten to {} and {}",
        workspace.shown(&report).display(),
        workspace.shown(&raw).display()
    );
    Ok(())
}

/// Runs a bench that needs the BPF programs and no peer.
fn run_program(workspace: &Workspace, name: &str, options: &[String]) -> Result<()> {
    let toolchain = setup::ensure(workspace)?;
    build_ebpf::ensure(workspace, &toolchain)?;
    // The program puts back what it changed; this waits for it.
    interrupt::install()?;
    program::run(bench_program(workspace, name).args(options))
}

/// A bench's program, to be compiled and told its options; it knows already where its results belong.
fn bench_program(workspace: &Workspace, name: &str) -> Command {
    bench_program_with(workspace, name, None)
}

/// The same with features of the crate.
fn bench_program_with(workspace: &Workspace, name: &str, features: Option<&str>) -> Command {
    let mut command = workspace.cargo();
    command.args(["run", "--release", "--package", "ravelin-bench", "--bin", name]);
    if let Some(features) = features {
        command.args(["--features", features]);
    }
    command
        .args(["--", "--out"])
        .arg(workspace.target.join("bench"))
        .arg("--root")
        .arg(&workspace.root);
    command
}

/// Criterion's estimates of the time for a packet, by group, function and size.
fn estimates(folder: &Path) -> Result<Value> {
    let mut all = serde_json::Map::new();
    for group in ["esp", "aead"] {
        for operation in ["seal", "open"] {
            for provider in PROVIDERS {
                for algorithm in ALGORITHMS {
                    for size in SIZES {
                        let name = format!("{operation}_{provider}_{algorithm}");
                        let path = folder
                            .join(group)
                            .join(&name)
                            .join(size)
                            .join("new/estimates.json");
                        let text = fs::read_to_string(&path)
                            .with_context(|| format!("criterion left no {}", path.display()))?;
                        let estimate: Value = serde_json::from_str(&text)?;
                        all.insert(format!("{group}/{name}/{size}"), estimate["median"].clone());
                    }
                }
            }
        }
    }
    Ok(Value::Object(all))
}

fn table(estimates: &Value) -> String {
    let mut text = String::from(
        "Nanoseconds for a packet, median, in batches of 32 on one core. Sizes are those of the inner IPv4 packet.\n\n\
         | | 64 B | 576 B | 1420 B |\n|---|---|---|---|\n",
    );
    for (group, what) in [("esp", "ESP tunnel"), ("aead", "AEAD alone")] {
        for operation in ["seal", "open"] {
            for provider in PROVIDERS {
                for algorithm in ALGORITHMS {
                    text += &format!("| {what}, {operation}, {algorithm}, {provider} |");
                    for size in SIZES {
                        let key = format!("{group}/{operation}_{provider}_{algorithm}/{size}");
                        let median = estimates[&key]["point_estimate"].as_f64().unwrap_or(f64::NAN);
                        text += &format!(" {median:.0} |");
                    }
                    text.push('\n');
                }
            }
        }
    }
    text
}

/// The demo's lines about TCP speed.
fn tcp_speed(demo: &str) -> Option<String> {
    let start = demo.find("TCP speed")?;
    let lines = demo[start..]
        .lines()
        .take_while(|line| !line.trim().is_empty() && !line.contains("clear on the wire"));
    Some(lines.fold(String::new(), |text, line| text + line + "\n"))
}

/// What the kernel says of the processors, and their model.
fn processors() -> Result<(String, String)> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model)
        .to_owned();
    Ok((processors, model))
}

/// The processor and kernel.
fn machine() -> Result<String> {
    let (processors, model) = processors()?;
    let count = processors
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("/proc/sys/kernel/osrelease")?;
    let version = kernel.trim().split('-').next().unwrap_or_default();
    Ok(format!("{count} × {model}, Linux {version}"))
}

#[cfg(test)]
mod tests {
    use super::tcp_speed;

    #[test]
    fn the_table_of_speed_is_cut_out() {
        let demo = "before\n\nTCP speed, one stream\n  a\n✓ b 1.0\n✓ clear on the wire none\n\nafter";
        assert_eq!(tcp_speed(demo).unwrap(), "TCP speed, one stream\n  a\n✓ b 1.0\n");
        assert_eq!(tcp_speed("nothing"), None);
    }
}
