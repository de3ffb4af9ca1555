//! Work that takes time, in threads of its own.

use std::io;

use tokio::sync::oneshot;

/// Runs `work` in a thread that nobody waits for when the process ends. Without an answer it has panicked.
///
/// # Errors
///
/// When the system has no room for another thread.
pub(crate) fn in_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Whoever asked may have ended.
        drop(sender.send(work()));
    })?;
    Ok(receiver)
}
