//! `ravelin check`: what it warns about.

use crate::golden::{compare, ravelin};

fn warnings(arguments: &[&str]) -> String {
    let output = ravelin(&[&["check", "--without-keys"], arguments].concat());
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(0), "{errors}");
    errors + &String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_kind_of_warning_is_told_in_words() {
    let arguments = [
        "mistaken.toml",
        "--management",
        "198.51.100.7",
        "--me",
        "192.0.2.1",
    ];
    compare("check-mistaken.txt", &warnings(&arguments));
}

#[test]
fn a_good_policy_has_no_warnings() {
    for arguments in [
        &["servers.toml"][..],
        &["--policy", "servers.toml", "--management", "none"],
        &["servers.toml", "--management", "10.0.0.9:443", "--me", "10.0.0.1"],
    ] {
        let text = warnings(arguments);
        assert!(
            text.ends_with("; no warnings\n") && text.lines().count() == 1,
            "{text}"
        );
    }
}

#[test]
fn management_through_a_tunnel_only_is_locked_out() {
    let text = warnings(&["servers.toml", "--management", "10.1.0.9", "--me", "10.0.0.1"]);
    assert!(
        text.contains("rule `servers` wants it inside connection `servers`"),
        "{text}"
    );
}

#[test]
fn management_needs_to_know_whom_it_is_to_reach() {
    let output = ravelin(&["check", "servers.toml", "--management", "198.51.100.7"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.contains("Give it with --me"), "{errors}");
}
