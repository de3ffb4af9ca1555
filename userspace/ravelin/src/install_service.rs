//! `ravelin install-service`: the engine as a systemd service.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser};
use ravelin_engine::PolicyFile;
use ravelin_policy::Boot;

use crate::run::{self, OnExit};
use crate::unit::{Service, boot_name, boot_unit, name, unit};

/// Have systemd start the engine, before the network comes up
///
/// Writes a unit that runs `ravelin run` with the options after `--`, confined to what it needs, started anew when it
/// fails or hangs, and told to systemd once the policy is in force. `systemctl reload` applies the policy file again, and
/// says what is wrong with it. With `boot = "block"` in the policy a second unit shuts the devices until then.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Print the units; write nothing
    #[arg(long)]
    print: bool,

    /// Where units are
    #[arg(long, value_name = "FOLDER", default_value = "/etc/systemd/system")]
    folder: PathBuf,

    /// Options of `ravelin run`
    #[arg(last = true, required = true, value_name = "RUN OPTIONS")]
    run: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  ravelin install-service -- --policy /etc/ravelin/site.toml --outer eth0 --inner eth1
  ravelin install-service --print -- --policy /etc/ravelin/host.toml --mode host --outer eth0
  systemctl enable --now ravelin-default";

/// A command line of `ravelin run`.
#[derive(Debug, Parser)]
#[command(name = "ravelin run")]
struct Line {
    #[command(flatten)]
    arguments: run::Arguments,
}

pub(crate) fn install_service(arguments: &Arguments) -> Result<()> {
    let line = std::iter::once(OsString::from("ravelin run")).chain(arguments.run.iter().cloned());
    let Line { arguments: line } = Line::try_parse_from(line).unwrap_or_else(|error| error.exit());
    let policy = std::path::absolute(&line.policy)?;
    let (file, warnings) = PolicyFile::load(&policy)?;
    run::print_warnings(&warnings);
    let options = run::options(&line, file.policy())?;
    if line.on_exit == OnExit::Open {
        eprintln!(
            "warning: `--on-exit open` opens the machine whenever systemd stops the engine, as by `systemctl stop` or `restart`, until it runs \
             again: what the policy protects passes in the clear, and what it blocks passes; without it the filter stays"
        );
    }
    let program = std::env::current_exe().context("where is this program?")?;
    let shut_at_boot = file.policy().boot() == Boot::Block;
    let service = Service {
        program: &program,
        policy: &policy,
        others: &without_policy(&arguments.run)?,
        options: &options,
        shut_at_boot,
    };
    let name = name(&options.instance);
    let mut units = vec![(name.clone(), unit(&service)?)];
    if shut_at_boot {
        units.push((boot_name(&options.instance), boot_unit(&service)?));
    }
    for (name, text) in units {
        if arguments.print {
            println!("# {name}\n{text}");
            continue;
        }
        let path = arguments.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: written", path.display());
    }
    if arguments.print {
        return Ok(());
    }
    if arguments.folder == Path::new("/etc/systemd/system") {
        let reloaded = Command::new("systemctl").arg("daemon-reload").status();
        if !reloaded.is_ok_and(|status| status.success()) {
            bail!("`systemctl daemon-reload` failed; systemd does not know of the unit yet");
        }
    }
    let boot = boot_name(&options.instance);
    if !shut_at_boot && arguments.folder.join(&boot).exists() {
        println!(
            "{boot} is of a policy before, which was to be shut at boot: systemctl disable {boot}, and remove it"
        );
    }
    println!("now: systemctl enable --now {name}");
    Ok(())
}

/// The options as they were given, but for the policy, whose path the unit has in full.
fn without_policy(run: &[OsString]) -> Result<Vec<String>> {
    let mut others = Vec::new();
    let mut run = run.iter();
    while let Some(word) = run.next() {
        let word = word.to_str().context("the options must be UTF-8")?;
        if word == "--policy" {
            run.next();
        } else if !word.starts_with("--policy=") {
            others.push(word.to_owned());
        }
    }
    Ok(others)
}
