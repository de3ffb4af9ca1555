//! `ravelin stop`: the end of an engine.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ravelin_engine::{Status, detach_leftovers, fetch_status};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::instance::Instance;

/// How long an engine may take: it writes its sequence numbers to disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stop a running engine and take its filter away
///
/// What the policy protects then passes in the clear, so this asks first if the policy protects anything. With
/// `--keep-closed` the filter stays: protected traffic is dropped until the engine runs again, the rest goes on.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    instance: Instance,

    /// Leave the filter standing
    #[arg(long)]
    keep_closed: bool,

    /// Do not ask
    #[arg(long, short, conflicts_with = "keep_closed")]
    yes: bool,
}

pub(crate) fn stop(arguments: &Arguments) -> Result<()> {
    let instance = &arguments.instance.instance;
    let control = arguments.instance.control();
    let status = fetch_status(&control)
        .with_context(|| format!("instance {instance} cannot be stopped; `ravelin detach` takes away the filter of one that has ended"))?;
    if status.instance != *instance {
        bail!(
            "{} belongs to instance {}; name that with `--instance`",
            control.display(),
            status.instance
        );
    }
    if !arguments.keep_closed && !arguments.yes && !status.connections.is_empty() {
        ask(&status)?;
    }
    end(&status, || fetch_status(&control).ok())?;
    if arguments.keep_closed {
        println!(
            "instance {instance}: stopped, the filter stays: protected traffic is dropped until `ravelin run` or `ravelin detach`"
        );
        return Ok(());
    }
    let count = detach_leftovers(instance)?;
    println!("instance {instance}: stopped, the filter is gone ({count} programs detached)");
    Ok(())
}

/// Whether protected traffic may pass in the clear.
fn ask(status: &Status) -> Result<()> {
    let what = format!(
        "instance {} protects traffic by {} connections; without its filter that traffic passes in the clear",
        status.instance,
        status.connections.len()
    );
    if !io::stdin().is_terminal() {
        bail!("{what}; give `--yes`, or `--keep-closed` to leave the filter standing");
    }
    eprint!("{what}. Stop it? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("not stopped");
    }
    Ok(())
}

/// Has the engine of an instance end in order, if one runs, and leaves its filter standing.
pub(crate) fn end_running(instance: &str, control: &Path) -> Result<()> {
    // Whoever does not answer is in the way of the next steps, which say so.
    let Ok(status) = fetch_status(control) else {
        return Ok(());
    };
    if status.instance != instance {
        bail!("{} belongs to instance {}", control.display(), status.instance);
    }
    end(&status, || fetch_status(control).ok())
}

/// Has the process end in order, and waits for it.
fn end(status: &Status, again: impl Fn() -> Option<Status>) -> Result<()> {
    let process = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let process = process.with_context(|| format!("{} is no process", status.pid))?;
    let engine = pidfd_open(process, PidfdFlags::empty())
        .with_context(|| format!("process {} cannot be reached from here", status.pid))?;
    // The number may have gone to another process since the first answer; from now on it cannot.
    if again().is_none_or(|again| again.pid != status.pid) {
        bail!("the engine is ending already");
    }
    pidfd_send_signal(&engine, Signal::TERM).with_context(|| format!("process {}", status.pid))?;
    let mut fds = [PollFd::new(engine.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    if poll(&mut fds, patience)? == 0 {
        bail!(
            "process {} has not ended within {} s; the filter stays, closed; `kill -9 {0}` and `ravelin detach` if you must",
            status.pid,
            PATIENCE.as_secs()
        );
    }
    Ok(())
}
