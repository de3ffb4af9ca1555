//! The stages of the demo, in their order, and what is expected of each.

mod attacks;
mod wire;

use std::{path::Path, time::Duration};

use anyhow::Result;

use super::{
    attack::{self, RawPort, Sink},
    flows::{Arrival, FLOWS, Fate, Flow},
    gateway::Gateway,
    interrupt,
    report::{self, Report, Row},
    servers::Servers,
    status::Status,
    topology::{ATTACKER, HOST2_V4, Topology},
};

/// Seconds of each speed measurement, after one second to get going.
const SPEED_SECONDS: u32 = 2;

/// How long a counter may take to show what has happened.
const COUNTING: Duration = Duration::from_secs(2);

/// TCP speed of the network without Ravelin, in 10^9 bits per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlainSpeed {
    /// As the kernel does it by itself: packets of 64 KiB between the namespaces.
    offloads: f64,
    /// With checksums by the sender, as with Ravelin: every packet is one frame.
    frames: f64,
}

/// The network without Ravelin: how fast it is, and that what Ravelin will have to stop gets through without it.
pub(super) fn without_ravelin(
    topology: &Topology,
    servers: &Servers,
    report: &mut Report,
) -> Result<PlainSpeed> {
    eprintln!("demo: plain forwarding, for comparison");
    let offloads = servers.speed(topology, HOST2_V4, SPEED_SECONDS)?;
    topology.checksum_in_software()?;
    let frames = servers.speed(topology, HOST2_V4, SPEED_SECONDS)?;

    Report::heading("Without Ravelin: what must be stopped later gets through now");
    for flow in FLOWS.iter().filter(|flow| matches!(flow.fate, Fate::Blocked(_))) {
        let outcome = servers.run(topology, flow.traffic)?;
        report.check(
            flow.name,
            "arrives",
            &outcome.text,
            outcome.arrival == Arrival::Complete,
        );
    }
    let sink = Sink::open(&topology.host2)?;
    let attacker = RawPort::open(&topology.wire, ATTACKER)?;
    for v6 in [false, true] {
        attacker.send(&attack::forged_datagram(
            &attack::ethernet_addresses(topology)?,
            v6,
            "forged",
        )?)?;
        let arrived = sink.read_up_to("forged");
        interrupt::check()?;
        let seen = if arrived.is_ok() {
            "arrived"
        } else {
            "did not arrive"
        };
        report.check(forged(v6), "arrives", seen, arrived.is_ok());
    }
    Ok(PlainSpeed { offloads, frames })
}

fn forged(v6: bool) -> &'static str {
    if v6 {
        "forged clear IPv6"
    } else {
        "forged clear IPv4"
    }
}

/// The stages with both gateways running.
#[derive(Debug)]
pub(super) struct Stages<'a> {
    pub(super) gw1: Gateway,
    pub(super) gw2: Gateway,
    pub(super) topology: &'a Topology,
    pub(super) servers: &'a Servers,
    pub(super) folder: &'a Path,
    pub(super) report: &'a mut Report,
}

impl Stages<'_> {
    /// Every flow, one after the other.
    pub(super) fn flows(&mut self) -> Result<()> {
        Report::heading("With Ravelin: real programs on both hosts");
        for flow in FLOWS {
            let row = self.flow(flow)?;
            self.report.add(&row);
        }
        Ok(())
    }

    fn flow(&self, flow: &Flow) -> Result<Row> {
        let before = self.gw1.status()?;
        let outcome = self.servers.run(self.topology, flow.traffic)?;
        let count = |grown: &Status| match flow.fate {
            Fate::Protected(connection) => grown.connection_packets(connection),
            Fate::Clear(counter) | Fate::Blocked(counter) => grown.count(counter),
        };
        let grown = grown(&self.gw1, &before, |grown| count(grown) > 0)?;
        let packets = count(&grown);
        let (expected, arrival) = match flow.fate {
            Fate::Protected(connection) => (format!("arrives, ESP {connection}"), Arrival::Complete),
            Fate::Clear(_) => ("arrives in the clear".to_owned(), Arrival::Complete),
            Fate::Blocked(counter) => (counter.replace("drops.", "dropped, "), Arrival::Silence),
        };
        let mut seen = outcome.text;
        if packets == 0 {
            seen.push_str(", but not so counted");
        }
        Ok(Row {
            flow: flow.name.to_owned(),
            expected,
            seen,
            packets: Some(packets),
            gbit: outcome.gbit,
            good: outcome.arrival == arrival && packets > 0,
        })
    }

    /// By how much gw2's drop counter grows through `action`.
    fn dropped(&self, reason: &str, action: impl FnOnce() -> Result<()>) -> Result<u64> {
        let counter = format!("drops.{reason}");
        let before = self.gw2.status()?;
        action()?;
        Ok(grown(&self.gw2, &before, |grown| grown.count(&counter) > 0)?.count(&counter))
    }

    /// Everything the gateways counted.
    pub(super) fn counters(&self) -> Result<()> {
        report::counters([(&self.gw1, &self.gw1.status()?), (&self.gw2, &self.gw2.status()?)]);
        Ok(())
    }
}

/// What a gateway counted since `before`, as soon as it is `enough`, or after a while anyway.
fn grown(gateway: &Gateway, before: &Status, enough: impl Fn(&Status) -> bool) -> Result<Status> {
    let mut grown = Status::default();
    let waited = interrupt::wait_until("a counter", COUNTING, || {
        grown = gateway.status()?.since(before);
        Ok(enough(&grown))
    });
    interrupt::check()?;
    // Too late is not an error here: the caller reports a counter that did not grow.
    if waited.is_err() {
        grown = gateway.status()?.since(before);
    }
    Ok(grown)
}
