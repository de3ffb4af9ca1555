//! SAs that come to the limits of their lives.

use ravelin_engine::{LimitKind, SaStatus};

use crate::support::capture::{Ip, assert_sequence_numbers_fresh, clear};
use crate::support::daemon::{Daemon, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{CLEAR_PORT, G1, H2, Lab, PORT, Policy, keygen};
use crate::support::wait_until;

/// The kind and the measure of the limit that an SA has reached.
fn reached(sa: &SaStatus) -> Option<(LimitKind, String)> {
    let reached = sa.lifetime.as_ref()?.reached.as_ref()?;
    Some((reached.kind, reached.measure.clone()))
}

/// The soft limit is told while everything goes on; at the hard one the SA stops, and nothing goes out in the clear instead.
#[test]
fn a_soft_limit_warns_and_a_hard_limit_stops() {
    let lab = Lab::new();
    for name in ["e.key", "f.key"] {
        keygen(&lab.folder.path().join(name), "aes-256-gcm");
    }
    let limited = Policy {
        keys: "lifetime = { soft-packets = 8, hard-packets = 16 }",
        ..Policy::default()
    };
    let (g1, g2) = (lab.gateway(1, &limited), lab.gateway(2, &Policy::default()));
    let (d1, _d2) = (g1.start(), g2.start());
    let (echo, clear_echo) = (Echo::start(&lab.h2, PORT), Echo::start(&lab.h2, CLEAR_PORT));
    // All know their neighbours then, and no packet was counted. One that came back late would have an answer, and that be sealed.
    assert!(clear_echo.udp_surely(&lab.h1, H2[0], b"in the clear"));
    let capture = lab.capture();
    let works = |text: &[u8]| echo.udp(&lab.h1, H2[0], text);
    let works_surely = |text: &[u8]| echo.udp_surely(&lab.h1, H2[0], text);
    let sequences = || -> Vec<u32> {
        let packets = capture.packets();
        let sent = packets
            .iter()
            .filter(|packet| G1.contains(&packet.source.to_string().as_str()));
        let esp = sent.filter_map(Ip::esp);
        esp.filter(|(spi, _)| *spi == 0x1001)
            .map(|(_, sequence)| sequence)
            .collect()
    };
    // Eight packets each way.
    for _ in 0..8 {
        assert_eq!(reached(&d1.status().connections[0].outbound), None);
        assert!(works_surely(b"before the soft limit"));
    }
    for direction in ["outbound SA 0x00001001", "inbound SA 0x00001002"] {
        let line = format!(
            "ravelin: connection `c`: the {direction} has reached its soft limit of packets; give the connection new SPIs"
        );
        wait_until("the warning", || d1.log().contains(&line));
    }
    let status = d1.status();
    let soft = Some((LimitKind::Soft, "packets".to_owned()));
    assert_eq!(reached(&status.connections[0].outbound), soft);
    assert_eq!(reached(&status.connections[0].inbound), soft);
    let text = succeeded(&g1.client("status").output().unwrap());
    assert!(text.contains("  soft limit of packets\n"), "{text}");

    for _ in 0..8 {
        assert!(works_surely(b"after the soft limit"));
    }
    d1.expect_drops("lifetime_expired", 2, || {
        assert!(!works(b"after the hard limit"));
        assert!(!works(b"after the hard limit"));
    });
    let mut numbers = sequences();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=16).collect::<Vec<u32>>());
    wait_until("the end in the log", || {
        d1.log()
            .contains("the outbound SA 0x00001001 has reached its hard limit of packets and has stopped")
    });
    assert_eq!(
        d1.log().matches("soft limit of packets").count(),
        2,
        "each is told once"
    );
    let text = succeeded(&g1.client("status").output().unwrap());
    assert!(text.contains("  stopped: hard limit of packets\n"), "{text}");

    // New SAs seal at once: waiting for the peer would save nothing.
    let renewed = |site| {
        Policy::default()
            .text(site)
            .replace("mode = ", "rekey-grace = 3600\nmode = ")
            .replace("a.key", "e.key")
            .replace("b.key", "f.key")
            .replace("0x100", "0x200")
    };
    g2.applied(&renewed(2), &[]);
    g1.applied(&renewed(1), &[]);
    wait_until("the new SAs to work", || works(b"new SAs"));
    let packets = capture.packets();
    assert!(
        clear(&packets).is_empty(),
        "clear on the wire: {:?}",
        clear(&packets)
    );
    assert_sequence_numbers_fresh(&packets);
}

/// RFC 4301 section 4.4.2.1: a limit of bytes is that of the key, and no restart makes it longer.
#[test]
fn a_limit_of_bytes_goes_on_with_the_next_engine() {
    let lab = Lab::new();
    let limited = Policy {
        keys: "lifetime = { soft-bytes = 1000, hard-bytes = 4000 }",
        ..Policy::default()
    };
    let (g1, g2) = (lab.gateway(1, &limited), lab.gateway(2, &Policy::default()));
    let _d2 = g2.start();
    let echo = Echo::start(&lab.h2, PORT);
    let text = [0x5a; 200];
    let works = || echo.udp(&lab.h1, H2[0], &text);
    let used = |daemon: &Daemon| {
        let connection = &daemon.status().connections[0];
        [&connection.outbound, &connection.inbound].map(|sa| {
            let lifetime = sa.lifetime.as_ref().expect("limits");
            lifetime.bytes.used
        })
    };
    let mut before = [0, 0];
    let mut daemon = g1.start();
    for round in 0..3 {
        let now = used(&daemon);
        assert!(
            now[0] >= before[0] && now[1] >= before[1],
            "round {round}: {now:?} after {before:?}"
        );
        wait_until("protected UDP", works);
        wait_until("it to be counted", || used(&daemon)[1] > now[1]);
        before = used(&daemon);
        let (status, log) = daemon.stop();
        assert!(status.success(), "{log}");
        daemon = g1.start();
    }
    // One engine alone could have sealed as many again.
    let soft = Some((LimitKind::Soft, "bytes".to_owned()));
    wait_until("the soft limit", || {
        reached(&daemon.status().connections[0].outbound) == soft
    });
}
