//! Why connections cannot be keyed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use ravelin_esp::SaError;
use ravelin_policy::Spi;

use crate::KeyFileError;
use crate::marks::MarkFileError;
use crate::sequence_mark::MarkError;

/// A field of a connection in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaField {
    /// The key that seals.
    OutboundKey,
    /// The key that opens.
    InboundKey,
}

impl fmt::Display for SaField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutboundKey => "static.outbound.key-file",
            Self::InboundKey => "static.inbound.key-file",
        })
    }
}

/// Why one connection cannot be keyed.
#[derive(Debug, thiserror::Error)]
pub enum KeyingError {
    /// Its key file.
    #[error("{place}: {error}")]
    KeyFile {
        /// Where the policy names it.
        place: String,
        /// Why it cannot be used.
        error: KeyFileError,
    },
    /// A key that stands in two files.
    #[error(
        "{place}: {} and {} hold the same key; one key in two SAs repeats nonces, which breaks AES-GCM: make a key for each \
         direction (`ravelin keygen`)", .first.display(), .second.display()
    )]
    SameKey {
        /// Where the policy names the other file.
        place: String,
        /// The file read first.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
    /// A key that somebody has.
    #[error(
        "connection `{connection}`: {field} {} holds a key that {} uses, and one key in two SAs repeats nonces, which \
         breaks AES-GCM. {}", .file.display(), described(.holder, *.seconds), advice(.connection, .holder, *.seconds)
    )]
    KeyTaken {
        /// The connection that wants it.
        connection: String,
        /// Which of its keys.
        field: SaField,
        /// Its key file.
        file: PathBuf,
        /// The connection that has it.
        holder: String,
        /// Seconds that it still has it; `None` for a connection in force.
        seconds: Option<u64>,
    },
    /// A key that another instance on this machine has.
    #[error(
        "connection `{connection}`: static.outbound.key-file {} holds a key that instance `{instance}` on this machine seals with, \
         or may have sealed with since it was booted; neither knows which numbers the other has used, and one key in two instances \
         repeats nonces, which breaks AES-GCM. Give the connection a new key on both ends (`ravelin keygen`), or leave it to \
         instance `{instance}`; to stop that does not help once it has sealed", .file.display()
    )]
    KeyElsewhere {
        /// The connection that wants it.
        connection: String,
        /// Its key file.
        file: PathBuf,
        /// The instance that has it.
        instance: String,
    },
    /// Nobody knows which keys other instances have.
    #[error(
        "cannot find out which keys other instances on this machine may have sealed with, of which none may be used here: {0}; \
         look into /sys/fs/bpf/ravelin-numbers"
    )]
    OthersUnknown(io::Error),
    /// The SPI of an inbound SA.
    #[error(
        "connection `{connection}`: static.inbound.spi {spi} is that of {}, and packets under way could not be told apart; \
         give the new SAs SPIs of their own, on both ends: any of 256 to 4294967295 that no inbound SA has",
        described(.holder, *.seconds)
    )]
    SpiTaken {
        /// The connection that wants it.
        connection: String,
        /// The SPI.
        spi: Spi,
        /// The connection that has it.
        holder: String,
        /// Seconds that it still has it; `None` for a connection in force.
        seconds: Option<u64>,
    },
    /// Sequence numbers of several connections.
    #[error(transparent)]
    Marks(#[from] MarkFileError),
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

fn described(holder: &str, seconds: Option<u64>) -> String {
    match seconds {
        None => format!("the running connection `{holder}`"),
        Some(seconds) => {
            format!("an old SA of connection `{holder}`, which stays for another {seconds} s after a rekey,")
        }
    }
}

fn advice(connection: &str, holder: &str, seconds: Option<u64>) -> &'static str {
    if seconds.is_some() {
        "Give it a new key file (`ravelin keygen`) on both ends"
    } else if connection == holder {
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

impl From<KeyingError> for KeyingErrors {
    fn from(error: KeyingError) -> Self {
        Self(vec![error])
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
