//! Memory that outlives the process: BPF arrays, pinned. Which sequence numbers may have been used is kept there.
//!
//! The pins lie at `/sys/fs/bpf/ravelin-numbers/INSTANCE/VERSION-PAGE`, apart from those of the programs, which come and go with
//! devices.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{Flock, FlockArg};
use ravelin_keying::{BootPage, BootPages};

use crate::bpffs::{self, BPFFS};
use crate::pinned_words::PinnedWords;

/// Of the layout of pages. Builds that would not understand each other's do not see them, and go by the marks on disk.
const VERSION: u32 = 1;

/// The pinned arrays of one instance.
#[derive(Debug)]
pub(crate) struct PinnedPages {
    folder: PathBuf,
    /// Held as long as the process lives: one writer.
    _lock: Flock<File>,
}

#[derive(Debug)]
struct PinnedPage(PinnedWords);

impl PinnedPages {
    /// Makes the instance's folder in the BPF filesystem, mounting that if it is not there.
    ///
    /// # Errors
    ///
    /// The system's, and `EWOULDBLOCK` when another process has them.
    pub(crate) fn open(instance: &str) -> io::Result<Self> {
        bpffs::mount().map_err(io::Error::other)?;
        let folder = folder(instance);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let lock = Flock::lock(File::open(&folder)?, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, error)| error)?;
        Ok(Self { folder, _lock: lock })
    }
}

impl Drop for PinnedPages {
    /// A start that fails leaves nothing: where there are pages, the folder stays.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

impl BootPages for PinnedPages {
    fn page(&mut self, number: u32, make: bool) -> io::Result<Option<Arc<dyn BootPage>>> {
        let path = self.folder.join(format!("{VERSION}-{number}"));
        let pinned = match make {
            true => Some(PinnedWords::open_or_make(&path, <dyn BootPage>::WORDS)?),
            false => PinnedWords::open(&path)?,
        };
        Ok(pinned.map(|pinned| Arc::new(PinnedPage(pinned)) as _))
    }
}

impl BootPage for PinnedPage {
    fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}

/// Removes an instance's pins. The marks on disk are what counts from then on.
pub(crate) fn remove(instance: &str) {
    // Nothing depends on their being gone.
    let _ = std::fs::remove_dir_all(folder(instance));
}

fn folder(instance: &str) -> PathBuf {
    Path::new(BPFFS).join("ravelin-numbers").join(instance)
}

#[cfg(test)]
mod tests {
    use ravelin_keying::BootPages as _;

    use super::{PinnedPages, folder, remove};

    #[test]
    fn a_folder_without_pages_does_not_stay() {
        let instance = format!("test-{}-pages", std::process::id());
        let mut pages = PinnedPages::open(&instance).unwrap();
        assert!(pages.page(0, false).unwrap().is_none());
        drop(pages);
        assert!(!folder(&instance).exists());
        let mut pages = PinnedPages::open(&instance).unwrap();
        pages.page(0, true).unwrap().unwrap();
        drop(pages);
        let mut pages = PinnedPages::open(&instance).unwrap();
        let page = pages.page(0, false).unwrap();
        remove(&instance);
        assert!(page.is_some());
    }
}
