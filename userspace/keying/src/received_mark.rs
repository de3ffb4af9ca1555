//! The highest sequence number received under a key, so that a restart does not let old packets in again.

use std::sync::Arc;

use crate::fingerprint::Fingerprint;
use crate::mark_record::{Kind, Mark};
use crate::marks::MarkFileError;
use crate::sequence_mark::MarkError;
use crate::state_folder::StateFolder;

/// How far the anti-replay window had come when it was last recorded.
///
/// It is recorded after the fact. After a clean stop nothing old is taken again; after a crash, what arrived since the
/// last record could be replayed once, and what was sent while nobody listened still arrives. With extended sequence
/// numbers it also carries their high half, which is not on the wire (RFC 4303 section 2.2.1).
#[derive(Debug)]
pub struct ReceivedMark {
    folder: Arc<StateFolder>,
    key: Fingerprint,
    spi: u32,
    recorded: u64,
}

impl ReceivedMark {
    /// Finds out how far the window had come; a key without a mark is new.
    ///
    /// # Errors
    /// [`MarkError::OtherDirection`]: what was sent under the key could come back, and the other end repeats its nonces.
    /// [`MarkError::File`] when nobody knows.
    pub fn open(folder: &Arc<StateFolder>, spi: u32, key: Fingerprint) -> Result<Self, MarkError> {
        let recorded = folder.highest(Kind::Received, key)?;
        if recorded.is_none() && folder.highest(Kind::Sent, key)?.is_some() {
            return Err(MarkError::OtherDirection { spi, used: "send" });
        }
        Ok(Self {
            folder: Arc::clone(folder),
            key,
            spi,
            recorded: recorded.unwrap_or(0),
        })
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
        if let Some(wanted) = self.wanted(highest) {
            self.folder.record(&[wanted])?;
            self.recorded(&wanted);
        }
        Ok(())
    }

    /// What is to be recorded when `highest` was accepted; `None` if it is already.
    pub(crate) fn wanted(&self, highest: u64) -> Option<Mark> {
        (highest > self.recorded).then_some(Mark {
            kind: Kind::Received,
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
