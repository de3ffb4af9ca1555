//! TUN devices: whole packets of the stack, 64 KiB at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::if_tun::{
    IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TUN, IFF_VNET_HDR, TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6,
    TUN_F_USO4, TUN_F_USO6, TUN_PATH,
};
use crate::syscall;

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel has none, or this process may not use it.
    #[error("{TUN_PATH}: {0}; Ravelin needs a kernel with TUN devices (CONFIG_TUN) and CAP_NET_ADMIN")]
    Open(io::Error),
    /// The device could not be made, or got no further queue.
    #[error("TUN device {name}: {error}")]
    Attach {
        /// Its name, or a pattern for one.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel does not hand out large packets.
    #[error("TUN device {name}: no segmentation offload: {error}")]
    Offload {
        /// Its name.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// One queue of a TUN device. With its last queue the device goes.
///
/// Packets stand behind a `virtio_net_hdr` of ten bytes, in both directions, and begin with their IP header. They may be as
/// large as 64 KiB and have unfinished checksums.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
}

impl Tun {
    /// Makes a device with `queues` queues, down and without addresses. `name` may hold `%d`, for the kernel to number it.
    ///
    /// # Errors
    /// [`TunError`]; nothing is left of the device.
    pub fn create(name: &str, queues: u32) -> Result<Vec<Self>, TunError> {
        let mut all: Vec<Self> = Vec::new();
        for _ in 0..queues {
            let name = all.first().map_or(name, |first| first.name.as_str());
            all.push(Self::open(name)?);
        }
        Ok(all)
    }

    fn open(name: &str) -> Result<Self, TunError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(TUN_PATH)
            .map_err(TunError::Open)?;
        let flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
        let name = syscall::attach_tun(file.as_fd(), name, flags).map_err(|error| TunError::Attach {
            name: name.to_owned(),
            error,
        })?;
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        // Before Linux 6.2 there is no segmentation of UDP, and the stack cuts datagrams itself.
        syscall::set_tun_offload(file.as_fd(), tcp | TUN_F_USO4 | TUN_F_USO6)
            .or_else(|_| syscall::set_tun_offload(file.as_fd(), tcp))
            .map_err(|error| TunError::Offload {
                name: name.clone(),
                error,
            })?;
        Ok(Self { file, name })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the next packet with its header; how many bytes that are.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; anything else when the device is gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Gives the stack one packet, header first, from as many slices as it takes.
    ///
    /// # Errors
    /// The packet was not taken: no memory, the device is down (EIO) or gone (EBADFD).
    pub fn write(&self, packet: &[IoSlice<'_>]) -> io::Result<()> {
        let length: usize = packet.iter().map(|slice| slice.len()).sum();
        match (&self.file).write_vectored(packet)? {
            written if written == length => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
