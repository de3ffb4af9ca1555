//! The stages of the demo, in their order, and what is expected of each.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    attack::{self, RawPort, Sink},
    capture::Capture,
    flows::{Arrival, FLOWS, Fate, Flow, STATUS_PAGE, Servers},
    gateway::{Gateway, SITES},
    interrupt,
    process::Process,
    report::{self, Report, Row},
    status::Status,
    topology::{ATTACKER, HOST2_V4, TAP, Topology},
    wireshark,
};

/// Seconds of each speed measurement, after one second to get going.
const SPEED_SECONDS: u32 = 2;

/// How long a counter may take to show what has happened.
const COUNTING: Duration = Duration::from_secs(2);

/// Below the shared resolution of the kernel's process times nothing can be said: hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

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

    /// What an attacker on the wire can do.
    pub(super) fn attacks(&mut self) -> Result<()> {
        Report::heading("With Ravelin: an attacker on the wire");
        let attacker = RawPort::open(&self.topology.wire, ATTACKER)?;
        for v6 in [false, true] {
            self.forge(&attacker, v6)?;
        }
        let tampered = self.tamper(&attacker);
        interrupt::check()?;
        if let Err(error) = tampered {
            self.report
                .check("tampered, replayed ESP", "dropped", format!("{error:#}"), false);
        }
        Ok(())
    }

    /// A clear packet with the addresses of a protected flow.
    fn forge(&mut self, attacker: &RawPort, v6: bool) -> Result<()> {
        let sink = Sink::open(&self.topology.host2)?;
        let frame = attack::forged_datagram(&attack::ethernet_addresses(self.topology)?, v6, "forged")?;
        let dropped = self.dropped("clear_not_allowed", || attacker.send(&frame))?;
        // What host2 receives after this one proves that the forged one is not still on its way.
        attack::send_datagram(&self.topology.host1, v6, "regular")?;
        let arrived = sink.read_up_to("regular");
        interrupt::check()?;
        let (seen, clean) = match arrived {
            Ok(texts) if texts == ["regular"] => ("only the regular one arrived".to_owned(), true),
            Ok(texts) => (format!("host2 received {texts:?}"), false),
            Err(error) => (format!("{error:#}"), false),
        };
        self.report.add(&Row {
            flow: forged(v6).to_owned(),
            expected: "clear_not_allowed".to_owned(),
            seen,
            packets: Some(dropped),
            gbit: None,
            good: clean && dropped == 1,
        });
        Ok(())
    }

    /// One ESP packet, held back on the wire: it arrives changed, then as it was, then once more.
    fn tamper(&mut self, attacker: &RawPort) -> Result<()> {
        let tap = RawPort::open(&self.topology.wire, TAP)?;
        self.topology.cut_wire()?;
        let mut ping = self.topology.host1.command("ping");
        ping.args(["-n", "-q", "-c", "1", "-W", "5", HOST2_V4]);
        let mut ping = Process::spawn(&mut ping, &self.folder.join("held-ping"))?;
        let held = tap.receive_esp();
        self.topology.mend_wire()?;
        let held = held?;

        let dropped = self.dropped("icv_mismatch", || attacker.send(&attack::flip_bit(&held)))?;
        let silent = ping.output().is_empty();
        self.counted("bit-flipped ESP", "icv_mismatch", dropped, silent);

        let opened = self
            .gw2
            .status()?
            .count(&format!("connections.{SITES}.inbound.packets"));
        attacker.send(&held)?;
        let answered = ping.finish(Duration::from_secs(10));
        interrupt::check()?;
        let seen = if answered.is_ok() {
            "ping answered"
        } else {
            "ping NOT answered"
        };
        self.report
            .check("the same, unchanged", "accepted", seen, answered.is_ok());

        let dropped = self.dropped("replay_duplicate", || attacker.send(&held))?;
        let again = self
            .gw2
            .status()?
            .count(&format!("connections.{SITES}.inbound.packets"));
        self.counted("replayed ESP", "replay_duplicate", dropped, again == opened + 1);
        Ok(())
    }

    fn counted(&mut self, flow: &str, reason: &str, dropped: u64, silent: bool) {
        self.report.add(&Row {
            flow: flow.to_owned(),
            expected: reason.to_owned(),
            seen: if silent {
                "nothing got through"
            } else {
                "something GOT THROUGH"
            }
            .to_owned(),
            packets: Some(dropped),
            gbit: None,
            good: silent && dropped == 1,
        });
    }

    /// By how much gw2's drop counter grows through `action`.
    fn dropped(&self, reason: &str, action: impl FnOnce() -> Result<()>) -> Result<u64> {
        let counter = format!("drops.{reason}");
        let before = self.gw2.status()?;
        action()?;
        Ok(grown(&self.gw2, &before, |grown| grown.count(&counter) > 0)?.count(&counter))
    }

    /// TCP through ESP, beside the network without Ravelin. In this stage only clear packets are captured.
    pub(super) fn speed(&mut self, plain: &PlainSpeed) -> Result<()> {
        let filter = "not (ip proto 50 or ip6 proto 50)";
        let capture = Capture::start(self.topology, &self.folder.join("clear.pcapng"), Some(filter))?;
        let before = self.gw1.status()?;
        let speed = self.servers.speed(self.topology, HOST2_V4, SPEED_SECONDS);
        interrupt::check()?;
        let clear = capture.stop()?;
        let packets = self.gw1.status()?.since(&before).connection_packets(SITES);
        let foreign = wireshark::judge(&clear, &self.folder.join("wireshark"), STATUS_PAGE)?.foreign;

        Report::heading(
            "TCP speed, one stream, host1 to host2 (both hosts, gateways and the wire share the CPUs)",
        );
        let mut row = |flow: &str, expected: &str, seen: String, packets, gbit, good| {
            let (flow, expected) = (flow.to_owned(), expected.to_owned());
            self.report.add(&Row {
                flow,
                expected,
                seen,
                packets,
                gbit,
                good,
            });
        };
        row(
            "plain, offloads",
            "",
            "kernel forwarding, 64 KiB".to_owned(),
            None,
            Some(plain.offloads),
            true,
        );
        row(
            "plain, frames",
            "",
            "kernel forwarding, no TSO".to_owned(),
            None,
            Some(plain.frames),
            true,
        );
        match speed {
            Ok(gbit) => {
                let share = format!("{:.0} % of plain frames", 100.0 * gbit / plain.frames);
                row(
                    "ESP",
                    "AES-256-GCM, IPv4",
                    share,
                    Some(packets),
                    Some(gbit),
                    gbit > 0.0,
                );
            }
            Err(error) => row(
                "ESP",
                "AES-256-GCM, IPv4",
                format!("{error:#}"),
                Some(packets),
                None,
                false,
            ),
        }
        let seen = foreign.first().map_or("none", String::as_str);
        self.report
            .check("clear on the wire", "none", seen, foreign.is_empty());
        Ok(())
    }

    /// What the capture holds, by tshark's word. Meanwhile the daemons are idle, which is measured.
    pub(super) fn wire(&mut self, capture: &Path, configuration: &Path) -> Result<()> {
        eprintln!("demo: tshark opens the capture");
        let before = (Instant::now(), self.processor_ticks()?);
        let verdict = wireshark::judge(capture, configuration, STATUS_PAGE)?;
        let after = (Instant::now(), self.processor_ticks()?);

        Report::heading("The wire between the gateways, opened by tshark with the exported keys");
        let total = verdict.esp_total();
        let spis = verdict
            .esp
            .iter()
            .map(|(spi, count)| format!("{spi:#x}: {count}"))
            .collect::<Vec<_>>();
        let report = &mut *self.report;
        let mut row = |flow: &str, expected: &str, seen: String, packets, good| {
            let (flow, expected) = (flow.to_owned(), expected.to_owned());
            report.add(&Row {
                flow,
                expected,
                seen,
                packets: Some(packets),
                gbit: None,
                good,
            });
        };
        row(
            "ESP",
            "every ICV correct",
            format!("{} of {total} correct", verdict.icv_good),
            total,
            total > 0 && verdict.icv_good == total,
        );
        row(
            "ESP sequence numbers",
            "never repeat",
            format!("{} repeated", verdict.repeated),
            total,
            verdict.repeated == 0,
        );
        row("SPIs", "all four", spis.len().to_string(), total, spis.len() == 4);
        row(
            "permitted clear flow",
            "some",
            "TCP port 8080".to_owned(),
            verdict.permitted,
            verdict.permitted > 0,
        );
        row(
            "ARP and ND",
            "some",
            String::new(),
            verdict.lifeline,
            verdict.lifeline > 0,
        );
        let foreign = u64::try_from(verdict.foreign.len()).context("packets")?;
        let seen = verdict.foreign.first().map_or("none", String::as_str).to_owned();
        row("anything else", "none", seen, foreign, foreign == 0);
        let inside = verdict
            .inside
            .iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect::<Vec<_>>()
            .join(", ");
        println!("  inside ESP: {inside}\n  by SPI: {}", spis.join(", "));

        let seconds = after.0.duration_since(before.0).as_secs_f64();
        let share = (after.1 - before.1) / TICKS_PER_SECOND / seconds / 2.0;
        // One tick per daemon is the resolution; over a short time it alone is more than one per cent.
        let good = share < 0.01 || after.1 - before.1 <= 2.0;
        self.report.check(
            "idle daemons",
            "< 1 % of a core",
            format!("{:.2} % over {seconds:.1} s", share * 100.0),
            good,
        );
        Ok(())
    }

    /// Processor time of both daemons so far, in ticks.
    fn processor_ticks(&self) -> Result<f64> {
        let mut sum = 0.0;
        for gateway in [&self.gw1, &self.gw2] {
            let path = format!("/proc/{}/stat", gateway.id());
            let stat = fs::read_to_string(&path).context(path)?;
            // proc(5): after the name in parentheses, fields 3 and on; utime and stime are 14 and 15.
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            sum += fields
                .skip(11)
                .take(2)
                .filter_map(|field| field.parse::<f64>().ok())
                .sum::<f64>();
        }
        Ok(sum)
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
