//! Opening a socket by xsk-rs.

use std::error::Error as _;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use arrayvec::ArrayVec;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{FrameDesc, Socket};

use super::{Outbox, XskRsSocket};
use crate::chain::Chain;
use crate::error::OpenError;
use crate::if_xdp::XDP_OPTIONS_ZEROCOPY;
use crate::ledger::Owner;
use crate::socket::open::{Context, admit, patiently, set_limits};
use crate::umem::PortSlot;
use crate::xsk_rs_memory::system_error;
use crate::{BATCH, Mode, Outstanding, Port as _, PortCounters, PortOptions, Umem, syscall};

/// What makes a socket, as errors name it.
const CREATE: &str = "xsk_socket__create_shared";

impl<'u> XskRsSocket<'u> {
    /// As [`Socket::open`](crate::Socket::open), with memory that [`XskRs`](crate::XskRs) made.
    ///
    /// # Errors
    /// [`OpenError`], which names device, queue and call, and what to do.
    pub fn open(umem: &'u Umem, device: &str, queue: u32, options: &PortOptions) -> Result<Self, OpenError> {
        let context = Context { device, queue };
        let (interface, attachment) = admit(umem, &context, options)?;
        let memory = umem
            .xsk_rs()
            .filter(|memory| memory.suits(options))
            .ok_or_else(|| context.other_memory())?;
        let failed = |error| context.error(CREATE, error);
        let config = config(umem, options).map_err(failed)?;
        let name: Interface = device.parse().map_err(|error| failed(io::Error::other(error)))?;
        let (tx, rx, rings) = patiently(|| {
            // SAFETY: no program is loaded, and the queue is not bound by this memory (`admit`).
            unsafe { Socket::new(config, memory.umem(), &name, queue) }
                .map_err(|error| system_error(error.source(), &error))
        })
        .map_err(failed)?;
        let (fill, completion) = rings.ok_or_else(|| failed(io::ErrorKind::AlreadyExists.into()))?;
        // SAFETY: the descriptor stays open as long as the queue, which is not moved meanwhile.
        let own = unsafe { BorrowedFd::borrow_raw(tx.fd().as_raw_fd()) };
        syscall::close_on_exec(own).map_err(|error| context.error("fcntl(F_SETFD)", error))?;
        let fd = own
            .try_clone_to_owned()
            .map_err(|error| context.error("fcntl(F_DUPFD_CLOEXEC)", error))?;
        let flags =
            syscall::options(fd.as_fd()).map_err(|error| context.error("getsockopt(XDP_OPTIONS)", error))?;
        let zero_copy = flags & XDP_OPTIONS_ZEROCOPY != 0;
        let slot = attachment.slot();
        let mut socket = Self {
            umem,
            memory,
            rx,
            outbox: Outbox {
                tx,
                ready: ArrayVec::new(),
                queued: 0,
                refused: 0,
            },
            fill,
            completion,
            taken: Box::new([FrameDesc::default(); BATCH]),
            chain: Chain::default(),
            outstanding: Outstanding::default(),
            options: options.clone(),
            counters: PortCounters::default(),
            receiving: Owner::fill(slot),
            sending: Owner::tx(slot),
            fd,
            zero_copy,
            fault: None,
            device: device.to_owned(),
            queue,
            attachment,
        };
        if options.mode == Mode::ZeroCopy && !zero_copy {
            return Err(context.error(CREATE, io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
        }
        let port = PortSlot::Bound {
            fd: socket.fd.as_raw_fd(),
            interface,
            queue,
        };
        umem.set_port(socket.attachment.slot(), port);
        set_limits(socket.fd.as_fd(), &context, options)?;
        // After bind, since libxdp gives no ring before. Drivers that receive into the UMEM are woken by the first `rx`.
        socket.refill();
        Ok(socket)
    }
}

fn config(umem: &Umem, options: &PortOptions) -> io::Result<SocketConfig> {
    let ring = |size| QueueSize::new(size).map_err(io::Error::other);
    let mut flags = match options.mode {
        // The kernel tries zero-copy first and falls back by itself (`xp_assign_dev`).
        Mode::Auto => BindFlags::empty(),
        Mode::Copy => BindFlags::XDP_COPY,
        Mode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
    };
    flags.set(BindFlags::XDP_USE_NEED_WAKEUP, options.need_wakeup);
    flags.set(BindFlags::XDP_USE_SG, umem.has_large_frames());
    Ok(SocketConfig::builder()
        .rx_queue_size(ring(options.rx_ring)?)
        .tx_queue_size(ring(options.tx_ring)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build())
}
