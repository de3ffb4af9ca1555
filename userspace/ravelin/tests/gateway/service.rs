//! The daemon as a service: what its manager hears, what becomes of a worker that hangs, and how it is ended.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use ravelin_engine::fetch_status;

use crate::lifetime::assert_gone;
use crate::support::capture::clear;
use crate::support::daemon::{RAVELIN, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{CLEAR_PORT, H2, Half, Lab, PORT, Policy};
use crate::support::{panic, wait_until};

/// What the manager allows between two signs of life.
const WATCHDOG: Duration = Duration::from_millis(900);

/// A service manager's end of sd_notify(3). It takes what it gets at once, as a manager does: few messages fit into the socket, and
/// who sends one more waits.
struct Manager(Arc<Mutex<Vec<String>>>);

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::downgrade(&heard);
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Until nobody asks any more.
            while let Some(lines) = lines.upgrade() {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let text = std::str::from_utf8(&buffer[..length]).unwrap();
                    lines.lock().unwrap().extend(text.lines().map(str::to_owned));
                }
            }
        });
        Self(heard)
    }

    /// Everything it has heard since it was asked last, in lines.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn await_line(&self, line: &str) {
        wait_until(line, || self.heard().iter().any(|heard| heard == line));
    }
}

#[test]
fn a_worker_that_hangs_is_named_and_the_manager_hears_nothing_meanwhile() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default());
    let path = gateway.folder.join("notify.sock");
    let manager = Manager::listen(&path);
    let mut command = gateway.command();
    command.env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let daemon = gateway.start_as(command);
    let _d2 = lab.gateway(2, &Policy::default()).start();
    let (protected, permitted) = (Echo::start(&lab.h2, PORT), Echo::start(&lab.h2, CLEAR_PORT));
    manager.await_line("READY=1");
    manager.await_line("WATCHDOG=1");
    wait_until("protected UDP", || protected.udp(&lab.h1, H2[0], b"protected"));

    let thread = panic::worker(daemon.pid());
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    wait_until("the worker's name", || {
        daemon.log().contains("worker 0 is stuck: ")
    });
    assert!(daemon.status().workers[0].stuck_seconds.is_some());
    wait_until("its name in the manager's status", || {
        manager.heard().contains(&"STATUS=stuck: worker 0".to_owned())
    });
    let shown = succeeded(&gateway.client("status").output().unwrap());
    assert!(shown.contains("worker 0: STUCK for "), "{shown}");
    // Twice as long as the manager waits, nothing is heard; permitted traffic goes on, and protected does not.
    let started = Instant::now();
    while started.elapsed() < 2 * WATCHDOG {
        assert_eq!(manager.heard(), Vec::<String>::new());
        assert!(!protected.udp(&lab.h1, H2[0], b"protected"));
    }
    wait_until("permitted UDP", || permitted.udp(&lab.h1, H2[0], b"permitted"));

    ptrace::detach(thread, None).unwrap();
    manager.await_line("WATCHDOG=1");
    wait_until("protected UDP again", || {
        protected.udp(&lab.h1, H2[0], b"protected")
    });
    assert_eq!(daemon.status().workers[0].stuck_seconds, None);
    wait_until("its name in the log", || {
        daemon.log().contains("worker 0 goes on, after ")
    });
    let (status, log) = daemon.stop();
    assert!(status.success(), "{log}");
    manager.await_line("STOPPING=1");
}

