//! A program of tests as the machine's only work.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::report;

/// Runs `program` from beginning to end. What it says, and how it ended, is the host's to judge.
pub(crate) fn run(program: &str) -> Result<()> {
    let mut port = report::port()?;
    let status = Command::new(program)
        .stdin(Stdio::null())
        .stdout(port.try_clone()?)
        .stderr(port.try_clone()?)
        .status();
    match status {
        Ok(status) => writeln!(port, "ended: {status}"),
        Err(error) => writeln!(port, "cannot start {program}: {error}"),
    }
    .context("second serial port")?;
    report::drain(&port)
}
