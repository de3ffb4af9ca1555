//! `ravelin detach`: taking away the filter of an engine that has ended.

use anyhow::{Result, bail};
use clap::Args;
use ravelin_engine::{detach_leftovers, fetch_status};

use crate::instance::Instance;

/// Take away the filter that an engine has left behind
///
/// What the policy protects then passes in the clear. An engine that runs is left alone: stop it first.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    instance: Instance,
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
    match detach_leftovers(instance)? {
        0 => println!("instance {instance}: nothing was attached"),
        count => println!("instance {instance}: {count} programs detached"),
    }
    Ok(())
}
