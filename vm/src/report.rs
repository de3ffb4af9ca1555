//! What the host reads at the second serial port.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};

/// The first serial port is the kernel's console, whose messages would land inside our lines.
const PORT: &str = "/dev/ttyS1";

/// Writes a line per case and counts them.
#[derive(Debug)]
pub(crate) struct Report(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    port: File,
    passed: u64,
    failed: u64,
}

impl Report {
    pub(crate) fn open() -> Result<Self> {
        Ok(Self(Mutex::new(Inner {
            port: port()?,
            passed: 0,
            failed: 0,
        })))
    }

    /// One case's outcome: `ok NAME` or `FAILED NAME: why`.
    pub(crate) fn case(&self, name: &str, outcome: Result<()>) -> Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                inner.passed += 1;
                writeln!(inner.port, "ok {name}")
            }
            Err(error) => {
                inner.failed += 1;
                // One line, whatever programs had to say.
                let why = format!("{error:#}").replace('\n', "; ");
                writeln!(inner.port, "FAILED {name}: {why}")
            }
        }
        .context(PORT)
    }

    /// The summary, which the host insists on.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { passed, failed, .. } = *inner;
        ensure!(passed + failed != 0, "no case has such a name");
        writeln!(inner.port, "{passed} passed, {failed} failed").context(PORT)?;
        drain(&inner.port)
    }
}

/// The second serial port.
pub(crate) fn port() -> Result<File> {
    OpenOptions::new().write(true).open(PORT).context(PORT)
}

/// Waits for all of it: a serial port is slow, and what is not out when the machine goes off is lost.
pub(crate) fn drain(port: &File) -> Result<()> {
    nix::sys::termios::tcdrain(port).context(PORT)
}
