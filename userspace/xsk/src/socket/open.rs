//! Opening a socket: rings, options, registration, bind.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use super::{Attachment, Socket};
use crate::chain::Chain;
use crate::error::OpenError;
use crate::if_xdp::{
    SO_BUSY_POLL, SO_BUSY_POLL_BUDGET, SO_PREFER_BUSY_POLL, SOL_XDP, XDP_COPY, XDP_MAX_TX_SKB_BUDGET,
    XDP_OPTIONS_ZEROCOPY, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_RX_RING, XDP_SHARED_UMEM, XDP_TX_RING,
    XDP_UMEM_COMPLETION_RING, XDP_UMEM_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING,
    XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_ZEROCOPY,
};
use crate::ledger::Owner;
use crate::ring::{ConsumerRing, ProducerRing};
use crate::umem::PortSlot;
use crate::{Mode, Outstanding, Port as _, PortCounters, PortOptions, Umem, syscall};

/// How long to wait for the kernel to free the queue of a socket that was closed just now.
const QUEUE_RELEASE: Duration = Duration::from_millis(500);

impl<'u> Socket<'u> {
    /// Opens a socket on queue `queue` (from 0) of the device named `device` in the thread's network namespace, and
    /// fills its fill ring.
    ///
    /// Packets arrive once a program redirects them to the socket ([`Port::fd`](crate::Port::fd) goes into an XSKMAP).
    ///
    /// # Errors
    /// [`OpenError`], which names device, queue and system call, and what to do.
    pub fn open(umem: &'u Umem, device: &str, queue: u32, options: &PortOptions) -> Result<Self, OpenError> {
        let context = Context { device, queue };
        let (interface, attachment) = admit(umem, &context, options)?;
        #[cfg(feature = "xsk-rs")]
        if umem.xsk_rs().is_some() {
            return Err(context.other_memory());
        }
        let fd = syscall::socket().map_err(|error| match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => OpenError::NoAfXdp { source: error },
            _ => context.error("socket(AF_XDP)", error),
        })?;
        let socket = fd.as_fd();
        let set_ring = |call, option, size| {
            syscall::set_number(socket, SOL_XDP, option, size).map_err(|error| context.error(call, error))
        };
        set_ring(
            "setsockopt(XDP_UMEM_FILL_RING)",
            XDP_UMEM_FILL_RING,
            options.fill_ring,
        )?;
        set_ring(
            "setsockopt(XDP_UMEM_COMPLETION_RING)",
            XDP_UMEM_COMPLETION_RING,
            options.completion_ring,
        )?;
        set_ring("setsockopt(XDP_RX_RING)", XDP_RX_RING, options.rx_ring)?;
        set_ring("setsockopt(XDP_TX_RING)", XDP_TX_RING, options.tx_ring)?;
        let offsets = syscall::ring_offsets(socket)
            .map_err(|error| context.error("getsockopt(XDP_MMAP_OFFSETS)", error))?;
        let map = |error| context.error("mmap of a ring", error);
        let slot = attachment.slot();
        let mut socket = Self {
            umem,
            fill: ProducerRing::map(
                socket,
                XDP_UMEM_PGOFF_FILL_RING as libc::off_t,
                &offsets.fr,
                options.fill_ring,
            )
            .map_err(map)?,
            rx: ConsumerRing::map(socket, XDP_PGOFF_RX_RING, &offsets.rx, options.rx_ring).map_err(map)?,
            tx: ProducerRing::map(socket, XDP_PGOFF_TX_RING, &offsets.tx, options.tx_ring).map_err(map)?,
            completion: ConsumerRing::map(
                socket,
                XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t,
                &offsets.cr,
                options.completion_ring,
            )
            .map_err(map)?,
            chain: Chain::default(),
            outstanding: Outstanding::default(),
            options: options.clone(),
            counters: PortCounters::default(),
            receiving: Owner::fill(slot),
            sending: Owner::tx(slot),
            fd,
            zero_copy: false,
            fault: None,
            device: device.to_owned(),
            queue,
            attachment,
        };
        set_limits(socket.fd.as_fd(), &context, options)?;
        // Before bind: drivers that receive into the UMEM take chunks at once.
        socket.refill();
        socket.bind(interface)?;
        Ok(socket)
    }

    /// Binds: shares the registration of a socket that is bound already, or registers the UMEM.
    fn bind(&mut self, interface: u32) -> Result<(), OpenError> {
        let context = Context {
            device: &self.device,
            queue: self.queue,
        };
        let socket = self.fd.as_fd();
        let mut bound = false;
        for port in self.umem.ports() {
            let PortSlot::Bound { fd, .. } = port else {
                continue;
            };
            // Mode, need_wakeup and chains are those of the other socket; any other flag here is EINVAL.
            let bind = || syscall::bind(socket, interface, self.queue, XDP_SHARED_UMEM, fd as u32);
            match patiently(bind) {
                Ok(()) => {
                    bound = true;
                    break;
                }
                // That socket has lost its device.
                Err(error) if syscall::is_errno(&error, libc::EBADF) => {}
                Err(error) => return Err(context.error("bind(XDP_SHARED_UMEM)", error)),
            }
        }
        if !bound {
            syscall::register_umem(socket, self.umem.registration())
                .map_err(|error| context.error("setsockopt(XDP_UMEM_REG)", error))?;
            let mode = match self.options.mode {
                // The kernel tries zero-copy first and falls back by itself (`xp_assign_dev`).
                Mode::Auto => 0,
                Mode::Copy => XDP_COPY,
                Mode::ZeroCopy => XDP_ZEROCOPY,
            };
            let wakeup = if self.options.need_wakeup {
                XDP_USE_NEED_WAKEUP
            } else {
                0
            };
            let chains = if self.umem.has_large_frames() {
                XDP_USE_SG
            } else {
                0
            };
            patiently(|| syscall::bind(socket, interface, self.queue, mode | wakeup | chains, 0))
                .map_err(|error| context.error("bind", error))?;
        }
        let flags =
            syscall::options(socket).map_err(|error| context.error("getsockopt(XDP_OPTIONS)", error))?;
        self.zero_copy = flags & XDP_OPTIONS_ZEROCOPY != 0;
        if self.options.mode == Mode::ZeroCopy && !self.zero_copy {
            return Err(context.error("bind", io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
        }
        let port = PortSlot::Bound {
            fd: self.fd.as_raw_fd(),
            interface,
            queue: self.queue,
        };
        self.umem.set_port(self.attachment.slot(), port);
        Ok(())
    }
}

/// What can be told before there is a socket: the interface's number, and a place among the ports of the UMEM.
pub(crate) fn admit<'u>(
    umem: &'u Umem,
    context: &Context<'_>,
    options: &PortOptions,
) -> Result<(u32, Attachment<'u>), OpenError> {
    check_rings(options)?;
    let &Context { device, queue } = context;
    let queues = queue_count(device)?;
    let interface =
        syscall::interface_index(device).map_err(|error| context.error("if_nametoindex", error))?;
    if queue >= queues {
        return Err(OpenError::NoSuchQueue {
            device: device.to_owned(),
            queue,
            queues,
        });
    }
    let taken =
        |port| matches!(port, PortSlot::Bound { interface: i, queue: q, .. } if (i, q) == (interface, queue));
    if umem.ports().any(taken) {
        return Err(OpenError::QueueInUse {
            device: device.to_owned(),
            queue,
        });
    }
    let attachment = Attachment::new(umem).ok_or_else(|| OpenError::TooManyPorts {
        device: device.to_owned(),
        queue,
    })?;
    Ok((interface, attachment))
}

