//! How many bytes a key has encrypted or decrypted, so that a limit of bytes goes on across restarts.

use crate::fingerprint::Fingerprint;
use crate::mark_record::{Kind, Mark};
use crate::marks::MarkFileError;
use crate::state_folder::StateFolder;

/// The bytes of one key in one direction, of an SA whose policy limits them.
///
/// They are recorded after the fact, and as many again as since the last record: under a load that does not grow, a crash loses none, and an
/// orderly end counts a second too much.
#[derive(Debug)]
pub(crate) struct ByteMark {
    kind: Kind,
    key: Fingerprint,
    spi: u32,
    /// What is durable.
    recorded: u64,
    /// What had been used when it was asked last.
    used: u64,
}

impl ByteMark {
    /// Finds out how many there were; a key without a mark is new.
    ///
    /// # Errors
    /// [`MarkFileError`] when nobody knows.
    pub(crate) fn open(
        folder: &StateFolder,
        kind: Kind,
        spi: u32,
        key: Fingerprint,
    ) -> Result<Self, MarkFileError> {
        let recorded = folder.bytes(kind, key)?;
        Ok(Self {
            kind,
            key,
            spi,
            recorded,
            used: recorded,
        })
    }

    /// How many may have been used before.
    pub(crate) fn before(&self) -> u64 {
        self.recorded
    }

    /// What is to be recorded when `used` bytes have been used; `None` if that is on disk already.
    pub(crate) fn wanted(&mut self, used: u64) -> Option<Mark> {
        let since = used.saturating_sub(std::mem::replace(&mut self.used, used));
        let highest = used.saturating_add(since);
        (highest > self.recorded).then_some(Mark {
            kind: self.kind,
            key: self.key,
            spi: self.spi,
            highest,
        })
    }

    /// What was wanted is durable.
    pub(crate) fn recorded(&mut self, mark: &Mark) {
        self.recorded = mark.highest;
    }
}