#[test]
fn a_worker_that_panics_ends_the_engine_and_leaves_it_closed() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default());
    let daemon = gateway.start();
    let _d2 = lab.gateway(2, &Policy::default()).start();
    let (protected, permitted) = (Echo::start(&lab.h2, PORT), Echo::start(&lab.h2, CLEAR_PORT));
    wait_until("protected UDP", || protected.udp(&lab.h1, H2[0], b"protected"));
    let (capture, pins) = (lab.capture(), gateway.pins());
    panic::in_worker(daemon.pid());
    let (status, log) = daemon.ended();
    assert!(!status.success(), "{log}");
    assert!(
        log.contains(panic::MESSAGE) && log.contains("worker 0 panicked"),
        "{log}"
    );
    assert_eq!(gateway.pins(), pins);
    for _ in 0..4 {
        assert!(!protected.udp(&lab.h1, H2[0], b"protected"));
        wait_until("permitted UDP", || permitted.udp(&lab.h1, H2[0], b"permitted"));
    }
    let packets = capture.packets();
    let leaked = clear(&packets).into_iter().filter(|packet| {
        packet
            .ports()
            .is_none_or(|ports| ![ports.0, ports.1].contains(&CLEAR_PORT))
    });
    assert_eq!(leaked.count(), 0, "clear on the wire");
    let _daemon = gateway.start();
    wait_until("protected UDP again", || {
        protected.udp(&lab.h1, H2[0], b"protected")
    });
}

#[test]
fn stop_asks_before_it_opens_and_can_leave_the_filter_standing() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default());
    let stop = |options: &[&str]| gateway.client("stop").args(options).output().unwrap();
    let said = refusal(&stop(&["--yes"]));
    assert!(said.contains("ravelin detach"), "{said}");

    let daemon = gateway.start();
    let said = refusal(&stop(&[]));
    assert!(
        said.contains("what rule `sites` protects passes in the clear")
            && said.contains("`--yes`")
            && said.contains("`--keep-closed`"),
        "{said}"
    );
    assert_eq!(daemon.status().pid, daemon.pid());
    let pins = gateway.pins();
    let said = succeeded(&stop(&["--keep-closed"]));
    assert!(said.contains("the filter stays"), "{said}");
    let (status, log) = daemon.ended();
    assert!(status.success(), "{log}");
    assert_eq!(gateway.pins(), pins);

    let echo = Echo::start(&lab.h2, PORT);
    assert!(!echo.udp(&lab.h1, H2[0], b"closed"));
    let daemon = gateway.start();
    let said = succeeded(&stop(&["--yes"]));
    assert!(
        said.contains("the filter is gone (3 programs detached)"),
        "{said}"
    );
    let (status, log) = daemon.ended();
    assert!(status.success(), "{log}");
    assert_gone(&gateway);
    wait_until("UDP in the clear", || echo.udp(&lab.h1, H2[0], b"clear"));
}

/// What only filters has no connections, and still keeps clear what must not be.
#[test]
fn stop_says_what_opens_where_nothing_is_sealed() {
    let lab = Lab::new();
    let mut filter = lab.gateway(1, &Policy::default());
    filter.inner = None;
    let daemon = filter.start();
    assert!(daemon.status().connections.is_empty());
    let stop = |options: &[&str]| filter.client("stop").args(options).output().unwrap();
    let said = refusal(&stop(&[]));
    assert!(
        said.contains("what rule `sites` protects passes in the clear") && said.contains("`--yes`"),
        "{said}"
    );
    assert_eq!(daemon.status().pid, daemon.pid());
    let said = succeeded(&stop(&["--yes"]));
    assert!(said.contains("passes in the clear"), "{said}");
    daemon.ended();

    // Who blocks is told, and who does neither is left in peace.
    let rules = |number: u8| {
        format!(
            "[filter-lists.l{number}]\nfilters = [{{ source = \"10.9.{number}.1\", destination = \"any\" }}]\n\
             [[rules]]\nname = \"r{number}\"\nfilter-list = \"l{number}\"\naction = \"block\"\n"
        )
    };
    let blocks = String::from("default = \"block\"\n") + &(1..=6).map(rules).collect::<String>();
    for (policy, told) in [
        (
            blocks.as_str(),
            Some("what rules `r1`, `r2`, `r3`, `r4` and 2 more block passes, what no rule matches passes\n"),
        ),
        ("default = \"permit\"\n", None),
    ] {
        std::fs::write(&filter.policy, policy).unwrap();
        let daemon = filter.start();
        let said = succeeded(&stop(&[]));
        daemon.ended();
        match told {
            Some(told) => assert!(said.contains(told), "{said}"),
            None => assert!(!said.contains("passes"), "{said}"),
        }
    }
}

