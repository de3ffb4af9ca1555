//! `ravelin apply`, `confirm` and `rollback`: another policy for a running engine.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ravelin_engine::{Applied, ApplyRequest, PolicyStatus};

use crate::instance::Instance;
use crate::session;

/// Put another policy in force, without an interruption
///
/// The running engine reads the file, compiles it, tries the result against the policy's own words and then swaps it in:
/// every packet meets the old policy or the new one, whole. If anything is wrong, the old one stays as it is. Counters
/// of rules that keep their name go on, and so do connections that stay as they are.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Policy file
    file: PathBuf,

    /// Go back to the policy before unless `ravelin confirm` comes within so many seconds: for changes that could lock
    /// you out
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    confirm: Option<u32>,

    /// Do everything but start connections and swap, and say what would change
    #[arg(long, conflicts_with = "confirm")]
    dry_run: bool,

    #[command(flatten)]
    instance: Instance,
}

/// Keep the policy that `ravelin apply --confirm` has put in force
#[derive(Debug, Args)]
pub(crate) struct Confirm {
    #[command(flatten)]
    instance: Instance,
}

/// Go back from a policy that `ravelin apply --confirm` has put in force
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    instance: Instance,
}

pub(crate) fn apply(arguments: &Arguments) -> Result<()> {
    let request = ApplyRequest {
        // The engine runs elsewhere.
        file: std::path::absolute(&arguments.file).context("the working directory is gone")?,
        confirm_seconds: arguments.confirm,
        dry_run: arguments.dry_run,
        session: session::ssh_session().map(Into::into),
    };
    let applied = ravelin_engine::apply(&arguments.instance.control(), &request)?;
    for warning in &applied.warnings {
        eprintln!("{warning}");
    }
    print(&applied);
    Ok(())
}

fn print(applied: &Applied) {
    println!(
        "{}{}: {} rules ({} added, {} removed), {} connections",
        if applied.dry_run {
            "would be in force: "
        } else {
            ""
        },
        describe(&applied.policy),
        applied.policy.rules,
        applied.rules_added,
        applied.rules_removed,
        applied.policy.connections
    );
    for (what, names) in [
        ("started", &applied.started),
        ("rekeyed", &applied.rekeyed),
        ("stopped", &applied.stopped),
    ] {
        if !names.is_empty() {
            println!("connections {what}: {}", names.join(", "));
        }
    }
    if let Some(session) = &applied.session {
        println!("{session}");
    }
    if let Some(seconds) = applied.confirm_seconds {
        println!("run `ravelin confirm` within {seconds} s, or the policy before comes back");
    }
}

pub(crate) fn confirm(arguments: &Confirm) -> Result<()> {
    let policy = ravelin_engine::confirm(&arguments.instance.control())?;
    println!("{}: confirmed", describe(&policy));
    Ok(())
}

pub(crate) fn roll_back(arguments: &Rollback) -> Result<()> {
    let policy = ravelin_engine::roll_back(&arguments.instance.control())?;
    println!("{}: back in force", describe(&policy));
    Ok(())
}

fn describe(policy: &PolicyStatus) -> String {
    match policy.generation {
        0 => policy.file.display().to_string(),
        generation => format!("{} (generation {generation})", policy.file.display()),
    }
}
