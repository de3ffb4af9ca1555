//! `ravelin`: the engine's daemon and its command line.
#![forbid(unsafe_code)]

mod apply;
mod boot;
mod check;
mod consent;
mod detach;
mod diff;
mod explain;
mod export;
mod fmt;
mod import;
mod input;
mod install_service;
mod instance;
mod keygen;
mod memory;
mod policy_file;
mod run;
mod sa;
mod schema;
mod session;
mod status;
mod stop;
mod unit;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Packet filter and IPsec ESP engine in front of the Linux stack.
///
/// An XDP program decides every packet at the driver: permit, block, or protect. What must be protected is sealed
/// with ESP by worker threads over AF_XDP; everything else stays with the kernel.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ravelin keygen branch-out.key --algorithm aes-256-gcm   Make a key file
  ravelin check --policy site.toml                        Look for mistakes; needs no root
  ravelin fmt site.toml                                   Canonical layout; comments and order stay
  ravelin explain --policy site.toml 'tcp 10.1.0.5:40000 -> 10.2.0.9:443'
  ravelin diff site.toml new.toml                         Which traffic a change of policy concerns
  ravelin run --policy site.toml --outer eth0 --inner eth1
  ravelin apply site.toml --confirm 60                    Change the policy of the running engine
  ravelin status                                          What it has done so far
  ravelin import nft rules.nft -o site.toml               Make a policy from another filter's rules
  ravelin stop                                            End the engine, and take its filter away
  ravelin detach                                          Take the filter away after it has stopped";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Boot(boot::Arguments),
    Check(check::Arguments),
    Explain(explain::Arguments),
    Diff(diff::Arguments),
    Apply(apply::Arguments),
    Confirm(apply::Confirm),
    Rollback(apply::Rollback),
    Status(status::Arguments),
    Sa(sa::Arguments),
    Keygen(keygen::Arguments),
    Stop(stop::Arguments),
    Detach(detach::Arguments),
    InstallService(install_service::Arguments),
    Import(import::Arguments),
    Export(export::Arguments),
    Fmt(fmt::Arguments),
    Schema(schema::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Boot(arguments) => boot::boot(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Diff(arguments) => return diff::diff(&arguments),
        Command::Apply(arguments) => apply::apply(&arguments),
        Command::Confirm(arguments) => apply::confirm(&arguments),
        Command::Rollback(arguments) => apply::roll_back(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Sa(arguments) => sa::sa(&arguments),
        Command::Keygen(arguments) => keygen::keygen(&arguments),
        Command::Stop(arguments) => stop::stop(&arguments),
        Command::InstallService(arguments) => install_service::install_service(&arguments),
        Command::Detach(arguments) => detach::detach(&arguments),
        Command::Import(arguments) => import::import(&arguments),
        Command::Export(arguments) => export::export(&arguments),
        Command::Fmt(arguments) => fmt::fmt(&arguments),
        Command::Schema(arguments) => schema::schema(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ravelin: {error:#}");
            ExitCode::FAILURE
        }
    }
}
