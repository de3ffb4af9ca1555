//! Programs that benches need.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Runs a program to its end; what it said is the error if that was bad.
///
/// # Errors
///
/// It cannot be started, or ends badly.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// The same; its standard output.
///
/// # Errors
///
/// As for [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
