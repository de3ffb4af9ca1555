//! The program under test.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ravelin_engine::{Status, fetch_status};

use super::namespace::Namespace;
use super::{PATIENCE, wait_for, wait_longer, wait_until};

pub(crate) const RAVELIN: &str = env!("CARGO_BIN_EXE_ravelin");

const PINS: &str = "/sys/fs/bpf/ravelin";

/// Which numbers were used under which keys: it stays when a filter is taken away.
pub(crate) const NUMBERS: &str = "/sys/fs/bpf/ravelin-numbers";

/// How a daemon is started. Its instance is its own; what it leaves attached goes when this is dropped.
pub(crate) struct Gateway<'n> {
    pub(crate) namespace: &'n Namespace,
    pub(crate) instance: String,
    pub(crate) folder: PathBuf,
    pub(crate) policy: PathBuf,
    pub(crate) outer: String,
    pub(crate) inner: Option<String>,
    pub(crate) extra: Vec<String>,
    /// How long it may take to start.
    pub(crate) patience: Duration,
}

impl<'n> Gateway<'n> {
    /// A host that protects what it sends on `eth0` itself.
    pub(crate) fn host(namespace: &'n Namespace, folder: &Path, policy: &str) -> Self {
        let mut host = Self::new(namespace, folder, policy).with("--mode", "host");
        host.outer = "eth0".to_owned();
        host.inner = None;
        host
    }

    /// A gateway between `in0` and `out0`, with a policy of its own in `folder`.
    pub(crate) fn new(namespace: &'n Namespace, folder: &Path, policy: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("test-{}-{number}", std::process::id());
        let file = folder.join(format!("{instance}.toml"));
        std::fs::write(&file, policy).unwrap();
        Self {
            namespace,
            folder: folder.to_owned(),
            policy: file,
            outer: "out0".to_owned(),
            inner: Some("in0".to_owned()),
            extra: Vec::new(),
            // The kernel verifies half a dozen programs, which takes seconds where everybody else is busy, too.
            patience: 3 * PATIENCE,
            instance,
        }
    }

    pub(crate) fn with(mut self, option: &str, value: &str) -> Self {
        self.extra.extend([option.to_owned(), value.to_owned()]);
        self
    }

    pub(crate) fn with_flag(mut self, option: &str) -> Self {
        self.extra.push(option.to_owned());
        self
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.folder.join(format!("{}.sock", self.instance))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join(format!("{}.state", self.instance))
    }

    pub(crate) fn command(&self) -> Command {
        self.command_of(self.namespace.command(RAVELIN))
    }

    /// The same on top of another way to start the program.
    pub(crate) fn command_of(&self, mut command: Command) -> Command {
        command.arg("run").args(self.options());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        without_session(&mut command);
        command
    }

    /// The options of `ravelin run`.
    pub(crate) fn options(&self) -> Vec<OsString> {
        let mut options: Vec<OsString> = vec!["--policy".into(), self.policy.clone().into()];
        options.extend(["--outer".into(), self.outer.clone().into()]);
        if let Some(inner) = &self.inner {
            options.extend(["--inner".into(), inner.into()]);
        }
        options.extend(["--instance".into(), self.instance.clone().into()]);
        options.extend(["--control".into(), self.control().into()]);
        if !self.extra.iter().any(|option| option == "--state-dir") {
            options.extend(["--state-dir".into(), self.state().into()]);
        }
        options.extend(self.extra.iter().map(OsString::from));
        options
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> Daemon {
        self.start_as(self.command())
    }

    /// The same, started by `command`.
    pub(crate) fn start_as(&self, command: Command) -> Daemon {
        Daemon::start(command, self.control(), self.patience)
    }

    /// Runs what must fail by itself; what it said, and asserts that it left nothing attached.
    pub(crate) fn refused(&self) -> String {
        self.refused_as(self.command())
    }

    /// The same, started by `command`.
    pub(crate) fn refused_as(&self, mut command: Command) -> String {
        let mut child = command.spawn().unwrap();
        let ended = wait_longer(self.patience, "the daemon to refuse", || {
            child.try_wait().unwrap()
        });
        let Output { stderr, .. } = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(ended.code(), Some(1), "{said}");
        assert_eq!(self.pins(), Vec::<String>::new(), "{said}");
        said
    }

    /// Names of the pins that are there.
    pub(crate) fn pins(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(Path::new(PINS).join(&self.instance)) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// `ravelin apply` of a policy, which becomes a file beside the first one.
    pub(crate) fn apply(&self, policy: &str, options: &[&str]) -> Output {
        let file = self.other_policy();
        std::fs::write(&file, policy).unwrap();
        let mut command = self.client("apply");
        command.arg(file).args(options).output().unwrap()
    }

    /// The same, which must go well; what it said.
    pub(crate) fn applied(&self, policy: &str, options: &[&str]) -> String {
        succeeded(&self.apply(policy, options))
    }

    /// The file that [`Gateway::apply`] writes.
    pub(crate) fn other_policy(&self) -> PathBuf {
        self.folder.join(format!("{}-other.toml", self.instance))
    }

    /// A command of the program about this instance.
    pub(crate) fn client(&self, command: &str) -> Command {
        let mut program = Command::new(RAVELIN);
        program
            .args([command, "--instance", &self.instance, "--control"])
            .arg(self.control());
        without_session(&mut program);
        program
    }

    /// `ravelin sa` with these arguments.
    pub(crate) fn sa(&self, arguments: &[&str]) -> Output {
        let mut program = Command::new(RAVELIN);
        program.arg("sa").args(arguments);
        program.args(["--instance", &self.instance, "--control"]);
        program.arg(self.control()).output().unwrap()
    }

    /// `ravelin detach --yes`.
    pub(crate) fn detach(&self) -> Output {
        self.client("detach").arg("--yes").output().unwrap()
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        if self.namespace.output("true", &[]).status.success() {
            let _ = self.detach();
        }
        // Nobody will have these keys any more.
        let _ = std::fs::remove_dir_all(Path::new(NUMBERS).join(&self.instance));
    }
}

/// How the tests themselves were started must make no difference.
fn without_session(command: &mut Command) {
    command.env("SSH_CONNECTION", "");
}

/// Asserts that a command went well; what it said.
pub(crate) fn succeeded(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asserts that a command was refused; what it said.
pub(crate) fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running daemon, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
    control: PathBuf,
}

impl Daemon {
    fn start(mut command: Command, control: PathBuf, patience: Duration) -> Self {
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = BufReader::new(child.stderr.take().unwrap());
        {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in reader.lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            });
        }
        let mut daemon = Self { child, log, control };
        wait_longer(patience, "the daemon to be ready", || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {}", daemon.log());
            daemon.log().contains("ravelin: ready: ").then_some(())
        });
        daemon
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn status(&self) -> Status {
        fetch_status(&self.control).unwrap()
    }

