//! Rekeys that are cut short, refused, or disturbed: nothing stays half done, and no sequence number comes twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ravelin_engine::{SaDirection, SaEntry, SaState};

use crate::make_before_break::{gateway, lab, policy, spis};
use crate::support::capture::assert_sequence_numbers_fresh;
use crate::support::daemon::{Gateway, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{G1, H2, PORT};
use crate::support::{Raise, wait_until};

/// What SAs there are, in order.
fn list(gateway: &Gateway<'_>) -> Vec<(SaDirection, u32, SaState)> {
    let entries: Vec<SaEntry> = serde_json::from_str(&succeeded(&gateway.sa(&["list", "--json"]))).unwrap();
    entries
        .iter()
        .map(|entry| (entry.direction, entry.sa.spi, entry.sa.state))
        .collect()
}

/// Killed at many moments of an apply, and started again with the policy before or after it. What it seals is seen on the
/// wire; each SPI has a key of its own.
#[test]
fn a_daemon_killed_while_it_is_rekeyed_repeats_no_sequence_number() {
    const ROUNDS: u32 = 18;
    let lab = lab();
    let g1 = gateway(&lab, 1, 0);
    // From now on a filter stands, whether a daemon runs or not.
    g1.start().kill();
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = Raise(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                echo.udp_one_way(&lab.h1, H2[0], b"all the time");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mut generation = 1;
        for round in 0..ROUNDS {
            let daemon = g1.start();
            let mark = capture.mark();
            let sealing = (generation << 12 | 1) as u32;
            wait_until("ESP under the policy's SA", || {
                spis(&capture, G1, mark).contains(&sealing)
            });
            let next = generation % 3 + 1;
            std::fs::write(g1.other_policy(), policy(1, next, round % 2)).unwrap();
            let mut applying = g1.client("apply").arg(g1.other_policy()).spawn().unwrap();
            // From before the policy is read until after it is in force.
            std::thread::sleep(Duration::from_millis(u64::from(round * 7 % ROUNDS) * 12));
            daemon.kill();
            applying.wait().unwrap();
            if round % 3 != 0 {
                generation = next;
            }
            std::fs::write(&g1.policy, policy(1, generation, 0)).unwrap();
        }
        drop(stopping);
    });
    let packets = capture.packets();
    assert!(
        packets.iter().all(|packet| packet.ports().is_none()),
        "clear on the wire"
    );
    assert!(assert_sequence_numbers_fresh(&packets) > ROUNDS as usize);
    let mut sealed = spis(&capture, G1, 0);
    sealed.sort_unstable();
    assert_eq!(sealed, [0x1001, 0x2001, 0x3001]);
}

/// Without a mark on disk no new SA may send, so there is none.
#[test]
fn a_rekey_that_cannot_be_recorded_changes_nothing() {
    let lab = lab();
    let (g1, g2) = (gateway(&lab, 1, 60), gateway(&lab, 2, 60));
    let (d1, _d2) = (g1.start(), g2.start());
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("the tunnel", || echo.udp(&lab.h1, H2[0], b"before"));
    let before = (list(&g1), d1.status().policy);
    std::fs::remove_dir_all(g1.state()).unwrap();
    let said = refusal(&g1.apply(&policy(1, 2, 60), &[]));
    assert!(said.contains("cannot record how far keys are used"), "{said}");
    assert_eq!((list(&g1), d1.status().policy), before);
    assert!(
        d1.status()
            .last_error
            .unwrap()
            .contains("cannot record how far keys are used")
    );
    wait_until("the tunnel", || echo.udp(&lab.h1, H2[0], b"after"));
    // Nor does anything of it turn up later.
    let said = refusal(&g1.apply(&policy(1, 2, 60), &[]));
    assert!(said.contains("cannot record how far keys are used"), "{said}");
    assert_eq!(list(&g1), before.0);
}

