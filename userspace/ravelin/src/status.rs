//! `ravelin status`: what a running engine has done so far.

use std::io::{self, Write};

use anyhow::Result;
use clap::Args;
use ravelin_engine::{LimitKind, SaLifetime, SaState, SaStatus, Status, fetch_status};

use crate::instance::Instance;
use crate::sa::failures;

/// Show the counters of a running engine
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    instance: Instance,

    /// As JSON, with every drop reason, zeros included
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(arguments: &Arguments) -> Result<()> {
    let status = fetch_status(&arguments.instance.control())?;
    let mut out = io::stdout().lock();
    let written = if arguments.json {
        serde_json::to_string_pretty(&status)
            .map_err(io::Error::other)
            .and_then(|text| writeln!(out, "{text}"))
    } else {
        print(&mut out, &status)
    };
    match written {
        // `ravelin status | head` is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn print(out: &mut impl Write, status: &Status) -> io::Result<()> {
    writeln!(
        out,
        "instance {}  version {}  process {}  up {} s{}",
        status.instance,
        status.version,
        status.pid,
        status.uptime_seconds,
        status
            .provider
            .as_ref()
            .map(|name| format!("  aead {name}"))
            .unwrap_or_default()
    )?;
    let policy = &status.policy;
    writeln!(
        out,
        "policy {}  generation {}  sha256 {}",
        policy.file.display(),
        policy.generation,
        policy.sha256.get(..16).unwrap_or("unknown")
    )?;
    if let Some(pending) = &status.pending {
        writeln!(
            out,
            "to be confirmed within {} s, else {} comes back",
            pending.seconds_left,
            pending.previous.file.display()
        )?;
    }
    if let Some(error) = &status.last_error {
        writeln!(out, "last error: {error}")?;
    }
    for (side, interface) in status.interfaces.iter().rev() {
        writeln!(
            out,
            "{side:<6} {} (index {}, {} XDP)",
            interface.name, interface.index, interface.xdp
        )?;
        if let Some(trouble) = &interface.trouble {
            writeln!(out, "{side:<6} {trouble}")?;
        }
    }
    writeln!(out, "\n{:<28} {:>14} {:>18}", "rule", "packets", "bytes")?;
    for rule in &status.rules {
        writeln!(out, "{:<28} {:>14} {:>18}", rule.name, rule.packets, rule.bytes)?;
    }
    if !status.connections.is_empty() {
        writeln!(
            out,
            "\n{:<20} {:<4} {:>10} {:>14} {:>18} {:>14}  failed",
            "connection", "", "spi", "packets", "bytes", "sequence"
        )?;
    }
    for connection in &status.connections {
        let outbound = std::iter::once(&connection.outbound).chain(&connection.next);
        let inbound = std::iter::once(&connection.inbound).chain(&connection.old);
        let sas = outbound.map(|sa| ("out", sa)).chain(inbound.map(|sa| ("in", sa)));
        for (direction, sa) in sas {
            writeln!(
                out,
                "{:<20} {direction:<4} {:#010x} {:>14} {:>18} {:>14}  {}{}",
                connection.name,
                sa.spi,
                sa.packets,
                sa.bytes,
                sa.sequence,
                failures(sa),
                described(sa)
            )?;
        }
        if let Some(mtu) = connection.learned_path_mtu {
            writeln!(out, "{:<20} path MTU {mtu}, as a router said", connection.name)?;
        }
    }
    for connection in &status.connections {
        if let Some(peer) = &connection.peer {
            writeln!(
                out,
                "{}: its peer was seen at {} port {}, {}",
                connection.name,
                peer.address,
                peer.port,
                if peer.followed {
                    "where packets go to since"
                } else {
                    "which is not followed"
                }
            )?;
        }
    }
    writeln!(out, "\n{:<28} {:>14}", "passed to the kernel", "packets")?;
    for (name, packets) in &status.outcomes {
        writeln!(out, "{name:<28} {packets:>14}")?;
    }
    writeln!(out, "\n{:<28} {:>14}", "dropped", "packets")?;
    for (name, packets) in status.drops.iter().filter(|(_, packets)| **packets != 0) {
        writeln!(out, "{name:<28} {packets:>14}")?;
    }
    if !status.unserved.is_empty() {
        writeln!(out, "\n{:<28} {:>14}", "of these, without an engine", "packets")?;
    }
    for (name, packets) in &status.unserved {
        writeln!(out, "{name:<28} {packets:>14}")?;
    }
    for worker in &status.workers {
        writeln!(
            out,
            "\nworker {}: {} sealed, {} opened, {} fragmented, {} reassembled, {} TCP segment sizes lowered, {} waited for a neighbour, {} ICMP errors, {}",
            worker.queue,
            worker.sealed,
            worker.opened,
            worker.fragmented,
            worker.reassembled,
            worker.mss_clamped,
            worker.waited,
            worker.icmp_errors,
            if worker.zero_copy {
                "zero-copy"
            } else {
                "copy mode"
            }
        )?;
        if let Some(seconds) = worker.stuck_seconds {
            writeln!(
                out,
                "worker {}: STUCK for {seconds} s, protected packets of this queue are dropped",
                worker.queue
            )?;
        }
        for number in &worker.stuck_crypto_threads {
            writeln!(
                out,
                "worker {}: crypto thread {number} is STUCK, protected packets of this queue are dropped",
                worker.queue
            )?;
        }
    }
    Ok(())
}

/// What is to be said about an SA that is not simply in use.
fn described(sa: &SaStatus) -> String {
    let state = match (sa.state, sa.seconds_left) {
        (SaState::InUse, _) => String::new(),
        (SaState::Next, Some(seconds)) => format!("  next, within {seconds} s"),
        (SaState::Old, Some(seconds)) => format!("  old, for {seconds} s"),
        (state, _) => format!("  {}", state.name()),
    };
    match sa.lifetime.as_ref().and_then(limit_reached) {
        Some(limit) => format!("{state}  {limit}"),
        None => state,
    }
}

/// Which limit of its life an SA has reached, in a few words.
pub(crate) fn limit_reached(lifetime: &SaLifetime) -> Option<String> {
    let reached = lifetime.reached.as_ref()?;
    Some(match reached.kind {
        LimitKind::Soft => format!("soft limit of {}", reached.measure),
        LimitKind::Hard => format!("stopped: hard limit of {}", reached.measure),
    })
}
