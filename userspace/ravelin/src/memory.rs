//! What this process knows stays in its memory: it holds keys.

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability};
use nix::libc::MCL_ONFAULT;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// No core dump, and no other process but root's reads this one's memory.
///
/// # Errors
/// The system refuses, which it has no reason to.
pub(crate) fn forbid_dumps() -> Result<()> {
    prctl::set_dumpable(false).context("cannot forbid core dumps")?;
    // Holds as well should anything make the process dumpable again.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("cannot forbid core dumps")
}

/// Keeps all memory of this process, now and later, out of swap; if that cannot be, why, and what to do.
///
/// Each page is locked when it is first used: thread stacks and tables are made far larger than they get.
pub(crate) fn lock() -> Option<String> {
    // Under a limit it would not be the lock that fails but some later allocation.
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let flags =
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(MCL_ONFAULT);
    let locked = match unlimited {
        Err(error) if !is_exempt() => Err(error),
        _ => mlockall(flags),
    };
    let error = locked.err()?;
    Some(format!(
        "memory cannot be locked ({error}), so keys may get into swap: start with CAP_IPC_LOCK, or with an unlimited \
         RLIMIT_MEMLOCK (systemd: `LimitMEMLOCK=infinity`)"
    ))
}

/// Whether the limit does not hold for this process (capabilities(7)).
fn is_exempt() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_IPC_LOCK).is_ok_and(|has| has)
}
