//! One key in two instances of a machine, or under two state folders, would repeat nonces.

use std::io::ErrorKind;
use std::path::Path;

use crate::support::capture::assert_sequence_numbers_fresh;
use ravelin_engine::SaState;

use crate::support::daemon::{Gateway, NUMBERS, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::hosts::Hosts;
use crate::support::lab::{H2, Lab, PORT, Policy, keygen};
use crate::support::wait_until;

#[test]
fn what_one_instance_has_sealed_with_no_other_seals_with() {
    let lab = Lab::new();
    let policy = Policy::default();
    let (a, b) = (lab.gateway(1, &policy), lab.gateway(1, &policy));
    let refused = |what: &str| {
        let said = b.refused();
        for part in [
            "connection `c`: static.outbound.key-file",
            &format!("instance `{}`", a.instance),
            "ravelin keygen",
        ] {
            assert!(said.contains(part), "{what}: {said}");
        }
    };
    let daemon = a.start();
    refused("while it runs");
    // Nor does it help to take the memory away.
    let numbers = Path::new(NUMBERS).join(&a.instance);
    // Where it pins one again before the folder goes, that stays.
    match std::fs::remove_dir_all(&numbers) {
        Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => panic!("{error}"),
        _ => {}
    }
    wait_until("the numbers to be pinned again", || {
        std::fs::read_dir(&numbers).is_ok_and(|pages| pages.count() > 0)
    });
    refused("after its pins were deleted");
    // Whoever was refused has left no trace.
    daemon.kill();
    let daemon = a.start();
    daemon.kill();
    refused("when it is dead");
    succeeded(&a.detach());
    refused("when its filter is gone");
    let daemon = a.start();

    // Its own key it may have.
    let key = lab.folder.path().join("a.key");
    std::fs::remove_file(&key).unwrap();
    keygen(&key, "aes-256-gcm");
    drop(daemon);
    succeeded(&a.detach());
    drop(b.start());

    // Now it is the other one's turn to be refused.
    succeeded(&b.detach());
    let said = a.refused();
    assert!(said.contains(&format!("instance `{}`", b.instance)), "{said}");
}

/// A device that cannot be served is found out late: keys are noted, workers run. None of them has sealed.
#[test]
fn a_start_that_is_refused_leaves_its_keys_to_others() {
    let hosts = Hosts::new(true);
    hosts.a.ip("link add name br7 type bridge\nlink set br7 up");
    for edge in ["tun", "veth"] {
        let mut refused = hosts.host(0, str::to_owned).with("--host-edge", edge);
        refused.extra.drain(2..4);
        refused.outer = "br7".to_owned();
        let said = refused.refused();
        assert!(said.contains("device br7"), "{said}");
        // Nor has anything become of its numbers: the same again begins with the first.
        assert_eq!(refused.refused(), said);
    }
    let daemon = hosts.host(0, str::to_owned).start();
    assert_eq!(daemon.status().connections[0].outbound.state, SaState::InUse);
    daemon.kill();
}

/// Two that could not see each other when they began, because somebody had taken the notes of one away.
#[test]
fn of_two_that_began_unseen_none_seals_after_the_other() {
    let lab = Lab::new();
    let policy = Policy::default();
    let (a, b) = (
        lab.gateway(1, &policy),
        Gateway::new(&lab.g2, lab.folder.path(), &policy.text(1)),
    );
    let first = a.start();
    wait_until("the first to seal", || {
        lab.h1.ping(H2[0]);
        first.status().connections[0].outbound.packets > 0
    });
    let second = first.frozen_while(|| {
        std::fs::remove_dir_all(Path::new(NUMBERS).join(&a.instance)).unwrap();
        let second = b.start();
        assert_eq!(second.status().connections[0].outbound.state, SaState::InUse);
        second
    });
    let said = format!(
        "connection `c`: instance `{}` on this machine seals with the key of its outbound SA 0x00001001 too",
        a.instance
    );
    wait_until("the second to see the first", || second.log().contains(&said));
    wait_until("the SA to be gone", || {
        second.status().connections[0].outbound.state == SaState::Deleted
    });
    // What has sealed has left a note, so a start does not help.
    second.kill();
    let said = refusal(&b.command().output().unwrap());
    assert!(said.contains(&format!("instance `{}`", a.instance)), "{said}");
}

#[test]
fn another_state_folder_repeats_no_number() {
    let lab = Lab::new();
    let policy = Policy::default();
    let (mut g1, g2) = (lab.gateway(1, &policy), lab.gateway(2, &policy));
    let _d2 = g2.start();
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    for round in 0..3 {
        let daemon = g1.start();
        wait_until("protected UDP", || echo.udp(&lab.h1, H2[0], b"protected"));
        daemon.kill();
        if round == 1 {
            succeeded(&g1.detach());
            assert!(Path::new(NUMBERS).join(&g1.instance).exists());
        }
        let other = lab.folder.path().join(format!("state-{round}"));
        g1 = g1.with("--state-dir", other.to_str().unwrap());
        g1.extra.drain(..g1.extra.len() - 2);
    }
    assert!(assert_sequence_numbers_fresh(&capture.packets()) >= 6);
}

#[test]
fn who_cannot_note_its_keys_does_not_seal() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default());
    // Others who look find nothing there.
    let folder = Path::new(NUMBERS).join(&gateway.instance);
    std::fs::create_dir_all(NUMBERS).unwrap();
    std::os::unix::fs::symlink("nowhere", &folder).unwrap();
    let said = gateway.refused();
    assert!(said.contains(NUMBERS), "{said}");
    std::fs::remove_file(&folder).unwrap();
    drop(gateway.start());
}
