//! DPDK's IPsec gateway, `ipsec-secgw`, with the tunnels of [`rig`](crate::rig).

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ravelin_xdp_common::Direction;

use crate::interrupt;
use crate::namespace::Namespace;
use crate::tunnel::{INSIDE, LOCAL, REMOTES, Tunnel};

/// How long it may take to start: it reads a line of configuration for every rule and SA.
const PATIENCE: Duration = Duration::from_secs(90);

/// How much of what it prints is kept: an error for each packet must fill neither disk nor memory.
const TAIL: usize = 4096;

/// What it says when it begins to work.
const READY: &str = "entering main loop";

/// Options of every bench that has it as a peer.
#[derive(Debug, clap::Args)]
pub struct Compiled {
    /// The peer, compiled
    #[arg(long = "secgw", value_name = "FILE", hide = true)]
    pub program: Option<PathBuf>,

    /// Why there is none
    #[arg(
        long = "secgw-missing",
        value_name = "REASON",
        hide = true,
        default_value = "it was not compiled"
    )]
    pub missing: String,
}

/// Packet memory and all the rest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// MiB of huge pages.
    Huge(u64),
    /// MiB of ordinary pages.
    Ordinary(u64),
}

/// How to start it.
#[derive(Clone, Debug)]
pub struct Setup<'s> {
    /// The program, with bench/peers/secgw_answers.c in it.
    pub program: &'s Path,
    /// Where its configuration is written.
    pub folder: &'s Path,
    /// Tunnels, from number 0 on.
    pub tunnels: u32,
    /// Which SAs it has.
    pub directions: &'s [Direction],
    /// `--vdev` of the inner port and of the outer port.
    pub devices: [String; 2],
    /// MAC addresses of the neighbours beyond the inner port and beyond the outer port.
    pub neighbours: [&'s str; 2],
    /// Where its devices are, if they are any of the kernel's.
    pub namespace: Option<&'s Namespace>,
    /// The CPU that it works on.
    pub cpu: usize,
    /// CPUs for its other threads.
    pub cpus: &'s [usize],
    /// Memory.
    pub memory: Memory,
    /// Buffers for packets: at least as many as a capture has that it repeats.
    pub buffers: u32,
}

/// What both of its ports had received and sent at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Nanoseconds since boot.
    pub time: u64,
    /// Nanoseconds that the forwarding thread has had its CPU.
    pub work: u64,
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
}

/// The running gateway; killed when it is dropped, and when this process ends.
#[derive(Debug)]
pub struct Secgw {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Secgw {
    /// Starts it and waits until it works. By the first thread, whose end the kernel watches.
    ///
    /// # Errors
    /// It ended, with what it said last.
    pub fn start(setup: &Setup<'_>) -> Result<Self> {
        let configuration = setup.folder.join("ipsec-secgw.cfg");
        write_configuration(&configuration, setup).with_context(|| configuration.display().to_string())?;
        let cpus: Vec<String> = setup.cpus.iter().map(ToString::to_string).collect();
        let (Memory::Huge(size) | Memory::Ordinary(size)) = setup.memory;
        let mut command = match setup.namespace {
            Some(namespace) => namespace.command("taskset"),
            None => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "taskset"]);
                command
            }
        };
        command
            .arg("--cpu-list")
            .arg(cpus.join(","))
            .arg(setup.program)
            .args(["--lcores", &format!("1@{}", setup.cpu), "--no-pci", "--in-memory"])
            .args(["-m", &size.to_string()]);
        if let Memory::Ordinary(_) = setup.memory {
            command.arg("--no-huge");
        }
        for device in &setup.devices {
            command.args(["--vdev", device]);
        }
        command
            .args([
                "--vdev",
                "crypto_aesni_mb0",
                "--",
                "-p",
                "0x3",
                "-P",
                "-u",
                "0x2",
                "-l",
            ])
            // An infinite capture repeats sequence numbers.
            .args(["-w", "0", "-s", &setup.buffers.to_string()])
            .args(["--config", "(0,0,1),(1,0,1)", "-f"])
            .arg(&configuration)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let questions = child.stdin.take().context("its input is piped")?;
        let answers = BufReader::new(child.stdout.take().context("its output is piped")?);
        let said = Arc::new(Mutex::new(Vec::new()));
        let printed = child.stderr.take().context("its errors are piped")?;
        let listener = Arc::clone(&said);
        thread::spawn(move || listen(printed, &listener));
        let mut gateway = Self {
            child,
            questions,
            answers,
            said,
        };
        gateway.wait_until_ready()?;
        Ok(gateway)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let said = self.last_words();
            if said.contains(READY) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("ipsec-secgw ended ({status}): {}", complaint(&said));
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "ipsec-secgw did not start: {}",
                complaint(&said)
            );
            interrupt::sleep(Duration::from_millis(20))?;
        }
    }

    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What its ports have done so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn count(&mut self) -> Result<Count> {
        let mut line = String::new();
        let asked = self.questions.write_all(b"\n");
        let answered = asked.and_then(|()| self.answers.read_line(&mut line));
        let numbers: Option<Vec<u64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
        match (answered, numbers.as_deref()) {
            (Ok(_), Some(&[time, work, received_inner, sent_inner, received_outer, sent_outer])) => {
                Ok(Count {
                    time,
                    work,
                    received: received_inner + received_outer,
                    sent: sent_inner + sent_outer,
                })
            }
            _ => bail!("ipsec-secgw does not answer: {}", complaint(&self.last_words())),
        }
    }

    /// Leaves its CPU to others.
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Goes on.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = Pid::from_raw(self.child.id() as i32);
        kill(process, signal).with_context(|| format!("{signal} to ipsec-secgw"))
    }

    fn last_words(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).into_owned()
    }
}

