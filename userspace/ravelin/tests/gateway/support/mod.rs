//! What the tests share: namespaces, daemons, captures, scapy.

pub(crate) mod capture;
pub(crate) mod daemon;
pub(crate) mod echo;
pub(crate) mod hosts;
pub(crate) mod lab;
pub(crate) mod memory;
pub(crate) mod namespace;
pub(crate) mod panic;
pub(crate) mod peer;
pub(crate) mod routed;
pub(crate) mod scapy;
pub(crate) mod secret;
pub(crate) mod tshark;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long to wait for what should take a moment: the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Raises a flag when dropped, so that threads end which wait for it, also when a test fails.
pub(crate) struct Raise<'f>(pub(crate) &'f AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// Waits until there is an answer.
pub(crate) fn wait_for<T>(what: &str, answer: impl FnMut() -> Option<T>) -> T {
    wait_longer(PATIENCE, what, answer)
}

/// The same with a patience of its own.
pub(crate) fn wait_longer<T>(patience: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
