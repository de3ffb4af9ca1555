//! Gateways whose sockets the crate xsk-rs has: `cargo test -p ravelin --features xsk-rs --test gateway xsk_rs`.

use std::fs;

use crate::support::daemon::Daemon;
use crate::support::echo::Echo;
use crate::support::lab::{H1, H2, Lab, PORT, Policy};
use crate::support::wait_until;
use crate::tunnel::exercise_pair;

const XSK_RS: &[[&str; 2]] = &[["--af-xdp", "xsk-rs"]];

/// Whether it has packet memory as that crate maps it: anonymous and shared, which shows as a file that is gone. Ravelin's own is
/// private.
fn has_shared_memory(daemon: &Daemon) -> bool {
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    maps.lines().any(|line| {
        line.contains("/dev/zero (deleted)")
            || line.contains("/anon_hugepage (deleted)") && line.contains("rw-s")
    })
}

#[test]
fn a_tunnel_by_xsk_rs_carries_both_families() {
    let lab = Lab::new();
    let policy = Policy::default();
    let pair = lab.start_with(&policy, XSK_RS);
    for daemon in [&pair.d1, &pair.d2] {
        assert!(has_shared_memory(daemon), "{}", daemon.log());
        assert!(daemon.log().contains("AF_XDP by xsk-rs"), "{}", daemon.log());
    }
    exercise_pair(&lab, &pair);
}

#[test]
fn without_the_option_ravelin_has_its_own_sockets() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default());
    let daemon = gateway.start();
    assert!(!has_shared_memory(&daemon), "{}", daemon.log());
    assert!(!daemon.log().contains("xsk-rs"), "{}", daemon.log());
}

/// Chunks have 4,096 bytes, and xsk-rs sends from the 256th on: what is longer goes in pieces.
#[test]
fn jumbo_packets_go_through_xsk_rs() {
    let lab = Lab::with_mtus([9000; 2], 9000);
    let pair = lab.start_with(&Policy::default(), XSK_RS);
    let echo = Echo::start(&lab.h2, PORT);
    for family in [0, 1] {
        wait_until("ping", || lab.h1.ping(H2[family]) && lab.h2.ping(H1[family]));
        for length in (3600..4120).step_by(16).chain([7600, 7680, 8700]) {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 % 253) as u8).collect();
            wait_until("UDP", || echo.udp(&lab.h1, H2[family], &bytes));
        }
        echo.tcp(&lab.h1, H2[family], 1 << 20);
    }
    for daemon in [&pair.d1, &pair.d2] {
        assert_eq!(daemon.drops("no_frame"), 0, "{:?}", daemon.all_drops());
        assert_eq!(daemon.status().workers[0].fragmented, 0);
    }
}
