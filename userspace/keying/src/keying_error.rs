//! Why connections cannot be keyed.

use std::fmt;
use std::path::PathBuf;

use ravelin_esp::SaError;
use ravelin_policy::Spi;

use crate::KeyFileError;
use crate::sequence_mark::MarkError;

/// Why one connection cannot be keyed.
#[derive(Debug, thiserror::Error)]
pub enum KeyingError {
    /// Its key file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A key that stands in two files.
    #[error(
        "{} and {} hold the same key; one key in two SAs repeats nonces, which breaks AES-GCM: make a key for each \
         direction (`ravelin keygen`)", .first.display(), .second.display()
    )]
    SameKey {
        /// The file read first.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
    /// A key of a running SA.
    #[error(
        "connection `{connection}`: {} holds a key that the running connection `{running}` uses, and one key in two SAs \
         repeats nonces, which breaks AES-GCM. {}", .file.display(), advice(.connection, .running)
    )]
    Running {
        /// The connection that wants it.
        connection: String,
        /// Its key file.
        file: PathBuf,
        /// The connection that has it.
        running: String,
    },
    /// The SPI of a running inbound SA.
    #[error(
        "connection `{connection}`: the inbound SPI {spi} is that of the running connection `{running}`, and packets under \
         way could not be told apart; give the new SAs SPIs of their own, on both ends"
    )]
    RunningSpi {
        /// The connection that wants it.
        connection: String,
        /// The SPI.
        spi: Spi,
        /// The connection that has it.
        running: String,
    },
    /// Its sequence numbers.
    #[error("connection `{connection}`: {error}")]
    Mark {
        /// The connection's name.
        connection: String,
        /// Why.
        error: MarkError,
    },
    /// Its parameters.
    #[error("connection `{connection}`: {error}")]
    Sa {
        /// The connection's name.
        connection: String,
        /// Why.
        error: SaError,
    },
}

fn advice(connection: &str, running: &str) -> &'static str {
    if connection == running {
        "Its other parameters have changed, which takes new SAs: give it new SPIs and new key files (`ravelin keygen`) on \
         both ends, or leave the parameters as they were"
    } else {
        "Give it a new key file (`ravelin keygen`) on both ends, or remove the running connection first"
    }
}

/// Everything that keeps a policy from being keyed; at least one error.
#[derive(Debug)]
pub struct KeyingErrors(pub(crate) Vec<KeyingError>);

impl KeyingErrors {
    /// The errors, in the order of the policy's connections; never empty.
    #[must_use]
    pub fn errors(&self) -> &[KeyingError] {
        &self.0
    }
}

impl fmt::Display for KeyingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for KeyingErrors {}
