//! Listening at the wire between the gateways.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{
    interrupt,
    process::Process,
    topology::{TAP, Topology},
};

/// How long the capture file must rest before everything is taken to be in it. dumpcap hands on what it has at
/// least every 100 ms.
const REST: Duration = Duration::from_millis(300);

/// A running dumpcap.
#[derive(Debug)]
pub(super) struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts to write what crosses gw1's end of the wire, in both directions, to `file`.
    pub(super) fn start(topology: &Topology, file: &Path, filter: Option<&str>) -> Result<Self> {
        let mut command = topology.wire.command("dumpcap");
        // The buffer (MiB) takes more than a second of full speed: with two cores, dumpcap may have to wait.
        command
            .args(["-q", "-i", TAP, "-s", "0", "-B", "256", "-w"])
            .arg(file);
        if let Some(filter) = filter {
            command.args(["-f", filter]);
        }
        let mut process = Process::spawn(&mut command, &file.with_extension("dumpcap"))?;
        process.wait_for_text("File: ", Duration::from_secs(10))?;
        Ok(Self {
            process,
            file: file.to_owned(),
        })
    }

    /// Ends the capture once it has caught up.
    ///
    /// # Errors
    ///
    /// dumpcap lost packets: then the capture proves nothing.
    pub(super) fn stop(mut self) -> Result<PathBuf> {
        let length = || Ok::<_, anyhow::Error>(self.file.metadata().context("capture file")?.len());
        let (mut last, mut since) = (length()?, Instant::now());
        interrupt::wait_until("the capture to catch up", Duration::from_secs(30), || {
            let now = length()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            Ok(since.elapsed() > REST)
        })?;
        self.process.stop(Signal::SIGINT)?;
        let words = self.process.last_words();
        match dropped(&words) {
            Some(0) => Ok(self.file.clone()),
            Some(count) => {
                bail!("dumpcap lost {count} packets, so the capture proves nothing; is the machine busy?")
            }
            None => bail!("dumpcap did not say how many packets it lost:\n{words}"),
        }
    }
}

/// The second number of `Packets received/dropped on interface 'x': 120/0 (…)`.
fn dropped(words: &str) -> Option<u64> {
    let line = words
        .lines()
        .find(|line| line.starts_with("Packets received/dropped"))?;
    let counts = line.rsplit_once("': ")?.1;
    counts.split_once('/')?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::dropped;

    #[test]
    fn dumpcaps_count_of_lost_packets_is_understood() {
        let words = "File: x\nPackets captured: 9\nPackets received/dropped on interface 'to-gw1': 9/3 \
                     (pcap:3/dumpcap:0/flushed:0/ps_ifdrop:0) (75.0%)";
        assert_eq!(dropped(words), Some(3));
        assert_eq!(dropped("File: x"), None);
    }
}
