//! Key files: hexadecimal KEYMAT (encryption key, salt, integrity key, as far as the algorithm has them), readable by the owner only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use ravelin_esp::Secret;
use ravelin_policy::Algorithm;
use zeroize::Zeroizing;

/// Largest key file in bytes: room for comments.
const MAX_BYTES: usize = 4096;

/// The longest KEYMAT in bytes: AES-256-CTR with HMAC-SHA-512.
const MAX_KEYMAT: usize = 32 + 4 + 64;

/// Why a key file cannot be used. No variant holds any of its content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be opened.
    #[error("{}: cannot open the key file: {error}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is a symbolic link.
    #[error("{}: a key file must not be a symbolic link; name the file itself", .path.display())]
    SymbolicLink {
        /// The file.
        path: PathBuf,
    },
    /// It is a folder, pipe or device.
    #[error("{}: not a regular file", .path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Others may read or write it.
    #[error("{}: its mode is {mode:04o}; a key file is for its owner only: chmod 600 {}", .path.display(), .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Someone else owns it.
    #[error("{}: it belongs to user {owner}, who could change the key; chown it to root or to the user Ravelin runs as", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// It cannot be read, or written when it is made.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Too large to be a key.
    #[error("{}: larger than {MAX_BYTES} bytes; this is no key file", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else than hex digits.
    #[error("{}:{line}: only hexadecimal digits, spaces and # comments may stand in a key file", .path.display())]
    Character {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// It holds too many or too few digits.
    #[error("{}: expected {expected} hex digits for {algorithm} (encryption key, salt, integrity key: {} + {} + {} bytes), found {found}", .path.display(), .algorithm.encryption_key_len(), .algorithm.salt_len(), .algorithm.integrity_key_len())]
    Length {
        /// The file.
        path: PathBuf,
        /// What the key is for.
        algorithm: Algorithm,
        /// Digits wanted.
        expected: usize,
        /// Digits found.
        found: usize,
    },
    /// It holds zeros only.
    #[error("{}: a key of zeros protects nothing; make one with `ravelin keygen`", .path.display())]
    Zero {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("no random numbers from the system; no key was made")]
    Random,
}

/// Reads a key file: mode 0600 or 0400, owned by root or the effective user, a regular file.
///
/// White space and comments from `#` to the end of a line are skipped; `0x` may stand in front of the digits. The checks
/// are made on the open file, so that it cannot be exchanged between check and use.
///
/// # Errors
/// [`KeyFileError`], which names the file and what to do.
pub fn read(path: &Path, algorithm: Algorithm) -> Result<Secret, KeyFileError> {
    let file = open(path)?;
    check(path, &file)?;
    // As large as it can get, so that growing leaves no copy of the key behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    file.take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|error| KeyFileError::Io {
            path: path.to_owned(),
            error,
        })?;
    if content.len() > MAX_BYTES {
        return Err(KeyFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    decode(path, &content, algorithm)
}

/// Makes a key file with a new random key. An existing file is never touched. The file is on disk when this returns.
///
/// # Errors
/// [`KeyFileError::Open`] if it exists or cannot be made, [`KeyFileError::Io`] if it cannot be written (it is removed
/// again), [`KeyFileError::Random`].
pub fn create(path: &Path, algorithm: Algorithm) -> Result<(), KeyFileError> {
    let mut keymat = Zeroizing::new([0_u8; MAX_KEYMAT]);
    let keymat = &mut keymat[..algorithm.keymat_len()];
    rand::fill(keymat).map_err(|_| KeyFileError::Random)?;

    let header = format!(
        "# {algorithm}: encryption key, salt, integrity key in {} + {} + {} bytes. One direction of one connection.\n",
        algorithm.encryption_key_len(),
        algorithm.salt_len(),
        algorithm.integrity_key_len(),
    );
    let mut content = Zeroizing::new(Vec::with_capacity(header.len() + 2 * MAX_KEYMAT + 1));
    content.extend_from_slice(header.as_bytes());
    content.extend(
        keymat
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(hex_digit),
    );
    content.push(b'\n');

    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| KeyFileError::Open {
            path: path.to_owned(),
            error,
        })?;
    let written = file
        .write_all(&content)
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_folder_of(path));
    written.map_err(|error| {
        // Half a key is of no use, and would be in the way of the next attempt.
        let _ = std::fs::remove_file(path);
        KeyFileError::Io {
            path: path.to_owned(),
            error,
        }
    })
}

fn open(path: &Path) -> Result<File, KeyFileError> {
    // Without O_NONBLOCK, opening a pipe would wait for its other end.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(|error| {
            let path = path.to_owned();
            if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) {
                return KeyFileError::SymbolicLink { path };
            }
            KeyFileError::Open { path, error }
        })
}

fn check(path: &Path, file: &File) -> Result<(), KeyFileError> {
    let path = path.to_owned();
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return Err(KeyFileError::Io { path, error }),
    };
    if !metadata.is_file() {
        return Err(KeyFileError::NotRegular { path });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(KeyFileError::Owner { path, owner });
    }
    match metadata.mode() & 0o7777 {
        0o600 | 0o400 => Ok(()),
        mode => Err(KeyFileError::Mode { path, mode }),
    }
}

fn decode(path: &Path, content: &[u8], algorithm: Algorithm) -> Result<Secret, KeyFileError> {
    let expected = algorithm.keymat_len() * 2;
    let mut keymat = Zeroizing::new([0_u8; MAX_KEYMAT]);
    let mut found = 0;
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let digits = line
            .split(|byte| *byte == b'#')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        let digits = if found == 0 {
            digits.strip_prefix(b"0x").unwrap_or(digits)
        } else {
            digits
        };
        for byte in digits.iter().filter(|byte| !byte.is_ascii_whitespace()) {
            let Some(digit) = char::from(*byte).to_digit(16) else {
                return Err(KeyFileError::Character {
                    path: path.to_owned(),
                    line: index + 1,
                });
            };
            // Surplus digits are only counted.
            if let Some(slot) = keymat.get_mut(found / 2) {
                *slot = *slot << 4 | digit as u8;
            }
            found += 1;
        }
    }
    if found != expected {
        return Err(KeyFileError::Length {
            path: path.to_owned(),
            algorithm,
            expected,
            found,
        });
    }
    let keymat = &keymat[..expected / 2];
    if keymat.iter().fold(0, |all, byte| all | byte) == 0 {
        return Err(KeyFileError::Zero {
            path: path.to_owned(),
        });
    }
    Ok(Secret::copy_from(keymat))
}

/// Makes the file's name durable, not only its content.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn hex_digit(nibble: u8) -> u8 {
    char::from_digit(u32::from(nibble), 16).map_or(b'0', |digit| digit as u8)
}
