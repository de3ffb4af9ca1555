//! A program that serves while something is measured.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running program; killed when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; all it says goes to a file.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let line = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        Ok(Self {
            child,
            line,
            log: log.to_owned(),
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has said `text`.
    ///
    /// # Errors
    /// As for [`Daemon::wait_until`].
    pub fn wait_for_text(&mut self, text: &str) -> Result<()> {
        self.wait_until(text, |said| Ok(said.contains(text)))
    }

    /// Waits until `condition` holds of what it has said; fails if it ends before.
    ///
    /// # Errors
    /// It ended, [`PATIENCE`] did, or `condition` failed.
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&str) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        loop {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            if condition(&said)? {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended too early: {status}\n{}", self.line, said.trim_end());
            }
            if start.elapsed() > PATIENCE {
                bail!("{}: waited in vain for `{what}`\n{}", self.line, said.trim_end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing of it is to stay: its namespace goes, and its pins are in a file system that nobody else sees.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
