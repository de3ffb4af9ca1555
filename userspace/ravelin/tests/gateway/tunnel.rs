//! Two gateways and everything that goes through their tunnel.

use crate::support::capture::{Capture, assert_sequence_numbers_fresh, clear};
use crate::support::echo::Echo;
use crate::support::lab::{CLEAR_PORT, G1, H1, H2, Lab, PORT, Policy};
use crate::support::wait_until;

/// Ping both ways, UDP and TCP over both families inside; returns the wire's capture.
fn exercise(lab: &Lab, policy: &Policy) -> Capture {
    let pair = lab.start(policy);
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    for family in [0, 1] {
        wait_until("ping from site 1", || lab.h1.ping(H2[family]));
        wait_until("ping from site 2", || lab.h2.ping(H1[family]));
        wait_until("UDP", || echo.udp(&lab.h1, H2[family], &[7; 1200]));
        echo.tcp(&lab.h1, H2[family], 1 << 20);
    }
    let packets = capture.packets();
    assert!(
        clear(&packets).is_empty(),
        "clear on the wire: {:?}",
        clear(&packets)
    );
    // Two megabytes there and back.
    assert!(assert_sequence_numbers_fresh(&packets) > 2000);
    for daemon in [&pair.d1, &pair.d2] {
        let status = daemon.status();
        let (out, inward) = (&status.connections[0].outbound, &status.connections[0].inbound);
        assert!(out.packets > 1000 && inward.packets > 1000, "{status:?}");
        assert_eq!(status.workers[0].sealed, out.packets);
        assert_eq!(status.workers[0].opened, inward.packets);
    }
    capture
}

#[test]
fn a_tunnel_over_ipv4_carries_both_families() {
    exercise(&Lab::new(), &Policy::default());
}

#[test]
fn a_tunnel_over_ipv6_carries_both_families() {
    let policy = Policy {
        outer: 1,
        ..Policy::default()
    };
    let packets = exercise(&Lab::new(), &policy).packets();
    assert!(
        packets
            .iter()
            .filter(|packet| packet.esp().is_some())
            .all(|packet| packet.source.is_ipv6())
    );
}

#[test]
fn a_tunnel_in_udp_carries_both_families() {
    for outer in [0, 1] {
        let policy = Policy {
            outer,
            connection: "encapsulation = \"udp\"",
            ..Policy::default()
        };
        let packets = exercise(&Lab::new(), &policy).packets();
        let esp: Vec<_> = packets.iter().filter(|packet| packet.esp().is_some()).collect();
        assert!(esp.iter().all(|packet| packet.ports() == Some((4500, 4500))));
    }
}

#[test]
fn a_permitted_flow_is_clear_and_the_other_is_not() {
    let lab = Lab::new();
    let _pair = lab.start(&Policy::default());
    let capture = lab.capture();
    let (permitted, protected) = (Echo::start(&lab.h2, CLEAR_PORT), Echo::start(&lab.h2, PORT));
    for family in [0, 1] {
        wait_until("permitted UDP", || {
            permitted.udp(&lab.h1, H2[family], b"for all to see")
        });
        wait_until("protected UDP", || {
            protected.udp(&lab.h1, H2[family], b"for nobody to see")
        });
    }
    let frames = capture.frames();
    let holds = |text: &[u8]| {
        frames
            .iter()
            .any(|seen| seen.frame.windows(text.len()).any(|bytes| bytes == text))
    };
    assert!(holds(b"for all to see") && !holds(b"for nobody to see"));
}

#[test]
fn the_gateways_own_clear_packets_to_the_other_site_never_leave() {
    let lab = Lab::new();
    let pair = lab.start(&Policy::default());
    let capture = lab.capture();
    // From the address inside the protected network, so that the filter matches.
    pair.d1.expect_drops("clear_egress", 1, || {
        let arguments = ["-n", "-q", "-c1", "-W1", "-I", "10.1.0.1", H2[0]];
        assert!(!lab.g1.output("ping", &arguments).status.success());
    });
    pair.d1.expect_drops("clear_egress", 1, || {
        let arguments = ["-n", "-q", "-c1", "-W1", "-I", "fd01::1", H2[1]];
        assert!(!lab.g1.output("ping", &arguments).status.success());
    });
    assert!(clear(&capture.packets()).is_empty());
    // What the policy says nothing about goes as before.
    wait_until("ping between the gateways", || lab.g2.ping(G1[0]));
    wait_until("the ping on the wire", || !clear(&capture.packets()).is_empty());
}