/// Options beside `SOL_XDP`'s rings; those that an older kernel lacks only cost speed.
pub(crate) fn set_limits(
    socket: BorrowedFd<'_>,
    context: &Context<'_>,
    options: &PortOptions,
) -> Result<(), OpenError> {
    // The kernel takes 32, its default, up to the ring's size, and answers EACCES to anything else.
    let budget = options.tx_budget.min(options.tx_ring);
    if budget > 32 {
        match syscall::set_number(socket, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, budget) {
            Err(error) if !syscall::is_errno(&error, libc::ENOPROTOOPT) => {
                return Err(context.error("setsockopt(XDP_MAX_TX_SKB_BUDGET)", error));
            }
            _ => {}
        }
    }
    // In copy mode every queued packet counts against the send buffer, whose default holds about 90 of them. Without
    // CAP_NET_ADMIN it stays so, and the kernel asks to be called again more often.
    let send_buffer = (options.tx_ring * 4096).min(1 << 30);
    let _ = syscall::set_number(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send_buffer);
    if let Some(busy_poll) = options.busy_poll {
        for (call, option, number) in [
            ("setsockopt(SO_PREFER_BUSY_POLL)", SO_PREFER_BUSY_POLL, 1),
            ("setsockopt(SO_BUSY_POLL)", SO_BUSY_POLL, busy_poll.microseconds),
            (
                "setsockopt(SO_BUSY_POLL_BUDGET)",
                SO_BUSY_POLL_BUDGET,
                busy_poll.budget,
            ),
        ] {
            syscall::set_number(socket, libc::SOL_SOCKET, option, number)
                .map_err(|error| context.error(call, error))?;
        }
    }
    Ok(())
}

