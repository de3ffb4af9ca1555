//! A raw packet socket: the kernel's own way to put frames on a device and to see what arrives there.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use super::net;

/// EtherType "local experimental" (IEEE 802), which no stack takes.
const ETHERTYPE: u16 = 0x88b5;

/// A packet socket on one device, for frames of the test's EtherType.
pub(crate) struct Witness {
    fd: OwnedFd,
}

impl Witness {
    pub(crate) fn new(device: &str) -> Self {
        let protocol = ETHERTYPE.to_be();
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol.into(),
            )
        };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: a fresh descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol,
            sll_ifindex: net::index(device) as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: a whole sockaddr_ll.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
        let witness = Self { fd };
        witness.set(libc::SO_RCVBUFFORCE, &(16 << 20));
        witness.set(libc::SO_SNDBUFFORCE, &(16 << 20));
        witness
    }

    /// Sends one frame out of the device, towards its peer.
    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is read only.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "send: {}", io::Error::last_os_error());
    }

    /// The next frame that arrives at the device, waiting for it up to five seconds.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let wait = Duration::from_secs(5);
        let timeout = libc::timeval {
            tv_sec: wait.as_secs() as i64,
            tv_usec: 0,
        };
        self.set(libc::SO_RCVTIMEO, &timeout);
        self.read(0)
            .unwrap_or_else(|error| panic!("nothing arrived within {wait:?}: {error}"))
    }

    /// The next frame if one is there already.
    pub(crate) fn try_receive(&self) -> Option<Vec<u8>> {
        self.read(libc::MSG_DONTWAIT).ok()
    }

    fn read(&self, flags: i32) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; 17_000];
        loop {
            let mut from = libc::sockaddr_ll {
                sll_family: 0,
                sll_protocol: 0,
                sll_ifindex: 0,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let mut len = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: both buffers are as long as said.
            let received = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    flags,
                    (&raw mut from).cast(),
                    &raw mut len,
                )
            };
            if received < 0 {
                return Err(io::Error::last_os_error());
            }
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                frame.truncate(received as usize);
                return Ok(frame);
            }
        }
    }

    fn set<T>(&self, option: i32, value: &T) {
        // SAFETY: the value is as long as said.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
            )
        };
        assert_eq!(set, 0, "setsockopt {option}: {}", io::Error::last_os_error());
    }
}

/// A frame of `len` bytes (at least 22) with the test's EtherType, a number, and a pattern that depends on it.
pub(crate) fn frame(number: u64, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ETHERTYPE.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.extend((22..len as u64).map(|place| (place * 7 + number) as u8));
    frame
}

/// The number in a frame.
pub(crate) fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[14..22].try_into().expect("eight bytes"))
}
