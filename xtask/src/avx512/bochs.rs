//! The emulator.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    fcntl::OFlag,
    pty::{Winsize, openpty},
    sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
};

use super::disk::Disk;
use crate::{interrupt, program, test::Tally};

/// How often its files are looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// How the line begins that the first process ends with.
const END: &str = "ended: ";

/// Bochs, killed on drop.
#[derive(Debug)]
pub(super) struct Bochs {
    child: Child,
    /// What the kernel writes to the first serial port.
    console: PathBuf,
    /// What the tests write to the second.
    output: PathBuf,
    /// Bochs' own.
    log: PathBuf,
}

impl Bochs {
    /// Starts it. Debian's Bochs begins in its debugger, which is told to go on.
    pub(super) fn boot(folder: &Path, disk: &Disk) -> Result<Self> {
        let [console, output, log] = ["console.log", "output.log", "bochs.log"].map(|name| folder.join(name));
        for file in [&console, &output, &log] {
            // Bochs makes a serial port's file when the first byte comes.
            fs::write(file, "").with_context(|| file.display().to_string())?;
        }
        let (settings, debugger) = (folder.join("bochsrc"), folder.join("debugger"));
        fs::write(&settings, self::settings(disk, &console, &output, &log))?;
        fs::write(&debugger, "c\n")?;

        // Its only display without a screen draws on a terminal, which must have a size.
        let size = Winsize {
            ws_row: 50,
            ws_col: 132,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = openpty(&size, None).context("cannot make a terminal for Bochs")?;
        let mut command = Command::new("bochs");
        command
            .args(["-q", "-f"])
            .arg(&settings)
            .arg("-rc")
            .arg(&debugger)
            .env("TERM", "linux")
            .stdin(terminal.slave.try_clone()?)
            .stdout(terminal.slave.try_clone()?)
            .stderr(terminal.slave)
            // Ctrl-C reaches only this program, which then ends the machine.
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", program::line(&command)))?;
        drop(command);
        thread::spawn(move || drain(File::from(terminal.master)));
        Ok(Self {
            child,
            console,
            output,
            log,
        })
    }

    /// Shows what the tests say, and returns how many passed and failed once they have ended.
    ///
    /// # Errors
    ///
    /// `limit` is over, a signal arrived, the kernel died, or the machine ended before its tests did.
    pub(super) fn follow(&mut self, limit: Duration) -> Result<Tally> {
        let start = Instant::now();
        let mut lines = Lines::open(&self.output)?;
        let mut tally = Tally::default();
        loop {
            interrupt::check()?;
            // Before the lines are read, so that none is missed.
            let status = self.child.try_wait().context("cannot wait for Bochs")?;
            for line in lines.read()? {
                println!("avx512: {line}");
                tally.add(&line);
                if let Some(end) = line.strip_prefix(END) {
                    return self.judge(tally, end);
                }
            }
            if let Some(status) = status {
                bail!(
                    "Bochs ended before the tests did ({status})\n{}",
                    self.last_words()
                );
            }
            if text(&self.console).contains("Kernel panic") {
                bail!("the machine's kernel died\n{}", self.last_words());
            }
            if start.elapsed() > limit {
                bail!(
                    "the machine is not done after {} s\n{}",
                    limit.as_secs(),
                    self.last_words()
                );
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Fails unless the program of tests, which ended so, said what became of them.
    fn judge(&self, tally: Tally, end: &str) -> Result<Tally> {
        let run = tally.passed + tally.failed + tally.ignored;
        ensure!(
            run > 0 && (tally.failed > 0 || end == "exit status: 0"),
            "the tests ended without a result ({end})\n{}",
            self.last_words()
        );
        Ok(tally)
    }

    /// The ends of what it left.
    fn last_words(&self) -> String {
        let mut all = String::new();
        for file in [&self.console, &self.output, &self.log] {
            let text = text(file);
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            all.push_str(&format!("{}:\n{last}\n", file.display()));
        }
        all
    }
}

impl Drop for Bochs {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine with 256 MiB and a CPU of 2019. Its clock is made of instructions: so many are a second, few, or the kernel would
/// spend its time with the clock.
fn settings(disk: &Disk, console: &Path, output: &Path, log: &Path) -> String {
    format!(
        "megs: 256
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_icelake_u, ips=20000000
clock: sync=none
plugin_ctrl: speaker=0
display_library: term
ata0-master: type=cdrom, path=\"{}\", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=\"{}\"
com2: enabled=1, mode=file, dev=\"{}\"
log: \"{}\"
panic: action=fatal
error: action=ignore
info: action=ignore
",
        disk.path().display(),
        console.display(),
        output.display(),
        log.display()
    )
}

/// Reads what Bochs says as long as it runs. In it is the name of another terminal, which it draws on and which must be read as
/// well: a full one stops it for good.
fn drain(terminal: File) {
    for line in BufReader::new(terminal).split(b'\n').map_while(Result::ok) {
        if let Some(path) = screen(&String::from_utf8_lossy(&line)) {
            let path = path.to_owned();
            // Without a screen to read the machine may stop, which its limit of time then tells.
            thread::spawn(move || read_screen(&path));
        }
    }
}

/// Reads `Bochs connected to screen "/dev/pts/1"`.
fn screen(line: &str) -> Option<&str> {
    let (_, quoted) = line.split_once("connected to screen \"")?;
    quoted.split('"').next()
}

fn read_screen(path: &str) -> Result<()> {
    let mut screen = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(path)?;
    let mut settings = tcgetattr(&screen)?;
    cfmakeraw(&mut settings);
    tcsetattr(&screen, SetArg::TCSANOW, &settings)?;
    io::copy(&mut screen, &mut io::sink())?;
    Ok(())
}

fn text(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

/// The lines of a file that grows.
struct Lines {
    file: File,
    rest: Vec<u8>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            file,
            rest: Vec::new(),
        })
    }

    /// Those that have become whole.
    fn read(&mut self) -> Result<Vec<String>> {
        self.file.read_to_end(&mut self.rest)?;
        let whole = self
            .rest
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let lines = String::from_utf8_lossy(&lines);
        Ok(lines.lines().map(|line| line.trim_end().to_owned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, io::Write as _, process};

    use super::{Lines, screen};

    #[test]
    fn the_terminal_that_bochs_draws_on_is_found() {
        let line = "Bochs connected to screen \"/dev/pts/7\"\r";
        assert_eq!(screen(line), Some("/dev/pts/7"));
        assert_eq!(screen("00000000000i[      ] using log file \"bochs.log\""), None);
    }

    #[test]
    fn a_line_is_read_once_it_is_whole() {
        let path = env::temp_dir().join(format!("xtask-lines-{}", process::id()));
        let mut file = fs::File::create(&path).unwrap();
        let mut lines = Lines::open(&path).unwrap();
        let mut after = |text: &str| {
            file.write_all(text.as_bytes()).unwrap();
            lines.read().unwrap()
        };
        assert_eq!(after("one\r\ntw"), ["one"]);
        assert!(after("").is_empty());
        assert_eq!(after("o\r\nthree\n"), ["two", "three"]);
        fs::remove_file(&path).unwrap();
    }
}
