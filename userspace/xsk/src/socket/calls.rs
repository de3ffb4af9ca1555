//! What a socket that is open says to the kernel, whoever has its rings.

use std::io;
use std::os::fd::BorrowedFd;

use crate::{Kick, PortCounters, syscall};

/// System calls in one `kick` at most: a device that drops every frame costs one call per frame (EBUSY).
const MAX_SENDS: u32 = 64;

/// Has the kernel send what is queued: `left` entries of the transmit ring, and later as many as `pending` says.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    zero_copy: bool,
    counters: &mut PortCounters,
    mut left: u32,
    mut pending: impl FnMut() -> u32,
) -> io::Result<Kick> {
    for _ in 0..MAX_SENDS {
        counters.wakeups += 1;
        let sent = syscall::wake_tx(socket);
        if zero_copy && sent.is_ok() {
            // The driver sends in its own time.
            return Ok(Kick::Sent);
        }
        let before = std::mem::replace(&mut left, pending());
        match sent {
            Ok(()) => {}
            // The device dropped one frame and completed it; the kernel went no further.
            Err(error) if syscall::is_errno(&error, libc::EBUSY) => counters.dropped += 1,
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        if left == 0 {
            return Ok(Kick::Sent);
        }
        if left == before {
            // No room in the device, the send buffer or the completion ring.
            break;
        }
    }
    Ok(Kick::Retry)
}

/// Conditions that pass: call again later.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR)
    )
}

/// Whether the kernel will never again touch a chunk through this socket, although others may hold a duplicate of its
/// descriptor.
pub(crate) fn is_unbound(socket: BorrowedFd<'_>) -> bool {
    let unbound = syscall::wake_rx(socket).is_err_and(|error| syscall::is_errno(&error, libc::ENXIO));
    // `xsk_notifier` marks the socket unbound first and then waits for the receive path, all under `xs->mutex`;
    // `xsk_getsockopt(XDP_STATISTICS)` takes that mutex, so it returns only when the wait is over.
    unbound && syscall::statistics(socket).is_ok()
}
