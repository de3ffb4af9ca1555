//! A network namespace of the machine.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::ip;

/// A named network namespace. Lasts as long as the machine.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    file: File,
    /// Where the threads of this program are otherwise.
    home: File,
}

impl Namespace {
    pub(crate) fn create(name: &str) -> Result<Self> {
        ip::batch(None, &format!("netns add {name}"))?;
        let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
        Ok(Self {
            name: name.to_owned(),
            file: open(&Path::new("/run/netns").join(name))?,
            home: open(Path::new("/proc/self/ns/net"))?,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `action` inside. Sockets made there stay inside.
    pub(crate) fn enter<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).with_context(|| format!("namespace {}", self.name))?;
        let outcome = action().with_context(|| format!("in namespace {}", self.name));
        setns(&self.home, CloneFlags::CLONE_NEWNET).context("cannot leave the namespace")?;
        outcome
    }

    /// Runs lines for `ip -batch` inside.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        ip::batch(Some(&self.name), lines)
    }

    /// Writes settings below /proc/sys/net.
    pub(crate) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                let path = format!("/proc/sys/net/{key}");
                fs::write(&path, value).with_context(|| format!("cannot write '{value}' to {path}"))
            })
        })
    }

    /// Reads a file below /proc/net.
    pub(crate) fn proc_net(&self, name: &str) -> Result<String> {
        // /proc/net shows the process's first thread's namespace, not the reading one's.
        self.enter(|| fs::read_to_string(format!("/proc/thread-self/net/{name}")).context(name.to_owned()))
    }
}
