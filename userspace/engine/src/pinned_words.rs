//! Words that outlive the process, though not the boot: BPF arrays, pinned.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use aya::maps::MapData;
use aya_obj::generated::BPF_F_MMAPABLE;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use ravelin_xsk::SharedWords;

/// Bytes of a value. The kernel lays those of an array out one behind the other.
const VALUE: usize = 32;

/// Words in a value.
const VALUE_WORDS: usize = VALUE / size_of::<u64>();

/// An array of words, zero at first, and its pin.
#[derive(Debug)]
pub(crate) struct PinnedWords {
    path: PathBuf,
    map: MapData,
    words: SharedWords,
}

impl PinnedWords {
    /// What is pinned there; `None` if nothing is.
    ///
    /// # Errors
    ///
    /// The system's, above all when it is something else.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        if !path.try_exists()? {
            return Ok(None);
        }
        let map = match MapData::from_pin(path) {
            // It has gone since.
            Err(_) if !path.try_exists()? => return Ok(None),
            map => map.map_err(io::Error::other)?,
        };
        let info = map.info().map_err(io::Error::other)?;
        let bytes = info.max_entries() as usize * info.value_size() as usize;
        Self::of(path, map, bytes / size_of::<u64>()).map(Some)
    }

    /// The same, which must have `words` words, a multiple of four; it is made if it is not there.
    ///
    /// # Errors
    ///
    /// The system's; `InvalidData` when it has another length.
    pub(crate) fn open_or_make(path: &Path, words: usize) -> io::Result<Self> {
        if let Some(pinned) = Self::open(path)? {
            return match pinned.words().len() == words {
                true => Ok(pinned),
                false => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is not as long as it should be",
                )),
            };
        }
        let map = aya_obj::Map::new_from_params(
            BPF_MAP_TYPE_ARRAY as u32,
            size_of::<u32>() as u32,
            VALUE as u32,
            (words / VALUE_WORDS) as u32,
            BPF_F_MMAPABLE,
        );
        let map = MapData::create(map, "ravelin_words", None).map_err(io::Error::other)?;
        map.pin(path).map_err(io::Error::other)?;
        Self::of(path, map, words)
    }

    fn of(path: &Path, map: MapData, words: usize) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            words: SharedWords::of(map.fd().as_fd(), words)?,
            map,
        })
    }

    /// The words.
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.words.words()
    }

    /// Makes the pin anew if it is gone; whether it was. Its folder must be there.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn pin_again(&self) -> io::Result<bool> {
        if self.path.try_exists()? {
            return Ok(false);
        }
        self.map.pin(&self.path).map_err(io::Error::other)?;
        Ok(true)
    }
}
