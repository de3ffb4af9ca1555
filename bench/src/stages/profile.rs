//! Samples of where a program is.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use pprof::{ProfilerGuard, Symbol};

/// Samples for a second of the CPU's time; the kernel's timer may give fewer.
const FREQUENCY: i32 = 997;

/// Folders of sources as compilers write them into line tables, and how much of them stays in a name.
const ROOTS: [(&str, &str); 3] = [
    ("userspace/", ""),
    ("xdp-common/src/", "xdp-common/"),
    ("bench/src/", "bench/"),
];

/// How often the profiled work was in which source file of this project.
pub(crate) type Places = BTreeMap<String, u64>;

/// Runs something, and tells where it was.
///
/// A sample counts for the innermost function of this project that was being executed, inlined ones included, so that a copy by the C library or a
/// method of the standard library is its caller's. Samples from the making of packets are left out.
pub(crate) fn take<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Places)> {
    let guard = ProfilerGuard::new(FREQUENCY).context("cannot start the timer of the profile")?;
    let done = work()?;
    let report = guard.report().build().context("cannot read the profile")?;
    let mut places = Places::new();
    for (stack, count) in &report.data {
        let files: Vec<_> = stack.frames.iter().flatten().filter_map(file_of).collect();
        if files.iter().any(|file| file == "bench/work.rs") {
            continue;
        }
        let place = files.into_iter().next();
        *places
            .entry(place.unwrap_or_else(|| "elsewhere".to_owned()))
            .or_default() += count.unsigned_abs() as u64;
    }
    Ok((done, places))
}

fn file_of(symbol: &Symbol) -> Option<String> {
    shortened(symbol.filename.as_deref()?)
}

/// `esp/pad.rs` for `…/userspace/esp/src/pad.rs`; `None` for files that are not this project's.
fn shortened(path: &Path) -> Option<String> {
    let path = path.to_str()?;
    if path.contains("/registry/src/") || path.contains("/rustc/") {
        return None;
    }
    ROOTS.iter().find_map(|(root, name)| {
        let (before, rest) = path.rsplit_once(root)?;
        (before.is_empty() || before.ends_with('/'))
            .then(|| format!("{name}{}", rest.replacen("/src/", "/", 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        let name = |path: &str| shortened(Path::new(path));
        assert_eq!(
            name("/x/userspace/esp/src/a/pad.rs").as_deref(),
            Some("esp/a/pad.rs")
        );
        assert_eq!(name("userspace/gcm/src/pad.rs").as_deref(), Some("gcm/pad.rs"));
        assert_eq!(
            name("/x/xdp-common/src/walk.rs").as_deref(),
            Some("xdp-common/walk.rs")
        );
        assert_eq!(name("/x/bench/src/work.rs").as_deref(), Some("bench/work.rs"));
        assert_eq!(name("/y/registry/src/i/bench/src/work.rs"), None);
        assert_eq!(name("/rustc/1/library/core/src/option.rs"), None);
    }

    #[test]
    fn samples_fall_on_the_file_that_works() {
        let (sum, places) = take(|| {
            let start = std::time::Instant::now();
            let mut sum = 0_u64;
            while start.elapsed().as_millis() < 300 {
                sum = std::hint::black_box(sum.wrapping_mul(31) + 1);
            }
            Ok(sum)
        })
        .unwrap();
        assert_ne!(sum, 0);
        let here = places.get("bench/stages/profile.rs").copied().unwrap_or(0);
        assert!(here > 0 && here * 2 > places.values().sum(), "{places:?}");
    }
}
