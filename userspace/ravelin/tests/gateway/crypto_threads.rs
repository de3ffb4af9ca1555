//! Crypto threads: what they do to packets, to their order, and to the engine when they fail.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};

use crate::support::capture::{Capture, Ip, clear};
use crate::support::daemon::succeeded;
use crate::support::echo::Echo;
use crate::support::lab::{CLEAR_PORT, G1, G2, H2, Lab, PORT, Policy};
use crate::support::tshark::{self, Key};
use crate::support::{panic, wait_until};

/// tshark does not know of extended sequence numbers.
const READABLE: Policy = Policy {
    outer: 0,
    connection: "",
    algorithm: "",
    keys: "esn = false",
    top: "",
};

/// Datagrams of a flood: no more than a socket's ring holds.
const FLOOD: u32 = 1500;

/// Sends numbered datagrams as fast as the stack takes them, to a port where nobody listens.
fn flood(lab: &Lab) {
    lab.h1.queue("eth0");
    lab.h1.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for number in 0..FLOOD {
            let mut bytes = [0x5a; 200];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            socket.send_to(&bytes, (H2[0], PORT + 1)).unwrap();
        }
    });
}

/// The numbers of the flood, as they passed.
fn numbers(capture: &Capture) -> Vec<u32> {
    let packets = capture.packets();
    let flood = packets
        .iter()
        .filter(|packet| packet.protocol == 17 && packet.ports().is_some_and(|(_, port)| port == PORT + 1));
    flood
        .map(|packet| u32::from_be_bytes(packet.payload[8..12].try_into().unwrap()))
        .collect()
}

#[test]
fn a_flood_of_one_sa_arrives_in_order_and_authentic() {
    let lab = Lab::new();
    let gateways = [1, 2].map(|site| lab.gateway(site, &READABLE).with("--crypto-threads", "1"));
    let [d1, d2] = [gateways[0].start(), gateways[1].start()];
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("protected UDP", || echo.udp(&lab.h1, H2[0], b"before"));
    let (wire, behind) = (lab.capture(), Capture::start(&lab.h2, "eth0"));
    let before = d1.status().workers[0].sealed;
    d2.frozen_while(|| {
        d1.frozen_while(|| flood(&lab));
        let own = |packet: &&Ip| packet.esp().is_some_and(|(spi, _)| spi == 0x1001);
        wait_until("the sealed flood", || {
            wire.packets().iter().filter(own).count() >= FLOOD as usize
        });
    });
    wait_until("the opened flood", || numbers(&behind).len() >= FLOOD as usize);
    assert_eq!(numbers(&behind), (0..FLOOD).collect::<Vec<_>>());

    let packets = wire.packets();
    assert_eq!(clear(&packets).len(), 0, "clear on the wire");
    let sequences: Vec<u32> = packets
        .iter()
        .filter_map(Ip::esp)
        .filter(|(spi, _)| *spi == 0x1001)
        .map(|(_, sequence)| sequence)
        .collect();
    assert!(
        sequences.is_sorted_by(|before, after| before + 1 == *after),
        "{sequences:?}"
    );
    let opened = tshark::open(
        &wire.frames(),
        &[(G1[0], G2[0], 0x1001, "a"), (G2[0], G1[0], 0x1002, "b")].map(
            |(source, destination, spi, name)| Key {
                source,
                destination,
                spi,
                key: lab.key(name),
            },
        ),
        lab.folder.path(),
    );
    assert!(opened.esp >= FLOOD.into());
    assert_eq!(opened.authentic, opened.esp, "{opened:?}");

    // It went through the threads, most of it, and what came before did not.
    let [sent, received] = [d1.status(), d2.status()].map(|status| status.workers[0].clone());
    assert!(sent.shared > u64::from(FLOOD) / 2, "{sent:?}");
    assert!(sent.shared <= sent.sealed + sent.opened - before, "{sent:?}");
    assert!(received.shared > u64::from(FLOOD) / 2, "{received:?}");
    for daemon in [d1, d2] {
        let (status, log) = daemon.stop();
        assert!(status.success(), "{log}");
    }
}

#[test]
fn a_crypto_thread_that_hangs_is_named_and_the_worker_goes_on() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default()).with("--crypto-threads", "1");
    let daemon = gateway.start();
    let _d2 = lab.gateway(2, &Policy::default()).start();
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("protected UDP", || echo.udp(&lab.h1, H2[0], b"before"));
    let thread = panic::crypto_thread(daemon.pid());
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    let started = Instant::now();
    wait_until("the thread's name", || {
        daemon.log().contains("crypto thread 0 of worker 0 is stuck: ")
    });
    assert!(started.elapsed() < Duration::from_secs(10));
    let status = daemon.status();
    assert_eq!(status.workers[0].stuck_crypto_threads, [0]);
    assert_eq!(status.workers[0].stuck_seconds, None);
    let shown = succeeded(&gateway.client("status").output().unwrap());
    assert!(shown.contains("worker 0: crypto thread 0 is STUCK"), "{shown}");
    // The worker does itself what the thread has not begun.
    assert!(echo.udp_surely(&lab.h1, H2[0], b"meanwhile"));
    daemon.frozen_while(|| flood(&lab));
    wait_until("the flood to be sealed all the same", || {
        daemon.status().workers[0].sealed >= FLOOD.into()
    });
    assert!(daemon.status().workers[0].shared > 0);
    // Policies come into force meanwhile.
    gateway.applied(&Policy::default().text(1), &[]);
    assert!(echo.udp_surely(&lab.h1, H2[0], b"after a change"));
    ptrace::detach(thread, None).unwrap();
    wait_until("the thread to go on", || {
        daemon
            .log()
            .contains("crypto thread 0 of worker 0 goes on, after ")
    });
    assert!(daemon.status().workers[0].stuck_crypto_threads.is_empty());
    let (status, log) = daemon.stop();
    assert!(status.success(), "{log}");
}

#[test]
fn a_crypto_thread_that_panics_ends_the_engine_and_leaves_it_closed() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default()).with("--crypto-threads", "1");
    let daemon = gateway.start();
    let _d2 = lab.gateway(2, &Policy::default()).start();
    let (protected, permitted) = (Echo::start(&lab.h2, PORT), Echo::start(&lab.h2, CLEAR_PORT));
    wait_until("protected UDP", || protected.udp(&lab.h1, H2[0], b"protected"));
    let pins = gateway.pins();
    panic::in_crypto_thread(daemon.pid());
    let (status, log) = daemon.ended();
    assert!(!status.success(), "{log}");
    assert!(
        log.contains(panic::MESSAGE) && log.contains("a crypto thread of worker 0 panicked"),
        "{log}"
    );
    assert_eq!(gateway.pins(), pins);
    assert!(!protected.udp(&lab.h1, H2[0], b"protected"));
    wait_until("permitted UDP", || permitted.udp(&lab.h1, H2[0], b"permitted"));
    let _daemon = gateway.start();
    wait_until("protected UDP again", || {
        protected.udp(&lab.h1, H2[0], b"protected")
    });
}
