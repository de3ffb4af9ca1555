//! Huge pages, which belong to the machine: taken for a while, then given back.

use std::fs;

use anyhow::{Context as _, Result, ensure};

const SETTING: &str = "/proc/sys/vm/nr_hugepages";

/// As many free huge pages as are wanted, until it is dropped.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
}

impl HugePages {
    /// Has the kernel keep so many MiB free in huge pages, at least.
    ///
    /// # Errors
    /// There is no such setting, or no memory in pieces as large; then all is as before.
    pub fn reserve(mebibytes: u64) -> Result<Self> {
        // Dropped on the way out, it puts back what was there.
        let reserved = Self { before: setting()? };
        reserved.replenish(mebibytes)?;
        Ok(reserved)
    }

    /// The same again, after others may have taken some.
    ///
    /// # Errors
    /// As for [`HugePages::reserve`].
    pub fn replenish(&self, mebibytes: u64) -> Result<()> {
        let pages = mebibytes.div_ceil(about("Hugepagesize")?.div_ceil(1024).max(1));
        let missing = pages.saturating_sub(about("HugePages_Free")?);
        fs::write(SETTING, (setting()? + missing).to_string())
            .with_context(|| format!("cannot write {SETTING}"))?;
        let free = about("HugePages_Free")?;
        ensure!(
            free >= pages,
            "of {pages} huge pages for {mebibytes} MiB the kernel had {free}"
        );
        Ok(())
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SETTING, self.before.to_string()) {
            eprintln!("bench: {SETTING} was {} and stays changed: {error}", self.before);
        }
    }
}

fn setting() -> Result<u64> {
    let text = fs::read_to_string(SETTING).with_context(|| format!("cannot read {SETTING}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{SETTING} says {text}"))
}

/// What the kernel says of huge pages: their size in KiB, or how many there are.
fn about(key: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let value = values.next().context("this kernel has no huge pages")?;
    value
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .with_context(|| format!("{key}: {value}"))
}
