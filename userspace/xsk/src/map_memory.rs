//! The memory of a BPF array that was created with `BPF_F_MMAPABLE`, to fill it by one copy.

use std::io;
use std::os::fd::BorrowedFd;
use std::slice;

use crate::syscall::{Mapping, map_array};

/// The values of a BPF array, in this process's memory until it is dropped.
#[derive(Debug)]
pub struct MapMemory(Mapping);

impl MapMemory {
    /// Maps the first `len` bytes of the values of the array behind `map`.
    ///
    /// No program may read the array yet: the caller alone knows it, which is why it is taken by an exclusive borrow
    /// of the only slice there is.
    ///
    /// # Errors
    ///
    /// The kernel's: `EPERM` for a map without `BPF_F_MMAPABLE`, `EINVAL` when it is smaller (`kernel/bpf/arraymap.c`,
    /// `array_map_mmap`).
    pub fn of(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        map_array(map, len).map(Self)
    }

    /// The bytes of the values.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping holds `len` bytes, is readable and writable, and lives as long as the borrow of self,
        // which is exclusive. The kernel side does not read an array that is in no use yet; were it to, it would see
        // plain integers.
        unsafe { slice::from_raw_parts_mut(self.0.start().as_ptr(), self.0.len()) }
    }
}
