//! Ctrl-C and friends, turned into an error that unwinds through every guard.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(5);

/// From here on these signals no longer end the program; [`check`] and [`wait_until`] fail instead.
pub(crate) fn install() -> Result<()> {
    let flag = Arc::clone(FLAG.get_or_init(Arc::default));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot catch signals")?;
    }
    Ok(())
}

/// Fails once a signal has arrived.
pub(crate) fn check() -> Result<()> {
    if FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits for `condition` to hold; `what` completes the sentence "timed out waiting for …".
///
/// # Errors
///
/// The time is over, a signal arrived, or the condition itself failed.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        check()?;
        if start.elapsed() > limit {
            bail!("timed out after {} s waiting for {what}", limit.as_secs_f32());
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}
