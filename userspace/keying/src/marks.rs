//! All marks in one file: how far sending and receiving have come under each key.
//!
//! A page of text says how large the file is. Then come two copies of every record, all first copies before all second
//! ones. A mark that rises is written over the older of its copies, so that a write which is torn leaves the other; any
//! number of marks become durable with one `fdatasync`. Whatever else changes (the first mark, more room, a copy that
//! was damaged) makes a new file, which takes the old one's name when it is whole.
//!
//! Nobody can tell a copy that was torn while it was written, and never counted, from one that was damaged later. A
//! copy of a mark for sending is by [`RESERVE`] at most below the other, so the mark is taken to be that much above the copy
//! that is left: too high does no harm. Where neither copy is left, any key that is not found in the file could be the one, so keys
//! that are not found are refused.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use crate::fingerprint::Fingerprint;
use crate::mark_record::{Kind, Mark, RECORD_LEN, Record};
use crate::sequence_mark::RESERVE;
use crate::state_folder::Folder;

/// Name in the state folder of the file of sequence numbers.
pub(crate) const NUMBERS: &str = "marks";

/// Name of the file of bytes, in which `highest` is how many. Builds without it begin them anew.
pub(crate) const BYTES: &str = "bytes";

/// Bytes in front of the records.
const HEADER_LEN: usize = 4096;

/// Room for marks in a new file.
const LEAST: u32 = 1024;

/// Room for marks in any file: 512 MiB of it.
const MOST: u32 = 1 << 22;

/// Records read or written at a time.
const CHUNK: u32 = 1024;

/// Why marks cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkFileError {
    /// They cannot be read.
    #[error(
        "{}: cannot open the record of how far keys were used: {error}; Ravelin must be able to read and write it \
         (`--state-dir` names its folder)", .path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// They cannot be written durably.
    #[error("{}: cannot record how far keys are used: {error}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not ours, or not whole.
    #[error(
        "{}: damaged, so nobody knows how far keys were used; make new keys for all connections on both ends \
         (`ravelin keygen`), then delete the file", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Marks in it are damaged, and this key's could be one of them.
    #[error(
        "{}: marks of {lost} keys are damaged, and this key could be one of them; make a new key on both ends \
         (`ravelin keygen`), or new keys for all connections and then delete the file", .path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// How many.
        lost: u32,
    },
    /// It is of another version of Ravelin.
    #[error(
        "{}: written by another version of Ravelin; run that version, or make new keys for all connections on both ends \
         (`ravelin keygen`), then delete the file", .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
    },
}

/// The file of marks, and what is in it.
#[derive(Debug)]
pub(crate) struct Marks {
    /// In the state folder.
    name: &'static str,
    /// `None` until there is something to record.
    file: Option<File>,
    /// Records that there is room for.
    capacity: u32,
    /// Places from here on are free.
    used: u32,
    /// Marks that are damaged beyond telling whose they were.
    lost: u32,
    index: HashMap<(Kind, Fingerprint), Entry>,
}

/// Where a mark is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    place: u32,
    spi: u32,
    /// What is durable; 0 before anything is.
    highest: u64,
    /// The older copy, 0 or 1.
    older: u8,
}

impl Marks {
    /// Reads the file, if there is one, and replaces it by a whole one if copies were damaged.
    ///
    /// # Errors
    /// [`MarkFileError`], other than `Lost`.
    pub(crate) fn open(folder: &Folder, name: &'static str) -> Result<Self, MarkFileError> {
        let path = folder.path().join(name);
        let read = |error| MarkFileError::Read {
            path: path.clone(),
            error,
        };
        let mut marks = Self {
            name,
            file: None,
            capacity: 0,
            used: 0,
            lost: 0,
            index: HashMap::new(),
        };
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(folder, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(nix::errno::Errno::ENOENT) => return Ok(marks),
            Err(error) => return Err(read(error.into())),
        };
        (marks.capacity, marks.lost) = read_header(&file, &path)?;
        let damaged = marks.read_records(&file).map_err(read)?;
        marks.file = Some(file);
        if damaged {
            marks
                .rewrite(folder, marks.capacity)
                .map_err(|error| MarkFileError::Write { path, error })?;
        }
        Ok(marks)
    }

    /// The highest number recorded for a key; `None` for one that was never recorded.
    ///
    /// # Errors
    /// [`MarkFileError::Lost`].
    pub(crate) fn highest(
        &self,
        folder: &Folder,
        kind: Kind,
        key: Fingerprint,
    ) -> Result<Option<u64>, MarkFileError> {
        match self.index.get(&(kind, key)) {
            Some(entry) if entry.highest > 0 => Ok(Some(entry.highest)),
            _ if self.lost > 0 => Err(MarkFileError::Lost {
                path: folder.path().join(self.name),
                lost: self.lost,
            }),
            _ => Ok(None),
        }
    }

