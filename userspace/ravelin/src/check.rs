//! `ravelin check`: mistakes, before they meet packets.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ravelin_keying::StaticKeys;
use ravelin_policy::Policy;

use crate::run::print_warnings;

/// Check a policy and its key files without touching anything
///
/// Prints every mistake with file, line and column, and exits with 1 if there is one. Needs no root, except to read
/// key files that belong to root.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Policy file
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,

    /// Leave the key files alone, for instance where the policy is edited but not used
    #[arg(long)]
    without_keys: bool,
}

pub(crate) fn check(arguments: &Arguments) -> Result<()> {
    let (policy, warnings) = Policy::load(&arguments.policy)?;
    print_warnings(&warnings);
    let rules = ravelin_classifier::compile(&policy)?;
    if !arguments.without_keys {
        StaticKeys::read(&policy)?;
    }
    println!(
        "{}: {} rules, {} connections, {} lookup lines; {}",
        arguments.policy.display(),
        policy.rules().len(),
        policy.connections().len(),
        rules.lines().len(),
        match warnings.len() {
            0 => "no warnings".to_owned(),
            1 => "1 warning".to_owned(),
            count => format!("{count} warnings"),
        }
    );
    Ok(())
}
