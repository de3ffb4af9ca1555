//! Who speaks AF_XDP to the kernel.

#[cfg(feature = "xsk-rs")]
use crate::XskRsSocket;
use crate::{OpenError, Port, PortOptions, Socket, Umem, UmemError, UmemOptions};

/// A way to open sockets, all of whose ports behave the same.
pub trait Backend {
    /// Its sockets.
    type Socket<'u>: Port<'u>;

    /// Packet memory for its sockets, none of which will have larger rings than `port` says.
    ///
    /// # Errors
    /// [`UmemError`].
    fn memory(options: &UmemOptions, port: &PortOptions) -> Result<Umem, UmemError>;

    /// Opens a socket on queue `queue` (from 0) of the device named `device` in the thread's network namespace, and
    /// fills its fill ring.
    ///
    /// # Errors
    /// [`OpenError`], which names device, queue and call, and what to do.
    fn open<'u>(
        umem: &'u Umem,
        device: &str,
        queue: u32,
        options: &PortOptions,
    ) -> Result<Self::Socket<'u>, OpenError>;

    /// Whether the driver receives into and sends from the UMEM without a copy.
    fn zero_copy(socket: &Self::Socket<'_>) -> bool;
}

/// This crate: rings as slices, and system calls.
#[derive(Clone, Copy, Debug)]
pub enum Rings {}

impl Backend for Rings {
    type Socket<'u> = Socket<'u>;

    fn memory(options: &UmemOptions, _: &PortOptions) -> Result<Umem, UmemError> {
        Umem::new(options)
    }

    fn open<'u>(
        umem: &'u Umem,
        device: &str,
        queue: u32,
        options: &PortOptions,
    ) -> Result<Socket<'u>, OpenError> {
        Socket::open(umem, device, queue, options)
    }

    fn zero_copy(socket: &Socket<'_>) -> bool {
        socket.zero_copy()
    }
}

/// The crate xsk-rs, over libxdp. What it costs:
///
/// - A frame whose start was moved, as every sealed or opened one's is, is moved in its chunk before it is sent: a descriptor of the
///   crate can only point to where a packet was received. So what is sent in one chunk is
///   [`UmemOptions::largest_packet`] without large frames at most; with large frames longer packets are cut, without they are refused
///   ([`PortCounters::refused`](crate::PortCounters::refused)).
/// - The fill and completion rings of all ports have the sizes that the memory was made for; a port with smaller ones leaves the rest of them
///   empty.
/// - The memory is registered when it is made, which wants the privileges that otherwise opening does. libxdp keeps the first socket until
///   the memory goes: its queue stays taken, and once its device is gone no other socket can join.
/// - Frames that a removed device had not sent are lost to the memory ([`FrameCounts::lost`](crate::FrameCounts::lost)), since nobody can
///   look into the transmit ring.
#[cfg(feature = "xsk-rs")]
#[derive(Clone, Copy, Debug)]
pub enum XskRs {}

#[cfg(feature = "xsk-rs")]
impl Backend for XskRs {
    type Socket<'u> = XskRsSocket<'u>;

    fn memory(options: &UmemOptions, port: &PortOptions) -> Result<Umem, UmemError> {
        Umem::of_xsk_rs(options, port)
    }

    fn open<'u>(
        umem: &'u Umem,
        device: &str,
        queue: u32,
        options: &PortOptions,
    ) -> Result<XskRsSocket<'u>, OpenError> {
        XskRsSocket::open(umem, device, queue, options)
    }

    fn zero_copy(socket: &XskRsSocket<'_>) -> bool {
        socket.zero_copy()
    }
}
