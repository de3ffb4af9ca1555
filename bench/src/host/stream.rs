//! One TCP stream from host A to host B, by iperf3.

use anyhow::{Context as _, Result};
use ravelin_bench::program::output;
use serde_json::Value;

use crate::lab::{End, Lab};
use ravelin_bench::daemon::Daemon;

const PROGRAM: &str = "iperf3";

/// Bits per second that arrived.
pub(crate) fn measure(lab: &Lab, destination: &str, seconds: u32) -> Result<f64> {
    let log = lab.folder.join("iperf3.log");
    let mut command = lab.command_on(End::B, lab.cpus.application(End::B), PROGRAM);
    let mut server = Daemon::start(command.args(["--server", "--one-off", "--forceflush"]), &log)?;
    server.wait_for_text("listening")?;
    let mut client = lab.command_on(End::A, lab.cpus.application(End::A), PROGRAM);
    client
        .args(["--json", "--client", destination, "--time"])
        .arg(seconds.to_string());
    let report: Value = serde_json::from_str(&output(&mut client)?).context("what iperf3 said")?;
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 tells no rate: {}", report["error"]))
}