    /// Records marks, of each key one: all are durable when this returns. After an error, or a crash before that, each is
    /// what it was or what it was to be.
    ///
    /// # Errors
    /// [`MarkFileError::Write`].
    pub(crate) fn record(&mut self, folder: &Folder, batch: &[Mark]) -> Result<(), MarkFileError> {
        self.write(folder, batch).map_err(|error| MarkFileError::Write {
            path: folder.path().join(self.name),
            error,
        })
    }

    fn write(&mut self, folder: &Folder, batch: &[Mark]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let fresh = batch
            .iter()
            .filter(|mark| !self.index.contains_key(&(mark.kind, mark.key)))
            .count();
        let needed = self.used as usize + fresh;
        if self.file.is_none() || needed > self.capacity as usize || !self.is_in_place(folder) {
            let capacity = needed.next_power_of_two().max(LEAST as usize);
            let capacity = u32::try_from(capacity).ok().filter(|capacity| *capacity <= MOST);
            let full = || io::Error::other(format!("there is no room for more than {MOST} marks"));
            self.rewrite(folder, capacity.ok_or_else(full)?)?;
        }
        let Some(file) = &self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut records = Vec::with_capacity(batch.len());
        for mark in batch {
            let entry = self.index.entry((mark.kind, mark.key)).or_insert_with(|| {
                self.used += 1;
                Entry {
                    place: self.used - 1,
                    spi: mark.spi,
                    highest: 0,
                    older: 0,
                }
            });
            entry.spi = mark.spi;
            let record = mark.to_record(entry.place);
            // A new mark needs both: else nobody could tell a damaged one from one that never was. So does one that
            // rises by more than the copy that is left is taken to be too low.
            let copies = if entry.highest == 0 || mark.highest.saturating_sub(entry.highest) > RESERVE {
                0..=1
            } else {
                entry.older..=entry.older
            };
            records.extend(copies.map(|copy| (offset(self.capacity, entry.place, copy), record)));
        }
        records.sort_unstable_by_key(|(offset, _)| *offset);
        for run in records.chunk_by(|a, b| a.0 + RECORD_LEN as u64 == b.0) {
            let bytes: Vec<u8> = run.iter().flat_map(|(_, record)| *record).collect();
            file.write_all_at(&bytes, run[0].0)?;
        }
        // Should this fail, the older copies may be anything, and the next attempt writes over the same ones.
        file.sync_data()?;
        for mark in batch {
            if let Some(entry) = self.index.get_mut(&(mark.kind, mark.key)) {
                entry.highest = mark.highest;
                entry.older ^= 1;
            }
        }
        Ok(())
    }

    /// Whether the open file is still the one that the next start will find.
    fn is_in_place(&self, folder: &Folder) -> bool {
        let Some(own) = self.file.as_ref().and_then(|file| file.metadata().ok()) else {
            return false;
        };
        fstatat(folder, self.name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|named| (named.st_dev, named.st_ino) == (own.dev(), own.ino()))
    }

