//! A network namespace that the demo owns.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::program;

/// Where `ip netns` keeps its names.
pub(super) const FOLDER: &str = "/run/netns";

/// A named network namespace; deleted, with all its links, on drop.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    kept: bool,
}

impl Namespace {
    pub(super) fn create(name: String) -> Result<Self> {
        program::output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name, kept: false };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Leaves it in place on drop.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// `program` inside the namespace.
    ///
    /// With `nsenter`, because `ip netns exec` also remounts /sys, which would hide bpffs.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg(program.as_ref());
        command
    }

    /// Runs lines for `ip -batch` inside.
    pub(super) fn ip(&self, lines: &str) -> Result<()> {
        batch(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines)
    }

    /// Runs `action` on a thread inside the namespace. Sockets it returns stay inside.
    pub(super) fn enter<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("namespace {}", self.name))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("cannot enter namespace {}", self.name))?;
                    action()
                })
                .join()
                .map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }

    /// Writes settings below /proc/sys/net; a path there shows the namespace of the thread that opens it.
    pub(super) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in settings {
                let path = Path::new("/proc/sys/net").join(name);
                fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))?;
            }
            Ok(())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = delete(&self.name)
        {
            eprintln!("demo: {error:#}");
        }
    }
}

/// Deletes a namespace by name; its links go with it.
pub(super) fn delete(name: &str) -> Result<()> {
    program::output(Command::new("ip").args(["netns", "delete", name])).map(|_| ())
}

/// The names of all named namespaces of the machine.
pub(super) fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The processes inside the namespace with this name.
pub(super) fn process_ids(name: &str) -> Result<Vec<i32>> {
    let ids = program::output(Command::new("ip").args(["netns", "pids", name]))?;
    Ok(ids.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Links that no namespace holds yet are made by this, with `netns` in the lines.
pub(super) fn ip_batch(lines: &str) -> Result<()> {
    batch(Command::new("ip").args(["-batch", "-"]), lines)
}

fn batch(command: &mut Command, lines: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `ip`")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes()).context("ip -batch")?;
    }
    let output = child.wait_with_output().context("ip -batch")?;
    if !output.status.success() {
        bail!(
            "`{}`: {}",
            program::line(command),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}
