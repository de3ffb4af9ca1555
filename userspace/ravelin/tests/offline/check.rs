//! `ravelin check`: what it warns about.

use std::process::Command;

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

/// Over SSH the session's two ends are who manages the machine, and which it is.
#[test]
fn a_session_of_ssh_is_what_must_not_be_locked_out() {
    const POLICY: &str = r#"
default = "block"
[filter-lists.ssh]
filters = [
    { source = "198.51.100.0/24", destination = "me", protocol = "tcp", destination-port = 22 },
    { source = "fe80::/64", destination = "me", protocol = "tcp", destination-port = 22 },
]
[[rules]]
name = "ssh"
filter-list = "ssh"
action = "permit"
"#;
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("remote.toml");
    std::fs::write(&path, POLICY).expect("the policy can be written");
    let check = |session: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_ravelin"))
            .args(["check", "--without-keys"])
            .arg(&path)
            .env("SSH_CONNECTION", session)
            .output()
            .expect("ravelin runs");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
    };
    for session in [
        "198.51.100.7 50000 192.0.2.1 22",
        "::ffff:198.51.100.7 50000 ::ffff:192.0.2.1 22",
        "fe80::7%eth0 50000 fe80::1%eth0 22",
    ] {
        let text = check(session);
        assert!(text.contains("; no warnings"), "{session}: {text}");
    }
    for (session, locked_out) in [
        ("198.51.101.7 50000 192.0.2.1 22", "192.0.2.1 from 198.51.101.7"),
        ("198.51.100.7 50000 192.0.2.1 2222", "192.0.2.1 from 198.51.100.7"),
        ("fe90::7%eth0 50000 fe80::1%eth0 22", "fe80::1 from fe90::7"),
    ] {
        let text = check(session);
        let expected = format!("this locks out the management of {locked_out}");
        assert!(text.contains(&expected), "{session}: {text}");
    }
    assert!(check("none of this").contains("is not checked"));
}
