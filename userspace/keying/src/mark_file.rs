//! One number on disk for one key: what both kinds of mark have in common.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;

use crate::fingerprint::Fingerprint;
use crate::state_folder::StateFolder;

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 512;

/// What a mark records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The highest number that may have been used for sending.
    Sent,
    /// The highest number that was received.
    Received,
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// Why a mark cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkFileError {
    /// It cannot be read.
    #[error("{}: cannot read which sequence numbers were used: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It cannot be written durably.
    #[error("{}: cannot record sequence numbers: {error}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is torn or not ours.
    #[error(
        "{}: damaged, so nobody knows which sequence numbers were used with this key; make a new key on both ends \
         (`ravelin keygen`), then delete the file", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It is of another version of Ravelin.
    #[error(
        "{}: written by another version of Ravelin; run that version, or make a new key on both ends \
         (`ravelin keygen`), then delete the file", .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
    },
}

/// The file of one key and kind. Named after the key alone, so that an SA that changes its SPI and keeps its key goes
/// on counting.
#[derive(Debug)]
pub(crate) struct MarkFile {
    folder: Arc<StateFolder>,
    kind: Kind,
    key: Fingerprint,
    spi: u32,
}

impl MarkFile {
    pub(crate) fn new(folder: &Arc<StateFolder>, kind: Kind, key: Fingerprint, spi: u32) -> Self {
        Self {
            folder: folder.clone(),
            kind,
            key,
            spi,
        }
    }

    pub(crate) fn folder(&self) -> &StateFolder {
        &self.folder
    }

    pub(crate) fn key(&self) -> Fingerprint {
        self.key
    }

    pub(crate) fn spi(&self) -> u32 {
        self.spi
    }

    /// The number in the file; `None` without a file.
    pub(crate) fn read(&self) -> Result<Option<u64>, MarkFileError> {
        let content = self.folder.read(&self.name(), MAX_BYTES);
        let content = content.map_err(|error| MarkFileError::Read {
            path: self.path(),
            error,
        })?;
        content.map(|content| self.parse(&content)).transpose()
    }

    /// Records `highest`: durable when this returns, and whole whatever happens before.
    pub(crate) fn write(&self, highest: u64) -> Result<(), MarkFileError> {
        let written = self
            .folder
            .replace(&self.name(), self.render(self.spi, highest).as_bytes());
        written.map_err(|error| MarkFileError::Write {
            path: self.path(),
            error,
        })
    }

    fn name(&self) -> String {
        format!("{}.{}", self.key, self.kind.extension())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name())
    }

    /// First line, without the version.
    fn title(&self) -> String {
        format!("ravelin {} mark ", self.kind.extension())
    }

    /// The number, if the content is exactly what this version writes for this key.
    fn parse(&self, content: &[u8]) -> Result<u64, MarkFileError> {
        let damaged = || MarkFileError::Damaged { path: self.path() };
        let text = std::str::from_utf8(content).map_err(|_| damaged())?;
        let (first, rest) = text.split_once('\n').ok_or_else(damaged)?;
        let version = first.strip_prefix(&self.title()).ok_or_else(damaged)?;
        if version != "1" {
            return Err(MarkFileError::Version { path: self.path() });
        }
        let mut lines = rest.lines();
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
        let body = format!("{}1\nspi {spi:08x}\nhighest {highest}\n", self.title());
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
