//! The memory of another process.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

/// All that a process can write, its mappings one after the other; what is shared with devices is left out.
pub(crate) fn writable_memory(pid: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'))
            .unwrap();
        let [start, end] = [range.0, range.1].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        let from = all.len();
        all.resize(from + (end - start) as usize, 0);
        // A mapping may be gone by now.
        let read = memory.read_at(&mut all[from..], start).unwrap_or(0);
        all.truncate(from + read);
    }
    all
}
