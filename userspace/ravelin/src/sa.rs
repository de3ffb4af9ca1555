//! `ravelin sa`: the SAs of a running engine, one by one.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, Subcommand};
use ravelin_engine::{SaDirection, SaEntry, SaSelector, SaStatus, delete_sa, fetch_sas, parse_spi};

use crate::instance::Instance;
use crate::status::limit_reached;

/// List the SAs of a running engine, or delete one
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Delete(Delete),
}

/// List the SAs: those in use, and those on their way in or out after a rekey
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    instance: Instance,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Delete an SA; its key is erased
///
/// An inbound SA opens nothing from then on. Without its outbound SA a connection is closed: what it is to protect is
/// dropped, never sent in the clear. A deleted SA stays deleted when the policy is applied again; the connection works
/// again with new SPIs and new key files, or when Ravelin is started again with the old ones.
#[derive(Debug, Args)]
struct Delete {
    /// SPI, decimal or hexadecimal (0x1001)
    #[arg(value_parser = spi)]
    spi: u32,

    /// The inbound SA, should there be an outbound one with this SPI
    #[arg(long = "in", conflicts_with = "outbound")]
    inbound: bool,

    /// The outbound SA, should there be an inbound one with this SPI
    #[arg(long = "out")]
    outbound: bool,

    /// The SA of this connection, should several have this SPI
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,

    #[command(flatten)]
    instance: Instance,
}

fn spi(text: &str) -> Result<u32, String> {
    parse_spi(text).ok_or_else(|| "an SPI is 256 to 4294967295, or 0x100 to 0xffffffff".to_owned())
}

pub(crate) fn sa(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::List(arguments) => list(arguments),
        Command::Delete(arguments) => delete(arguments),
    }
}

fn list(arguments: &List) -> Result<()> {
    let sas = fetch_sas(&arguments.instance.control())?;
    let mut out = io::stdout().lock();
    let written = if arguments.json {
        serde_json::to_string_pretty(&sas)
            .map_err(io::Error::other)
            .and_then(|text| writeln!(out, "{text}"))
    } else {
        print(&mut out, &sas)
    };
    match written {
        // `ravelin sa list | head` is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn print(out: &mut impl Write, sas: &[SaEntry]) -> io::Result<()> {
    writeln!(
        out,
        "{:<10} {:<9} {:<20} {:<24} {:<8} {:>8} {:>14} {:>18} {:>14} {:>10}  {:<32} failed",
        "spi",
        "direction",
        "connection",
        "remote",
        "state",
        "seconds",
        "packets",
        "bytes",
        "sequence",
        "idle",
        "lifetime"
    )?;
    for SaEntry {
        connection,
        remote,
        direction,
        sa,
    } in sas
    {
        let seconds = sa
            .seconds_left
            .map_or_else(String::new, |seconds| seconds.to_string());
        writeln!(
            out,
            "{:#010x} {:<9} {connection:<20} {remote:<24} {:<8} {seconds:>8} {:>14} {:>18} {:>14} {:>10}  {:<32} {}",
            sa.spi,
            direction.name(),
            sa.state.name(),
            sa.packets,
            sa.bytes,
            sa.sequence,
            idle(sa),
            sa.lifetime.as_ref().and_then(limit_reached).unwrap_or_default(),
            failures(sa)
        )?;
    }
    Ok(())
}

/// How long ago a packet was last sealed or opened.
fn idle(sa: &SaStatus) -> String {
    sa.idle_seconds
        .map_or_else(|| "unused".to_owned(), |seconds| format!("{seconds} s"))
}

/// Packets that failed, by reason; `-` if none did.
pub(crate) fn failures(sa: &SaStatus) -> String {
    if sa.drops.is_empty() {
        return "-".to_owned();
    }
    let each = sa
        .drops
        .iter()
        .map(|(reason, packets)| format!("{reason} {packets}"));
    each.collect::<Vec<_>>().join(", ")
}

fn delete(arguments: &Delete) -> Result<()> {
    let direction = match (arguments.inbound, arguments.outbound) {
        (true, _) => Some(SaDirection::Inbound),
        (_, true) => Some(SaDirection::Outbound),
        _ => None,
    };
    let selector = SaSelector {
        direction,
        connection: arguments.connection.clone(),
    };
    let deleted = delete_sa(&arguments.instance.control(), arguments.spi, &selector)?;
    println!(
        "{} SA {:#010x} of connection `{}` deleted: {}",
        deleted.entry.direction.name(),
        deleted.entry.sa.spi,
        deleted.entry.connection,
        deleted.effect
    );
    Ok(())
}
