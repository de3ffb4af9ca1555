//! `ravelin boot`: shut until the policy is in force.

use anyhow::{Result, bail};
use ravelin_engine::Booted;
use ravelin_policy::{Boot, Policy};

use crate::run;

/// Shut the devices until `ravelin run` puts the policy in force
///
/// For a policy with `boot = "block"`: attaches the filter with nothing but the policy's `[lifeline]` in it, and ends. ARP,
/// neighbour discovery and IKE pass as well. `ravelin run` with the same options takes the devices over without a gap.
/// Where an engine runs, or has left its filter, nothing changes; what this command attached before follows the machine's
/// addresses when it is called again.
///
/// A policy that cannot be read leaves the devices shut: its lifeline counts if at least that can be read.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Arguments {
    #[command(flatten)]
    run: run::Arguments,
}

pub(crate) fn boot(arguments: &Arguments) -> Result<()> {
    let run = &arguments.run;
    let (policy, mistakes) = Policy::load_at_boot(&run.policy);
    if let Some(mistakes) = &mistakes {
        eprintln!("{mistakes}");
        eprintln!(
            "ravelin: of a policy with mistakes only the lifeline counts; {}",
            match policy.has_lifeline() {
                true => "it can be read",
                false => "there is none that can be read",
            }
        );
    }
    match policy.boot() {
        Boot::Block => {}
        Boot::Permit => {
            println!("boot = \"permit\": nothing to do before `ravelin run`");
            return Ok(());
        }
        Boot::Stateful => bail!(
            "boot = \"stateful\" is not there yet: write boot = \"block\" into the policy to be shut until it is in force, or boot \
             = \"permit\" not to be"
        ),
    }
    let options = run::options(run, &policy)?;
    let Some(booted) = ravelin_engine::boot(&policy, &options)? else {
        println!("instance {} runs: nothing to do", options.instance);
        return Ok(());
    };
    let Booted {
        closed,
        filtered,
        missing,
    } = booted;
    for (devices, what) in [
        (closed, "only the lifeline passes until `ravelin run`"),
        (filtered, "a filter stands there already"),
    ] {
        if !devices.is_empty() {
            println!("{}: {what}", devices.join(", "));
        }
    }
    if !missing.is_empty() {
        bail!(
            "no such Ethernet device: {}; when it is there, call this again",
            missing.join(", ")
        );
    }
    if mistakes.is_some() {
        bail!("the policy has mistakes: `ravelin check` it");
    }
    Ok(())
}
