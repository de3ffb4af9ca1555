//! iproute2, so that what the kernel is told is not our own reading of its interface.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

const IP: &str = "/bin/ip";

/// Runs `lines` by one `ip -batch`, which stops at the first that fails.
pub(crate) fn batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut child = command(namespace)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(IP)?;
    let mut input = child.stdin.take().context("ip has an input")?;
    // A program that stops early closes its input; what it says about that is worth more than the broken pipe.
    let written = input.write_all(lines.as_bytes());
    drop(input);
    let output = child.wait_with_output().context(IP)?;
    if !output.status.success() {
        bail!(
            "`ip -batch` failed: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    written.context(IP)
}

/// What `ip` with `arguments` prints.
pub(crate) fn output(namespace: &str, arguments: &[&str]) -> Result<String> {
    let output = command(Some(namespace)).args(arguments).output().context(IP)?;
    if !output.status.success() {
        bail!(
            "`ip {}` failed: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command(namespace: Option<&str>) -> Command {
    let mut command = Command::new(IP);
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    command
}
