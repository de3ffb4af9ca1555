//! Network namespaces without names, which end with this process.
//!
//! However it ends: the programs it starts in them are killed with it, and what they pin and write lies in file systems that
//! only this process and its children see.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::program::run;

/// A network of its own.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, in which IPv6 sends no packets of its own.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot make a network namespace; the bench needs root")?;
            let setting = Path::new("/proc/sys/net/ipv6/conf/default/disable_ipv6");
            if setting.exists() {
                std::fs::write(setting, "1").context("disable_ipv6")?;
            }
            File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")
        };
        let made = thread::spawn(make)
            .join()
            .map_err(|_| anyhow!("a thread panicked"))?;
        made.map(Self)
    }

    /// Takes the calling thread inside, for good.
    ///
    /// # Errors
    /// Not root.
    pub fn join(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")
    }

    /// Runs `action` on a thread inside. Sockets it returns stay inside.
    ///
    /// # Errors
    /// As `action`.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            self.join()?;
            action()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("a thread panicked"))?
    }

    /// Of this process, so that others can open it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// `program` inside. It is killed when this process ends.
    ///
    /// To be started by the first thread: it is the one whose end the kernel watches.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path()))
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program.as_ref());
        command
    }

    /// The same, kept on one CPU.
    pub fn command_on(&self, cpu: usize, program: impl AsRef<Path>) -> Command {
        let mut command = self.command("taskset");
        command
            .arg("--cpu-list")
            .arg(cpu.to_string())
            .arg(program.as_ref());
        command
    }

    /// `ip` inside.
    ///
    /// # Errors
    /// What it says.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        run(self.command("ip").args(arguments))
    }
}

/// Makes the file systems private in which programs leave things: pins of BPF and the folder that is returned.
///
/// # Errors
/// Not root.
pub fn hide_files() -> Result<PathBuf> {
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
