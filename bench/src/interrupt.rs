//! Ctrl-C and the like, turned into an error that unwinds through every guard: benches that change something about the machine put
//! it back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// How long a pause goes on unaware.
const STEP: Duration = Duration::from_millis(20);

/// From here on these signals no longer end the program; [`check`] and [`sleep`] fail instead.
///
/// # Errors
/// They cannot be caught.
pub fn install() -> Result<()> {
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("cannot catch signals")?;
    }
    Ok(())
}

/// Goes on unless a signal has arrived.
///
/// # Errors
/// It has.
pub fn check() -> Result<()> {
    if FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        bail!("interrupted; what was measured so far is lost unless it was written");
    }
    Ok(())
}

/// Waits, but not beyond a signal.
///
/// # Errors
/// One has arrived.
pub fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(STEP));
    }
}
