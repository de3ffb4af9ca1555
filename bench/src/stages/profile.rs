//! Samples of where a program is.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fmt, fs};

use addr2line::Loader;
use anyhow::{Context as _, Error, Result, anyhow, ensure};
use perf_event::events::Software;
use perf_event::{Builder, SampleFlag, Sampler};

/// Samples for a second of the thread's time. Prime, so that it keeps no step with timers.
const FREQUENCY: u64 = 997;

/// Bytes for samples that were not looked at yet: ten minutes of them.
const ROOM: usize = 16 << 20;

/// A sample's kind of record (linux/perf_event.h).
const PERF_RECORD_SAMPLE: u32 = 9;

/// Folders of sources as compilers write them into line tables, and how much of them stays in a name.
const ROOTS: [(&str, &str); 3] = [
    ("userspace/", ""),
    ("xdp-common/src/", "xdp-common/"),
    ("bench/src/", "bench/"),
];

/// Where code of the C library is, which has no sources here.
pub(crate) const C_LIBRARY: &str = "C library";

/// How often the profiled work was in which source file of this project.
pub(crate) type Places = BTreeMap<String, u64>;

/// Interrupts this thread over and over, in its own time, and notes where it was.
pub(crate) struct Profile {
    sampler: Sampler,
    /// The program's line table, and where the program is.
    lines: Loader,
    program: Mapped,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").finish_non_exhaustive()
    }
}

impl Profile {
    /// One that does not run yet.
    ///
    /// # Errors
    /// A kernel that has no perf events, or not for this process; a program without a line table.
    pub(crate) fn new() -> Result<Self> {
        let mut event = Builder::new(Software::CPU_CLOCK);
        event
            .observe_self()
            .any_cpu()
            .sample_frequency(FREQUENCY)
            .sample(SampleFlag::IP)
            .exclude_kernel(true)
            .exclude_hv(true);
        let sampler = event.build().and_then(|counter| counter.sampled(ROOM));
        let sampler = sampler.context(
            "the kernel gives no samples of its CPU clock (perf_event_open): `sysctl kernel.perf_event_paranoid` tells who may have them",
        )?;
        Ok(Self {
            sampler,
            lines: Loader::new("/proc/self/exe").map_err(broken)?,
            program: Mapped::program()?,
        })
    }

    /// Begins, or stops for a while.
    pub(crate) fn run(&mut self, on: bool) -> Result<()> {
        let done = match on {
            true => self.sampler.enable(),
            false => self.sampler.disable(),
        };
        done.context("perf events")
    }

    /// Where this thread was since it was asked last.
    ///
    /// A sample counts for the innermost function of this project that was being executed, inlined ones included: what the standard library does is its
    /// caller's.
    pub(crate) fn places(&mut self) -> Result<Places> {
        let mut at = BTreeMap::<u64, u64>::new();
        while let Some(record) = self.sampler.next_record() {
            if record.ty() != PERF_RECORD_SAMPLE {
                continue;
            }
            let bytes = record.to_contiguous();
            let ip = bytes.first_chunk().context("a sample without an address")?;
            *at.entry(u64::from_ne_bytes(*ip)).or_default() += 1;
        }
        let mut places = Places::new();
        for (ip, count) in at {
            let place = match self.program.offset(ip) {
                Some(offset) => file_at(&self.lines, offset)?.unwrap_or_else(|| "elsewhere".to_owned()),
                None => C_LIBRARY.to_owned(),
            };
            *places.entry(place).or_default() += count;
        }
        ensure!(
            !places.is_empty(),
            "no sample was taken: was there no work, or no time for it?"
        );
        Ok(places)
    }
}

/// Where this program lies in memory.
#[derive(Debug)]
struct Mapped {
    start: u64,
    end: u64,
}

impl Mapped {
    fn program() -> Result<Self> {
        let path = fs::read_link("/proc/self/exe").context("/proc/self/exe")?;
        let maps = fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
        let mut found: Option<Self> = None;
        for line in maps
            .lines()
            .filter(|line| path.to_str().is_some_and(|path| line.ends_with(path)))
        {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let range = range.and_then(|(start, end)| {
                Some((
                    u64::from_str_radix(start, 16).ok()?,
                    u64::from_str_radix(end, 16).ok()?,
                ))
            });
            let (start, end) = range.with_context(|| format!("/proc/self/maps: {line}"))?;
            // The first has the beginning of the file, at the address 0 of its line table.
            found = Some(Self {
                start: found.map_or(start, |found| found.start),
                end,
            });
        }
        found.context("this program is not in /proc/self/maps")
    }

    /// An address as the line table has it.
    fn offset(&self, address: u64) -> Option<u64> {
        (self.start..self.end)
            .contains(&address)
            .then(|| address - self.start)
    }
}

/// The source file that code at an address is from, of those of this project the innermost.
fn file_at(lines: &Loader, address: u64) -> Result<Option<String>> {
    let mut frames = lines.find_frames(address).map_err(broken)?;
    while let Some(frame) = frames.next().map_err(broken)? {
        let path = frame.location.and_then(|location| location.file);
        if let Some(file) = path.and_then(|path| shortened(Path::new(path))) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn broken(error: impl fmt::Display) -> Error {
    anyhow!("this program's line table: {error}")
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
    use std::hint::black_box;
    use std::time::{Duration, Instant};

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

    #[inline(never)]
    fn work(time: Duration) -> u64 {
        let start = Instant::now();
        let mut sum = 0_u64;
        while start.elapsed() < time {
            for _ in 0..1000 {
                sum = black_box(sum.wrapping_mul(31) + 1);
            }
        }
        sum
    }

    #[test]
    fn samples_fall_on_the_file_that_works_while_it_runs() {
        let mut profile = Profile::new().unwrap();
        black_box(work(Duration::from_millis(100)));
        profile.run(true).unwrap();
        black_box(work(Duration::from_millis(500)));
        profile.run(false).unwrap();
        black_box(work(Duration::from_millis(100)));
        let places = profile.places().unwrap();
        let all: u64 = places.values().sum();
        let here = places.get("bench/stages/profile.rs").copied().unwrap_or(0);
        assert!(here * 2 > all, "{places:?}");
        // A fifth more than there can be in that time.
        assert!(all < FREQUENCY * 6 / 10, "{places:?}");
        assert!(profile.places().is_err());
    }
}
