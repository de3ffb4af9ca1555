//! The folder that outlives the daemon: locked, private, written durably.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::boot_memory::{BootMemory, BootPages, BootRecord};
use crate::durable_folder::make_folder;
use crate::fingerprint::Fingerprint;
use crate::mark_record::{Kind, Mark};
use crate::marks::{BYTES, MarkFileError, Marks, NUMBERS};

/// A folder of mode 0700 that one process at a time may use. The lock goes with the process.
#[derive(Debug)]
pub struct StateFolder {
    folder: Folder,
    /// Keys whose numbers somebody in this process gives out.
    claimed: Mutex<HashSet<Fingerprint>>,
    marks: Mutex<Marks>,
    /// Read when an SA asks whose bytes are limited.
    bytes: Mutex<Option<Marks>>,
    memory: Option<Mutex<BootMemory>>,
}

/// An open folder and its path.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked as long as this lives; files are opened relative to it.
    file: File,
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
    /// The marks in it.
    #[error(transparent)]
    Marks(#[from] MarkFileError),
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
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateFolderError::InUse { path }),
            Err(TryLockError::Error(error)) => return Err(StateFolderError::Open { path, error }),
        }
        let folder = Folder { path, file: folder };
        let marks = Marks::open(&folder, NUMBERS)?;
        Ok(Self {
            folder,
            claimed: Mutex::default(),
            marks: Mutex::new(marks),
            bytes: Mutex::default(),
            memory: None,
        })
    }

    /// Also remembers in memory of this boot which numbers may have been used, so that a crash costs few of them, and others learn which
    /// keys are used here.
    ///
    /// # Errors
    /// The system's, when the memory cannot be read.
    pub fn remember_in(&mut self, pages: Box<dyn BootPages>) -> io::Result<()> {
        self.memory = Some(Mutex::new(BootMemory::open(pages)?));
        Ok(())
    }

    /// Has that memory be found again, by the next process and by others, if somebody has taken its names away.
    ///
    /// # Errors
    /// The system's.
    pub fn name_memory_again(&self) -> io::Result<()> {
        self.lock_memory()
            .map_or(Ok(()), |mut memory| memory.name_again())
    }

    /// Who else on this machine may by now have sealed with one of these keys that are in use here, if others have anything new since this
    /// was asked last.
    ///
    /// # Errors
    /// The system's: then nobody knows, and the next call looks again.
    pub(crate) fn newcomers(
        &self,
        keys: impl FnOnce() -> HashSet<Fingerprint>,
    ) -> io::Result<HashMap<Fingerprint, String>> {
        match self.lock_memory() {
            Some(mut memory) => memory.newcomers(keys),
            None => Ok(HashMap::new()),
        }
    }

    /// What is remembered of a key whose mark on disk is `durable`.
    ///
    /// # Errors
    /// The system's, when it cannot be remembered.
    pub(crate) fn boot_record(&self, key: Fingerprint, durable: u64) -> io::Result<Option<BootRecord>> {
        let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        match self.lock_memory() {
            Some(mut memory) => memory.record_of(key, durable, &claimed),
            None => Ok(None),
        }
    }

    /// Forgets a key that was remembered and of which no number was to be had.
    pub(crate) fn forget_boot_record(&self, key: Fingerprint) {
        if let Some(mut memory) = self.lock_memory() {
            memory.forget(key);
        }
    }

    /// Has others no longer see that a key was remembered of which no number was used.
    pub(crate) fn withdraw_boot_record(&self, key: Fingerprint) {
        if let Some(mut memory) = self.lock_memory() {
            memory.withdraw(key);
        }
    }

    /// Who else on this machine has begun with one of these keys. Nobody, where there is no memory of this boot.
    ///
    /// # Errors
    /// The system's: then nobody knows.
    pub(crate) fn holders(&self, keys: &HashSet<Fingerprint>) -> io::Result<HashMap<Fingerprint, String>> {
        match self.lock_memory() {
            Some(mut memory) => memory.holders(keys),
            None => Ok(HashMap::new()),
        }
    }

    fn lock_memory(&self) -> Option<MutexGuard<'_, BootMemory>> {
        let memory = self.memory.as_ref()?;
        Some(memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
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

    /// The highest number recorded for a key; `None` for a new one.
    ///
    /// # Errors
    /// [`MarkFileError::Lost`].
    pub(crate) fn highest(&self, kind: Kind, key: Fingerprint) -> Result<Option<u64>, MarkFileError> {
        self.lock_marks().highest(&self.folder, kind, key)
    }

    /// Records marks, of each key one: all are durable when this returns, or after an error perhaps none.
    ///
    /// # Errors
    /// [`MarkFileError::Write`].
    pub(crate) fn record(&self, batch: &[Mark]) -> Result<(), MarkFileError> {
        self.lock_marks().record(&self.folder, batch)
    }

    /// How many bytes are recorded for a key; 0 for a new one.
    ///
    /// # Errors
    /// [`MarkFileError`].
    pub(crate) fn bytes(&self, kind: Kind, key: Fingerprint) -> Result<u64, MarkFileError> {
        self.with_bytes(|bytes, folder| Ok(bytes.highest(folder, kind, key)?.unwrap_or(0)))
    }

    /// The same for bytes as [`StateFolder::record`] for sequence numbers.
    ///
    /// # Errors
    /// [`MarkFileError`].
    pub(crate) fn record_bytes(&self, batch: &[Mark]) -> Result<(), MarkFileError> {
        match batch {
            [] => Ok(()),
            batch => self.with_bytes(|bytes, folder| bytes.record(folder, batch)),
        }
    }

    fn with_bytes<T>(
        &self,
        what: impl FnOnce(&mut Marks, &Folder) -> Result<T, MarkFileError>,
    ) -> Result<T, MarkFileError> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match &mut *bytes {
            Some(bytes) => bytes,
            None => bytes.insert(Marks::open(&self.folder, BYTES)?),
        };
        what(bytes, &self.folder)
    }

    fn lock_marks(&self) -> MutexGuard<'_, Marks> {
        // What a panic left undone was not acknowledged to anybody.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces a file by one that `fill` writes, open for reading and writing: after a crash at any moment the name
    /// leads to the old file or to the new one, whole, and once this has returned, to the new one.
    pub(crate) fn replace(&self, name: &str, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
        let fresh = format!("{name}.new");
        let written = self.write_new(&fresh, fill).and_then(|file| {
            renameat(&self.file, fresh.as_str(), &self.file, name)?;
            // The rename itself is only durable with the folder.
            self.file.sync_all()?;
            Ok(file)
        });
        if written.is_err() {
            let _ = unlinkat(&self.file, fresh.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    fn write_new(&self, name: &str, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.file, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        fill(&file)?;
        file.sync_all()?;
        Ok(file)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn make_and_open(path: &Path) -> io::Result<File> {
    make_folder(path, 0o700)?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
}
