//! The demo as a test: what a user may do to it.

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{interrupt, leftovers, namespace};

/// How long one demo may take, on a machine that is busy with other things.
const DEMO: Duration = Duration::from_secs(240);

/// Runs every scenario with the built daemon, printing one line for each; how many passed and failed.
pub(crate) fn run(ravelin: &Path) -> Result<(u64, u64)> {
    interrupt::install()?;
    type Scenario = (&'static str, fn(&Path) -> Result<()>);
    let scenarios: [Scenario; 4] = [
        (
            "demo meets every expectation and leaves nothing behind",
            meets_expectations,
        ),
        ("demo cleans up after Ctrl-C", interrupted),
        (
            "demo fails, and cleans up, when a daemon is killed",
            daemon_killed,
        ),
        (
            "a new demo removes the rests of a killed one and succeeds",
            killed,
        ),
    ];
    let (mut passed, mut failed) = (0, 0);
    println!("\nrunning {} demo scenarios", scenarios.len());
    for (name, scenario) in scenarios {
        let result = scenario(ravelin);
        interrupt::check()?;
        match result {
            Ok(()) => {
                println!("test demo: {name} ... ok");
                passed += 1;
            }
            Err(error) => {
                println!("test demo: {name} ... FAILED\n{error:#}");
                failed += 1;
            }
        }
    }
    Ok((passed, failed))
}

fn meets_expectations(_: &Path) -> Result<()> {
    let mut demo = Demo::start("whole")?;
    demo.must_succeed()?;
    demo.must_leave_nothing()
}

/// SIGINT while traffic flows.
fn interrupted(ravelin: &Path) -> Result<()> {
    let mut demo = Demo::start("interrupted")?;
    demo.wait_for_daemons(ravelin)?;
    demo.signal(demo.id(), Signal::SIGINT)?;
    ensure!(!demo.end()?, "an interrupted demo must not exit with 0");
    ensure!(
        demo.text().contains("interrupted"),
        "the demo does not say that it was interrupted:\n{}",
        demo.text()
    );
    demo.must_leave_nothing()
}

/// kill -9 of a daemon, while its demo runs on.
fn daemon_killed(ravelin: &Path) -> Result<()> {
    let mut demo = Demo::start("daemon-killed")?;
    let daemon = demo.wait_for_daemons(ravelin)?;
    demo.signal(daemon, Signal::SIGKILL)?;
    ensure!(!demo.end()?, "a demo whose daemon is killed must not exit with 0");
    demo.must_leave_nothing()
}

/// kill -9 of everything, which nobody can clean up after; then a new demo.
fn killed(ravelin: &Path) -> Result<()> {
    let mut demo = Demo::start("killed")?;
    let daemon = demo.wait_for_daemons(ravelin)?;
    demo.signal(daemon, Signal::SIGKILL)?;
    demo.signal(demo.id(), Signal::SIGKILL)?;
    demo.end()?;
    ensure!(
        !leftovers::found(&demo.run()).is_empty(),
        "a killed demo left nothing behind: this test shows nothing"
    );

    let mut next = Demo::start("after-killed")?;
    next.must_succeed()?;
    next.must_leave_nothing()?;
    demo.must_leave_nothing()
}

/// A demo in a process of its own, with its output in a file.
struct Demo {
    child: Child,
    output: std::path::PathBuf,
}

impl Demo {
    fn start(name: &str) -> Result<Self> {
        let output = env::temp_dir().join(format!("ravelin-test-{}-{name}", std::process::id()));
        let file = fs::File::create(&output).with_context(|| output.display().to_string())?;
        let child = Command::new(env::current_exe().context("the path of this program")?)
            .arg("demo")
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("output file")?)
            .stderr(file)
            .spawn()
            .context("cannot start the demo")?;
        Ok(Self { child, output })
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn run(&self) -> String {
        format!("rav-{}", self.child.id())
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until both gateways work on real traffic; the process id of gw1's daemon.
    fn wait_for_daemons(&mut self, ravelin: &Path) -> Result<u32> {
        interrupt::wait_until("the demo's traffic", DEMO, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the demo ended too early: {status}\n{}", self.text());
            }
            Ok(self.text().contains("✓ ping IPv4"))
        })?;
        let gateway = format!("{}-gw1", self.run());
        let ids = namespace::process_ids(&gateway)?;
        ids.into_iter()
            .filter_map(|id| u32::try_from(id).ok())
            .find(|id| fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|program| program == ravelin))
            .with_context(|| format!("no daemon runs in {gateway}"))
    }

    fn signal(&self, id: u32, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(id)?), signal)
            .with_context(|| format!("cannot send {signal} to {id}"))
    }

    /// Waits for the end; whether the exit status was 0.
    fn end(&mut self) -> Result<bool> {
        let mut status = None;
        interrupt::wait_until("the demo to end", DEMO, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        Ok(status.is_some_and(|status| status.success()))
    }

    fn must_succeed(&mut self) -> Result<()> {
        let good = self.end()?;
        let text = self.text();
        print!("{text}");
        ensure!(good, "the demo failed");
        Ok(())
    }

    fn must_leave_nothing(&self) -> Result<()> {
        let left = leftovers::found(&self.run());
        ensure!(
            left.is_empty(),
            "left behind: {}\n{}",
            left.join(" "),
            self.text()
        );
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Gives the demo the chance to clean up.
            let _ = self.signal(self.child.id(), Signal::SIGTERM);
            let _ = self.child.wait();
        }
        let _ = fs::remove_file(&self.output);
    }
}
