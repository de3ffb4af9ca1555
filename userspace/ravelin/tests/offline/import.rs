//! `ravelin import` and `ravelin export`.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::golden::{ravelin, stdout};

/// Scripts of the import crate's own tests.
const SECURE_SERVER: &str = "../../../import/tests/netsh/secure-server.cmd";
const SITE_TO_SITE: &str = "../../../import/tests/netsh/site-to-site.netsh";

fn errors(arguments: &[&str], code: i32) -> String {
    let output = ravelin(arguments);
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{errors}");
    errors
}

#[test]
fn what_is_imported_can_be_checked_and_exported() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = folder.path().join("site.toml").display().to_string();
    let told = errors(&["import", "netsh", SITE_TO_SITE, "-o", &policy], 0);
    assert!(told.contains("site-to-site.netsh:12: "), "{told}");
    let told = stdout(&["check", &policy, "--without-keys"], 0);
    assert!(told.contains("2 rules"), "{told}");
    let script = stdout(&["export", "netsh", "--policy", &policy], 0);
    assert!(
        script.contains("tunnel=192.0.2.2\r\n") && script.contains("tunnel=192.0.2.1\r\n"),
        "{script}"
    );
}

#[test]
fn strict_writes_nothing_when_something_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = folder.path().join("server.toml");
    let name = policy.display().to_string();
    let told = errors(&["import", "netsh", SECURE_SERVER, "--strict", "-o", &name], 1);
    assert!(
        told.contains("secure-server.cmd:12: WINS") && told.contains("--strict"),
        "{told}"
    );
    assert!(!policy.exists());
    // Without it, the same is told and written.
    let output = ravelin(&["import", "netsh", SECURE_SERVER]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("#   line 12: WINS"), "{text}");
    let told = String::from_utf8(output.stderr).expect("text");
    for secret in ["correct", "horse", "battery", "staple"] {
        assert!(!text.contains(secret) && !told.contains(secret), "{secret}");
    }
}

#[test]
fn standard_input_is_a_file() {
    for (arguments, input, expected) in [
        (
            &["import", "nft", "-"][..],
            "table ip t {\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy drop;\n\t\ttcp dport 22 accept\n\t}\n}\n",
            "destination-port = 22",
        ),
        (
            &["import", "iptables-save", "-", "--local", "192.0.2.1"],
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -d 192.0.2.1/32 -p udp --dport 53 -j ACCEPT\nCOMMIT\n",
            "destination = \"192.0.2.1\"",
        ),
        (
            &["import", "classbench", "-", "--actions", "block"],
            "@10.0.0.0/8 0.0.0.0/0 0 : 65535 0 : 65535 0x06/0xFF\n",
            "name=\"rule-1\",filter-list=\"1\",action=\"block\"",
        ),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ravelin"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ravelin runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("ravelin reads");
        drop(stdin);
        let output = child.wait_with_output().expect("an end");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(
            output.status.success() && text.contains(expected),
            "{arguments:?}\n{text}"
        );
    }
}

#[test]
fn what_is_no_rule_set_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad");
    let name = file.display().to_string();
    let languages = ["netsh", "nft", "iptables-save", "classbench"];
    for (bytes, told) in [
        (&b"\n\xff\xfe\n"[..], ":2: not UTF-8"),
        (b"a\nb\n\0", ":3: a NUL byte"),
        (b"\xff\xfea", "middle of a character"),
    ] {
        fs::write(&file, bytes).expect("a file");
        for language in languages {
            let errors = errors(&["import", language, &name], 1);
            assert!(
                errors.contains(told) && errors.contains("bad"),
                "{language}: {errors}"
            );
        }
    }
    // A gigabyte that takes no room on the disk.
    File::create(&file)
        .and_then(|file| file.set_len(1 << 30))
        .expect("a large file");
    for language in languages {
        let errors = errors(&["import", language, &name], 1);
        assert!(errors.contains("larger than 64 MiB"), "{language}: {errors}");
    }
    let errors = errors(&["import", "nft", &folder.path().display().to_string()], 1);
    assert!(errors.contains("this is a directory"), "{errors}");
}