#[test]
fn no_thread_has_more_capabilities_than_it_needs() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default()).with("--crypto-threads", "1");
    let daemon = gateway.start();
    let given_up = "ravelin: given up: capabilities, Landlock, seccomp\n";
    assert!(daemon.log().contains(given_up), "{}", daemon.log());
    // linux/capability.h: CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_IPC_LOCK, CAP_BPF.
    let (read, net, lock, bpf) = (1u64 << 2, 1 << 12, 1 << 14, 1 << 39);
    let mut seen = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        let kept = match line("Name:").as_str() {
            "ravelin" => read | net | lock | bpf,
            "ravelin-resolve" => net | lock,
            "ravelin-0" | "ravelin-0/0" => lock,
            other => panic!("thread {other}"),
        };
        seen.push(line("Name:"));
        let kept = format!("{kept:016x}");
        assert_eq!(
            (line("CapEff:"), line("CapPrm:")),
            (kept.clone(), kept),
            "{status}"
        );
        assert_eq!(
            (line("NoNewPrivs:"), line("Seccomp:")),
            ("1".to_owned(), "2".to_owned())
        );
    }
    seen.sort();
    assert_eq!(seen, ["ravelin", "ravelin-0", "ravelin-0/0", "ravelin-resolve"]);

    let free = lab.gateway(2, &Policy::default()).with_flag("--no-confinement");
    let daemon = free.start();
    assert!(!daemon.log().contains("given up"), "{}", daemon.log());
}

/// Who was told of an engine that has died knows nothing of its rules, so it asks.
#[test]
fn detach_asks_before_it_opens() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    let detach = |options: &[&str]| {
        let mut command = half.g1.command(RAVELIN);
        command.args(["detach", "--instance", &gateway.instance, "--control"]);
        command.arg(gateway.control()).args(options).output().unwrap()
    };
    let said = succeeded(&detach(&[]));
    assert!(said.contains("nothing was attached"), "{said}");

    gateway.start().kill();
    let pins = gateway.pins();
    let said = refusal(&detach(&[]));
    for word in [
        "device in0, out0",
        "what its policy protects passes in the clear",
        "`--yes`",
    ] {
        assert!(said.contains(word), "`{word}` is missing in:\n{said}");
    }
    assert_eq!(gateway.pins(), pins);
    let said = succeeded(&detach(&["--yes"]));
    assert!(
        said.contains("3 programs detached") && said.contains("passes in the clear"),
        "{said}"
    );
    assert_eq!(gateway.pins(), Vec::<String>::new());
}

/// Whatever an operator tries with a frozen engine, the answer names it and what ends it.
#[test]
fn a_frozen_engine_is_named_with_what_ends_it() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    let daemon = gateway.start();
    let process = daemon.pid();
    let advice = format!("`kill -9 {process}` ends it, and its filter stays");
    let mut replace = gateway.command();
    replace.arg("--replace");
    let [mut stop, mut closed, mut detach] = ["stop", "stop", "detach"].map(|verb| gateway.client(verb));
    stop.arg("--yes");
    closed.arg("--keep-closed");
    detach.arg("--yes");
    let asked = || {
        std::thread::scope(|scope| {
            for mut command in [replace, stop, closed, detach] {
                let advice = &advice;
                scope.spawn(move || {
                    let said = refusal(&command.output().unwrap());
                    let last = said.lines().last().unwrap_or_default();
                    assert!(
                        last.contains(advice) && last.contains(&format!("process {process}")),
                        "{command:?}: {said}"
                    );
                });
            }
            // It says so long before its time is over, and goes on where the engine does.
            let mut apply = gateway.client("apply");
            apply
                .arg(&gateway.policy)
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            let mut apply = apply.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(apply.stderr.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert!(
                line.contains("waiting for an answer") && line.contains(&advice),
                "{line}"
            );
            assert!(apply.try_wait().unwrap().is_none());
            apply.kill().unwrap();
            apply.wait().unwrap();
        });
    };
    daemon.frozen_while(asked);
    wait_until("the engine to answer", || {
        fetch_status(&gateway.control()).is_ok_and(|status| status.pid == daemon.pid())
    });
}
