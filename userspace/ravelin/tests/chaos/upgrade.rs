//! One build of the program takes over from another while 200 Mbit/s must be protected.
//!
//! The other build is the same code as distributions ship it, stripped. Of the old process the new one uses its
//! links, into which it swaps programs of its own, so it does not matter whether their BPF objects are the same, and the pages in
//! which sequence numbers are reserved.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;

use crate::detector::Detector;
use crate::pair::of_hosts;
use crate::support::daemon::{Daemon, Gateway, RAVELIN};
use crate::support::hosts::{B, Hosts};
use crate::support::lab::PORT;
use crate::support::namespace::Namespace;
use crate::support::{Raise, wait_until};
use crate::{alone, report, tell};

/// Bytes of a datagram.
const LENGTH: usize = 1200;

/// Datagrams sent each millisecond: 200 Mbit/s.
const EACH_MILLISECOND: u64 = 200_000_000 / 8 / LENGTH as u64 / 1000;

/// What an upgrade may take at most, on a machine that does other things besides.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream of datagrams with numbers, and when each arrived.
#[derive(Default)]
struct Stream {
    sent: AtomicU64,
    arrived: Mutex<Vec<(u64, Instant)>>,
}

impl Stream {
    fn send(&self, from: &Namespace, stop: &AtomicBool) {
        let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let started = Instant::now();
        let mut datagram = [0x5a; LENGTH];
        while !stop.load(Ordering::Relaxed) {
            let due = (started.elapsed().as_millis() as u64 + 1) * EACH_MILLISECOND;
            let mut number = self.sent.load(Ordering::Relaxed);
            // What was missed because others had the processor is not made up for all at once.
            for _ in 0..due.saturating_sub(number).min(4 * EACH_MILLISECOND) {
                datagram[..8].copy_from_slice(&number.to_be_bytes());
                // The filter's refusal is an error here (ENOBUFS, EPERM), and the datagram lost.
                let _ = socket.send_to(&datagram, (B[0], PORT));
                number += 1;
            }
            self.sent.store(number, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn receive(&self, at: &Namespace, stop: &AtomicBool) {
        let socket = at.enter(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; LENGTH];
        while !stop.load(Ordering::Relaxed) {
            if socket.recv(&mut buffer).is_ok() {
                let number = u64::from_be_bytes(*buffer.first_chunk().unwrap());
                self.arrived.lock().unwrap().push((number, Instant::now()));
            }
        }
    }

    /// Datagrams so far, of those that were sent and of those that arrived.
    fn counts(&self) -> (u64, usize) {
        (
            self.sent.load(Ordering::Relaxed),
            self.arrived.lock().unwrap().len(),
        )
    }

    /// Waits until many more have arrived.
    fn flows(&self) {
        let (_, before) = self.counts();
        wait_until("the stream", || self.counts().1 > before + 2000);
    }
}

/// What a change of engines cost.
struct Cost {
    /// The longest time without an arrival.
    silence: Duration,
    /// How many datagrams are missing between the last before it and the first after it.
    lost: u64,
    /// What arrived meanwhile and shortly before and after, in Mbit/s.
    rate: u64,
}

/// Runs `change` under the stream.
fn cost_of(stream: &Stream, change: impl FnOnce()) -> Cost {
    stream.flows();
    let (_, first) = stream.counts();
    stream.flows();
    change();
    stream.flows();
    let arrived = stream.arrived.lock().unwrap();
    let arrived = &arrived[first..];
    let gaps = arrived
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1, pair[1].0.saturating_sub(pair[0].0 + 1)));
    let (silence, lost) = gaps.max().unwrap();
    let time = arrived[arrived.len() - 1].1 - arrived[0].1;
    Cost {
        silence,
        lost,
        rate: (arrived.len() * LENGTH * 8) as u64 / time.as_micros().max(1) as u64,
    }
}

/// Whether a device has both of its filters, in the kernel's words.
fn is_filtered(namespace: &Namespace, device: &str) -> bool {
    let (_, programs) = SchedClassifier::query_tcx(device, TcAttachType::Egress).unwrap();
    let link = namespace.run("ip", &["-j", "link", "show", "dev", device]);
    !programs.is_empty() && link.contains("\"xdp\":{")
}

fn start(gateway: &Gateway<'_>, program: &Path, replace: bool) -> Daemon {
    let mut command = gateway.command_of(gateway.namespace.command(program.to_str().unwrap()));
    if replace {
        command.arg("--replace");
    }
    gateway.start_as(command)
}

#[test]
fn another_build_takes_over_under_load_and_the_filter_never_goes() {
    let _alone = alone();
    let hosts = Hosts::new(true);
    let secret = of_hosts(&hosts).secret();
    let stripped = hosts.folder.path().join("ravelin");
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(RAVELIN)
        .status()
        .unwrap();
    assert!(strip.success());
    let builds = [PathBuf::from(RAVELIN), stripped];

    let (a, b) = (hosts.host(0, str::to_owned), hosts.host(1, str::to_owned));
    let mut daemon = start(&a, &builds[0], false);
    let _peer = b.start();
    wait_until("ping", || hosts.a.ping(B[0]));
    let detector = Detector::start(&hosts.wire, ["to-a", "to-b"], secret, hosts.folder.path());
    let (stream, stop) = (Stream::default(), AtomicBool::new(false));
    let mut table = "| the other build took over by | protected traffic silent for (ms) | datagrams lost | Mbit/s meanwhile |\n|---|---|---|---|\n".to_owned();
    let (looks, absences) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _raise = Raise(&stop);
        scope.spawn(|| stream.send(&hosts.a, &stop));
        scope.spawn(|| stream.receive(&hosts.b, &stop));
        scope.spawn(|| {
            hosts.a.enter(|| {
                while !stop.load(Ordering::Relaxed) {
                    looks.fetch_add(1, Ordering::Relaxed);
                    if !is_filtered(&hosts.a, "eth0") {
                        absences.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        });
        for round in 0..4 {
            let program = &builds[(round + 1) % 2];
            let replace = round < 3;
            let cost = cost_of(&stream, || {
                if replace {
                    let next = start(&a, program, true);
                    let (status, log) = std::mem::replace(&mut daemon, next).ended();
                    assert!(status.success(), "{log}");
                } else {
                    // As service managers do it: one after the other.
                    let stopped = a.client("stop").arg("--keep-closed").status().unwrap();
                    assert!(stopped.success());
                    daemon = start(&a, program, false);
                }
            });
            let how = if replace {
                "run --replace"
            } else {
                "stop --keep-closed; run"
            };
            let row = format!(
                "| `{how}` | {} | {} | {} |\n",
                cost.silence.as_millis(),
                cost.lost,
                cost.rate
            );
            tell(&format!("upgrade: {}", row.trim_end()));
            table += &row;
            assert!(cost.silence < PATIENCE);
        }
        wait_until("looks at the filter", || looks.load(Ordering::Relaxed) > 20);
    });
    let (sighted, second) = detector.finish();
    assert_eq!((sighted.leaks, second), (0, 0), "{:#?}", sighted.examples);
    assert!(sighted.repeated.is_empty(), "{:x?}", sighted.repeated);
    assert_eq!(
        absences.load(Ordering::Relaxed),
        0,
        "of {} looks at the filter",
        looks.load(Ordering::Relaxed)
    );
    report("upgrade", "", &table);
}
