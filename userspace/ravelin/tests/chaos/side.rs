//! One machine of a pair with its engine, and who looks after that.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::room::{Epoch, Room};
use crate::support::daemon::{Gateway, RAVELIN};
use crate::support::lab::keygen;
use crate::support::{wait_for, wait_until};

/// What `Restart=on-failure` waits in our unit is half a second; here less, so that more fits into the time.
const RESTART: Duration = Duration::from_millis(50);

/// A machine with an engine.
pub(crate) struct Side<'n> {
    pub(crate) gateway: Gateway<'n>,
    pub(crate) room: Room,
    /// How many programs its engine pins.
    pub(crate) programs: usize,
    /// IPv4 and IPv6 of the outer device, with their prefixes.
    pub(crate) addresses: [&'static str; 2],
    /// The other machine's, without.
    pub(crate) peer: [&'static str; 2],
    /// Lines for `ip -batch` that put back what goes with a device that was down.
    pub(crate) network: String,
    /// Of the first policy.
    text: String,
    /// How often the keys have changed.
    keys: u32,
    engine: Option<Child>,
    ended: Option<Instant>,
    log: PathBuf,
    /// The clocks of the next start.
    pub(crate) epoch: Option<usize>,
    /// How often the engine ended without being told to, and was started again.
    pub(crate) restarts: u32,
}

impl<'n> Side<'n> {
    pub(crate) fn new(
        gateway: Gateway<'n>,
        programs: usize,
        addresses: [&'static str; 2],
        peer: [&'static str; 2],
        network: String,
    ) -> Self {
        let text = std::fs::read_to_string(&gateway.policy).unwrap();
        // Who is on the wire learns of another link-layer address as from any machine that is to be moved: at once.
        for name in ["ipv4/conf/all/arp_notify", "ipv6/conf/all/ndisc_notify"] {
            gateway.namespace.sysctl(name, "1");
        }
        Self {
            room: Room::new(&gateway.state()),
            programs,
            log: gateway.folder.join(format!("{}.log", gateway.instance)),
            addresses,
            peer,
            network,
            text,
            keys: 0,
            engine: None,
            ended: None,
            epoch: None,
            restarts: 0,
            gateway,
        }
    }

    /// Starts the engine, and does not wait for it. `limits` are options of prlimit(1).
    pub(crate) fn start(&mut self, epochs: &[Epoch], limits: &[String]) {
        let mut command = Command::new("nsenter");
        command.arg(self.room.option());
        command.args(self.epoch.map(|epoch| epochs[epoch].option()));
        command.arg(format!("--net={}", self.gateway.namespace.path()));
        command.args(["--no-fork", "setpriv", "--pdeathsig", "KILL", "--"]);
        if !limits.is_empty() {
            command.arg("prlimit").args(limits);
        }
        command.arg(RAVELIN);
        let mut command = self.gateway.command_of(command);
        command.stderr(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.log)
                .unwrap(),
        );
        (self.engine, self.ended) = (Some(command.spawn().unwrap()), None);
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        self.engine
            .as_ref()
            .map(|engine| Pid::from_raw(engine.id() as i32))
    }

    /// Sends the engine a signal, if it runs.
    pub(crate) fn signal(&mut self, signal: Signal) {
        // It is a child that nobody has waited for, so the number is its own.
        if !self.has_ended()
            && let Some(pid) = self.pid()
        {
            kill(pid, signal).unwrap();
        }
    }

    /// Ends the engine by a signal.
    pub(crate) fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(mut engine) = self.engine.take() {
            wait_for("the engine to end", || engine.try_wait().unwrap());
        }
    }

    /// Whether the engine has ended within a time.
    pub(crate) fn ends_within(&mut self, time: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < time {
            if self.has_ended() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn has_ended(&mut self) -> bool {
        self.engine
            .as_mut()
            .is_none_or(|engine| engine.try_wait().unwrap().is_some())
    }

    /// Starts an engine again that has ended by itself, after a moment.
    pub(crate) fn look_after(&mut self, epochs: &[Epoch]) {
        if !self.has_ended() {
            return;
        }
        match self.ended {
            None => self.ended = Some(Instant::now()),
            Some(ended) if ended.elapsed() >= RESTART => {
                self.restarts += 1;
                self.start(epochs, &[]);
            }
            Some(_) => {}
        }
    }

    /// The engine's status can be had.
    pub(crate) fn is_ready(&self) -> bool {
        let answer = ravelin_engine::fetch_status(&self.gateway.control());
        answer.is_ok_and(|status| Some(status.pid) == self.engine.as_ref().map(Child::id))
    }

    /// What the engines have said so far.
    pub(crate) fn said(&self) -> String {
        let mut said = std::fs::read(&self.log).unwrap_or_default();
        if said.len() > 6000 {
            said.drain(..said.len() - 6000);
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The policy with the present keys, and `extra` at its end.
    pub(crate) fn policy(&self, extra: &str) -> String {
        let mut lines = Vec::new();
        for line in self.text.lines() {
            let Some((front, rest)) = line.split_once("spi = 0x") else {
                lines.push(line.to_owned());
                continue;
            };
            let (digits, rest) = rest.split_once(',').unwrap();
            let spi = u32::from_str_radix(digits, 16).unwrap() + (self.keys << 8);
            let rest = match self.keys {
                0 => rest.to_owned(),
                keys => rest.replace(".key", &format!("-{keys}.key")),
            };
            lines.push(format!("{front}spi = {spi:#x},{rest}"));
        }
        lines.join("\n") + "\n" + extra
    }

    /// Has the next policy other keys, which are made if they are not there.
    pub(crate) fn change_keys(&mut self) {
        self.keys += 1;
        let policy = self.policy("");
        let files = policy
            .split("key-file = \"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap());
        for file in files {
            let path = self.gateway.folder.join(file);
            if !path.exists() {
                keygen(&path, "aes-256-gcm");
            }
        }
    }

    /// Writes the policy that `ravelin run` was told, at one stroke.
    pub(crate) fn write(&self, policy: &str) {
        let fresh = self.gateway.policy.with_extension("new");
        std::fs::write(&fresh, policy).unwrap();
        std::fs::rename(fresh, &self.gateway.policy).unwrap();
    }

    /// `ravelin apply` of the file of `ravelin run`, which must go well in the end: the engine may just be starting.
    pub(crate) fn apply(&self) {
        let mut said = String::new();
        wait_until("the policy to be applied", || {
            let mut command = self.gateway.client("apply");
            let output = command.arg(&self.gateway.policy).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() && text != said {
                eprintln!("apply: {text}");
                said = text;
            }
            output.status.success()
        });
    }

    pub(crate) fn device(&self) -> &str {
        &self.gateway.outer
    }

    pub(crate) fn ip(&self, lines: &str) {
        self.gateway.namespace.ip(lines);
    }
}

impl Drop for Side<'_> {
    fn drop(&mut self) {
        if let Some(engine) = &mut self.engine {
            let _ = engine.kill();
            let _ = engine.wait();
        }
    }
}
