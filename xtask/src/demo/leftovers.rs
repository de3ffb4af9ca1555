//! What demo runs leave on the machine, and how it goes away again.
//!
//! Everything of a run carries the name `rav-<process id of the run>`: namespaces, pins, and the private folder. So a
//! later run finds what an earlier one that was killed could not clean up.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{interrupt, namespace};

/// Where the daemons pin their programs and maps, by instance.
const PINS: [&str; 3] = [
    "/sys/fs/bpf/ravelin",
    "/sys/fs/bpf/ravelin-numbers",
    "/sys/fs/bpf/ravelin-counters",
];

/// The file that says a run was left up on purpose.
const KEPT: &str = "kept";

/// The name of a run, and its private folder. What is left of the run goes on drop.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    kept: bool,
}

impl Run {
    /// A run of this process.
    pub(super) fn create() -> Result<Self> {
        let name = format!("rav-{}", process::id());
        let folder = folder(&name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| folder.display().to_string())?;
        Ok(Self {
            name,
            folder,
            kept: false,
        })
    }

    /// Leaves it up; `--clean` takes it down.
    pub(super) fn keep(&mut self) -> Result<()> {
        fs::write(self.folder.join(KEPT), "").context("private folder")?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove(&self.name)
        {
            eprintln!("demo: {error:#}");
        }
    }
}

/// Removes the rests of runs whose process is gone; those kept on purpose only if `kept` says so.
///
/// Returns the names of the runs that were removed.
pub(super) fn clean(kept: bool) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for run in runs() {
        if is_running(&run) || (!kept && folder(&run).join(KEPT).exists()) {
            continue;
        }
        remove(&run)?;
        removed.push(run);
    }
    Ok(removed)
}

/// What there is of a run, in words; empty when it is all gone.
pub(super) fn found(run: &str) -> Vec<String> {
    let mut found = namespaces(run);
    found.extend(pins(run).iter().map(|path| path.display().to_string()));
    if folder(run).exists() {
        found.push(folder(run).display().to_string());
    }
    found
}

fn folder(run: &str) -> PathBuf {
    env::temp_dir().join(run)
}

/// The names of all runs of which anything is left.
fn runs() -> Vec<String> {
    let mut names = namespace::names();
    let folders = PINS.iter().map(PathBuf::from).chain([env::temp_dir()]);
    for folder in folders {
        names.extend(
            entries(&folder)
                .iter()
                .filter_map(|path| path.file_name()?.to_str().map(str::to_owned)),
        );
    }
    let mut runs = names.iter().filter_map(|name| run_of(name)).collect::<Vec<_>>();
    runs.sort();
    runs.dedup();
    runs
}

/// `rav-123` for `rav-123` and for `rav-123-gw1`.
fn run_of(name: &str) -> Option<String> {
    let id = name.strip_prefix("rav-")?.split('-').next()?;
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())).then(|| format!("rav-{id}"))
}

/// Whether the run's process is still there, and still a demo: process ids are used again.
fn is_running(run: &str) -> bool {
    let id = run.trim_start_matches("rav-");
    id != process::id().to_string()
        && fs::read_to_string(Path::new("/proc").join(id).join("comm"))
            .is_ok_and(|name| name.trim() == "xtask")
}

fn namespaces(run: &str) -> Vec<String> {
    namespace::names()
        .into_iter()
        .filter(|name| run_of(name).as_deref() == Some(run))
        .collect()
}

fn pins(run: &str) -> Vec<PathBuf> {
    PINS.iter()
        .flat_map(|folder| entries(Path::new(folder)))
        .filter(|path| {
            path.file_name()
                .and_then(|name| run_of(name.to_str()?))
                .as_deref()
                == Some(run)
        })
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

/// Ends the run's processes, then removes its namespaces, pins and folder.
fn remove(run: &str) -> Result<()> {
    for name in namespaces(run) {
        end_processes(&name)?;
        namespace::delete(&name)?;
    }
    for path in pins(run) {
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove the pins in {}", path.display()))?;
    }
    let folder = folder(run);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Ends whatever runs in a namespace that a demo made: asks first.
fn end_processes(name: &str) -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for id in namespace::process_ids(name)? {
            // It may have ended in the meantime.
            let _ = kill(Pid::from_raw(id), signal);
        }
        let gone = interrupt::wait_until("processes to end", Duration::from_secs(5), || {
            Ok(namespace::process_ids(name)?.is_empty())
        });
        if gone.is_ok() {
            return Ok(());
        }
    }
    bail!(
        "processes in namespace {name} do not end: {:?}",
        namespace::process_ids(name)?
    )
}

#[cfg(test)]
mod tests {
    use super::run_of;

    #[test]
    fn only_names_of_runs_are_taken_for_runs() {
        assert_eq!(run_of("rav-12-gw1").as_deref(), Some("rav-12"));
        assert_eq!(run_of("rav-12").as_deref(), Some("rav-12"));
        for other in ["rav-", "rav-x1", "rav-1x-gw1", "ravelin", "rav", "other-12"] {
            assert_eq!(run_of(other), None, "{other}");
        }
    }
}
