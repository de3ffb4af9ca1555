//! Policy files that would be waited for, or that are: nothing else waits with them.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::support::daemon::{Daemon, Gateway, refusal, succeeded};
use crate::support::lab::Half;
use crate::support::{wait_for, wait_until};
use crate::surroundings::{blocking, half, is_blocked};

/// An address that comes and goes.
const ADDED: &str = "10.1.0.77";

/// `ravelin apply`, under way.
fn applying(gateway: &Gateway<'_>, file: &Path) -> Child {
    let mut command = gateway.client("apply");
    command.arg(file).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(mut child: Child) -> Output {
    let mut killed = false;
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline && !killed {
            child.kill().unwrap();
            killed = true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(!killed, "it hung: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Asserts that policies are applied, read again, and follow the machine's addresses.
fn works(half: &Half, gateway: &Gateway<'_>, daemon: &Daemon) {
    let generation = || daemon.status().policy.generation;
    let grows = |what: &str, before: u32| wait_until(what, || generation() > before);
    gateway.applied(&blocking("me"), &[]);
    assert_eq!(daemon.status().last_error, None);
    let before = generation();
    half.g1.ip(&format!("address add {ADDED}/24 dev in0"));
    grows("following an address", before);
    assert!(is_blocked(half, daemon, ADDED));
    let before = generation();
    half.g1.ip(&format!("address del {ADDED}/24 dev in0"));
    grows("following an address that goes", before);
    assert!(!is_blocked(half, daemon, ADDED));
    let before = generation();
    daemon.hang_up();
    grows("reading it again", before);
}

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn files_that_would_be_waited_for_are_refused_and_hold_nothing_up() {
    let half = half();
    // Confined, it cannot even open /proc/kmsg.
    let gateway = Gateway::new(&half.g1, half.folder.path(), &blocking("me")).with_flag("--no-confinement");
    let daemon = gateway.start();
    let folder = half.folder.path();
    let pipe = folder.join("pipe");
    make_pipe(&pipe);
    let including = folder.join("including.toml");
    let (no_file, later) = ("not a regular file", "more of it will only come some time");
    for (named, included, words) in [
        (
            pipe.clone(),
            false,
            ["pipe: cannot open the policy: this is a pipe", no_file],
        ),
        (pipe, true, ["including.toml:1:12: cannot include `", no_file]),
        (
            "/proc/kmsg".into(),
            false,
            ["/proc/kmsg: cannot read the policy", later],
        ),
        (
            "/proc/kmsg".into(),
            true,
            ["including.toml:1:12: cannot include `/proc/kmsg`", later],
        ),
        ("/dev/tty".into(), false, ["/dev/tty", "this is a device"]),
        ("/dev/zero".into(), false, ["/dev/zero", "this is a device"]),
        (gateway.control(), false, [".sock", "this is a socket"]),
        (
            folder.to_owned(),
            false,
            ["cannot open the policy", "this is a directory"],
        ),
    ] {
        let file = if included {
            std::fs::write(&including, format!("include = [\"{}\"]\n", named.display())).unwrap();
            including.clone()
        } else {
            named
        };
        let said = refusal(&ended(applying(&gateway, &file)));
        let last_error = daemon.status().last_error.expect("a failed apply shows");
        for word in words {
            for text in [&said, &last_error] {
                assert!(text.contains(word), "`{word}` is missing in: {text}");
            }
            wait_until("the same in the log", || daemon.log().contains(word));
        }
        works(&half, &gateway, &daemon);
    }
    // The file in force is one of these when it is read again.
    let file = gateway.other_policy();
    std::fs::remove_file(&file).unwrap();
    make_pipe(&file);
    daemon.hang_up();
    wait_until("a word about it", || {
        let last_error = daemon.status().last_error;
        last_error.is_some_and(|text| text.contains("was not read again") && text.contains(no_file))
    });
    std::fs::remove_file(&file).unwrap();
    works(&half, &gateway, &daemon);
}

/// A file system that answers nothing until this is dropped.
struct Silence {
    folder: PathBuf,
    _driver: File,
}

impl Silence {
    /// Mounts it in the mount namespace of the thread.
    fn mount(folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let driver = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        // Nobody ever reads a request from the driver.
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", driver.as_raw_fd());
        let (kind, options) = (Some("fuse"), Some(options.as_str()));
        mount(Some("silence"), &folder, kind, MsFlags::empty(), options).unwrap();
        Self {
            folder,
            _driver: driver,
        }
    }
}

/// Runs in a mount namespace that goes with the thread, and with what it has started.
fn among_private_mounts(action: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let (nothing, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            mount(nothing, "/", nothing, flags, nothing).unwrap();
            action();
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn a_file_system_that_does_not_answer_holds_nothing_up() {
    among_private_mounts(|| {
        let half = half();
        let folder = half.folder.path();
        let gateway = Gateway::new(&half.g1, folder, &blocking("me"));
        let daemon = gateway.start();
        let mounts = tempfile::tempdir().unwrap();
        let silence = Silence::mount(mounts.path().join("silence"));
        let missing = silence.folder.join("addresses.toml");
        let file = folder.join("including.toml");
        std::fs::write(&file, format!("include = [\"{}\"]\n", missing.display())).unwrap();

        let mut stalled = applying(&gateway, &file);
        let waits = |child: &mut Child| assert!(child.try_wait().unwrap().is_none(), "it waits");
        wait_until("it to be read", || reads(&daemon));
        half.g1.ip(&format!("address add {ADDED}/24 dev in0"));
        wait_until("following an address", || daemon.status().policy.generation == 2);
        assert!(is_blocked(&half, &daemon, ADDED));
        half.g1.ip(&format!("address del {ADDED}/24 dev in0"));
        wait_until("following an address that goes", || {
            daemon.status().policy.generation == 3
        });
        assert!(!is_blocked(&half, &daemon, ADDED));
        waits(&mut stalled);
        // It comes after the other, but not after what never comes.
        std::fs::write(gateway.other_policy(), blocking("me")).unwrap();
        let good = applying(&gateway, &gateway.other_policy());
        let said = refusal(&ended(stalled));
        let words = "addresses.toml does not answer";
        assert!(said.contains(words), "{said}");
        wait_until("the log to tell it", || daemon.log().contains(words));
        succeeded(&ended(good));
        works(&half, &gateway, &daemon);

        // The same again is known at once; its thread still waits.
        let started = Instant::now();
        let said = refusal(&ended(applying(&gateway, &file)));
        assert!(said.contains("addresses.toml does not answer"), "{said}");
        assert!(started.elapsed() < Duration::from_secs(5));
        let last_error = daemon.status().last_error.unwrap();
        assert!(last_error.contains("does not answer"), "{last_error}");
        works(&half, &gateway, &daemon);

        drop(silence);
        wait_for("another answer", || {
            let said = refusal(&ended(applying(&gateway, &file)));
            said.contains("cannot include").then_some(())
        });
        works(&half, &gateway, &daemon);
    });
}

/// Whether the daemon has a thread that prepares a policy.
fn reads(daemon: &Daemon) -> bool {
    std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .any(|name| name.starts_with("ravelin-prepare"))
}
