//! Files of commands that take `-` for standard input.

use std::io;
use std::path::Path;

use anyhow::{Result, anyhow};
use ravelin_policy::RegularFile;

/// Whether standard input is meant.
pub(crate) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens a file that is none.
pub(crate) fn open(path: &Path) -> Result<RegularFile> {
    RegularFile::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => anyhow!("{error}; what is no file comes in at standard input, as `-`"),
        _ => error.into(),
    })
}
