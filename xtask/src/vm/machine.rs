//! The running machine.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{initramfs::Initramfs, kernel::Kernel};
use crate::{interrupt, program};

/// How often Ctrl-C is looked at while the machine says nothing.
const INTERVAL: Duration = Duration::from_millis(100);

/// QEMU, killed on drop.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    /// What it writes to its second serial port.
    lines: Receiver<String>,
    /// What the kernel writes to the first.
    console: PathBuf,
    /// Cases that have passed and failed so far.
    seen: (u64, u64),
}

impl Machine {
    /// Starts it with an emulated CPU that has every extension QEMU knows, and two cores so that races can happen.
    pub(super) fn boot(
        folder: &Path,
        kernel: &Kernel,
        initramfs: &Initramfs,
        only: &[String],
        seconds: u64,
    ) -> Result<Self> {
        let console = folder.join("console.log");
        // `panic=-1` and `-no-reboot` together end QEMU when the kernel panics.
        let mut command_line = format!("console=ttyS0 quiet panic=-1 ravelin.seconds={seconds}");
        for word in only {
            command_line.push_str(&format!(" ravelin.only={word}"));
        }
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                "1024",
            ])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(initramfs.path())
            .args(["-append", &command_line]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C reaches only this program, which then ends the machine.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{}`", program::line(&command)))?;
        let output = child.stdout.take().context("QEMU has an output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            console,
            seen: (0, 0),
        })
    }

    /// Shows each case's line, and returns how many passed and failed once the machine is off.
    ///
    /// # Errors
    ///
    /// `limit` is over, a signal arrived, or the machine ended without its summary.
    pub(super) fn follow(&mut self, limit: Duration) -> Result<(u64, u64)> {
        let start = Instant::now();
        let mut summary = None;
        loop {
            interrupt::check()?;
            if start.elapsed() > limit {
                bail!(
                    "the machine is not done after {} s\n{}",
                    limit.as_secs(),
                    self.last_words()
                );
            }
            match self.lines.recv_timeout(INTERVAL) {
                Ok(line) => {
                    let line = line.trim_end();
                    if line.starts_with("ok ") {
                        self.seen.0 += 1;
                    } else if line.starts_with("FAILED ") {
                        self.seen.1 += 1;
                    }
                    match tally(line) {
                        Some(tally) => summary = Some(tally),
                        None => println!("vm: {line}"),
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait().context("cannot wait for QEMU")?;
        let Some(summary) = summary else {
            bail!(
                "the machine went off without a summary ({status})\n{}",
                self.last_words()
            );
        };
        ensure!(
            summary == self.seen,
            "the machine counts {summary:?} cases passed and failed, but {:?} were seen",
            self.seen
        );
        Ok(summary)
    }

    /// Whether nothing had failed when the kernel died of the emulator: of a breakpoint where it had none any more. It
    /// changes its own code (`text_poke_bp` of arch/x86/kernel/alternative.c), which QEMU 7.2 can miss while it translates.
    pub(super) fn was_mistranslated(&self) -> bool {
        let text = fs::read(&self.console).unwrap_or_default();
        self.seen.1 == 0 && String::from_utf8_lossy(&text).contains("Oops: int3")
    }

    /// The end of the kernel's console.
    fn last_words(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "{}:\n{}",
            self.console.display(),
            lines[lines.len().saturating_sub(20)..].join("\n")
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `N passed, N failed`.
fn tally(line: &str) -> Option<(u64, u64)> {
    let (passed, failed) = line.split_once(" passed, ")?;
    let failed = failed.strip_suffix(" failed")?;
    Some((passed.parse().ok()?, failed.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::tally;

    #[test]
    fn only_the_summary_is_a_summary() {
        assert_eq!(tally("48 passed, 1 failed"), Some((48, 1)));
        assert_eq!(tally("ok 48 passed, 1 failed"), None);
        assert_eq!(tally("48 passed"), None);
    }
}
