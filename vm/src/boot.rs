//! What the first process of a machine has to do, and the last thing it does.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
    unistd::sync,
};

/// What the kernel does not load by itself when `ip` and sockets ask for it.
const MODULES: &str = "/etc/modules";

/// What the host wants.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// A program of tests, instead of our own cases.
    pub(crate) program: Option<String>,
    /// The words that a case's name must contain to be run.
    pub(crate) words: Vec<String>,
}

/// Mounts what programs expect; what is wanted.
pub(crate) fn start() -> Result<Wanted> {
    for (kind, folder) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("bpf", "/sys/fs/bpf"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        mount(Some(kind), folder, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {folder}"))?;
    }
    let command_line = fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    watch(number(&command_line, "ravelin.seconds")?);
    Ok(Wanted {
        program: words(&command_line, "ravelin.program").pop(),
        words: words(&command_line, "ravelin.only"),
    })
}

/// Loads the modules.
pub(crate) fn load_modules() -> Result<()> {
    let modules = fs::read_to_string(MODULES).context(MODULES)?;
    let status = Command::new("/sbin/modprobe")
        .arg("--all")
        .args(modules.split_whitespace())
        .status()
        .context("modprobe")?;
    anyhow::ensure!(status.success(), "modprobe: {status}");
    Ok(())
}

/// Turns the machine off. Never returns, as the kernel must not lose its first process.
pub(crate) fn power_off() -> ! {
    sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("vm: cannot power off: {error}");
    // Ending the first process makes the kernel panic, and the host ends the machine then.
    std::process::exit(1)
}

/// Turns the machine off after `seconds`, should nobody on the host be left to do it.
fn watch(seconds: u64) {
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(seconds));
        eprintln!("vm: not done after {seconds} s");
        power_off();
    });
}

/// The values of all `key=value` on the kernel's command line.
fn words(command_line: &str, key: &str) -> Vec<String> {
    command_line
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.to_owned())
        .collect()
}

fn number(command_line: &str, key: &str) -> Result<u64> {
    let value = words(command_line, key);
    value
        .first()
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("the kernel's command line has no number for {key}"))
}

#[cfg(test)]
mod tests {
    use super::{number, words};

    #[test]
    fn settings_come_from_the_kernels_command_line() {
        let line = "quiet ravelin.only=gcm ravelin.seconds=90 ravelin.only=esn\n";
        assert_eq!(words(line, "ravelin.only"), ["gcm", "esn"]);
        assert_eq!(number(line, "ravelin.seconds").unwrap(), 90);
        assert!(number("ravelin.seconds=x", "ravelin.seconds").is_err());
    }
}
