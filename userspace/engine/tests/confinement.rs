//! What a confined process can still do, tried out in a process of its own. Needs root.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use ravelin_engine::Confinement;

/// Names the folder to the process that is to be confined.
const FOLDER: &str = "RAVELIN_TEST_CONFINED_IN";

#[test]
fn a_confined_process_starts_no_programs_and_changes_only_its_files() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return confined(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("read.toml"), "").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("a_confined_process_starts_no_programs_and_changes_only_its_files")
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("1 passed"), "{said}");
    assert!(folder.path().join("own/state/mark").exists());
}

fn confined(folder: &Path) {
    let state = folder.join("own/state");
    let outside = folder.join("outside");
    // Not so before.
    fs::write(&outside, "before").unwrap();
    assert!(Command::new("true").status().unwrap().success());
    unshare(CloneFlags::CLONE_NEWUTS).unwrap();

    // This thread is one of the test's runner; its own threads, started later, inherit all.
    let confinement = Confinement::begin(&state, &folder.join("own/control.sock")).unwrap();
    let given_up = confinement.finish().unwrap();
    assert_eq!(given_up, "capabilities, Landlock, seccomp");
    std::thread::spawn({
        let folder = folder.to_owned();
        move || tried(&folder, &state, &outside)
    })
    .join()
    .unwrap();
}

fn tried(folder: &Path, state: &Path, outside: &Path) {
    fs::write(state.join("mark"), "state").unwrap();
    fs::rename(state.join("mark"), state.join("mark.new")).unwrap();
    fs::rename(state.join("mark.new"), state.join("mark")).unwrap();
    std::os::unix::net::UnixListener::bind(folder.join("own/control.sock")).unwrap();
    assert_eq!(fs::read_to_string(folder.join("read.toml")).unwrap(), "");
    assert!(!fs::read_to_string("/proc/self/comm").unwrap().is_empty());

    let denied = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    };
    denied(fs::write(outside, "after"));
    denied(fs::remove_file(outside));
    denied(fs::write(folder.join("new"), ""));
    denied(fs::create_dir(folder.join("folder")));
    denied(fs::rename(state.join("mark"), folder.join("mark")));
    // Beside the state folder, and beside the socket, nothing else.
    denied(fs::write(folder.join("own/new"), ""));
    denied(fs::create_dir(folder.join("own/folder")));
    denied(fs::write("/etc/ravelin-test", ""));
    denied(Command::new("true").status().map(drop));
    assert_eq!(unshare(CloneFlags::CLONE_NEWUTS), Err(Errno::EPERM));
    assert_eq!(fs::read_to_string(outside).unwrap(), "before");

    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    // CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_IPC_LOCK and CAP_BPF (linux/capability.h), and nothing that could come back.
    let kept = format!("{:016x}", 1u64 << 2 | 1 << 12 | 1 << 14 | 1 << 39);
    assert_eq!((line("CapEff:"), line("CapPrm:")), (kept.clone(), kept));
    assert_eq!(line("CapInh:"), "0".repeat(16));
    assert_eq!(
        (line("NoNewPrivs:"), line("Seccomp:")),
        ("1".to_owned(), "2".to_owned())
    );
}
