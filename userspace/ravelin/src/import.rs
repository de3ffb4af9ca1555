//! `ravelin import`: policies from other filters' languages.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use ravelin_import::{
    FirewallOptions, Imported, NetshOptions, Source, classbench, iptables_save, netsh, nft,
};

use crate::input;

/// Make a policy from what another filter is written in
///
/// Prints the policy, and on standard error what to know about it, as `FILE:LINE: ...`. What cannot be expressed is listed
/// there and in a comment at the top of the policy.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    language: Language,
}

#[derive(Debug, Subcommand)]
enum Language {
    /// A script of `netsh ipsec` commands, as batch file or netsh script
    Netsh {
        #[command(flatten)]
        files: Files,

        /// Address of the machine the policy is for, the local end of its connections; may be repeated
        #[arg(long, value_name = "ADDRESS")]
        local: Vec<IpAddr>,

        /// Policy whose rules become active, instead of the one that the script assigns
        #[arg(long, value_name = "NAME")]
        assign: Option<String>,
    },
    /// A rule set of nftables, as `nft list ruleset` prints it
    Nft {
        #[command(flatten)]
        files: Files,

        #[command(flatten)]
        machine: Machine,
    },
    /// Rules as `iptables-save` or `ip6tables-save` prints them
    IptablesSave {
        #[command(flatten)]
        files: Files,

        #[command(flatten)]
        machine: Machine,
    },
    /// A ClassBench filter set: one rule a line, the first that matches wins
    Classbench {
        #[command(flatten)]
        files: Files,

        /// What the rules do; a filter set does not say. Whatever matches none of permitting rules is blocked, and is
        /// permitted otherwise
        #[arg(long, value_name = "NAME", default_value = "permit")]
        actions: Actions,
    },
}

#[derive(Debug, Args)]
struct Machine {
    /// Address of the machine the policy is for, so that rules at input and output that name addresses hold for nothing
    /// else; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    local: Vec<IpAddr>,
}

impl Machine {
    fn options(&self) -> FirewallOptions {
        FirewallOptions {
            local: self.local.clone(),
        }
    }
}

#[derive(Debug, Args)]
struct Files {
    /// File to read; `-` is standard input
    file: PathBuf,

    /// Write the policy here instead of printing it
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Exit with 1, and write nothing, if anything cannot be expressed
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Actions {
    Permit,
    Block,
    Alternate,
}

pub(crate) fn import(arguments: &Arguments) -> Result<()> {
    match &arguments.language {
        Language::Netsh { files, local, assign } => {
            let options = NetshOptions {
                local: local.clone(),
                assign: assign.clone(),
            };
            files.write(&netsh(&files.read()?, &options)?)
        }
        Language::Nft { files, machine } => files.write(&nft(&files.read()?, &machine.options())?),
        Language::IptablesSave { files, machine } => {
            files.write(&iptables_save(&files.read()?, &machine.options())?)
        }
        Language::Classbench { files, actions } => {
            let actions = match actions {
                Actions::Permit => ravelin_import::Actions::Permit,
                Actions::Block => ravelin_import::Actions::Block,
                Actions::Alternate => ravelin_import::Actions::Alternate,
            };
            files.write(&classbench(&files.read()?, actions)?)
        }
    }
}

impl Files {
    fn read(&self) -> Result<Source> {
        if input::is_standard(&self.file) {
            return Ok(Source::read("standard input", io::stdin().lock())?);
        }
        let name = self.file.display().to_string();
        let file = input::open(&self.file).with_context(|| format!("cannot open {name}"))?;
        Ok(Source::read(&name, file)?)
    }

    fn write(&self, imported: &Imported) -> Result<()> {
        for warning in &imported.warnings {
            eprintln!("{warning}");
        }
        if self.strict && imported.is_lossy() {
            bail!("not everything can be expressed (see above), and --strict was given; nothing was written");
        }
        write_text(self.out.as_deref(), &imported.policy)
    }
}

/// Writes `text` to a file, or to standard output without one.
pub(crate) fn write_text(out: Option<&std::path::Path>, text: &str) -> Result<()> {
    if let Some(out) = out {
        return std::fs::write(out, text).with_context(|| format!("cannot write {}", out.display()));
    }
    match io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}
