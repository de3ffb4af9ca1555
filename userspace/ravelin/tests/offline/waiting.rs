//! Files that would be waited for: pipes without a writer, devices, and what only calls itself a file.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::golden::{folder, stdout};

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a command that may hang, which is then ended.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    None
}

/// What a command says that must fail at once.
fn refused(arguments: &[&str]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ravelin runs");
    let status = ended(&mut child).unwrap_or_else(|| panic!("{arguments:?} waits"));
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8(output.stderr).expect("text");
    // 1 is an answer of `diff`.
    let failed = if arguments[0] == "diff" { 2 } else { 1 };
    assert_eq!(status.code(), Some(failed), "{arguments:?}: {said}");
    said
}

/// Every command that reads a file, with `FILE` in its place.
const COMMANDS: &[&[&str]] = &[
    &["check", "FILE"],
    &["diff", "FILE", "servers.toml"],
    &["diff", "servers.toml", "FILE"],
    &["explain", "--policy", "FILE", "tcp 10.0.0.5:1 -> 10.1.0.9:2"],
    &["explain", "--policy", "servers.toml", "--pcap", "FILE"],
    &["export", "netsh", "--policy", "FILE"],
    &["fmt", "FILE"],
    &["fmt", "--check", "FILE"],
    &["import", "classbench", "FILE"],
    &["import", "iptables-save", "FILE"],
    &["import", "netsh", "FILE"],
    &["import", "nft", "FILE"],
    &["run", "--policy", "FILE"],
];

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("coreutils");
    assert!(made.success());
}

#[test]
fn no_command_waits_for_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    make_pipe(&pipe);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&pipe, &link).expect("a link");
    let (pipe, link) = (pipe.display().to_string(), link.display().to_string());
    for (file, what) in [
        (pipe.as_str(), "this is a pipe, not a regular file"),
        (link.as_str(), "this is a pipe, not a regular file"),
        ("/dev/tty", "this is a device, not a regular file"),
        ("/dev/zero", "this is a device, not a regular file"),
        // What exactly is wrong with it depends on who asks.
        ("/proc/kmsg", "/proc/kmsg: "),
        ("/", "this is a directory"),
    ] {
        for command in COMMANDS {
            let arguments: Vec<&str> = command
                .iter()
                .map(|word| if *word == "FILE" { file } else { word })
                .collect();
            let said = refused(&arguments);
            assert!(
                said.contains(what) && said.contains(file),
                "{arguments:?}: {said}"
            );
        }
    }
}

#[test]
fn an_included_pipe_is_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    make_pipe(&folder.path().join("pipe"));
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, "include = [\"pipe\"]\n").expect("a file");
    let said = refused(&["check", &policy.display().to_string()]);
    assert!(
        said.contains("policy.toml:1:12: cannot include `pipe`: this is a pipe, not a regular file"),
        "{said}"
    );
}

/// A file at standard input has a name, which is one like others.
#[test]
fn a_file_at_standard_input_has_a_name() {
    let file = std::fs::File::open(folder().join("servers.toml")).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args(["check", "--without-keys", "/dev/stdin"])
        .stdin(file)
        .output()
        .expect("ravelin runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // A pipe there is a pipe.
    let mut child = Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args(["check", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ravelin runs");
    let status = ended(&mut child).expect("an end, though nothing was written");
    assert_eq!(status.code(), Some(1));
}

/// Where a pipe is of use, it comes in at standard input.
#[test]
fn a_capture_comes_through_a_pipe() {
    let arguments = ["explain", "--policy", "servers.toml", "--out", "--pcap"];
    let (_folder, path) = crate::capture::capture(usize::MAX);
    let file = path.to_str().expect("a path");
    let expected = stdout(&[&arguments[..], &[file]].concat(), 0);
    let mut cat = Command::new("cat")
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("coreutils");
    let output = Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args([&arguments[..], &["-"]].concat())
        .current_dir(folder())
        .stdin(cat.stdout.take().expect("a pipe"))
        .output()
        .expect("ravelin runs");
    assert!(cat.wait().expect("an end").success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
