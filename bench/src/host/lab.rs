//! Two hosts and the wire between them: network namespaces without names, which end with this process.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use ravelin_bench::namespace::Namespace;
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

/// The two hosts.
#[derive(Debug)]
pub(crate) struct Lab {
    namespaces: [Namespace; 2],
    pub(crate) cpus: Cpus,
    /// For keys, policies and what programs say.
    pub(crate) folder: PathBuf,
}

impl Lab {
    /// New hosts with addresses, joined by a veth pair of one queue as it comes.
    pub(crate) fn new(cpus: Cpus, folder: &Path) -> Result<Self> {
        let lab = Self {
            namespaces: [Namespace::new()?, Namespace::new()?],
            cpus,
            folder: folder.to_owned(),
        };
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let peer = lab.namespaces[End::B as usize].path();
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
        self.namespaces[end as usize].command(program)
    }

    /// The same, kept on one CPU.
    pub(crate) fn command_on(&self, end: End, cpu: usize, program: impl AsRef<Path>) -> Command {
        self.namespaces[end as usize].command_on(cpu, program)
    }

    /// `ip` on a host.
    pub(crate) fn ip(&self, end: End, arguments: &[&str]) -> Result<()> {
        self.namespaces[end as usize].ip(arguments)
    }

    /// Runs `action` on a thread inside. Sockets it returns stay inside.
    pub(crate) fn enter<T: Send>(&self, end: End, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespaces[end as usize].enter(action)
    }
}
