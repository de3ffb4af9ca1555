//! What stays and what goes when the daemon ends, and what it costs while nothing happens.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

use crate::support::capture::{Ip, assert_sequence_numbers_fresh, clear};
use crate::support::daemon::{Daemon, Gateway, NUMBERS, stat_fields, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{CLEAR_PORT, G1, H2, Lab, PORT, Policy};
use crate::support::{Raise, wait_until};

/// Ends a daemon in three ways that must make no difference, and starts it again each time.
fn ends_closed(end: impl Fn(Daemon)) {
    let lab = Lab::new();
    let (g1, g2) = (
        lab.gateway(1, &Policy::default()),
        lab.gateway(2, &Policy::default()),
    );
    let _d2 = g2.start();
    let capture = lab.capture();
    let (protected, permitted) = (Echo::start(&lab.h2, PORT), Echo::start(&lab.h2, CLEAR_PORT));
    for round in 0..3 {
        let d1 = g1.start();
        wait_until("protected UDP", || protected.udp(&lab.h1, H2[0], b"protected"));
        wait_until("permitted UDP", || permitted.udp(&lab.h1, H2[0], b"permitted"));
        let pins = g1.pins();
        assert!(pins.len() >= 3, "{pins:?}");
        end(d1);
        assert_eq!(g1.pins(), pins);
        let started = Instant::now();
        let mark = capture.mark();
        while started.elapsed() < Duration::from_secs(2) {
            assert!(
                !protected.udp(&lab.h1, H2[0], b"protected, meanwhile"),
                "round {round}"
            );
            assert!(!lab.h1.ping(H2[0]), "round {round}");
            permitted.udp_one_way(&lab.h1, H2[0], b"permitted, meanwhile");
        }
        wait_until("permitted UDP goes on", || {
            permitted.udp(&lab.h1, H2[0], b"permitted")
        });
        let packets = capture.packets();
        let leaked: Vec<_> = clear(&packets)
            .into_iter()
            .filter(|packet| {
                packet
                    .ports()
                    .is_none_or(|(a, b)| a != CLEAR_PORT && b != CLEAR_PORT)
            })
            .collect();
        assert!(leaked.is_empty(), "clear on the wire: {leaked:?}");
        assert!(capture.mark() > mark);
    }
    let _d1 = g1.start();
    wait_until("protected UDP again", || {
        protected.udp(&lab.h1, H2[0], b"protected")
    });
    assert!(assert_sequence_numbers_fresh(&capture.packets()) >= 4);
}

#[test]
fn a_killed_daemon_leaves_protected_traffic_closed_and_repeats_no_sequence_number() {
    ends_closed(Daemon::kill);
}

#[test]
fn a_stopped_daemon_leaves_protected_traffic_closed_and_repeats_no_sequence_number() {
    ends_closed(|daemon| {
        let (status, log) = daemon.stop();
        assert!(status.success(), "{log}");
        assert!(
            log.contains("the filter stays") && log.contains("ravelin detach"),
            "{log}"
        );
    });
}

/// The kernel remembers for the next daemon which sequence numbers were reserved. Without that it goes by the mark on disk.
#[test]
fn a_crash_costs_few_sequence_numbers() {
    let lab = Lab::new();
    let (g1, g2) = (
        lab.gateway(1, &Policy::default()),
        lab.gateway(2, &Policy::default()),
    );
    let _d2 = g2.start();
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    let own = |packets: &[Ip]| {
        let own = packets
            .iter()
            .filter(|packet| packet.source == G1[0].parse::<IpAddr>().unwrap());
        let highest = own.filter_map(|packet| Some(packet.esp()?.1)).max();
        u64::from(highest.expect("ESP"))
    };
    let mut last = 0;
    for round in 0..5 {
        let d1 = g1.start();
        wait_until("protected UDP", || echo.udp(&lab.h1, H2[0], b"protected"));
        let highest = own(&capture.packets());
        assert!(highest > last, "round {round}: {highest} after {last}");
        assert!(highest - last < 70_000, "round {round}: {highest} after {last}");
        last = highest;
        // An orderly end costs no more.
        if round % 2 == 0 {
            d1.kill();
        } else {
            assert!(d1.stop().0.success());
        }
    }
    std::fs::remove_dir_all(Path::new(NUMBERS).join(&g1.instance)).unwrap();
    let d1 = g1.start();
    wait_until("protected UDP", || echo.udp(&lab.h1, H2[0], b"protected"));
    let highest = own(&capture.packets());
    assert!(highest > 1 << 20, "after the mark on disk: {highest}");
    d1.kill();
    assert!(assert_sequence_numbers_fresh(&capture.packets()) >= 12);
}

pub(crate) fn assert_gone(gateway: &Gateway<'_>) {
    assert_eq!(gateway.pins(), Vec::<String>::new());
    let pins = Path::new("/sys/fs/bpf/ravelin").join(&gateway.instance);
    assert!(!pins.exists(), "{}", pins.display());
    let counters = Path::new("/sys/fs/bpf/ravelin-counters").join(&gateway.instance);
    assert!(!counters.exists(), "{}", counters.display());
    for device in ["in0", "out0"] {
        // The kernel frees the link after the last reference is gone.
        wait_until("no XDP program", || {
            !gateway
                .namespace
                .run("ip", &["-d", "link", "show", "dev", device])
                .contains("xdp")
        });
    }
}

#[test]
fn on_exit_open_and_detach_take_everything_away() {
    let lab = Lab::new();
    let echo = Echo::start(&lab.h2, PORT);
    let open = lab.gateway(1, &Policy::default()).with("--on-exit", "open");
    let (status, log) = open.start().stop();
    assert!(status.success() && log.contains("the filter is gone"), "{log}");
    assert_gone(&open);
    wait_until("UDP in the clear", || echo.udp(&lab.h1, H2[0], b"clear"));

    let mut closed = lab.gateway(1, &Policy::default());
    closed.instance.clone_from(&open.instance);
    let daemon = closed.start();
    let refused = closed.detach();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&format!("process {}", daemon.pid())), "{said}");
    daemon.kill();
    assert!(!echo.udp(&lab.h1, H2[0], b"closed"));
    let done = closed.detach();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_gone(&closed);
    wait_until("UDP in the clear", || echo.udp(&lab.h1, H2[0], b"clear"));
}

