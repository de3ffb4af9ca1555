//! Which sequence numbers may have been used under a key, remembered across crashes and reboots.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use ravelin_esp::{Secret, SequenceCounter};

use crate::fingerprint::Fingerprint;
use crate::state_folder::StateFolder;

/// Sequence numbers reserved at a time.
///
/// [`SequenceMark::extend`] renews a reservation of which half is used: called every 100 ms it keeps up with 5 million
/// packets per second.
pub const RESERVE: u64 = 1 << 20;

/// First line of a mark.
const VERSION: &str = "ravelin sequence mark 1";

/// Longest mark that is read, in bytes.
const MAX_BYTES: u64 = 512;

/// The highest sequence number that may have been used under one key, on disk before any number up to it is used.
///
/// The file is named after the key alone: an SA that changes its SPI and keeps its key goes on counting.
#[derive(Debug)]
pub struct SequenceMark {
    folder: Arc<StateFolder>,
    key: Fingerprint,
    spi: u32,
    /// What the file said when it was opened: numbers up to here may have been used before.
    floor: u64,
    /// What the file says now.
    recorded: u64,
}

/// Why sequence numbers cannot be given out; sending stays stopped.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The file cannot be read.
    #[error("{}: cannot read which sequence numbers were used: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file cannot be written durably.
    #[error("{}: cannot record sequence numbers, so none may be used: {error}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is torn or not ours.
    #[error(
        "{}: damaged, so nobody knows which sequence numbers were used with this key; make a new key on both ends \
         (`ravelin keygen`), then delete the file", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file is of another version of Ravelin.
    #[error(
        "{}: written by another version of Ravelin; run that version, or make a new key on both ends \
         (`ravelin keygen`), then delete the file", .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
    },
    /// An SA in this process has the key already.
    #[error("SPI {spi:#010x}: its key is already in use for sending")]
    InUse {
        /// The SPI that asked.
        spi: u32,
    },
    /// The counter was not built from this mark.
    #[error("SPI {spi:#010x}: its counter stands at {used}, but numbers up to {floor} may have been used")]
    Behind {
        /// The SPI.
        spi: u32,
        /// Where the counter stands.
        used: u64,
        /// What may have been used.
        floor: u64,
    },
    /// No number is left.
    #[error(
        "SPI {spi:#010x}: its sequence numbers are used up; make a new key on both ends (`ravelin keygen`)"
    )]
    Exhausted {
        /// The SPI.
        spi: u32,
    },
}

impl SequenceMark {
    /// Finds out what may have been used under this key; a key without a file is new.
    ///
    /// # Errors
    /// [`MarkError`], other than `Write`.
    pub fn open(folder: &Arc<StateFolder>, spi: u32, keymat: &Secret) -> Result<Self, MarkError> {
        let key = Fingerprint::of(keymat);
        if !folder.claim(key) {
            return Err(MarkError::InUse { spi });
        }
        // From here on dropping it releases the claim.
        let mut mark = Self {
            folder: folder.clone(),
            key,
            spi,
            floor: 0,
            recorded: 0,
        };
        let read = folder.read(&mark.name(), MAX_BYTES);
        let content = read.map_err(|error| MarkError::Read {
            path: mark.path(),
            error,
        })?;
        if let Some(content) = content {
            mark.floor = mark.parse(&content)?;
            mark.recorded = mark.floor;
        }
        Ok(mark)
    }

    /// The highest number that may have been used before this was opened, to go on after; 0 for a new key.
    #[must_use]
    pub fn last_used(&self) -> u64 {
        self.floor
    }

    /// Keeps numbers ready: when less than half of [`RESERVE`] is left, records a higher mark durably and then raises
    /// the counter's ceiling to it. The counter is that of the one SA that seals with this key.
    ///
    /// # Errors
    /// [`MarkError::Write`]: the ceiling stays, and the SA stops when it gets there. [`MarkError::Exhausted`] when no
    /// number is left for good. [`MarkError::Behind`] for a counter that does not start at [`SequenceMark::last_used`].
    pub fn extend(&mut self, counter: &SequenceCounter, extended: bool) -> Result<(), MarkError> {
        let limit = SequenceCounter::limit_of(extended);
        let used = counter.last_used();
        if used < self.floor {
            return Err(MarkError::Behind {
                spi: self.spi,
                used,
                floor: self.floor,
            });
        }
        if used >= limit {
            return Err(MarkError::Exhausted { spi: self.spi });
        }
        let wanted = used.saturating_add(RESERVE).min(limit);
        if self.recorded.saturating_sub(used) < RESERVE / 2 && wanted > self.recorded {
            let written = self
                .folder
                .replace(&self.name(), self.render(self.spi, wanted).as_bytes());
            written.map_err(|error| MarkError::Write {
                path: self.path(),
                error,
            })?;
            self.recorded = wanted;
        }
        counter.raise_ceiling(self.recorded);
        Ok(())
    }

    fn name(&self) -> String {
        format!("{}.mark", self.key)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name())
    }

    /// The highest number, if the content is exactly what this version writes.
    fn parse(&self, content: &[u8]) -> Result<u64, MarkError> {
        let damaged = || MarkError::Damaged { path: self.path() };
        let text = std::str::from_utf8(content).map_err(|_| damaged())?;
        let mut lines = text.lines();
        let version = lines.next().unwrap_or_default();
        if version != VERSION && version.starts_with("ravelin sequence mark ") && text.lines().count() > 1 {
            return Err(MarkError::Version { path: self.path() });
        }
        let mut field = |name: &str| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(name)?.strip_prefix(' '))
        };
        let spi = field("spi")
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .ok_or_else(damaged)?;
        let highest = field("highest")
            .and_then(|number| number.parse().ok())
            .ok_or_else(damaged)?;
        if self.render(spi, highest) != text {
            return Err(damaged());
        }
        Ok(highest)
    }

    /// The file's content: three lines and a checksum over them and the key's fingerprint.
    fn render(&self, spi: u32, highest: u64) -> String {
        let body = format!("{VERSION}\nspi {spi:08x}\nhighest {highest}\n");
        let sum = digest::digest(&digest::SHA256, format!("{body}{}", self.key).as_bytes());
        let sum: String = sum
            .as_ref()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{body}check {sum}\n")
    }
}

impl Drop for SequenceMark {
    fn drop(&mut self) {
        self.folder.release(self.key);
    }
}
