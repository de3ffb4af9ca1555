//! `ravelin export`: a policy in another filter's language.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use ravelin_import::export_netsh;
use ravelin_policy::Policy;

use crate::import::write_text;

/// Write a policy in another filter's language
///
/// What that language cannot say is listed on standard error, with its place in the policy.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    language: Language,
}

#[derive(Debug, Subcommand)]
enum Language {
    /// A batch file of `netsh ipsec static` commands
    Netsh {
        /// Policy file
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,

        /// Write the script here instead of printing it
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

pub(crate) fn export(arguments: &Arguments) -> Result<()> {
    let Language::Netsh { policy, out } = &arguments.language;
    let (policy, _) = Policy::load(policy)?;
    let exported = export_netsh(&policy);
    for warning in &exported.warnings {
        eprintln!("{warning}");
    }
    write_text(out.as_deref(), &exported.script)
}
