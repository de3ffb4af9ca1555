//! A program the demo started, and will end.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::interrupt;
use crate::program;

/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A running program with its output in files. Ended on drop: SIGTERM, then SIGKILL.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    line: String,
    output: PathBuf,
    errors: PathBuf,
    detached: bool,
}

impl Process {
    /// Starts `command`; its output goes to `<log>.out` and `<log>.err`.
    ///
    /// It gets a process group of its own, so that Ctrl-C reaches only this program, which then ends the others in
    /// order.
    pub(super) fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        interrupt::check()?;
        let output = log.with_extension("out");
        let errors = log.with_extension("err");
        let create = |path: &Path| File::create(path).with_context(|| path.display().to_string());
        let line = program::line(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&output)?)
            .stderr(create(&errors)?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self {
            child,
            line,
            output,
            errors,
            detached: false,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets it run on after this program.
    pub(super) fn detach(&mut self) {
        self.detached = true;
    }

    /// What it has written to its standard output so far.
    pub(super) fn output(&self) -> String {
        read(&self.output)
    }

    /// What it has written to its standard error so far.
    pub(super) fn errors(&self) -> String {
        read(&self.errors)
    }

    /// Waits until the output or the errors contain `text`.
    pub(super) fn wait_for_text(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("`{}` to say '{text}'", self.line);
        interrupt::wait_until(&what, limit, || {
            if self.errors().contains(text) || self.output().contains(text) {
                return Ok(true);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended too early: {status}\n{}", self.line, self.last_words());
            }
            Ok(false)
        })
        .with_context(|| self.last_words())
    }

    /// Waits for the end, however it is.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        interrupt::wait_until(&format!("`{}`", self.line), limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("a finished process has a status")
    }

    /// Waits for the end and returns the output; a bad exit status is an error with the program's own words.
    pub(super) fn finish(&mut self, limit: Duration) -> Result<String> {
        let status = self.wait(limit)?;
        if !status.success() {
            bail!("`{}` failed: {status}\n{}", self.line, self.last_words());
        }
        Ok(self.output())
    }

    /// Asks it to end with `signal` and waits; kills it when it does not listen.
    pub(super) fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        let id = i32::try_from(self.child.id()).context("process id")?;
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(id), signal).with_context(|| format!("cannot signal `{}`", self.line))?;
        }
        // An interrupted demo still ends its programs in order, so no `interrupt::wait_until` here.
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > GRACE {
                self.child.kill()?;
                self.child.wait()?;
                bail!(
                    "`{}` did not end within {} s and was killed",
                    self.line,
                    GRACE.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The end of what it wrote, for error messages.
    pub(super) fn last_words(&self) -> String {
        let text = format!("{}{}", self.output(), self.errors());
        let lines = text.lines().collect::<Vec<_>>();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.detached
            && let Err(error) = self.stop(Signal::SIGTERM)
        {
            eprintln!("demo: {error:#}");
        }
    }
}

fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
