//! Connections get other SAs under traffic: the new ones are there before the old ones go, at both ends.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use ravelin_engine::{ConnectionStatus, SaState};

use crate::support::capture::{Capture, Ip, assert_sequence_numbers_fresh, clear};
use crate::support::daemon::{Daemon, Gateway, refusal};
use crate::support::echo::Echo;
use crate::support::lab::{G1, G2, H1, H2, Lab, PORT, Policy, keygen};
use crate::support::namespace::Namespace;
use crate::support::{PATIENCE, Raise, wait_longer, wait_until};

/// The policy of a site with the pair of SAs of a generation, 1 to 3, and a grace time in seconds.
pub(crate) fn policy(site: usize, generation: usize, grace: u32) -> String {
    let (a, b) = [("a", "b"), ("e", "f"), ("g", "h")][generation - 1];
    let text = Policy::default()
        .text(site)
        .replace("mode = ", &format!("rekey-grace = {grace}\nmode = "))
        .replace("a.key", &format!("{a}.key"))
        .replace("b.key", &format!("{b}.key"))
        .replace("0x100", &format!("0x{generation}00"));
    if generation == 2 {
        text.replace("aes-256-gcm", "aes-128-gcm")
    } else {
        text
    }
}

pub(crate) fn lab() -> Lab {
    let lab = Lab::new();
    for (name, algorithm) in [
        ("e.key", "aes-128-gcm"),
        ("f.key", "aes-128-gcm"),
        ("g.key", "aes-256-gcm"),
        ("h.key", "aes-256-gcm"),
    ] {
        keygen(&lab.folder.path().join(name), algorithm);
    }
    lab
}

pub(crate) fn gateway<'l>(lab: &'l Lab, site: usize, grace: u32) -> Gateway<'l> {
    let namespace = if site == 1 { &lab.g1 } else { &lab.g2 };
    Gateway::new(namespace, lab.folder.path(), &policy(site, 1, grace))
}

fn connection(daemon: &Daemon) -> ConnectionStatus {
    daemon.status().connections.remove(0)
}

/// SPIs of the ESP packets from a gateway, in the order of their first packets, after `mark`.
pub(crate) fn spis(capture: &Capture, gateway: [&str; 2], mark: usize) -> Vec<u32> {
    let mut spis = Vec::new();
    for seen in &capture.frames()[mark..] {
        let Some(packet) = Ip::parse(&seen.frame) else {
            continue;
        };
        if !gateway.contains(&packet.source.to_string().as_str()) {
            continue;
        }
        if let Some((spi, _)) = packet.esp()
            && !spis.contains(&spi)
        {
            spis.push(spi);
        }
    }
    spis
}

/// What became of numbered datagrams in one direction.
#[derive(Debug)]
struct Flow {
    sent: u32,
    /// Numbers in the order of their arrival.
    received: Vec<u32>,
}

impl Flow {
    /// Every datagram arrived, and arrived once.
    fn assert_whole(&self) {
        let mut received = self.received.clone();
        received.sort_unstable();
        assert!(self.sent > 100);
        let lost: Vec<u32> = (0..self.sent)
            .filter(|number| received.binary_search(number).is_err())
            .collect();
        assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), self.sent);
        assert_eq!(received.len(), self.sent as usize, "some arrived twice");
    }
}

/// Sends numbered datagrams to [`PORT`] both ways between h1 and h2 while `action` runs.
fn flows_while(lab: &Lab, action: impl FnOnce()) -> [Flow; 2] {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flows = [(&lab.h1, &lab.h2, H2), (&lab.h2, &lab.h1, H1)].map(|(from, to, address)| {
            let receiver = socket(to, SocketAddr::new(address[0].parse().unwrap(), PORT));
            let sender = socket(from, "0.0.0.0:0".parse().unwrap());
            sender.connect(receiver.local_addr().unwrap()).unwrap();
            let stop = &stop;
            let sending = scope.spawn(move || {
                let mut number = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    sender.send(&number.to_be_bytes()).unwrap();
                    number += 1;
                    std::thread::sleep(Duration::from_micros(500));
                }
                number
            });
            let receiving = scope.spawn(move || {
                let mut received = Vec::new();
                let mut buffer = [0; 16];
                loop {
                    match receiver.recv(&mut buffer) {
                        Ok(4) => received.push(u32::from_be_bytes(*buffer.first_chunk().unwrap())),
                        Ok(other) => panic!("{other} bytes"),
                        Err(_) if stop.load(Ordering::Relaxed) => return received,
                        Err(_) => {}
                    }
                }
            });
            (sending, receiving)
        });
        let stopping = Raise(&stop);
        action();
        drop(stopping);
        flows.map(|(sending, receiving)| Flow {
            sent: sending.join().unwrap(),
            received: receiving.join().unwrap(),
        })
    })
}

