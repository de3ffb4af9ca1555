//! Two gateways and everything that goes through their tunnel.

use crate::support::capture::{Capture, assert_sequence_numbers_fresh, clear};
use crate::support::daemon::Gateway;
use crate::support::echo::Echo;
use crate::support::lab::{CLEAR_PORT, G1, H1, H2, Lab, PORT, Pair, Policy};
use crate::support::wait_until;

/// Ping both ways, UDP and TCP over both families inside; returns the wire's capture.
fn exercise(lab: &Lab, policy: &Policy) -> Capture {
    exercise_pair(lab, &lab.start(policy))
}

/// The same with gateways that run.
pub(crate) fn exercise_pair(lab: &Lab, pair: &Pair<'_>) -> Capture {
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
        wait_until("the worker to count what its SAs do", || {
            let status = daemon.status();
            let (out, inward) = (&status.connections[0].outbound, &status.connections[0].inbound);
            assert!(out.packets > 1000 && inward.packets > 1000, "{status:?}");
            status.workers[0].sealed == out.packets && status.workers[0].opened == inward.packets
        });
    }
    capture
}

#[test]
fn a_tunnel_over_ipv4_carries_both_families() {
    exercise(&Lab::new(), &Policy::default());
}

/// Devices of containers say that they complete checksums, and leave that to whoever is last.
#[test]
fn hosts_that_leave_checksums_to_their_device_are_carried() {
    let lab = Lab::new();
    for host in [&lab.h1, &lab.h2] {
        host.run("ethtool", &["-K", "eth0", "tx", "on"]);
    }
    exercise(&lab, &Policy::default());
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

/// One algorithm of each kind: other IVs, ICVs, blocks, providers.
#[test]
fn tunnels_of_every_kind_of_algorithm_carry_both_families() {
    let mut lab = Lab::new();
    for algorithm in [
        "aes-128-gcm-8",
        "chacha20-poly1305",
        "aes-256-ccm",
        "aes-192-gmac",
        "aes-256-cbc-hmac-sha2-512",
        "aes-128-ctr-hmac-sha1",
        "null-hmac-sha2-384",
    ] {
        lab.for_algorithm(algorithm);
        let policy = Policy {
            algorithm,
            ..Policy::default()
        };
        exercise(&lab, &policy);
    }
}

#[test]
fn the_authentication_header_carries_both_families() {
    let mut lab = Lab::new();
    for (algorithm, outer) in [("null-hmac-sha2-256", 0), ("aes-256-gmac", 1)] {
        lab.for_algorithm(algorithm);
        let policy = Policy {
            outer,
            algorithm,
            connection: "protocol = \"ah\"",
            ..Policy::default()
        };
        let packets = exercise(&lab, &policy).packets();
        let sealed: Vec<_> = packets.iter().filter(|packet| packet.esp().is_some()).collect();
        assert!(sealed.iter().all(|packet| packet.protocol == 51));
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

/// Of a fragmented datagram only the first fragment shows the ports that the rules ask for.
#[test]
fn fragments_follow_the_rule_of_their_ports() {
    let lab = Lab::new();
    let by_ports = |site: usize| {
        let (there, side) = if site == 1 {
            (2, "destination")
        } else {
            (1, "source")
        };
        let text = Policy::default().text(site);
        let whole = format!("destination = \"10.{there}.0.0/16\" }}");
        assert!(text.contains(&whole));
        let limited =
            format!("destination = \"10.{there}.0.0/16\", protocol = \"udp\", {side}-port = {PORT} }}");
        text.replacen(&whole, &limited, 1)
    };
    let gateways = [
        Gateway::new(&lab.g1, lab.folder.path(), &by_ports(1)),
        Gateway::new(&lab.g2, lab.folder.path(), &by_ports(2)),
    ];
    let _daemons = gateways.each_ref().map(Gateway::start);
    let capture = lab.capture();
    let (permitted, protected) = (Echo::start(&lab.h2, CLEAR_PORT), Echo::start(&lab.h2, PORT));
    wait_until("protected fragments", || {
        protected.udp(&lab.h1, H2[0], &[7; 4000])
    });
    let packets = capture.packets();
    assert!(
        clear(&packets).is_empty(),
        "clear on the wire: {:?}",
        clear(&packets)
    );
    wait_until("permitted fragments", || {
        permitted.udp(&lab.h1, H2[0], &b"for all to see".repeat(300))
    });
    // None of the later fragments went the way of the protect rule, which they match but for their ports.
    let is_clear = |frame: &[u8]| frame.windows(14).any(|bytes| bytes == b"for all to see");
    wait_until("six clear fragments, there and back", || {
        let frames = capture.frames();
        frames.iter().filter(|seen| is_clear(&seen.frame)).count() >= 6
    });
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
