//! The running daemon.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::policy;
use crate::{
    case::{Case, Generation},
    hosts::PATIENCE,
    topology::{CLEAR, OUTER, Topology},
};

const RAVELIN: &str = "/bin/ravelin";
const FOLDER: &str = "/run/site";
const CONTROL: &str = "/run/site/control.sock";
const LOG: &str = "/run/site/log";
const INTERVAL: Duration = Duration::from_millis(20);

/// Starting means loading programs, which the verifier reads under emulation.
const START: Duration = Duration::from_secs(120);

/// `ravelin run` in the middle of a topology.
#[derive(Debug)]
pub(super) struct Engine(Child);

/// What `ravelin status` says.
#[derive(Debug)]
pub(super) struct Status {
    /// By SPI.
    pub(super) sas: HashMap<u32, Sa>,
    /// Peers that were seen elsewhere, by name of their connection.
    pub(super) peers: HashMap<String, Peer>,
    /// By reason, without zeros.
    pub(super) drops: HashMap<String, u64>,
}

/// Where a peer was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) port: u16,
    /// Whether packets go there.
    pub(super) followed: bool,
}

/// One SA of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sa {
    pub(super) packets: u64,
    /// The highest number used or accepted.
    pub(super) sequence: u64,
    /// What it does: `in_use`, `next`, `old`.
    pub(super) state: String,
}

impl Engine {
    /// Starts it with a connection for each case, and waits until it is ready.
    pub(super) fn start(topology: &Topology, cases: &[Case]) -> Result<Self> {
        let policy = policy::write(Path::new(FOLDER), cases, Generation::First)?;
        let log = File::create(LOG).context(LOG)?;
        let mut command = Command::new(RAVELIN);
        command
            .arg("run")
            .arg("--policy")
            .arg(policy)
            .args(["--outer", OUTER, "--inner", CLEAR, "--control", CONTROL])
            .args(["--state-dir", "/run/site/state"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // A child is where the thread is that starts it.
        let child = topology.wire.enter(|| command.spawn().context(RAVELIN))?;
        let mut engine = Self(child);
        let start = Instant::now();
        while !said().contains("ravelin: ready: ") {
            if let Some(status) = engine.0.try_wait()? {
                bail!("the daemon ended: {status}: {}", said());
            }
            ensure!(start.elapsed() < START, "the daemon is not ready: {}", said());
            thread::sleep(INTERVAL);
        }
        Ok(engine)
    }

    pub(super) fn status(&self) -> Result<Status> {
        let status: serde_json::Value =
            serde_json::from_str(&self.client(&["status", "--json"])?).context("`ravelin status`")?;
        let (mut sas, mut peers) = (HashMap::new(), HashMap::new());
        for connection in status["connections"].as_array().context("no connections")? {
            let (name, peer) = (&connection["name"], &connection["peer"]);
            if let Some(port) = peer["port"].as_u64() {
                let followed = peer["followed"].as_bool().context("not followed nor not")?;
                let port = u16::try_from(port)?;
                peers.insert(
                    name.as_str().context("no name")?.to_owned(),
                    Peer { port, followed },
                );
            }
            let more = [&connection["next"], &connection["old"]].into_iter();
            let more = more.filter_map(serde_json::Value::as_array).flatten();
            for sa in [&connection["outbound"], &connection["inbound"]]
                .into_iter()
                .chain(more)
            {
                let number = |key: &str| sa[key].as_u64().with_context(|| format!("no {key} in {sa}"));
                let (packets, sequence) = (number("packets")?, number("sequence")?);
                let state = sa["state"].as_str().unwrap_or_default().to_owned();
                sas.insert(
                    u32::try_from(number("spi")?)?,
                    Sa {
                        packets,
                        sequence,
                        state,
                    },
                );
            }
        }
        let drops = status["drops"].as_object().context("no drops")?;
        let drops = drops
            .iter()
            .map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or(u64::MAX)))
            .filter(|(_, count)| *count != 0)
            .collect();
        Ok(Status { sas, peers, drops })
    }

    /// Gives it SAs of another generation for all cases.
    pub(super) fn rekey(&self, cases: &[Case], generation: Generation) -> Result<()> {
        self.apply(&policy::write(Path::new(FOLDER), cases, generation)?)
    }

    /// Has it follow peers to other ports; its SAs, of a generation, stay.
    pub(super) fn follow_ports(&self, cases: &[Case], generation: Generation) -> Result<()> {
        self.apply(&policy::write_following(Path::new(FOLDER), cases, generation)?)
    }

    fn apply(&self, policy: &Path) -> Result<()> {
        self.client(&["apply", &policy.to_string_lossy()]).map(drop)
    }

    /// Deletes an SA.
    pub(super) fn delete(&self, spi: u32) -> Result<()> {
        self.client(&["sa", "delete", &format!("{spi:#x}")]).map(drop)
    }

    /// Runs a command of the program; what it printed.
    fn client(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(RAVELIN);
        command.args(arguments).args(["--control", CONTROL]);
        let output = command.output().context(RAVELIN)?;
        ensure!(
            output.status.success(),
            "`ravelin {}` failed: {}; the daemon said: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr),
            said()
        );
        String::from_utf8(output.stdout).context("not text")
    }

    /// Asks it to end, which it must do well.
    pub(super) fn stop(&mut self) -> Result<()> {
        let id = i32::try_from(self.0.id()).context("process id")?;
        kill(Pid::from_raw(id), Signal::SIGTERM).context("cannot signal the daemon")?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "the daemon ended: {status}: {}", said());
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "the daemon does not end: {}", said());
            thread::sleep(INTERVAL);
        }
    }
}

/// What the daemon has written so far.
fn said() -> String {
    fs::read_to_string(LOG).unwrap_or_default()
}