/// A socket that has room for what comes while its reader has no CPU.
pub(crate) fn socket(namespace: &Namespace, address: SocketAddr) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind(address).unwrap());
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket
}

fn pause(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Both ends get new SAs twice, within the grace time, each time the other one first. Traffic goes both ways, so each
/// end must not send under SAs that the other does not have yet.
#[test]
fn ends_that_are_rekeyed_one_after_the_other_lose_nothing() {
    const GRACE: u32 = 30;
    let lab = lab();
    let (g1, g2) = (gateway(&lab, 1, GRACE), gateway(&lab, 2, GRACE));
    let (d1, d2) = (g1.start(), g2.start());
    let capture = lab.capture();
    wait_until("the tunnel", || lab.h1.ping(H2[0]));
    let before = [d1.rule("sites"), d2.rule("sites")];

    let flows = flows_while(&lab, || {
        let started = Instant::now();
        let said = g1.applied(&policy(1, 2, GRACE), &[]);
        assert!(said.contains("connections rekeyed: c\n"), "{said}");
        let status = connection(&d1);
        assert_eq!(
            (status.outbound.spi, status.outbound.state),
            (0x1001, SaState::InUse)
        );
        assert_eq!(
            (status.next[0].spi, status.next[0].state),
            (0x2001, SaState::Next)
        );
        assert!((1..=15).contains(&status.next[0].seconds_left.unwrap()));
        assert_eq!(
            (status.inbound.spi, status.inbound.state),
            (0x2002, SaState::InUse)
        );
        assert_eq!((status.old[0].spi, status.old[0].state), (0x1002, SaState::Old));
        assert!((16..=30).contains(&status.old[0].seconds_left.unwrap()));
        let shown = g1.client("status").output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let line = |words: &[&str]| {
            let mut lines = shown.lines();
            lines.any(|line| words.iter().all(|word| line.contains(word)))
        };
        assert!(line(&["out", "0x00002001", "next, within"]), "{shown}");
        assert!(line(&["in", "0x00001002", "old, for"]), "{shown}");

        pause(1);
        g2.applied(&policy(2, 2, GRACE), &[]);
        pause(1);
        // The second time the other end is first, and nobody has switched yet.
        g2.applied(&policy(2, 3, GRACE), &[]);
        let status = connection(&d2);
        assert_eq!(status.outbound.spi, 0x1002);
        assert_eq!(
            status.next.iter().map(|sa| sa.spi).collect::<Vec<_>>(),
            [0x2002, 0x3002]
        );
        assert_eq!(
            status.old.iter().map(|sa| sa.spi).collect::<Vec<_>>(),
            [0x1001, 0x2001]
        );
        pause(1);
        g1.applied(&policy(1, 3, GRACE), &[]);
        assert!(
            started.elapsed() < Duration::from_secs(15),
            "the machine is too busy for this test"
        );
        for daemon in [&d1, &d2] {
            wait_longer(3 * PATIENCE, "the old SAs to go", || {
                let status = connection(daemon);
                (status.next.is_empty() && status.old.is_empty()).then_some(())
            });
        }
        pause(1);
    });
    for flow in &flows {
        flow.assert_whole();
    }
    // Each packet that was opened was counted once, whichever SA brought it.
    wait_until("all to be counted", || {
        let grown = [d1.rule("sites") - before[0], d2.rule("sites") - before[1]];
        let all = flows.iter().map(|flow| u64::from(flow.sent)).sum::<u64>();
        grown == [all, all]
    });
    assert_eq!(spis(&capture, G1, 0), [0x1001, 0x2001, 0x3001]);
    assert_eq!(spis(&capture, G2, 0).last(), Some(&0x3002));
    let packets = capture.packets();
    assert!(
        clear(&packets).is_empty(),
        "clear on the wire: {:?}",
        clear(&packets)
    );
    assert_sequence_numbers_fresh(&packets);
    for daemon in [&d1, &d2] {
        let status = connection(daemon);
        assert_eq!(status.outbound.spi & 0xff00, 0x3000);
        assert_eq!(daemon.drops("sa_missing"), 0);
    }
}

/// Old keys and SPIs are somebody's until their grace time is over, and then everybody's.
#[test]
fn an_old_sa_keeps_its_keys_and_spi_for_the_grace_time() {
    let lab = lab();
    let g1 = gateway(&lab, 1, 3);
    let d1 = g1.start();
    g1.applied(&policy(1, 2, 3), &[]);
    let before = d1.status().policy;
    let said = refusal(&g1.apply(&policy(1, 1, 3), &[]));
    for word in [
        "static.outbound.key-file",
        "a.key",
        "static.inbound.key-file",
        "b.key",
        "static.inbound.spi 0x00001002",
        "an old SA of connection `c`",
        "after a rekey",
    ] {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
    assert_eq!(d1.status().policy, before);
    assert_eq!(connection(&d1).inbound.spi, 0x2002);
    wait_until("the old SA to go", || connection(&d1).old.is_empty());
    g1.applied(&policy(1, 1, 0), &[]);
    let status = connection(&d1);
    // Without grace nothing stays.
    assert_eq!((status.outbound.spi, status.inbound.spi), (0x1001, 0x1002));
    assert!(status.next.is_empty() && status.old.is_empty());
}

/// While a policy is on trial the SAs before stay armed, however long that is, and come back at once.
#[test]
fn a_rekey_on_trial_goes_back_without_loss() {
    const GRACE: u32 = 8;
    let lab = lab();
    let (g1, g2) = (gateway(&lab, 1, GRACE), gateway(&lab, 2, GRACE));
    let (d1, d2) = (g1.start(), g2.start());
    let capture = lab.capture();
    wait_until("the tunnel", || lab.h1.ping(H2[0]));
    let flows = flows_while(&lab, || {
        g2.applied(&policy(2, 2, GRACE), &["--confirm", "3600"]);
        g1.applied(&policy(1, 2, GRACE), &["--confirm", "3600"]);
        let mark = capture.mark();
        wait_until("the new SAs to seal", || {
            spis(&capture, G1, mark).contains(&0x2001) && spis(&capture, G2, mark).contains(&0x2002)
        });
        // Longer than the grace time.
        pause(9);
        for daemon in [&d1, &d2] {
            let status = connection(daemon);
            assert!(status.old[0].seconds_left.unwrap() > 3000, "{status:?}");
        }
        assert!(g1.client("rollback").status().unwrap().success());
        assert_eq!(connection(&d1).outbound.spi, 0x1001);
        assert_eq!(connection(&d1).old[0].spi, 0x2002);
        assert!(g2.client("rollback").status().unwrap().success());
        for daemon in [&d1, &d2] {
            wait_until("the SAs of the trial to go", || connection(daemon).old.is_empty());
        }
        let mark = capture.mark();
        wait_until("the old SAs to seal", || !spis(&capture, G1, mark).is_empty());
        assert_eq!(spis(&capture, G1, mark), [0x1001]);
    });
    for flow in &flows {
        flow.assert_whole();
    }
    let packets = capture.packets();
    assert!(clear(&packets).is_empty());
    // Under the old keys the numbers go on; again with the new keys, they do so too.
    g2.applied(&policy(2, 2, 0), &[]);
    g1.applied(&policy(1, 2, 0), &[]);
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("UDP with the new keys", || echo.udp(&lab.h1, H2[0], b"again"));
    assert!(assert_sequence_numbers_fresh(&capture.packets()) >= 2);
}
