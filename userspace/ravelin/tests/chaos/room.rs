//! What a machine has to itself beside its network: a BPF filesystem and a disk, in a mount namespace that goes with the test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::wait_until;

/// Bytes of the disk: room for the marks, and not much more.
const DISK: &str = "1m";

/// A mount namespace with a BPF filesystem of its own, none below it, and a small disk at one folder.
pub(crate) struct Room {
    keeper: Child,
    disk: PathBuf,
}

impl Room {
    pub(crate) fn new(disk: &Path) -> Self {
        std::fs::create_dir_all(disk).unwrap();
        let script = format!(
            "while umount /sys/fs/bpf; do :; done 2> /dev/null; mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs -o size={DISK},mode=700 tmpfs {} && echo ready && exec sleep infinity",
            disk.display()
        );
        Self {
            keeper: keeper(&["--mount", "--propagation", "private"], &script),
            disk: disk.to_owned(),
        }
    }

    /// The option that makes `nsenter` run something inside.
    pub(crate) fn option(&self) -> String {
        format!("--mount=/proc/{}/ns/mnt", self.keeper.id())
    }

    /// Runs a shell command inside, which must succeed.
    pub(crate) fn shell(&self, command: &str) {
        let output = Command::new("nsenter")
            .arg(self.option())
            .args(["sh", "-c", command])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }

    /// A path inside, as seen from outside.
    fn path(&self, inside: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(inside.strip_prefix("/").unwrap())
    }

    /// Leaves no room on the disk.
    pub(crate) fn fill_disk(&self) {
        let mut file = std::fs::File::create(self.path(&self.disk).join("full")).unwrap();
        let page = [0; 4096];
        while file.write_all(&page).is_ok() {}
    }

    pub(crate) fn empty_disk(&self) {
        std::fs::remove_file(self.path(&self.disk).join("full")).unwrap();
    }

    /// How many programs are pinned.
    pub(crate) fn pins(&self) -> usize {
        let folder = self.path(Path::new("/sys/fs/bpf/ravelin"));
        let instances = std::fs::read_dir(folder).into_iter().flatten().flatten();
        instances
            .flat_map(|instance| std::fs::read_dir(instance.path()).into_iter().flatten())
            .count()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A time namespace whose clocks of the time since boot are ahead of this machine's.
pub(crate) struct Epoch(Child);

impl Epoch {
    pub(crate) fn ahead(seconds: u64) -> Self {
        let offset = seconds.to_string();
        let options = ["--time", "--monotonic", &offset, "--boottime", &offset, "--fork"];
        Self(keeper(&options, "echo ready && exec sleep infinity"))
    }

    /// The option that makes `nsenter` run something inside.
    pub(crate) fn option(&self) -> String {
        format!("--time=/proc/{}/ns/time_for_children", self.0.id())
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that keeps namespaces, once its script has said that it is ready.
fn keeper(unshare: &[&str], script: &str) -> Child {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(unshare);
    if unshare.contains(&"--fork") {
        command.arg("--kill-child");
    }
    command.args(["--", "sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    wait_until("the namespaces", || {
        said.next().is_some_and(|line| line.unwrap() == "ready")
    });
    child
}