/// Number of queues of a device, as far as AF_XDP can use them; 1 if the driver does not say.
///
/// # Errors
/// [`OpenError::NoSuchDevice`], or what the ioctl said.
pub fn queue_count(device: &str) -> Result<u32, OpenError> {
    let context = Context { device, queue: 0 };
    match syscall::channels(device) {
        Ok(channels) => Ok((channels.combined_count + channels.rx_count.max(channels.tx_count)).max(1)),
        Err(error) if syscall::is_errno(&error, libc::EOPNOTSUPP) => Ok(1),
        Err(error) => Err(context.error("ioctl(ETHTOOL_GCHANNELS)", error)),
    }
}

/// Binds, and waits a little for a queue that seems to be in use: the kernel frees the queue of a closed socket some
/// time after close(2) returns (`xp_release_deferred` in `net/xdp/xsk_buff_pool.c`) and tells nobody when.
pub(crate) fn patiently<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..QUEUE_RELEASE.as_millis() {
        match bind() {
            Err(error) if syscall::is_errno(&error, libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
    bind()
}

fn check_rings(options: &PortOptions) -> Result<(), OpenError> {
    let rings = [
        ("receive", options.rx_ring),
        ("transmit", options.tx_ring),
        ("fill", options.fill_ring),
        ("completion", options.completion_ring),
    ];
    for (ring, size) in rings {
        if !size.is_power_of_two() || !(16..=32768).contains(&size) {
            return Err(OpenError::RingSize { ring, size });
        }
    }
    Ok(())
}

/// What an error message names.
pub(crate) struct Context<'a> {
    pub(crate) device: &'a str,
    pub(crate) queue: u32,
}

impl Context<'_> {
    #[cfg(feature = "xsk-rs")]
    pub(crate) fn other_memory(&self) -> OpenError {
        OpenError::OtherMemory {
            device: self.device.to_owned(),
            queue: self.queue,
        }
    }

    pub(crate) fn error(&self, call: &'static str, source: io::Error) -> OpenError {
        let (device, queue) = (self.device.to_owned(), self.queue);
        match source.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => OpenError::NoSuchDevice { device },
            Some(libc::EBUSY) => OpenError::QueueInUse { device, queue },
            Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted {
                device,
                queue,
                call,
                source,
            },
            Some(libc::EOPNOTSUPP) => OpenError::ModeNotSupported {
                device,
                queue,
                call,
                source,
            },
            Some(libc::ENOBUFS) => OpenError::LockedMemory {
                device,
                queue,
                call,
                source,
            },
            _ => OpenError::Call {
                device,
                queue,
                call,
                source,
            },
        }
    }
}
