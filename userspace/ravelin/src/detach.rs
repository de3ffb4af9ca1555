//! `ravelin detach`: taking away the filter of an engine that has ended.

use anyhow::{Result, bail};
use clap::Args;
use ravelin_engine::{detach_leftovers, fetch_status, filtered_devices};

use crate::consent::{Request, ask};
use crate::instance::Instance;

/// Take away the filter that an engine has left behind
///
/// What the policy protects then passes in the clear, and what it blocks passes: this asks first. An engine that runs is left alone:
/// stop it first.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    instance: Instance,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn detach(arguments: &Arguments) -> Result<()> {
    let instance = &arguments.instance.instance;
    if let Ok(status) = fetch_status(&arguments.instance.control())
        && status.instance == *instance
    {
        bail!(
            "instance {instance} runs as process {}; stop it first (`ravelin stop`)",
            status.pid
        );
    }
    // Nobody is left who knows its rules.
    let devices = filtered_devices(instance)?;
    if !devices.is_empty() && !arguments.yes {
        let what = format!(
            "without the filter that instance {instance} has left on device {}, what its policy protects passes in the clear, and what it blocks \
             passes",
            devices.join(", ")
        );
        ask(&Request {
            what: &what,
            question: "Take it away?",
            otherwise: "`--yes`",
            refused: "the filter stays",
        })?;
    }
    match detach_leftovers(instance)? {
        0 => println!("instance {instance}: nothing was attached"),
        count => println!("instance {instance}: {count} programs detached"),
    }
    if !devices.is_empty() {
        println!(
            "instance {instance}: without its filter what its policy protects passes in the clear, and what it blocks passes"
        );
    }
    Ok(())
}
