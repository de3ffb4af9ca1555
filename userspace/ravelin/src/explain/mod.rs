//! `ravelin explain`: why a packet gets the verdict it gets.

mod capture;
mod direction;
mod next;
mod report;
mod text;

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ravelin_classifier::Host;
use ravelin_policy::{Connection, PACKET_GRAMMAR, Packet, Policy, Surroundings};
use ravelin_xdp_common::Direction;

use crate::policy_file::PolicyFile;
use crate::run::print_warnings;
use crate::session;

/// How many filters of each kind are shown without `--all`.
const SHOWN: usize = 5;

/// Explain what a policy does with a packet, and why
///
/// Shows the rule that decides and its rank, why every other filter that matches lost, which filters do not match and
/// on which field, and what happens to the packet next. With --pcap, tells the verdict on every frame of a capture.
/// Touches nothing and needs no root.
#[derive(Debug, Args)]
#[command(after_help = grammar())]
pub(crate) struct Arguments {
    /// Policy file
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,

    /// The packet, as in "tcp 10.0.0.5:40000 -> 10.1.0.9:1433"
    #[arg(value_name = "PACKET", required_unless_present = "pcap")]
    packet: Option<Packet>,

    /// Instead of one packet, every frame of a pcap or pcapng file: a table of verdicts, and totals; `-` is standard input
    #[arg(long, value_name = "CAPTURE", conflicts_with = "packet")]
    pcap: Option<PathBuf>,

    /// Only as a packet from the wire, on the outer device
    #[arg(long = "in", conflicts_with = "outbound")]
    inbound: bool,

    /// Only as a packet towards the wire: from the inner device, or in host mode from this host itself
    #[arg(long = "out")]
    outbound: bool,

    /// An address of the machine that the policy is for; may be given several times
    #[arg(long = "me", value_name = "ADDRESS")]
    own: Vec<IpAddr>,

    /// With the lifeline that the SSH connection of this session has in a policy that was applied from it, if it comes in the clear
    #[arg(long)]
    ssh_session: bool,

    /// The outer device, for rules with `interfaces` [default: the policy's]
    #[arg(long, value_name = "DEVICE")]
    outer: Option<String>,

    /// With --pcap: the link address of the outer device, which tells inbound from outbound frames
    #[arg(long = "mac", value_name = "ADDRESS", requires = "pcap", value_parser = direction::link_address)]
    link: Option<[u8; 6]>,

    /// What `ravelin run` is told: a packet towards the wire is from the inner device of a gateway, or this host's own [default: host for a policy
    /// with connections of transport mode, else gateway]
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,

    /// Show every filter, or every frame, however many there are
    #[arg(long)]
    all: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Whose packets leave for the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Those of the hosts behind the inner device
    Gateway,
    /// This host's own
    Host,
}

impl Mode {
    /// What a policy can only be for: a gateway refuses transport mode.
    fn of(policy: &Policy) -> Self {
        let of_host = |connection: &Connection| connection.mode == ravelin_policy::Mode::Transport;
        match policy.connections().iter().any(of_host) {
            true => Self::Host,
            false => Self::Gateway,
        }
    }
}

fn grammar() -> String {
    format!("A packet is written\n  {PACKET_GRAMMAR}")
}

pub(crate) fn explain(arguments: &Arguments) -> Result<()> {
    let session = arguments.ssh_session.then(session::ssh_session).flatten();
    let surroundings = Surroundings {
        own: arguments.own.clone(),
        outer: arguments.outer.clone(),
        session,
        ..Surroundings::default()
    };
    let file = PolicyFile::load(&arguments.policy, &surroundings)?;
    if file.policy.depends_on_surroundings() {
        print_warnings(&file.warnings);
    }
    let rules = ravelin_classifier::compile(&file.policy)?;
    let mut host = Host::new(&file.policy, rules, &arguments.own);
    if arguments.mode.unwrap_or_else(|| Mode::of(&file.policy)) == Mode::Host {
        host = host.in_host_mode();
    }
    if let Some(capture) = &arguments.pcap {
        return capture::explain(arguments, capture, &file.policy, &mut host);
    }
    let Some(packet) = &arguments.packet else {
        bail!("which packet? Or --pcap CAPTURE");
    };
    let directions: &[Direction] = match (arguments.inbound, arguments.outbound) {
        (true, _) => &[Direction::Inbound],
        (_, true) => &[Direction::Outbound],
        _ => &[Direction::Outbound, Direction::Inbound],
    };
    let limit = if arguments.all { usize::MAX } else { SHOWN };
    let report = report::report(&file, &mut host, packet, directions, limit);
    let text = if arguments.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        text::text(&report)
    };
    unless_closed(io::stdout().lock().write_all(text.as_bytes()))
}

/// `ravelin explain | head` is no error.
fn unless_closed(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
