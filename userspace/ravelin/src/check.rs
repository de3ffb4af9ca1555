//! `ravelin check`: mistakes, before they meet packets.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ravelin_keying::StaticKeys;

use crate::policy_file::PolicyFile;
use crate::run::print_warnings;

/// Check a policy and its key files without touching anything
///
/// Prints every mistake with file, line and column, and exits with 1 if there is one. Needs no root, except to read
/// key files that belong to root.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Policy file
    #[arg(value_name = "FILE", required_unless_present = "policy")]
    file: Option<PathBuf>,

    /// The same, as other commands have it
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    policy: Option<PathBuf>,

    /// Leave the key files alone, for instance where the policy is edited but not used
    #[arg(long)]
    without_keys: bool,
}

pub(crate) fn check(arguments: &Arguments) -> Result<()> {
    let path = arguments.file.as_ref().or(arguments.policy.as_ref());
    let path = path.context("which policy? `ravelin check FILE`")?;
    let PolicyFile { policy, warnings, .. } = PolicyFile::load(path, &[])?;
    print_warnings(&warnings);
    let rules = ravelin_classifier::compile(&policy)?;
    if !arguments.without_keys {
        StaticKeys::read(&policy)?;
    }
    println!(
        "{}: {} rules, {} connections, {} lookup lines; {}",
        path.display(),
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