/// What is refused, only tried, or the same again, leaves a rekey under way as it is.
#[test]
fn a_rekey_goes_on_whatever_is_asked_meanwhile() {
    use SaDirection::{Inbound, Outbound};
    let lab = lab();
    let g1 = gateway(&lab, 1, 600);
    let d1 = g1.start();
    g1.applied(&policy(1, 2, 600), &[]);
    let under_way = [
        (Outbound, 0x1001, SaState::InUse),
        (Outbound, 0x2001, SaState::Next),
        (Inbound, 0x2002, SaState::InUse),
        (Inbound, 0x1002, SaState::Old),
    ];
    assert_eq!(list(&g1), under_way);
    let third = policy(1, 3, 600);
    for (text, words) in [
        (
            third.replace("0x3002", "0xff"),
            &["SPI 255 is reserved", "use 256 to"][..],
        ),
        (third.replace("0x3001", "0"), &["SPI 0 is reserved", "use 256 to"]),
        (
            third.replace("0x3002", "0x1002"),
            &["static.inbound.spi 0x00001002", "an old SA of connection `c`"],
        ),
        (
            third.replace("0x3002", "0x2002"),
            &["static.inbound.spi 0x00002002", "the running connection `c`"],
        ),
        (third.replace("g.key", "h.key"), &["h.key` is already used"]),
        (
            third.replace("g.key", "a.key"),
            &["static.outbound.key-file", "an old SA of connection `c`"],
        ),
        // The other end's key.
        (
            third.replace("h.key", "a.key"),
            &["static.inbound.key-file", "an old SA of connection `c`"],
        ),
        (
            third.replace("g.key", "none.key"),
            &["none.key", "cannot open the key file"],
        ),
        (
            third.replace("aes-256-gcm", "aes-128-gcm"),
            &["g.key", "expected 40 hex digits"],
        ),
        (
            third.replace("aes-256-gcm", "aes-257-gcm"),
            &["aes-257-gcm", "aes-256-gcm"],
        ),
        (
            third.replace("rekey-grace = 600", "rekey-grace = -1"),
            &["from 0 to 3600"],
        ),
    ] {
        let said = refusal(&g1.apply(&text, &[]));
        for word in words {
            assert!(said.contains(word), "`{word}` is missing in: {said}");
        }
        assert_eq!(list(&g1), under_way, "{said}");
    }
    g1.applied(&third, &["--dry-run"]);
    assert_eq!(list(&g1), under_way);
    // The file in force again.
    std::fs::write(g1.other_policy(), policy(1, 2, 600)).unwrap();
    let generation = d1.status().policy.generation;
    d1.hang_up();
    wait_until("the file to be read again", || {
        d1.status().policy.generation > generation
    });
    assert_eq!(list(&g1), under_way);
}

/// Each SA is deleted once, whoever else wants that, and whatever is applied meanwhile.
#[test]
fn deletions_meet_each_other_and_a_rekey() {
    use SaDirection::{Inbound, Outbound};
    let lab = lab();
    let (g1, g2) = (gateway(&lab, 1, 600), gateway(&lab, 2, 600));
    let (_d1, _d2) = (g1.start(), g2.start());
    g2.applied(&policy(2, 2, 600), &[]);
    std::thread::scope(|scope| {
        let rekeying = scope.spawn(|| g1.applied(&policy(1, 2, 600), &[]));
        let deleting = ["0x1001", "0x1002"]
            .repeat(4)
            .into_iter()
            .map(|spi| (spi, scope.spawn(|| g1.sa(&["delete", spi]).status.success())));
        let deleting: Vec<_> = deleting.collect();
        let mut deleted: Vec<_> = deleting
            .into_iter()
            .filter_map(|(spi, deleting)| deleting.join().unwrap().then_some(spi))
            .collect();
        deleted.sort_unstable();
        assert_eq!(deleted, ["0x1001", "0x1002"]);
        rekeying.join().unwrap();
    });
    assert_eq!(
        list(&g1),
        [
            (Outbound, 0x2001, SaState::InUse),
            (Inbound, 0x2002, SaState::InUse)
        ]
    );
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("the new SAs to work", || echo.udp(&lab.h1, H2[0], b"new SAs"));
}
