//! What it was measured on.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// The CPUs that this program may use, in their order; at least two, since one for both ends measures how they take turns.
///
/// # Errors
///
/// There is only one.
pub fn two_cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("the CPUs of this program")?;
    let cpus: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect();
    ensure!(
        cpus.len() >= 2,
        "two CPUs are needed, one for each end, and this program may use {}; nothing was measured",
        cpus.len()
    );
    Ok(cpus)
}

/// Keeps this thread on one CPU.
///
/// # Errors
///
/// It may not run there.
pub fn pin_to(cpu: usize) -> Result<()> {
    pin(0, cpu)
}

/// Keeps this thread, and those it starts, on the last CPU: the first takes most interrupts.
///
/// # Errors
///
/// It may not run there.
pub fn pin_to_last_cpu() -> Result<()> {
    pin(0, last_cpu()?)
}

/// Keeps another process off this thread's CPU, on the one before.
///
/// # Errors
///
/// There is only one, or the process has gone.
pub fn pin_to_receivers_cpu(process: i32) -> Result<()> {
    let last = last_cpu()?;
    ensure!(last > 0, "the sender and the receiver need a CPU each");
    pin(process, last - 1)
}

fn pin(process: i32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).context("set of CPUs")?;
    sched_setaffinity(Pid::from_raw(process), &set)
        .with_context(|| format!("cannot keep {process} on CPU {cpu}"))
}

/// Not what is available to this thread, which may be pinned already.
fn last_cpu() -> Result<usize> {
    let present = fs::read_to_string("/sys/devices/system/cpu/online").context("the CPUs that are online")?;
    let last = present
        .trim()
        .rsplit([',', '-'])
        .next()
        .and_then(|cpu| cpu.parse().ok());
    last.with_context(|| format!("the CPUs that are online: {present}"))
}

/// Processor, kernel, commit, and how busy the machine is.
///
/// # Errors
///
/// There is no /proc.
pub fn describe() -> Result<Value> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let count = processors
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    Ok(json!({
        "processor": format!("{count} × {model}"),
        "kernel": kernel.trim().split('-').next(),
        "commit": git(&["rev-parse", "HEAD"]),
        "changed": git(&["status", "--porcelain", "--", ".", ":!bench/results", ":!docs"]).is_some_and(|text| !text.is_empty()),
        "load": load.split(' ').next(),
    }))
}

/// The first line of a report: what [`describe`] found.
#[must_use]
pub fn heading(machine: &Value, quick: bool) -> String {
    let word = |key: &str| machine[key].as_str().unwrap_or("unknown");
    format!(
        "Commit `{}`{}, {}, Linux {}, load {} at the start{}.\n",
        word("commit"),
        if machine["changed"] == json!(true) {
            " with changes"
        } else {
            ""
        },
        word("processor"),
        word("kernel"),
        word("load"),
        if quick {
            "; a quick run, not a measurement"
        } else {
            ""
        },
    )
}

/// What git says, if it says anything: the bench also runs where there is no repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
