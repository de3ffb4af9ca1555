//! AF_XDP: packet memory shared with the kernel, its rings, and frames that can only be moved.
//!
//! The types in the order a packet meets them:
//!
//! - [`Umem`]: the memory that packets live in, cut into chunks of one size, and the ledger of who owns each chunk.
//! - [`Socket`]: one AF_XDP socket on one queue of one device, with its four rings. Several sockets, on different
//!   devices, may share one [`Umem`]: a frame received on one can be sent on another without a copy.
//! - [`Frame`]: the right to read and write one chunk. It is neither `Clone` nor `Copy`; sending it gives it away,
//!   dropping it returns the chunk to the free list.
//!   A packet that needs several chunks is gathered in a large frame.
//! - [`Batch`]: up to [`BATCH`] frames on their way through the engine.
//! - [`Tun`]: a queue of a TUN device, the way to and from the stack of this host.
//! - [`Backend`]: who opens sockets: [`Rings`], this crate itself, or, with the feature `xsk-rs`, the crate of that name.
//! - [`Port`]: what the engine needs of a socket. [`twin::TwinPort`] is the same in memory, for tests and benches.
//!
//! ```no_run
//! use ravelin_xsk::{Batch, Port, PortOptions, Socket, Umem, UmemOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let umem = Umem::new(&UmemOptions::default())?;
//! let mut inner = Socket::open(&umem, "eth1", 0, &PortOptions::default())?;
//! let mut outer = Socket::open(&umem, "eth0", 0, &PortOptions::default())?;
//! let mut batch = Batch::new();
//! loop {
//!     inner.rx(&mut batch);
//!     outer.tx(&mut batch);
//!     outer.kick()?;
//!     outer.reclaim();
//! }
//! # }
//! ```
//!
//! One thread owns a [`Umem`] and everything that borrows it: nothing here locks, and frames, sockets and batches
//! cannot be sent to another thread. For a time it can lend it a frame, as a [`Loan`]. The fast path neither allocates nor logs.
//!
//! What the engine needs of the kernel besides: [`SharedWords`], [`BpfLink`] and [`first_at_egress`].
//!
//! What the crate never does: it loads no BPF program and writes no XSKMAP (the engine does, with [`Port::fd`]), it
//! does not look inside packets.
//!
//! Unsafe code is confined to the modules that are marked so below: system calls, rings, and the one place where a
//! chunk becomes a slice.
#![deny(unsafe_code)]

mod backend;
mod batch;
mod bpf_link;
mod chain;
mod error;
mod ethtool;
#[allow(unsafe_code, reason = "turns owned chunks into slices")]
mod frame;
mod if_tun;
mod if_xdp;
mod ledger;
#[allow(unsafe_code, reason = "turns lent chunks into slices, and sends them")]
mod loan;
#[allow(unsafe_code, reason = "turns a mapping into a slice")]
mod map_memory;
#[allow(unsafe_code, reason = "sends a pointer to memory that belongs to no thread")]
mod memory;
mod port;
#[allow(unsafe_code, reason = "reads and writes memory that the kernel shares")]
mod ring;
#[allow(unsafe_code, reason = "turns a mapping into atomics")]
mod shared_words;
mod socket;
#[allow(unsafe_code, reason = "makes system calls")]
mod syscall;
mod tun;
pub mod twin;
#[allow(
    unsafe_code,
    reason = "creates frames for chunks that its ledger says are held by no one else"
)]
mod umem;
#[cfg(feature = "xsk-rs")]
#[allow(unsafe_code, reason = "tells xsk-rs which chunks are whose")]
mod xsk_rs_memory;
#[cfg(feature = "xsk-rs")]
#[allow(unsafe_code, reason = "tells xsk-rs which chunks are whose")]
mod xsk_rs_socket;

#[cfg(feature = "xsk-rs")]
pub use backend::XskRs;
pub use backend::{Backend, Rings};
pub use batch::{BATCH, Batch, BatchFull};
pub use bpf_link::{BpfLink, first_at_egress};
pub use error::{OpenError, PortError, UmemError};
pub use ethtool::switch_tx_checksums_off;
pub use frame::{Frame, FrameError};
pub use ledger::FrameCounts;
pub use loan::Loan;
pub use map_memory::MapMemory;
pub use port::{BusyPoll, Kick, Mode, Outstanding, Port, PortCounters, PortOptions, Statistics};
pub use shared_words::SharedWords;
pub use socket::{Socket, queue_count};
pub use tun::{Tun, TunError};
pub use umem::{HugePages, Pages, Umem, UmemOptions};
#[cfg(feature = "xsk-rs")]
pub use xsk_rs_socket::XskRsSocket;
