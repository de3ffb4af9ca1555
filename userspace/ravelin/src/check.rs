//! `ravelin check`: mistakes, before they meet packets.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ravelin_engine::Role;
use ravelin_keying::StaticKeys;
use ravelin_policy::lint::{self, Findings};
use ravelin_policy::{Connection, Diagnostic, Management, Mode, Policy, Surroundings};

use crate::memory;
use crate::policy_file::PolicyFile;
use crate::run::print_warnings;
use crate::session;

/// Port of a management connection of which only the address is given: SSH.
const SSH: u16 = 22;

/// Check a policy and its key files without touching anything
///
/// Prints every mistake with file, line and column, and exits with 1 if there is one. Warns about filters that never
/// decide, equally specific filters with different actions, and filters that no packet can match. What `run` and `apply`
/// would refuse on any machine is a mistake, and so is a policy that locks out the management, or this SSH session. Needs no root, except to read key files that belong to root.
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

    /// An address of the machine that the policy is for; may be given several times [default: this end of this SSH
    /// session, if it is one]
    #[arg(long = "me", value_name = "ADDRESS")]
    own: Vec<IpAddr>,

    /// The outer device, for rules with `interfaces` [default: the policy's]
    #[arg(long, value_name = "DEVICE")]
    outer: Option<String>,

    /// Who manages the machine, and the TCP port that they connect to (22 if none is given); `none` for nobody
    /// [default: the other end of this SSH session, if it is one]
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    management: Vec<Manager>,

    /// Take a policy that locks the management out: only warn about it
    #[arg(long)]
    allow_lockout: bool,
}

/// Who manages the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Nobody,
    At(IpAddr, u16),
}

impl FromStr for Manager {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Nobody);
        }
        let address = text.parse().map(|address| Self::At(address, SSH));
        let socket = || {
            text.parse()
                .map(|socket: SocketAddr| Self::At(socket.ip(), socket.port()))
        };
        address
            .or_else(|_| socket())
            .map_err(|_| "write an address, address:port, [IPv6 address]:port, or none".to_owned())
    }
}

pub(crate) fn check(arguments: &Arguments) -> Result<()> {
    let path = arguments.file.as_ref().or(arguments.policy.as_ref());
    let path = path.context("which policy? `ravelin check FILE`")?;
    let session = match &*arguments.management {
        [] => session::ssh_session(),
        _ => None,
    };
    let mut own = arguments.own.clone();
    // Where nothing else is said, the policy is for the machine that the session has reached.
    if own.is_empty() {
        own.extend(session.map(|session| session.own));
    }
    let management = management(arguments, session)?;
    // Without the session's own lifeline, so that what is found does not depend on who looks.
    let surroundings = Surroundings {
        own,
        outer: arguments.outer.clone(),
        ..Surroundings::default()
    };
    let PolicyFile { policy, mut warnings } = PolicyFile::load(path, &surroundings)?;
    let found = lint::lint(&policy, &management);
    let held = session.filter(|_| policy.ssh_session());
    warnings.extend(found.warnings.iter().cloned());
    let lockout = lockout(arguments, held.is_some(), &found);
    warnings.extend(lockout.iter().flatten().cloned());
    print_warnings(&warnings);
    lockout?;
    if let Some(advice) = how_to_run(&policy) {
        eprintln!("{}: {advice}", path.display());
    }
    if found.more > 0 {
        eprintln!("... and {} more warnings of the same kinds", found.more);
    }
    if found.unexamined > 0 {
        eprintln!(
            "{}: {} filters overlap with too many others to be examined for shadowing and conflicts",
            path.display(),
            found.unexamined
        );
    }
    let rules = ravelin_engine::check(&policy, role(&policy))?;
    if !arguments.without_keys {
        memory::forbid_dumps()?;
        StaticKeys::read(&policy)?;
    }
    println!(
        "{}: {} rules, {} connections, {} lookup lines; {}",
        path.display(),
        policy.rules().len(),
        policy.connections().len(),
        rules.lines().len(),
        match warnings.len() + found.more {
            0 => "no warnings".to_owned(),
            1 => "1 warning".to_owned(),
            count => format!("{count} warnings"),
        }
    );
    Ok(())
}

/// What an engine of this policy would be for, where it seals.
fn role(policy: &Policy) -> Role {
    match policy.interfaces().inner {
        Some(_) => Role::Gateway,
        None => Role::Host,
    }
}

/// What a policy with transport mode needs: it protects what this host itself sends.
fn how_to_run(policy: &Policy) -> Option<String> {
    let of_host = |connection: &&Connection| connection.mode == Mode::Transport && role(policy) == Role::Host;
    let connection = policy.connections().iter().find(of_host)?;
    Some(format!(
        "connection `{}` is of transport mode: start with `ravelin run --mode host`",
        connection.name
    ))
}

/// Warnings about management that is locked out: where that is allowed, or the session's own lifeline spares it (`held`).
///
/// # Errors
/// It is not allowed.
fn lockout(arguments: &Arguments, held: bool, found: &Findings) -> Result<Vec<Diagnostic>> {
    let mut locked_out = found.locked_out.clone();
    if held {
        for diagnostic in &mut locked_out {
            diagnostic.message += "; until then only the lifeline that this SSH session itself gets spares it, and that is gone \
                                   when Ravelin is started from elsewhere, as after a boot";
        }
    } else if !arguments.allow_lockout && !locked_out.is_empty() {
        let all: Vec<String> = locked_out.iter().map(ToString::to_string).collect();
        bail!(
            "the policy locks out those who manage the machine; `--allow-lockout` if that is meant\n{}",
            all.join("\n")
        );
    }
    Ok(locked_out)
}

/// The connections that must stay possible.
fn management(arguments: &Arguments, session: Option<Management>) -> Result<Vec<Management>> {
    if arguments.management.is_empty() {
        return Ok(session.into_iter().collect());
    }
    let mut all = Vec::new();
    for manager in &arguments.management {
        let Manager::At(client, port) = *manager else {
            continue;
        };
        let before = all.len();
        let own = arguments
            .own
            .iter()
            .filter(|own| own.is_ipv4() == client.is_ipv4());
        all.extend(own.map(|own| Management {
            client,
            own: *own,
            port,
        }));
        if all.len() == before {
            bail!(
                "--management {client}: which address of the machine do they connect to? Give it with --me, in the same \
                 family"
            );
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::Manager;

    #[test]
    fn managers_are_addresses_with_or_without_a_port() {
        let at = |address: &str, port| Ok(Manager::At(address.parse().unwrap(), port));
        assert_eq!("198.51.100.7".parse(), at("198.51.100.7", 22));
        assert_eq!("198.51.100.7:2222".parse(), at("198.51.100.7", 2222));
        assert_eq!("2001:db8::7".parse(), at("2001:db8::7", 22));
        assert_eq!("[2001:db8::7]:2222".parse(), at("2001:db8::7", 2222));
        assert_eq!("none".parse(), Ok(Manager::Nobody));
        assert!("office".parse::<Manager>().is_err());
    }
}