    /// Writes all that is durable into a new file with this much room, which replaces the old one.
    fn rewrite(&mut self, folder: &Folder, capacity: u32) -> io::Result<()> {
        let mut entries: Vec<_> = self.index.iter_mut().collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.place);
        let records: Vec<_> = entries
            .iter()
            .zip(0..)
            .map(|(((kind, key), entry), place)| {
                let mark = Mark {
                    kind: *kind,
                    key: *key,
                    spi: entry.spi,
                    highest: entry.highest,
                };
                // What is not durable yet has a place, and nothing in it.
                if mark.highest == 0 {
                    [0; RECORD_LEN]
                } else {
                    mark.to_record(place)
                }
            })
            .collect();
        let mut header = render(capacity, self.lost).into_bytes();
        header.resize(HEADER_LEN, 0);
        let file = folder.replace(self.name, |file| {
            file.write_all_at(&header, 0)?;
            for copy in 0..=1 {
                for first in (0..capacity).step_by(CHUNK as usize) {
                    let mut bytes = vec![0; CHUNK as usize * RECORD_LEN];
                    let rest = records.get(first as usize..).unwrap_or_default();
                    for (place, record) in bytes.chunks_exact_mut(RECORD_LEN).zip(rest) {
                        place.copy_from_slice(record);
                    }
                    file.write_all_at(&bytes, offset(capacity, first, copy))?;
                }
            }
            Ok(())
        })?;
        self.used = 0;
        for (_, entry) in entries {
            (entry.place, entry.older) = (self.used, 0);
            self.used += 1;
        }
        (self.file, self.capacity) = (Some(file), capacity);
        Ok(())
    }

    /// Fills the index; whether the file should be written anew.
    fn read_records(&mut self, file: &File) -> io::Result<bool> {
        let mut damaged = false;
        let mut chunks = [0, 1].map(|_| vec![0; CHUNK as usize * RECORD_LEN]);
        for first in (0..self.capacity).step_by(CHUNK as usize) {
            for (chunk, copy) in chunks.iter_mut().zip(0..) {
                file.read_exact_at(chunk, offset(self.capacity, first, copy))?;
            }
            let [a, b] = &chunks;
            let (a, b) = (a.as_chunks::<RECORD_LEN>().0, b.as_chunks::<RECORD_LEN>().0);
            for (place, (a, b)) in (first..).zip(a.iter().zip(b)) {
                damaged |= self.take(place, Record::parse(a, place), Record::parse(b, place));
            }
        }
        Ok(damaged)
    }

    /// Takes both copies of a record in; whether they are not what a whole file has.
    fn take(&mut self, place: u32, a: Record, b: Record) -> bool {
        let (mark, whole) = match (a, b) {
            (Record::Free, Record::Free) => return false,
            (Record::Holds(a), Record::Holds(b)) if (a.kind, a.key) == (b.kind, b.key) => {
                (if a.highest > b.highest { a } else { b }, true)
            }
            (Record::Holds(only), Record::Free | Record::Damaged)
            | (Record::Free | Record::Damaged, Record::Holds(only)) => (only, false),
            _ => {
                self.lost += 1;
                return true;
            }
        };
        let highest = match mark.kind {
            Kind::Sent if !whole => mark.highest.saturating_add(RESERVE),
            // What was received since is lost, as after any crash.
            _ => mark.highest,
        };
        self.used = place + 1;
        let entry = Entry {
            place,
            spi: mark.spi,
            highest,
            older: u8::from(a == Record::Holds(mark)),
        };
        let twice = self.index.insert((mark.kind, mark.key), entry);
        if let Some(other) = twice
            && let Some(entry) = self.index.get_mut(&(mark.kind, mark.key))
        {
            entry.highest = entry.highest.max(other.highest);
        }
        !whole || twice.is_some()
    }
}

/// Where a copy of a record is.
fn offset(capacity: u32, place: u32, copy: u8) -> u64 {
    HEADER_LEN as u64 + RECORD_LEN as u64 * (u64::from(capacity) * u64::from(copy) + u64::from(place))
}

/// The capacity and the number of lost marks, of a file that is as long as it says.
fn read_header(file: &File, path: &Path) -> Result<(u32, u32), MarkFileError> {
    let path = || path.to_owned();
    let damaged = || MarkFileError::Damaged { path: path() };
    let read = |error| MarkFileError::Read { path: path(), error };
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() || metadata.len() < HEADER_LEN as u64 {
        return Err(damaged());
    }
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, 0).map_err(read)?;
    let end = header.iter().position(|byte| *byte == 0).unwrap_or(HEADER_LEN);
    let (text, rest) = header.split_at(end);
    let text = std::str::from_utf8(text).map_err(|_| damaged())?;
    let mut lines = text.lines();
    match lines.next().and_then(|line| line.strip_prefix("ravelin marks ")) {
        Some("1") => {}
        Some(_) => return Err(MarkFileError::Version { path: path() }),
        None => return Err(damaged()),
    }
    let mut number = |name: &str| {
        let line = lines.next()?.strip_prefix(name)?.strip_prefix(' ')?;
        line.parse::<u32>().ok()
    };
    let (capacity, lost) = number("room").zip(number("lost")).ok_or_else(damaged)?;
    let expected = offset(capacity, capacity, 1);
    if render(capacity, lost) != text
        || rest.iter().any(|byte| *byte != 0)
        || !(LEAST..=MOST).contains(&capacity)
        || !capacity.is_power_of_two()
        || metadata.len() != expected
    {
        return Err(damaged());
    }
    Ok((capacity, lost))
}

/// The text that a file begins with.
fn render(capacity: u32, lost: u32) -> String {
    let body = format!("ravelin marks 1\nroom {capacity}\nlost {lost}\n");
    let sum = digest::digest(&digest::SHA256, body.as_bytes());
    let sum: String = sum.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{body}check {sum}\n")
}
