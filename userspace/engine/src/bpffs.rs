//! The BPF filesystem, and an instance's folder of pins in it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::MsFlags;
use nix::sys::statfs::statfs;
use nix::unistd::{UnlinkatFlags, getppid, unlinkat};
use thiserror::Error;

use crate::lock_holder::lock_holder;

/// Where it is mounted.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// Why something could not be pinned.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// The BPF filesystem is not there and could not be mounted.
    #[error(
        "cannot mount the BPF filesystem on {BPFFS}: {0}; Ravelin needs root (or CAP_SYS_ADMIN) and a kernel with BPF, and mounts none in a mount \
         namespace of its own: start with `nsenter --net=/run/netns/NAME` in place of `ip netns exec NAME`"
    )]
    Mount(Errno),
    /// What would be mounted here would go with this process, and the pins with it.
    #[error(
        "there is no BPF filesystem on {BPFFS}, and one that is mounted in this process's own mount namespace would end with it, and \
         with it the filter; mount one before (`mount -t bpf bpf {BPFFS}`), or start with `nsenter --net=/run/netns/NAME` in place of \
         `ip netns exec NAME`"
    )]
    PrivateMounts,
    /// The BPF filesystem has gone since the start, and with it the pins.
    #[error(
        "{BPFFS} is no BPF filesystem any more, so the programs are not pinned: should this process end, the filter would end \
         with it; run `mount -t bpf bpf {BPFFS}`"
    )]
    Unmounted,
    /// A file of the BPF filesystem.
    #[error("{path}: {error}{}", advice(.error))]
    Pin {
        /// The pin or its folder.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// Another engine runs under this name.
    #[error(
        "instance `{instance}` is in use by {}; stop it first (`ravelin stop`), or choose another name with `--instance`{}",
        called(*.process), if_it_hangs(*.process)
    )]
    InUse {
        /// The name.
        instance: String,
        /// The other process, if it can be seen.
        process: Option<u32>,
    },
}

impl BpffsError {
    pub(crate) fn pin(path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Pin {
            path: path.to_owned(),
            error: error.into(),
        }
    }
}

fn called(process: Option<u32>) -> String {
    process.map_or_else(
        || "another process".to_owned(),
        |process| format!("process {process}"),
    )
}

/// What ends an engine that nothing else ends.
pub(crate) fn if_it_hangs(process: Option<u32>) -> String {
    process.map_or_else(String::new, |process| {
        format!("; if it hangs or is frozen, `kill -9 {process}` ends it, and its filter stays")
    })
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; Ravelin needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_DAC_OVERRIDE)"
        }
        _ => "",
    }
}

/// Mounts the BPF filesystem if it is not there.
///
/// # Errors
///
/// [`BpffsError::Mount`], [`BpffsError::PrivateMounts`].
pub(crate) fn mount() -> Result<(), BpffsError> {
    if is_mounted()? {
        return Ok(());
    }
    if has_private_mounts() {
        return Err(BpffsError::PrivateMounts);
    }
    // Of two that are mounted at a time, one would cover the other and its pins. Who comes second finds the first, or its lock.
    let failed = |error: io::Error| BpffsError::pin(Path::new(BPFFS), error);
    let folder = File::open(BPFFS).map_err(failed)?;
    let _lock =
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| BpffsError::Mount(error))?;
    if is_mounted()? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=0700")).map_err(BpffsError::Mount)
}

fn is_mounted() -> Result<bool, BpffsError> {
    let kind = statfs(BPFFS).map_err(BpffsError::Mount)?.filesystem_type();
    Ok(kind.0 as u32 == BPF_FS_MAGIC)
}

/// Whether mounts of this process are not those of the machine or the container, or of who has started it: `ip netns exec` makes
/// such a namespace, which goes with its last process.
fn has_private_mounts() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let own = namespace("self");
    // What may not be seen says nothing.
    ["1", &getppid().to_string()]
        .iter()
        .filter_map(|process| namespace(process))
        .any(|other| own.as_ref().is_some_and(|own| *own != other))
}

/// Makes a folder in the BPF filesystem if it is not there.
///
/// # Errors
///
/// The system's.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What lies in a folder.
///
/// # Errors
///
/// The system's.
pub(crate) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

/// A folder that one process has at a time, for as long as it lives.
#[derive(Debug)]
pub(crate) struct LockedFolder {
    path: PathBuf,
    lock: Flock<File>,
}