impl Drop for Secgw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the end of what it prints.
fn listen(mut printed: impl Read, said: &Mutex<Vec<u8>>) {
    let mut piece = [0; TAIL];
    while let Ok(length @ 1..) = printed.read(&mut piece) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&piece[..length]);
        let surplus = said.len().saturating_sub(TAIL);
        said.drain(..surplus);
    }
}

/// The lines in which it says why, or else its last one.
fn complaint(said: &str) -> String {
    let lines = || said.lines().filter(|line| !line.trim().is_empty());
    let why: Vec<_> = lines()
        .filter(|line| {
            ["rror", "Cause", "ailed", "annot", "PANIC"]
                .iter()
                .any(|word| line.contains(word))
        })
        .map(str::trim)
        .collect();
    if why.is_empty() {
        return lines().next_back().unwrap_or("it said nothing").to_owned();
    }
    why.join("; ")
}

fn write_configuration(path: &Path, setup: &Setup<'_>) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let (inside, length) = INSIDE;
    let ports = "sport 0:65535 dport 0:65535";
    for direction in [Direction::Outbound, Direction::Inbound] {
        let tunnels = match setup.directions.contains(&direction) {
            true => setup.tunnels,
            // It does not start without an inbound SA.
            false if direction == Direction::Inbound => 1,
            false => 0,
        };
        for tunnel in (0..tunnels).map(Tunnel) {
            let (site, site_length) = tunnel.site();
            let (here, there) = (format!("{inside}/{length}"), format!("{site}/{site_length}"));
            let (way, spi, key, ends, policy) = match direction {
                Direction::Outbound => (
                    "out",
                    tunnel.outbound_spi(),
                    tunnel.outbound_key(),
                    [LOCAL, tunnel.remote()],
                    [here, there],
                ),
                Direction::Inbound => (
                    "in",
                    tunnel.inbound_spi(),
                    tunnel.inbound_key(),
                    [tunnel.remote(), LOCAL],
                    [there, here],
                ),
            };
            let ([from, to], [source, destination]) = (ends, policy);
            let key: Vec<String> = key.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(
                file,
                "sp ipv4 {way} esp protect {spi} pri 1 src {source} dst {destination} {ports}\n\
                 sa {way} {spi} aead_algo aes-256-gcm aead_key {} mode ipv4-tunnel src {from} dst {to}",
                key.join(":")
            )?;
        }
    }
    let (remotes, remotes_length) = REMOTES;
    writeln!(
        file,
        "rt ipv4 dst {remotes}/{remotes_length} port 1\nrt ipv4 dst {inside}/{length} port 0"
    )?;
    for (port, neighbour) in setup.neighbours.iter().enumerate() {
        writeln!(file, "neigh port {port} {neighbour}")?;
    }
    file.flush()?;
    Ok(())
}

/// Writes frames as a capture that `net_pcap` can read.
///
/// # Errors
/// The file cannot be written.
pub fn write_capture<'f>(path: &Path, frames: impl IntoIterator<Item = &'f [u8]>) -> Result<()> {
    const ETHERNET: u32 = 1;
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, ETHERNET] {
            file.write_all(&u32::to_ne_bytes(word))?;
        }
        for frame in frames {
            let length = frame.len() as u32;
            for word in [0, 0, length, length] {
                file.write_all(&u32::to_ne_bytes(word))?;
            }
            file.write_all(frame)?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// DPDK's version, as its packages say.
#[must_use]
pub fn version() -> String {
    let said = crate::program::output(Command::new("pkg-config").args(["--modversion", "libdpdk"]));
    said.map_or_else(
        |_| "of unknown version".to_owned(),
        |version| version.trim().to_owned(),
    )
}
