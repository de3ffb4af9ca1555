//! The stages that judge the wire: speed, and what the capture holds.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result};

use super::{PlainSpeed, SPEED_SECONDS, Stages};
use crate::demo::{
    capture::Capture,
    gateway::SITES,
    interrupt,
    report::{Report, Row},
    servers::STATUS_PAGE,
    topology::HOST2_V4,
    wireshark,
};

/// Processor times in /proc have this resolution (USER_HZ, which no Linux of today has otherwise).
const TICKS_PER_SECOND: f64 = 100.0;

impl Stages<'_> {
    /// TCP through ESP, beside the network without Ravelin. In this stage only clear packets are captured.
    pub(in crate::demo) fn speed(&mut self, plain: &PlainSpeed) -> Result<()> {
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
    pub(in crate::demo) fn wire(&mut self, capture: &Path, configuration: &Path) -> Result<()> {
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
}
