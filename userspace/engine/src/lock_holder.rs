//! Who has a lock that somebody else wants.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// The process that has the lock (flock(2)) of a file; `None` if none that is to be seen from here.
pub(crate) fn lock_holder(path: &Path) -> Option<u32> {
    let file = path.metadata().ok()?;
    let place = format!(
        "{:02x}:{:02x}:{}",
        major(file.dev()),
        minor(file.dev()),
        file.ino()
    );
    holder(&fs::read_to_string("/proc/locks").ok()?, &place)
}

/// The same by what the kernel tells of all locks (proc_locks(5)).
fn holder(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, process, at, ..] if at == place => {
                process.parse().ok().filter(|process| *process > 0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::holder;

    #[test]
    fn the_holder_is_told_from_those_who_wait_and_from_other_locks() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 7 00:1f:12 0 EOF
2: FLOCK  ADVISORY  WRITE 42 00:1f:12 0 EOF
2: -> FLOCK  ADVISORY  WRITE 43 00:1f:12 0 EOF
3: FLOCK  ADVISORY  WRITE 0 00:1f:13 0 EOF
";
        assert_eq!(holder(locks, "00:1f:12"), Some(42));
        assert_eq!(holder(locks, "00:1f:13"), None);
        assert_eq!(holder(locks, "00:1f:14"), None);
    }
}
