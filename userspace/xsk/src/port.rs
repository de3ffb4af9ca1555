//! What the engine needs of a socket, and its settings and counters.

use std::os::fd::BorrowedFd;

use crate::{Batch, PortError, Umem};

/// One queue of one device: frames in, frames out.
///
/// A worker's loop is `rx` on each port, work, `tx`, `kick`, `reclaim`; before it sleeps in `poll` it calls `refill`
/// once more, so that the kernel has somewhere to put the packets that shall wake it.
pub trait Port<'u> {
    /// Appends received frames to `batch` until it is full or none are left; returns how many. It takes no more chunks than
    /// the batch has room for frames, so that packets of several chunks may need further calls. Then hands free chunks to the
    /// kernel. No system call, unless the driver sleeps for want of chunks and says so.
    fn rx(&mut self, batch: &mut Batch<'u>) -> usize;

    /// Queues frames from the front of `batch` as far as the ring has room and leaves the rest; returns how many were
    /// taken. No system call: [`kick`](Self::kick) sends them.
    ///
    /// A frame of another UMEM, one shorter than an Ethernet header (14 bytes) is taken, dropped and counted
    /// ([`PortCounters::refused`]): the kernel would drop it as well, and keep the chunk.
    fn tx(&mut self, batch: &mut Batch<'u>) -> usize;

    /// Has the kernel send what is queued: one system call if one is needed, a few if the kernel asks to be called again.
    ///
    /// # Errors
    /// [`PortError::DeviceDown`], [`PortError::DeviceGone`], or another failure; also one that an earlier
    /// [`rx`](Self::rx) met. What is queued stays queued.
    fn kick(&mut self) -> Result<Kick, PortError>;

    /// Returns the chunks of sent frames to the free list of the UMEM; returns how many. No system call.
    ///
    /// A frame that was received elsewhere completes on the port that sent it.
    fn reclaim(&mut self) -> usize;

    /// Hands free chunks to the kernel, as many as the fill ring takes; returns how many. No system call.
    fn refill(&mut self) -> usize;

    /// Asks the kernel whether the port still works: one cheap system call. `poll` does not report a dead device
    /// (`xsk_poll` answers "nothing" for an unbound socket), so a worker that wakes for a time-out calls this.
    ///
    /// # Errors
    /// [`PortError::DeviceDown`], [`PortError::DeviceGone`].
    fn check(&mut self) -> Result<(), PortError>;

    /// The packet memory that its frames live in.
    fn umem(&self) -> &'u Umem;

    /// The kernel's counters; one system call.
    ///
    /// # Errors
    /// [`PortError::Call`].
    fn statistics(&self) -> Result<Statistics, PortError>;

    /// The port's own counters since it was opened.
    fn counters(&self) -> PortCounters;

    /// Chunks that the kernel has through this port.
    fn outstanding(&self) -> Outstanding;

    /// For `poll` (readable: frames have arrived) and for the XSKMAP. In copy mode `poll` sends queued frames as well.
    fn fd(&self) -> BorrowedFd<'_>;
}

/// What [`Port::kick`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Kick {
    /// Nothing was queued, or the driver is awake and needs no call.
    Idle,
    /// The kernel has taken all that was queued.
    Sent,
    /// Some is still queued because the device or its buffers are full: [`Port::reclaim`], then kick again later.
    Retry,
}

/// How packets get from the driver to the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Zero-copy if the driver can, else copy. A further port of the same UMEM uses the mode of the first, whatever
    /// it asks for: the kernel has it so.
    Auto,
    /// The kernel copies.
    Copy,
    /// The driver writes into the UMEM, or opening fails.
    ZeroCopy,
}

/// Busy polling: the worker's system calls drive the device's NAPI, and its interrupts stay off meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long one call may poll, microseconds (`SO_BUSY_POLL`).
    pub microseconds: u32,
    /// Packets per poll (`SO_BUSY_POLL_BUDGET`).
    pub budget: u32,
}

/// Settings of one port. Ring sizes are in entries, powers of two from 16 to 32768.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Received packets that wait for `rx`; when it is full the kernel drops and counts (`rx_ring_full`).
    pub rx_ring: u32,
    /// Packets with the kernel for sending, from `tx` to `reclaim`.
    pub tx_ring: u32,
    /// Chunks with the kernel for receiving, from `refill` to `rx`.
    pub fill_ring: u32,
    /// Sent chunks that wait for `reclaim`; when it is full the kernel stops sending. At least the size of `tx_ring`.
    pub completion_ring: u32,
    /// Copy or zero-copy.
    pub mode: Mode,
    /// Let the driver say when it needs a system call. Off: every `kick` with something queued is one.
    pub need_wakeup: bool,
    /// Packets per system call in copy mode (`XDP_MAX_TX_SKB_BUDGET`), at least 32 and at most `tx_ring`; kernels
    /// before 6.17 send 32 whatever this says.
    pub tx_budget: u32,
    /// Busy polling, off by default.
    pub busy_poll: Option<BusyPoll>,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            rx_ring: 2048,
            tx_ring: 2048,
            fill_ring: 2048,
            completion_ring: 2048,
            mode: Mode::Auto,
            need_wakeup: true,
            tx_budget: 256,
            busy_poll: None,
        }
    }
}

impl PortOptions {
    /// Chunks that a port with these settings has with the kernel at most (`fill_ring` for receiving, `tx_ring` for
    /// sending); a UMEM needs the sum over its ports and some for the engine's batches.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        self.fill_ring + self.tx_ring
    }
}

/// Counters of the kernel: `struct xdp_statistics` of `linux/if_xdp.h`. Packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Dropped on receive: no chunk to be had, or larger than a chunk.
    pub rx_dropped: u64,
    /// Dropped on receive: the fill ring held an invalid address.
    pub rx_invalid_descriptors: u64,
    /// Not sent: the transmit ring held an invalid descriptor.
    pub tx_invalid_descriptors: u64,
    /// Dropped on receive: the receive ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub fill_ring_empty: u64,
    /// Times the kernel found the transmit ring empty; no fault.
    pub tx_ring_empty: u64,
}

/// Counters of a port since it was opened. Frames, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Received.
    pub received: u64,
    /// Chunks queued for sending.
    pub queued: u64,
    /// Chunks sent and returned to the free list. The kernel completes a frame that the device dropped as well.
    pub completed: u64,
    /// Chunks handed to the kernel for receiving.
    pub filled: u64,
    /// Refused by `tx`: of another UMEM, or shorter than an Ethernet header.
    pub refused: u64,
    /// Dropped by the device or its driver although queued (EBUSY).
    pub dropped: u64,
    /// Descriptors from the kernel that were no packet of ours; should be 0.
    pub invalid: u64,
    /// Packets of several chunks that were too long for a large frame, and dropped: more than the MTU allows.
    pub too_long: u64,
    /// Packets of several chunks for which no large frame, or no chunks to send from, were free, and which were dropped.
    pub no_frame: u64,
    /// System calls made to wake the kernel.
    pub wakeups: u64,
}

/// Chunks that the kernel has through one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// For receiving.
    pub receiving: u32,
    /// For sending.
    pub sending: u32,
}
