//! The highest sequence number received under a key, so that a restart does not let old packets in again.

use std::sync::Arc;

use ravelin_esp::Secret;

use crate::fingerprint::Fingerprint;
use crate::mark_file::{Kind, MarkFile, MarkFileError};
use crate::state_folder::StateFolder;

/// How far the anti-replay window had come when it was last recorded.
///
/// It is recorded after the fact. After a clean stop nothing old is taken again; after a crash, what arrived since the
/// last record could be replayed once, and what was sent while nobody listened still arrives. With extended sequence
/// numbers it also carries their high half, which is not on the wire (RFC 4303 section 2.2.1).
#[derive(Debug)]
pub struct ReceivedMark {
    file: MarkFile,
    recorded: u64,
}

impl ReceivedMark {
    /// Finds out how far the window had come; a key without a file is new.
    ///
    /// # Errors
    /// [`MarkFileError`], other than `Write`.
    pub fn open(folder: &Arc<StateFolder>, spi: u32, keymat: &Secret) -> Result<Self, MarkFileError> {
        let file = MarkFile::new(folder, Kind::Received, Fingerprint::of(keymat), spi);
        let recorded = file.read()?.unwrap_or(0);
        Ok(Self { file, recorded })
    }

    /// The highest number known to have been received; 0 for a new key.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.recorded
    }

    /// Records `highest`, the SA's highest accepted number, unless that is on disk already.
    ///
    /// # Errors
    /// [`MarkFileError::Write`]; receiving goes on.
    pub fn record(&mut self, highest: u64) -> Result<(), MarkFileError> {
        if highest > self.recorded {
            self.file.write(highest)?;
            self.recorded = highest;
        }
        Ok(())
    }
}
