//! `ravelin stop`: the end of an engine.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ravelin_engine::{ControlError, Status, detach_leftovers, fetch_status, keep_filter};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::consent::{self, Request};
use crate::instance::Instance;

/// How long an engine may take: it writes its sequence numbers to disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most rules that are named.
const MOST_NAMED: usize = 4;

/// Stop a running engine and take its filter away
///
/// What the policy protects then passes in the clear, and what it blocks passes: this asks first if rules protect anything, and says what
/// has opened. With `--keep-closed` the filter stays, whatever `--on-exit` says: protected traffic is dropped until the engine runs again,
/// the rest goes on.
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
    let status = match fetch_status(&control) {
        // Its filter can be taken away as soon as it has ended, which it does not by itself.
        Err(error @ ControlError::Silent { .. }) => bail!(
            "instance {instance} cannot be stopped in order: {error}; after that, `ravelin detach` takes the filter away"
        ),
        status => status.with_context(|| {
            format!(
                "instance {instance} cannot be stopped; `ravelin detach` takes away the filter of one that has ended"
            )
        })?,
    };
    if status.instance != *instance {
        bail!(
            "{} belongs to instance {}; name that with `--instance`",
            control.display(),
            status.instance
        );
    }
    if arguments.keep_closed {
        end_closed(&status, &control)?;
        println!(
            "instance {instance}: stopped, the filter stays: protected traffic is dropped until `ravelin run` or `ravelin detach`"
        );
        return Ok(());
    }
    let opens = Opens::by(&status);
    if opens.protects && !arguments.yes {
        ask(instance, &opens)?;
    }
    end(&status, &control)?;
    let count = detach_leftovers(instance)?;
    println!("instance {instance}: stopped, the filter is gone ({count} programs detached)");
    if let Some(what) = opens.described() {
        println!("instance {instance}: without it {what}");
    }
    Ok(())
}

/// What passes once the filter is gone.
struct Opens {
    /// Whether what must be protected does, in the clear.
    protects: bool,
    what: Vec<String>,
}

impl Opens {
    fn by(status: &Status) -> Self {
        let names = |action: &str| {
            let rules = status.rules.iter();
            rules
                .filter(|rule| rule.active && rule.action == action)
                .map(|rule| rule.name.as_str())
                .collect::<Vec<_>>()
        };
        let (protecting, blocking) = (names("protect"), names("block"));
        let mut what = Vec::new();
        if !protecting.is_empty() {
            what.push(format!(
                "what {} protect{} passes in the clear",
                listed(&protecting),
                if protecting.len() == 1 { "s" } else { "" }
            ));
        }
        if !blocking.is_empty() {
            what.push(format!(
                "what {} block{} passes",
                listed(&blocking),
                if blocking.len() == 1 { "s" } else { "" }
            ));
        }
        if status.policy.default == "block" {
            what.push("what no rule matches passes".to_owned());
        }
        Self {
            // An engine of another build does not tell what its rules do.
            protects: !protecting.is_empty() || !status.connections.is_empty(),
            what,
        }
    }

    fn described(&self) -> Option<String> {
        (!self.what.is_empty()).then(|| self.what.join(", "))
    }
}

/// Names of rules, as many as are worth reading.
fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(MOST_NAMED);
    let shown = shown
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    let (word, more) = match names.len() {
        1 => ("rule", String::new()),
        count if count > MOST_NAMED => ("rules", format!(" and {} more", count - MOST_NAMED)),
        _ => ("rules", String::new()),
    };
    format!("{word} {shown}{more}")
}

/// Whether what must be protected may pass in the clear.
fn ask(instance: &str, opens: &Opens) -> Result<()> {
    let what = opens
        .described()
        .unwrap_or_else(|| "what is protected passes in the clear".to_owned());
    let what = format!("without the filter of instance {instance} {what}");
    consent::ask(&Request {
        what: &what,
        question: "Stop it?",
        otherwise: "`--yes`, or `--keep-closed` to leave the filter standing",
        refused: "not stopped",
    })
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
    end_closed(&status, control)
}

/// Has the process end in order with its filter standing, whatever it was told when it started.
fn end_closed(status: &Status, control: &Path) -> Result<()> {
    match keep_filter(control) {
        Ok(()) => {}
        Err(ControlError::Unknown(_)) => eprintln!(
            "warning: the engine that runs is of an older build; if it was started with `--on-exit open`, the filter goes with it"
        ),
        Err(error) => return Err(error.into()),
    }
    end(status, control)
}

/// Has the process end in order, and waits for it.
fn end(status: &Status, control: &Path) -> Result<()> {
    let process = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let process = process.with_context(|| format!("{} is no process", status.pid))?;
    let engine = pidfd_open(process, PidfdFlags::empty())
        .with_context(|| format!("process {} cannot be reached from here", status.pid))?;
    // The number may have gone to another process since the first answer; from now on it cannot.
    if fetch_status(control)
        .ok()
        .is_none_or(|again| again.pid != status.pid)
    {
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