impl LockedFolder {
    /// Takes a folder.
    ///
    /// # Errors
    ///
    /// The system's, and `EWOULDBLOCK` when another process has it.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        let lock = Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock);
        Ok(Self {
            path: path.to_owned(),
            lock: lock.map_err(|(_, error)| error)?,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path still leads to it: it may have been deleted, and its filesystem unmounted or covered by another.
    pub(crate) fn is_there(&self) -> bool {
        let (Ok(there), Ok(own)) = (self.path.metadata(), self.lock.metadata()) else {
            return false;
        };
        (there.dev(), there.ino()) == (own.dev(), own.ino())
    }
}

/// An instance's folder, `/sys/fs/bpf/ravelin/INSTANCE`, which one process has at a time.
#[derive(Debug)]
pub(crate) struct PinFolder {
    instance: String,
    /// Two engines under one name would take each other's programs away.
    folder: LockedFolder,
}

impl PinFolder {
    /// Makes it, mounting the filesystem if that is not there.
    ///
    /// # Errors
    ///
    /// [`BpffsError`].
    pub(crate) fn open(instance: &str) -> Result<Self, BpffsError> {
        mount()?;
        let path = Self::path_of(instance);
        make_folder(&path).map_err(|error| BpffsError::pin(&path, error))?;
        Self::lock(instance, &path)
    }

    /// The folder if it is there.
    ///
    /// # Errors
    ///
    /// [`BpffsError::InUse`], [`BpffsError::Pin`].
    pub(crate) fn find(instance: &str) -> Result<Option<Self>, BpffsError> {
        let path = Self::path_of(instance);
        if !path.exists() {
            return Ok(None);
        }
        Self::lock(instance, &path).map(Some)
    }

    fn lock(instance: &str, path: &Path) -> Result<Self, BpffsError> {
        let instance = instance.to_owned();
        match LockedFolder::take(path) {
            Ok(folder) => Ok(Self { instance, folder }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BpffsError::InUse {
                instance,
                process: lock_holder(path),
            }),
            Err(error) => Err(BpffsError::pin(path, error)),
        }
    }

    pub(crate) fn path_of(instance: &str) -> PathBuf {
        Path::new(BPFFS).join("ravelin").join(instance)
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What lies in it: nothing when it has been deleted meanwhile, which is no reason for a start to fail.
    ///
    /// # Errors
    ///
    /// [`BpffsError::Pin`].
    pub(crate) fn pins(&self) -> Result<Vec<PathBuf>, BpffsError> {
        match entries(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries.map_err(|error| BpffsError::pin(self.path(), error)),
        }
    }

    /// See [`LockedFolder::is_there`].
    pub(crate) fn is_there(&self) -> bool {
        self.folder.is_there()
    }

    /// Makes it anew where its path leads now; returns the one before, which [`PinFolder::clear`] is for.
    ///
    /// # Errors
    ///
    /// [`BpffsError::Unmounted`] until there is a BPF filesystem again, [`BpffsError::Pin`], [`BpffsError::InUse`].
    pub(crate) fn renew(&mut self) -> Result<Self, BpffsError> {
        if !is_mounted()? {
            return Err(BpffsError::Unmounted);
        }
        let fresh = Self::open(&self.instance)?;
        Ok(std::mem::replace(self, fresh))
    }

    /// Removes pins from a folder that may be nowhere any more. As long as somebody has its filesystem, in another mount namespace or
    /// below another one, they would hold the programs on the devices, and nobody could reach them.
    pub(crate) fn clear<'a>(&self, pins: impl Iterator<Item = &'a Path>) {
        for name in pins.filter_map(Path::file_name) {
            // Most often it went with its folder.
            let _ = unlinkat(self.folder.lock.as_fd(), name, UnlinkatFlags::NoRemoveDir);
        }
    }

    /// Removes it, which must be empty.
    ///
    /// # Errors
    ///
    /// [`BpffsError::Pin`].
    pub(crate) fn remove(&self) -> Result<(), BpffsError> {
        gone(self.path(), std::fs::remove_dir(self.path()))
    }
}

/// Removes a pin.
///
/// # Errors
///
/// [`BpffsError::Pin`].
pub(crate) fn remove(pin: &Path) -> Result<(), BpffsError> {
    gone(pin, std::fs::remove_file(pin))
}

/// Somebody else may have removed it.
fn gone(path: &Path, removed: io::Result<()>) -> Result<(), BpffsError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BpffsError::pin(path, error)),
        _ => Ok(()),
    }
}
