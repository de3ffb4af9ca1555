//! Two hosts and the wire between them: network namespaces without names, which end with this process.
//!
//! However it ends: the programs it starts in them are killed with it, and what they pin and write lies in file systems that
//! only this process and its children see.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use ravelin_bench::program::run;

/// The device of the wire, on both hosts.
pub(crate) const DEVICE: &str = "eth0";

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It sends, and asks.
    A,
    /// It receives, and answers.
    B,
}

impl End {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(crate) const fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    /// The last byte of its addresses.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    /// Its address on the wire.
    pub(crate) fn address(self) -> String {
        format!("192.0.2.{}", self.number())
    }
}

/// Where the programs of the two hosts run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    applications: [usize; 2],
    daemons: [usize; 2],
}

impl Cpus {
    /// Each host has CPUs of its own: one for the application and one for the daemon where there are four, else one for both.
    pub(crate) fn share_out(cpus: &[usize]) -> Result<Self> {
        match *cpus {
            [a, a_daemon, b, b_daemon, ..] => Ok(Self {
                applications: [a, b],
                daemons: [a_daemon, b_daemon],
            }),
            [a, b, ..] => Ok(Self {
                applications: [a, b],
                daemons: [a, b],
            }),
            _ => bail!("two CPUs are needed, one for each host"),
        }
    }

    pub(crate) const fn application(&self, end: End) -> usize {
        self.applications[end as usize]
    }

    pub(crate) const fn daemon(&self, end: End) -> usize {
        self.daemons[end as usize]
    }

    pub(crate) fn describe(&self) -> String {
        let [a, b] = self.applications;
        let [a_daemon, b_daemon] = self.daemons;
        if self.applications == self.daemons {
            return format!(
                "host A has CPU {a} for application and daemon, host B CPU {b}, so that a busy worker takes its host's \
                 application the time it needs to answer"
            );
        }
        format!(
            "host A has CPU {a} for the application and {a_daemon} for the daemon, host B {b} and {b_daemon}"
        )
    }
}

/// Makes the file systems private in which programs leave things: pins of BPF and the folder that is returned.
pub(crate) fn hide_files() -> Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a namespace; the bench needs root")?;
    let nothing: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing).context("private mounts")?;
    for (kind, place) in [("bpf", "/sys/fs/bpf"), ("tmpfs", "/run")] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), nothing)
            .with_context(|| format!("cannot mount {kind} at {place}"))?;
    }
    Ok(PathBuf::from("/run"))
}

/// The two hosts.
#[derive(Debug)]
pub(crate) struct Lab {
    namespaces: [File; 2],
    pub(crate) cpus: Cpus,
    /// For keys, policies and what programs say.
    pub(crate) folder: PathBuf,
}

impl Lab {
    /// New hosts with addresses, joined by a veth pair of one queue as it comes.
    pub(crate) fn new(cpus: Cpus, folder: &Path) -> Result<Self> {
        let lab = Self {
            namespaces: [namespace()?, namespace()?],
            cpus,
            folder: folder.to_owned(),
        };
        for end in End::BOTH {
            // No packets of its own.
            lab.enter(end, || {
                let setting = Path::new("/proc/sys/net/ipv6/conf/default/disable_ipv6");
                match setting.exists() {
                    true => std::fs::write(setting, "1").context("disable_ipv6"),
                    false => Ok(()),
                }
            })?;
        }
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let peer = lab.namespace_path(End::B);
        let mut add = lab.command(End::A, "ip");
        add.args(["link", "add", "name", DEVICE])
            .args(queues)
            .args(["type", "veth", "peer", "name", DEVICE, "netns", &peer])
            .args(queues);
        run(&mut add)?;
        for end in End::BOTH {
            let address = format!("{}/24", end.address());
            lab.ip(end, &["address", "add", &address, "dev", DEVICE])?;
            lab.ip(end, &["link", "set", DEVICE, "up"])?;
            lab.ip(end, &["link", "set", "lo", "up"])?;
        }
        Ok(lab)
    }

    /// `program` on a host. It is killed when this process ends.
    ///
    /// To be started by the first thread: it is the one whose end the kernel watches.
    pub(crate) fn command(&self, end: End, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace_path(end)))
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program.as_ref());
        command
    }

    /// The same, kept on one CPU.
    pub(crate) fn command_on(&self, end: End, cpu: usize, program: impl AsRef<Path>) -> Command {
        let mut command = self.command(end, "taskset");
        command
            .arg("--cpu-list")
            .arg(cpu.to_string())
            .arg(program.as_ref());
        command
    }

    /// `ip` on a host.
    pub(crate) fn ip(&self, end: End, arguments: &[&str]) -> Result<()> {
        run(self.command(end, "ip").args(arguments))
    }

    /// Runs `action` on a thread inside. Sockets it returns stay inside.
    pub(crate) fn enter<T: Send>(&self, end: End, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = &self.namespaces[end as usize];
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")?;
            action()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("a thread panicked"))?
    }

    /// Of this process, so that others can open it.
    fn namespace_path(&self, end: End) -> String {
        let descriptor = self.namespaces[end as usize].as_raw_fd();
        format!("/proc/{}/fd/{descriptor}", std::process::id())
    }
}

fn namespace() -> Result<File> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; the bench needs root")?;
        File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")
    };
    thread::spawn(make)
        .join()
        .map_err(|_| anyhow!("a thread panicked"))?
}