    /// Packets dropped for a reason.
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        *self
            .status()
            .drops
            .get(reason)
            .unwrap_or_else(|| panic!("no drop reason {reason}"))
    }

    /// Packets that ended here, for any reason.
    pub(crate) fn all_drops(&self) -> Vec<(String, u64)> {
        self.status()
            .drops
            .into_iter()
            .filter(|(_, count)| *count != 0)
            .collect()
    }

    /// Does something, and waits until it has added `count` to a drop counter.
    pub(crate) fn expect_drops(&self, reason: &str, count: u64, action: impl FnOnce()) {
        let before = self.drops(reason);
        action();
        let what = format!("{count} packets dropped as {reason}");
        wait_until(&what, || self.drops(reason) >= before + count);
        assert_eq!(self.drops(reason), before + count, "{:?}", self.all_drops());
    }

    /// What a rule has counted, in packets.
    pub(crate) fn rule(&self, name: &str) -> u64 {
        let status = self.status();
        let rule = status.rules.iter().find(|rule| rule.name == name);
        rule.unwrap_or_else(|| panic!("no rule {name}")).packets
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Does something while the daemon is stopped, and lets it go on.
    pub(crate) fn frozen_while<T>(&self, action: impl FnOnce() -> T) -> T {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        // Until a thread has been scheduled to take the signal, which takes a while on a busy machine, it goes on. One that ends
        // meanwhile is gone when they are looked at again.
        wait_until("all its threads to stand still", || {
            std::fs::read_dir(&tasks).unwrap().flatten().all(|task| {
                // Stopped, or traced by a test: that stands still as well.
                let state = stat_fields(&task.path()).map(|fields| fields[0].clone());
                state.is_ok_and(|state| state == "T" || state == "t")
            })
        });
        let result = action();
        self.signal(Signal::SIGCONT);
        result
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// `kill -9`, and the kernel has cleaned up after it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; how it ended and what it said.
    pub(crate) fn stop(self) -> (ExitStatus, String) {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let status = wait_for("the daemon to end", || self.child.try_wait().unwrap());
        // The reader ends with the pipe; its last lines may still be under way.
        let log = Arc::clone(&self.log);
        drop(self);
        wait_until("the end of the log", || Arc::strong_count(&log) == 1);
        let log = log.lock().unwrap().clone();
        (status, log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = fetch_status(&self.control).ok();
            let drops = status.map(|mut status| {
                status.drops.retain(|_, count| *count != 0);
                status
            });
            eprintln!("daemon {}:\n{}{drops:#?}", self.pid(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Detaches what tests left that were killed.
fn sweep() {
    for pins in [PINS, NUMBERS] {
        let Ok(entries) = std::fs::read_dir(pins) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(pid) = name.strip_prefix("test-").and_then(|rest| rest.split('-').next()) else {
                continue;
            };
            if !Path::new("/proc").join(pid).exists() {
                // A test beside this one may be faster.
                let _ = ravelin_engine::detach_leftovers(&name);
                let _ = std::fs::remove_dir_all(Path::new(NUMBERS).join(&name));
            }
        }
    }
}

/// The fields of a process or thread from its state on, by its folder in /proc: proc_pid_stat(5), from field 3.
pub(crate) fn stat_fields(folder: &Path) -> std::io::Result<Vec<String>> {
    let stat = std::fs::read_to_string(folder.join("stat"))?;
    // Behind the name, which may hold spaces.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    Ok(fields.map(str::to_owned).collect())
}
