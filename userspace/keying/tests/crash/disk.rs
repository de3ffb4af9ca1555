//! A machine's disk, of which only what was synced is sure to be there after a power failure.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use nix::sys::ptrace;
use nix::unistd::Pid;

/// What a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// A state folder, memory that lasts as long as the power, and what the disk is sure to have.
#[derive(Debug)]
pub(crate) struct Machine {
    folder: tempfile::TempDir,
    /// Synced contents by inode.
    synced: HashMap<u64, Vec<u8>>,
    /// The inode that the file's name was synced to lead to.
    name: Option<u64>,
    /// Folders whose names were synced.
    folders: HashSet<PathBuf>,
}

/// In memory if possible: nothing is asked of a real disk.
pub(crate) fn private_folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() {
        shm.to_owned()
    } else {
        std::env::temp_dir()
    };
    let mode = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .permissions(mode)
        .tempdir_in(parent)
        .expect("a folder")
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = Self {
            folder: private_folder(),
            synced: HashMap::new(),
            name: None,
            folders: HashSet::new(),
        };
        fs::create_dir(machine.memory()).expect("a folder");
        machine
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("var/state")
    }

    /// The state folder and the one that it is in, outermost first; the first process makes both.
    fn made(&self) -> [PathBuf; 2] {
        let state = self.state();
        [state.parent().expect("a folder").to_owned(), state]
    }

    pub(crate) fn memory(&self) -> PathBuf {
        self.folder.path().join("memory")
    }

    fn file(&self) -> PathBuf {
        self.state().join("marks")
    }

    /// What is there now is synced: the next process is traced.
    pub(crate) fn begin(&mut self) {
        self.name = self.inode();
        self.folders = self.made().into_iter().filter(|made| made.exists()).collect();
        self.synced = self.name.into_iter().zip(self.copy_file()).collect();
    }

    fn inode(&self) -> Option<u64> {
        Some(fs::metadata(self.file()).ok()?.ino())
    }

    /// A traced process has left a system call: takes down what it has synced.
    pub(crate) fn watch(&mut self, pid: Pid) {
        let registers = ptrace::getregs(pid).expect("registers");
        let (call, fd, result) = (registers.orig_rax as i64, registers.rdi, registers.rax as i64);
        if result != 0 || ![libc::SYS_fsync, libc::SYS_fdatasync].contains(&call) {
            return;
        }
        let path = format!("/proc/{pid}/fd/{fd}");
        let metadata = fs::metadata(&path).expect("an open file");
        if metadata.is_dir() {
            if fs::metadata(self.state()).is_ok_and(|state| state.ino() == metadata.ino()) {
                self.name = self.inode();
            }
            let within = |made: &PathBuf| {
                let above = made.parent().and_then(|above| fs::metadata(above).ok());
                made.exists() && above.is_some_and(|above| above.ino() == metadata.ino())
            };
            self.folders.extend(self.made().into_iter().filter(within));
        } else {
            let content = fs::read(&path).expect("content");
            self.synced.insert(metadata.ino(), content);
        }
    }

    /// What of the disk is sure stays, any pieces of this size of the rest; memory goes.
    pub(crate) fn lose_power(&mut self, piece: usize, rng: &mut Rng) {
        self.lose_memory();
        for made in self.made() {
            if made.exists() && !self.folders.contains(&made) && rng.bool() {
                fs::remove_dir_all(made).expect("removed");
                return;
            }
        }
        let Some(now) = self.inode() else { return };
        let current = fs::read(self.file()).expect("content");
        let content = match if rng.bool() { Some(now) } else { self.name } {
            Some(inode) => self.synced.get(&inode).map(|synced| {
                let same = inode == now && synced.len() == current.len();
                if same {
                    mixed(synced, &current, piece, rng)
                } else {
                    synced.clone()
                }
            }),
            None => {
                fs::remove_file(self.file()).expect("removed");
                return;
            }
        };
        // What was never synced is nothing.
        let content = content.unwrap_or_default();
        fs::write(self.file(), content).expect("written");
    }

    pub(crate) fn lose_memory(&mut self) {
        fs::remove_dir_all(self.memory()).expect("removed");
        fs::create_dir(self.memory()).expect("a folder");
    }

    pub(crate) fn copy_file(&self) -> Option<Vec<u8>> {
        fs::read(self.file()).ok()
    }

    pub(crate) fn restore_file(&self, copy: Option<Vec<u8>>) {
        if let Some(copy) = copy {
            fs::write(self.file(), copy).expect("written");
        }
    }
}

fn mixed(old: &[u8], new: &[u8], piece: usize, rng: &mut Rng) -> Vec<u8> {
    let pieces = old.chunks(piece).zip(new.chunks(piece));
    pieces
        .flat_map(|(old, new)| if rng.bool() { old } else { new }.to_vec())
        .collect()
}
