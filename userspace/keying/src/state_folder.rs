//! The folder that outlives the daemon: locked, private, written durably.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::fingerprint::Fingerprint;

/// A folder of mode 0700 that one process at a time may use. The lock goes with the process.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// Open and locked as long as this lives; files are opened relative to it.
    folder: File,
    /// Keys whose numbers somebody in this process gives out.
    claimed: Mutex<HashSet<Fingerprint>>,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFolderError {
    /// It can be neither opened nor made.
    #[error("{}: cannot use the state folder: {error}", .path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others may write to it.
    #[error("{}: its mode is {mode:04o}; the state folder is for its owner only: chmod 700 {}", .path.display(), .path.display())]
    Mode {
        /// The folder.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Someone else owns it.
    #[error("{}: it belongs to user {owner}; chown it to the user Ravelin runs as", .path.display())]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// Another process has it.
    #[error("{}: another Ravelin uses this state folder; stop it, or name another instance", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl StateFolder {
    /// Opens the folder, making it if need be, and locks it.
    ///
    /// # Errors
    /// [`StateFolderError`].
    pub fn open(path: &Path) -> Result<Self, StateFolderError> {
        let path = path.to_owned();
        let folder = match make_and_open(&path) {
            Ok(folder) => folder,
            Err(error) => return Err(StateFolderError::Open { path, error }),
        };
        let metadata = match folder.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return Err(StateFolderError::Open { path, error }),
        };
        let owner = metadata.uid();
        if owner != 0 && owner != geteuid().as_raw() {
            return Err(StateFolderError::Owner { path, owner });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(StateFolderError::Mode { path, mode });
        }
        match folder.try_lock() {
            Ok(()) => Ok(Self {
                path,
                folder,
                claimed: Mutex::default(),
            }),
            Err(TryLockError::WouldBlock) => Err(StateFolderError::InUse { path }),
            Err(TryLockError::Error(error)) => Err(StateFolderError::Open { path, error }),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the right to give out a key's numbers; `false` if somebody in this process has it.
    pub(crate) fn claim(&self, key: Fingerprint) -> bool {
        self.claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key)
    }

    /// Gives the right back.
    pub(crate) fn release(&self, key: Fingerprint) {
        self.claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }

    /// The content of a file of at most `limit` bytes (more is cut off); `None` if there is no such file.
    pub(crate) fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.folder, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(nix::errno::Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Replaces a file's content: after a crash at any moment it holds the old or the new content, and once this has
    /// returned, the new one.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let fresh = format!("{name}.new");
        let written = self.write_new(&fresh, content).and_then(|()| {
            renameat(&self.folder, fresh.as_str(), &self.folder, name)?;
            // The rename itself is only durable with the folder.
            self.folder.sync_all()
        });
        if written.is_err() {
            let _ = unlinkat(&self.folder, fresh.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    fn write_new(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        file.write_all(content)?;
        file.sync_all()
    }
}

fn make_and_open(path: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
}
