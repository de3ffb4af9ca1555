//! Memory behind a descriptor, as words that several processes may change.

use std::io;
use std::os::fd::BorrowedFd;
use std::slice;
use std::sync::atomic::AtomicU64;

use crate::syscall::{Mapping, map_array};

/// The values of a BPF array that was created with `BPF_F_MMAPABLE`, or a file's content, in this process's memory until it is
/// dropped. What is stored is there for others at once, and stays when the process is killed.
#[derive(Debug)]
pub struct SharedWords(Mapping);

// SAFETY: what is reached through a shared borrow are atomics, and the mapping itself does not change.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `words` words of 64 bits behind `memory`, which must be that long for as long as this lives: a BPF
    /// array always is, and a file is if nobody cuts it off.
    ///
    /// # Errors
    ///
    /// The kernel's: `EPERM` for a map without `BPF_F_MMAPABLE`, `EINVAL` when it is smaller (`kernel/bpf/arraymap.c`,
    /// `array_map_mmap`).
    pub fn of(memory: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        map_array(memory, words * size_of::<AtomicU64>()).map(Self)
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        let words = self.0.len() / size_of::<AtomicU64>();
        // SAFETY: the mapping begins on a page, so it is aligned, holds so many words, is readable and writable, and lives as
        // long as the borrow of self. Whoever else has it can change any word at any time, which is what atomics are for.
        unsafe { slice::from_raw_parts(self.0.start().cast().as_ptr(), words) }
    }
}
