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
        "--allow-lockout",
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
    let arguments = ["servers.toml", "--management", "10.1.0.9", "--me", "10.0.0.1"];
    let wanted = "rule `servers` wants it inside connection `servers`";
    let text = warnings(&[&arguments[..], &["--allow-lockout"]].concat());
    assert!(text.contains(wanted) && text.contains("; 1 warning"), "{text}");
    let refused = ravelin(&[&["check", "--without-keys"], &arguments[..]].concat());
    assert_eq!(refused.status.code(), Some(1));
    let errors = String::from_utf8(refused.stderr).expect("text");
    assert!(
        errors.contains(wanted) && errors.contains("`--allow-lockout`"),
        "{errors}"
    );
}

#[test]
fn management_needs_to_know_whom_it_is_to_reach() {
    let output = ravelin(&["check", "servers.toml", "--management", "198.51.100.7"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.contains("Give it with --me"), "{errors}");
}

/// Over SSH the session's two ends are who manages the machine, and which it is. Its own lifeline spares it, unless the policy
/// does not want that.
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
    let checked = |policy: &str, session: &str, code: i32| {
        std::fs::write(&path, policy).expect("the policy can be written");
        let output = Command::new(env!("CARGO_BIN_EXE_ravelin"))
            .args(["check", "--without-keys"])
            .arg(&path)
            .env("SSH_CONNECTION", session)
            .output()
            .expect("ravelin runs");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        assert_eq!(output.status.code(), Some(code), "{text}");
        text
    };
    let check = |session: &str| checked(POLICY, session, 0);
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
        assert!(text.contains("this SSH session itself gets"), "{session}: {text}");
        let text = checked(
            &(POLICY.to_owned() + "[lifeline]\nssh-session = false\n"),
            session,
            1,
        );
        assert!(
            text.contains(&expected) && !text.contains("itself gets"),
            "{session}: {text}"
        );
        // What it advises helps.
        let (_, advice) = text.split_once("`[lifeline]`: ").expect("advice");
        let filter = advice.lines().next().expect("a line");
        let lifeline = format!("[lifeline]\nfilters = [{filter}]\nssh-session = false\n");
        let text = checked(&(POLICY.to_owned() + &lifeline), session, 0);
        assert!(text.contains("; no warnings"), "{session}: {text}");
    }
    assert!(check("none of this").contains("is not checked"));
}

/// sudo takes the variable away, and `su -` everything; the shell that called them still has it.
#[test]
fn a_session_is_known_behind_whoever_takes_the_variable_away() {
    let output = |without: &str| {
        // A shell in between, as there is one behind both.
        let script =
            format!("{without} sh -c '\"$0\" check --without-keys servers.toml; exit $?' \"$0\"; exit $?");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_ravelin")])
            .current_dir(crate::golden::folder())
            .env("SSH_CONNECTION", "10.1.0.9 50000 10.0.0.1 22")
            .output()
            .expect("ravelin runs");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).expect("text")
    };
    for without in ["", "env -u SSH_CONNECTION", "env -i"] {
        let said = output(without);
        assert!(
            said.contains("the management of 10.0.0.1 from 10.1.0.9 (TCP port 22)"),
            "{without}: {said}"
        );
    }
    // Whoever wants none says so.
    assert_eq!(output("env SSH_CONNECTION="), "");
}

/// What `run` and `apply` refuse without a look at the machine, in their words.
#[test]
fn what_an_engine_would_refuse_is_refused() {
    const RULES: &str = r#"
[connections.c]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.c.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1001, key-file = "a.key" }
inbound = { spi = 0x2001, key-file = "b.key" }
[filter-lists.f]
filters = [{ source = "10.1.0.0/16", destination = "10.2.0.0/16" }]
[[rules]]
name = "r"
filter-list = "f"
action = "protect"
connection = "c"
"#;
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("policy.toml");
    let checked = |policy: &str, code: i32| {
        std::fs::write(&path, policy).expect("the policy can be written");
        let output = ravelin(&["check", "--without-keys", path.to_str().expect("text")]);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{policy}\n{text}");
        text
    };
    let with = |line: &str| RULES.replace("mode = \"tunnel\"", &format!("mode = \"tunnel\"\n{line}"));
    let host = RULES
        .replace("tunnel", "transport")
        .replace("10.1.0.0/16", "192.0.2.1")
        .replace("10.2.0.0/16", "192.0.2.2");
    let gateway = "[interfaces]\nouter = \"out0\"\ninner = \"in0\"\n";
    checked(RULES, 0);
    checked(&with("path-mtu = 700"), 0);
    assert!(checked(&host, 0).contains("start with `ravelin run --mode host`"));
    for (policy, words) in [
        (" \n".to_owned(), "the policy is empty"),
        (
            with("encapsulation = \"udp\"\nlocal-port = 5000"),
            ":2:1: connection `c`: UDP-encapsulated ESP needs local-port 4500",
        ),
        (
            with("path-mtu = 600"),
            ":2:1: connection `c`: path-mtu 600 leaves 546 for packets inside, and 576 are needed",
        ),
        (
            gateway.to_owned() + &host,
            ":5:1: connection `c`: transport mode protects this host's own packets",
        ),
    ] {
        let said = checked(&policy, 1);
        let words = format!(
            "{}{}{words}",
            path.display(),
            if words.starts_with(':') { "" } else { ": " }
        );
        assert!(said.contains(&words), "{words}\n{said}");
    }
}