/// `--on-exit` is about signals. Whoever says that the filter stays is obeyed, and whoever takes over has ended nothing.
#[test]
fn on_exit_open_opens_nothing_where_the_filter_is_to_stay() {
    let lab = Lab::new();
    let echo = Echo::start(&lab.h2, PORT);
    let open = lab.gateway(1, &Policy::default()).with("--on-exit", "open");
    let first = open.start();
    let pins = open.pins();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _raise = Raise(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                echo.udp_one_way(&lab.h1, H2[0], b"in the clear");
                sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let goes_on = || {
            let before = sent.load(Ordering::Relaxed);
            wait_until("more packets", || sent.load(Ordering::Relaxed) > before + 100);
        };
        goes_on();
        let mut command = open.command();
        command.arg("--replace");
        let second = open.start_as(command);
        let (status, log) = first.ended();
        assert!(status.success() && log.contains("the filter stays"), "{log}");
        goes_on();
        let said = succeeded(&open.client("stop").arg("--keep-closed").output().unwrap());
        assert!(said.contains("the filter stays"), "{said}");
        let (status, log) = second.ended();
        assert!(status.success() && log.contains("the filter stays"), "{log}");
        goes_on();
    });
    assert_eq!(open.pins(), pins);
    assert_eq!(echo.received(), Vec::<Vec<u8>>::new());
    succeeded(&open.detach());
    wait_until("UDP in the clear", || echo.udp(&lab.h1, H2[0], b"clear"));
}

/// User and system time of a process so far.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let fields = stat_fields(Path::new(&format!("/proc/{pid}"))).unwrap();
    // Fields 14 and 15 of all.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
    Duration::from_millis(ticks * 1000 / per_second)
}

#[test]
fn an_idle_daemon_uses_less_than_a_hundredth_of_a_core() {
    let lab = Lab::new();
    let pair = lab.start(&Policy::default());
    wait_until("ping", || lab.h1.ping(H2[0]));
    // Now and then a busy machine charges somebody for what others did; one that polls is charged each time.
    let mut all = Vec::new();
    let is_idle = (0..5).any(|_| {
        let (before, started) = (processor_time(pair.d1.pid()), Instant::now());
        std::thread::sleep(Duration::from_secs(8));
        let (used, time) = (processor_time(pair.d1.pid()) - before, started.elapsed());
        all.push((used, time));
        used * 100 < time
    });
    assert!(is_idle, "{all:?}");
}
