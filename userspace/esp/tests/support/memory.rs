//! The memory of this process, searched for secrets.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

/// Bytes of a secret that are looked for: no chance to be met by accident.
const WINDOW: usize = 8;

/// Where a part of a secret of `len` bytes stands in memory that this process can write, each with the end of its mapping.
/// `byte` makes each byte when it is asked for, so that the search itself holds no copy.
pub(crate) fn copies(byte: impl Fn(usize) -> u8, len: usize) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string("/proc/self/maps").expect("our own maps");
    let memory = File::open("/proc/self/mem").expect("our own memory");
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    // Which bytes a part can begin with, without their order.
    let parts = || (0..=len - WINDOW).step_by(WINDOW);
    let mut begins = [false; 256];
    parts().for_each(|from| begins[usize::from(byte(from))] = true);
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let (start, end) = range.expect("a range");
        let [mut at, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).expect("hex"));
        while at < end {
            let want = buffer.len().min((end - at) as usize);
            let read = memory.read_at(&mut buffer[..want], at).unwrap_or(0);
            let Some(last) = read.checked_sub(WINDOW) else {
                break;
            };
            for place in (0..=last).filter(|place| begins[usize::from(buffer[*place])]) {
                let is_part = |from: usize| (0..WINDOW).all(|n| buffer[place + n] == byte(from + n));
                if parts().any(is_part) {
                    found.push((at + place as u64, end));
                }
            }
            // What was read is memory too.
            buffer[..read].fill(0);
            at += if at + read as u64 == end { read } else { last + 1 } as u64;
        }
    }
    found
}
