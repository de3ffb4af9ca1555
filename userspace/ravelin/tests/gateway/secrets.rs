//! Keys stay in their files and in the SAs that use them: whatever the daemon says, leaves behind or keeps in memory is
//! searched for them.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::daemon::{Daemon, Gateway, RAVELIN, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{H2, Half, Lab, PORT, Policy, keygen};
use crate::support::memory::writable_memory;
use crate::support::secret::Key;
use crate::support::wait_until;

/// The policy of a site with SAs of its own in place of the first ones, at once.
fn renewed(site: usize) -> String {
    Policy::default()
        .text(site)
        .replace("mode = ", "rekey-grace = 0\nmode = ")
        .replace("a.key", "e.key")
        .replace("b.key", "f.key")
        .replace("0x100", "0x200")
}

fn both(output: &Output) -> Vec<u8> {
    [&output.stdout[..], &output.stderr[..]].concat()
}

/// Everything in a folder, and what is below it, but key files.
fn files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() && path.extension().is_none_or(|extension| extension != "key") {
            all.extend(std::fs::read(path).unwrap());
        }
    }
    all
}

/// All that a client may ask a daemon for.
fn answers(gateway: &Gateway<'_>) -> Vec<u8> {
    let mut all = both(&gateway.client("status").output().unwrap());
    all.extend(both(&gateway.client("status").arg("--json").output().unwrap()));
    for json in [&[][..], &["--json"]] {
        all.extend(both(&gateway.sa(&[&["list"], json].concat())));
    }
    all
}

/// Key files that are refused, each with most of a key in it: the messages say what is wrong with them, and no more.
fn spoiled(gateway: &Gateway<'_>, key: &Key) -> Vec<u8> {
    let mut said = Vec::new();
    let digits = key.hex();
    for (name, content, mode) in [
        ("long.key", format!("{digits}00"), 0o600),
        ("short.key", digits[2..].to_owned(), 0o600),
        ("odd.key", format!("{digits}x"), 0o600),
        ("open.key", digits.clone(), 0o644),
    ] {
        let file = gateway.folder.join(name);
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = gateway.apply(&renewed(1).replace("e.key", name), &[]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name));
        said.extend(both(&output));
    }
    said
}

#[test]
fn no_key_is_said_or_left_or_kept() {
    let lab = Lab::new();
    for name in ["e.key", "f.key"] {
        keygen(&lab.folder.path().join(name), "aes-256-gcm");
    }
    let keys = ["a", "b", "e", "f"].map(|name| Key::read(&lab.folder.path().join(format!("{name}.key"))));
    let [a, b, e, _] = &keys;
    let (g1, g2) = (
        lab.gateway(1, &Policy::default()),
        lab.gateway(2, &Policy::default()),
    );
    let mut command = g1.command();
    command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    let (d1, d2) = (g1.start_as(command), g2.start());
    let echo = Echo::start(&lab.h2, PORT);
    let works = |text: &[u8]| echo.udp(&lab.h1, H2[0], text);
    wait_until("the tunnel", || works(b"first keys"));

    let memory = writable_memory(d1.pid());
    assert!(
        a.is_in(&memory) && b.is_in(&memory),
        "the search finds keys that are in use"
    );
    for key in &keys {
        assert!(
            !key.is_written_in(&memory),
            "the text of a key file stayed in memory"
        );
    }
    drop(memory);

    let mut said = answers(&g1);
    said.extend(spoiled(&g1, e));
    said.extend(g2.applied(&renewed(2), &[]).into_bytes());
    said.extend(g1.applied(&renewed(1), &[]).into_bytes());
    said.extend(both(&g1.apply(
        &Policy::default().text(1).replace("0x100", "0x300"),
        &["--dry-run"],
    )));
    wait_until("the new SAs to work", || works(b"new keys"));
    said.extend(answers(&g1));
    said.extend(both(&g1.sa(&["delete", "0x2002"])));
    said.extend(answers(&g1));
    for file in ["cmdline", "environ", "maps", "comm"] {
        said.extend(std::fs::read(format!("/proc/{}/{file}", d1.pid())).unwrap());
    }

    // Workers drop what they have of the old SAs when they look for packets next; the spoiled files were of e.
    wait_until("the old keys to be gone from memory", || {
        let memory = writable_memory(d1.pid());
        !a.is_in(&memory) && !b.is_in(&memory)
    });
    let memory = writable_memory(d1.pid());
    for key in &keys {
        assert!(
            !key.is_written_in(&memory),
            "the text of a key file stayed in memory"
        );
    }
    assert!(e.is_in(&memory));
    drop(memory);

    said.extend(files(lab.folder.path()));
    for daemon in [d1, d2] {
        let (status, log) = daemon.stop();
        assert!(status.success(), "{log}");
        said.extend(log.into_bytes());
    }
    said.extend(files(lab.folder.path()));
    for key in &keys {
        assert!(!key.is_in(&said) && !key.is_written_in(&said), "a key was said");
    }
}

/// Fields of `/proc/PID/status` in kB.
fn kilobytes(daemon: &Daemon, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.trim_start_matches(':').trim().strip_suffix(" kB"));
    number.unwrap().parse().unwrap()
}

#[test]
fn the_daemon_is_neither_dumped_nor_swapped_out() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    // A limit that forbids dumps would be reason enough for none.
    let mut command = half.g1.command("prlimit");
    command
        .args(["--core=unlimited:unlimited", RAVELIN])
        .current_dir(half.folder.path());
    let command = gateway.command_of(command);
    let daemon = gateway.start_as(command);
    assert!(
        !daemon.log().contains("memory cannot be locked"),
        "{}",
        daemon.log()
    );
    // All that is resident is locked, but for what is mapped from devices and files that the kernel locks by itself.
    let (locked, resident) = (kilobytes(&daemon, "VmLck"), kilobytes(&daemon, "VmRSS"));
    assert!(locked >= resident, "{locked} kB of {resident} kB are locked");
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", daemon.pid())).unwrap();
    for name in ["[heap]", "[stack]"] {
        let (_, mapping) = smaps.split_once(name).unwrap();
        let flags = mapping.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split(' ').any(|flag| flag == "lo"), "{name}: {flags}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"]
    );
    kill(Pid::from_raw(daemon.pid() as i32), Signal::SIGABRT).unwrap();
    let (status, log) = daemon.ended();
    assert_eq!(status.signal(), Some(6), "{log}");
    assert!(!status.core_dumped());
    let left = std::fs::read_dir(half.folder.path()).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.starts_with("core")));
}

/// Without the right to lock memory it runs all the same, and says what to do.
#[test]
fn where_memory_cannot_be_locked_it_says_so() {
    let half = Half::new();
    let mut gateway = half.gateway(&Policy::default());
    gateway.inner = None;
    let mut command = half.g1.command("prlimit");
    command.args([
        "--memlock=8388608:8388608",
        "setpriv",
        "--bounding-set=-sys_resource,-ipc_lock",
    ]);
    command.arg(RAVELIN);
    let daemon = gateway.start_as(gateway.command_of(command));
    assert!(
        daemon.log().contains("warning: memory cannot be locked (EPERM")
            && daemon.log().contains("LimitMEMLOCK=infinity"),
        "{}",
        daemon.log()
    );
    assert_eq!(kilobytes(&daemon, "VmLck"), 0);
    succeeded(&gateway.client("status").output().unwrap());
}
