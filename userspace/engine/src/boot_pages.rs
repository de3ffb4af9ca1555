//! Memory that outlives the process: BPF arrays, pinned. Which sequence numbers may have been used is kept there.
//!
//! The pins lie at `/sys/fs/bpf/ravelin-numbers/INSTANCE/VERSION-PAGE`, apart from those of the programs, which come and go with
//! devices, and apart from filters that are taken away: they stay until the machine is booted again, since the keys of one instance must
//! not serve another. Instances look into each other's pages for that.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ravelin_keying::{BootPage, BootPages};

use crate::bpffs::{self, LockedFolder};
use crate::pinned_words::PinnedWords;

/// Of the layout of pages. Builds that would not understand each other's do not see them, and go by the marks on disk.
const VERSION: u32 = 1;

/// Of all instances.
pub(crate) const FOLDER: &str = "/sys/fs/bpf/ravelin-numbers";

/// The pinned arrays of one instance.
#[derive(Debug)]
pub(crate) struct PinnedPages {
    /// One writer.
    folder: LockedFolder,
    /// Those that were given out, to be pinned again.
    pages: BTreeMap<u32, Arc<PinnedPage>>,
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
        Ok(Self {
            folder: take(&folder(instance))?,
            pages: BTreeMap::new(),
        })
    }
}

/// Makes a folder if it is not there, and takes it.
fn take(folder: &Path) -> io::Result<LockedFolder> {
    bpffs::make_folder(folder)?;
    LockedFolder::take(folder)
}

impl Drop for PinnedPages {
    /// A start that fails leaves nothing: where there are pages, the folder stays.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(self.folder.path());
    }
}

impl BootPages for PinnedPages {
    fn page(&mut self, number: u32, make: bool) -> io::Result<Option<Arc<dyn BootPage>>> {
        let path = pin(self.folder.path(), number);
        let pinned = match make {
            true => Some(PinnedWords::open_or_make(&path, <dyn BootPage>::WORDS)?),
            false => PinnedWords::open(&path)?,
        };
        Ok(pinned.map(|pinned| {
            let page = Arc::new(PinnedPage(pinned));
            self.pages.insert(number, Arc::clone(&page));
            page as _
        }))
    }

    fn others(&mut self) -> io::Result<Vec<String>> {
        let others = bpffs::entries(Path::new(FOLDER))?.into_iter();
        let others = others.filter(|path| *path != self.folder.path());
        Ok(others
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn page_of(&mut self, other: &str, number: u32) -> io::Result<Option<Arc<dyn BootPage>>> {
        let pinned = PinnedWords::open(&pin(&folder(other), number))?;
        Ok(pinned.map(|pinned| Arc::new(PinnedPage(pinned)) as _))
    }

    fn others_pages(&mut self) -> io::Result<HashSet<u64>> {
        let mut pages = HashSet::new();
        for other in self.others()? {
            // One that goes meanwhile has none.
            let pins = bpffs::entries(&folder(&other)).unwrap_or_default();
            let pins = pins.iter().filter_map(|pin| pin.symlink_metadata().ok());
            pages.extend(pins.map(|pin| pin.ino()));
        }
        Ok(pages)
    }

    fn name_again(&mut self) -> io::Result<bool> {
        let folder_gone = !self.folder.is_there();
        if folder_gone {
            self.folder = take(self.folder.path())?;
        }
        let again = self.pages.values().map(|page| page.0.pin_again());
        again
            .into_iter()
            .try_fold(folder_gone, |gone, again| Ok(gone | again?))
    }
}

impl BootPage for PinnedPage {
    fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}

fn pin(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{VERSION}-{number}"))
}

fn folder(instance: &str) -> PathBuf {
    Path::new(FOLDER).join(instance)
}

#[cfg(test)]
mod tests {
    use ravelin_keying::BootPages as _;

    use super::{PinnedPages, folder};

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
        std::fs::remove_dir_all(folder(&instance)).unwrap();
        assert!(page.is_some());
    }
}
