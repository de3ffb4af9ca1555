//! The stage of the attacker on the wire.

use std::time::Duration;

use anyhow::Result;

use super::{Stages, forged};
use crate::demo::{
    attack::{self, RawPort, Sink},
    gateway::SITES,
    interrupt,
    process::Process,
    report::{Report, Row},
    topology::{ATTACKER, HOST2_V4, TAP},
};

impl Stages<'_> {
    /// What an attacker on the wire can do.
    pub(in crate::demo) fn attacks(&mut self) -> Result<()> {
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
}
