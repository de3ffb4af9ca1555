//! Raw frames: what passes at a device, and frames put there.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt, socket,
    sockopt,
};

use super::namespace::Namespace;
use super::wait_for;

/// `PACKET_OUTGOING` of `linux/if_packet.h`.
const OUTGOING: u8 = 4;

/// A packet socket at one device: every frame in both directions is kept, in order.
pub(crate) struct Capture {
    socket: Arc<OwnedFd>,
    frames: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A captured frame.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Whether this machine's stack sent it out of the device.
    pub(crate) outgoing: bool,
    pub(crate) frame: Vec<u8>,
}

impl Capture {
    pub(crate) fn start(namespace: &Namespace, device: &str) -> Self {
        let socket = Arc::new(namespace.enter(|| open(device)));
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (socket, frames, stop) = (Arc::clone(&socket), Arc::clone(&frames), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    waits(&socket, PollTimeout::from(20u8));
                    drain(&socket, &mut frames.lock().unwrap());
                }
            })
        };
        Self {
            socket,
            frames,
            stop,
            thread: Some(thread),
        }
    }

    /// Puts a frame on the wire.
    pub(crate) fn send(&self, frame: &[u8]) {
        let sent = send(
            self.socket.as_raw_fd(),
            frame,
            nix::sys::socket::MsgFlags::empty(),
        );
        assert_eq!(sent, Ok(frame.len()));
    }

    /// Puts an IP packet on the wire: to a link-layer address, from another.
    pub(crate) fn send_ip(&self, [to, from]: [[u8; 6]; 2], packet: &[u8]) {
        let ether_type = if packet[0] >> 4 == 4 {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        };
        self.send(&[&to[..], &from, &ether_type, packet].concat());
    }

    /// All frames so far: what has passed when this is called is among them.
    pub(crate) fn frames(&self) -> Vec<Seen> {
        self.latest().clone()
    }

    fn latest(&self) -> MutexGuard<'_, Vec<Seen>> {
        let mut frames = self.frames.lock().unwrap();
        drain(&self.socket, &mut frames);
        frames
    }

    /// All IP packets so far.
    pub(crate) fn packets(&self) -> Vec<Ip> {
        self.frames()
            .iter()
            .filter_map(|seen| Ip::parse(&seen.frame))
            .collect()
    }

    /// How many frames so far; a place to go on from.
    pub(crate) fn mark(&self) -> usize {
        self.latest().len()
    }

    /// Waits for the first frame after `mark` that `find` takes.
    pub(crate) fn find<T>(&self, what: &str, mark: usize, mut find: impl FnMut(&Seen) -> Option<T>) -> T {
        wait_for(what, || self.latest()[mark..].iter().find_map(&mut find))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether a frame waits at the socket, or comes in time.
pub(crate) fn waits(socket: &OwnedFd, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// Takes all frames that wait at the socket.
pub(crate) fn drain(socket: &OwnedFd, frames: &mut Vec<Seen>) {
    let mut buffer = vec![0; 16384];
    while waits(socket, PollTimeout::ZERO) {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, sender)) => frames.push(Seen {
                outgoing: sender.is_some_and(|sender| sender.pkttype() == OUTGOING),
                frame: buffer[..length].to_vec(),
            }),
            // A device that goes down says so once.
            Err(Errno::EINTR | Errno::ENETDOWN) => {}
            Err(error) => panic!("capture: {error}"),
        }
    }
}

/// A packet socket at a device of the namespace that the thread is in.
pub(crate) fn open(device: &str) -> OwnedFd {
    let address = getifaddrs()
        .unwrap()
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .unwrap_or_else(|| panic!("no device {device}"));
    let protocol = SockProtocol::EthAll;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )
    .unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(128 << 20)).unwrap();
    bind(socket.as_raw_fd(), &address).unwrap();
    socket
}

/// An IP packet as an observer reads it, by a parser of its own.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    /// From the IP header on.
    pub(crate) bytes: Vec<u8>,
    /// Behind the IP header.
    pub(crate) payload: Vec<u8>,
}

impl Ip {
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        match frame.get(12..14)? {
            [0x08, 0x00] => {
                let header = usize::from(ip.first()? & 15) * 4;
                let length = usize::from(u16::from_be_bytes(*ip.get(2..)?.first_chunk()?));
                Some(Self {
                    source: IpAddr::from(*ip.get(12..)?.first_chunk::<4>()?),
                    destination: IpAddr::from(*ip.get(16..)?.first_chunk::<4>()?),
                    ttl: ip[8],
                    protocol: ip[9],
                    bytes: ip.get(..length)?.to_vec(),
                    payload: ip.get(header..length)?.to_vec(),
                })
            }
            [0x86, 0xdd] => {
                let length = 40 + usize::from(u16::from_be_bytes(*ip.get(4..)?.first_chunk()?));
                Some(Self {
                    source: IpAddr::from(*ip.get(8..)?.first_chunk::<16>()?),
                    destination: IpAddr::from(*ip.get(24..)?.first_chunk::<16>()?),
                    ttl: ip[7],
                    protocol: ip[6],
                    bytes: ip.get(..length)?.to_vec(),
                    payload: ip.get(40..length)?.to_vec(),
                })
            }
            _ => None,
        }
    }

    /// SPI and sequence number, of ESP bare or in UDP on port 4500, or of AH.
    pub(crate) fn esp(&self) -> Option<(u32, u32)> {
        let esp = match self.protocol {
            50 => &self.payload[..],
            51 => self.payload.get(4..)?,
            17 if self.payload.get(2..4)? == 4500u16.to_be_bytes() => self.payload.get(8..)?,
            _ => return None,
        };
        let word = |at: usize| Some(u32::from_be_bytes(*esp.get(at..)?.first_chunk()?));
        Some((word(0)?, word(4)?))
    }

    /// Source and destination port of UDP or TCP.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        let word = |at: usize| Some(u16::from_be_bytes(*self.payload.get(at..)?.first_chunk()?));
        matches!(self.protocol, 6 | 17).then_some((word(0)?, word(2)?))
    }

    /// Neighbour discovery and multicast listener reports, which Ethernet cannot do without; hop-by-hop options
    /// stand in front of the latter.
    fn is_housekeeping(&self) -> bool {
        self.destination.is_multicast()
            || self.protocol == 58
                && self
                    .payload
                    .first()
                    .is_some_and(|kind| (133..=137).contains(kind))
    }
}

/// Packets that are neither ESP nor housekeeping.
pub(crate) fn clear(packets: &[Ip]) -> Vec<&Ip> {
    packets
        .iter()
        .filter(|packet| packet.esp().is_none() && !packet.is_housekeeping())
        .collect()
}

/// Asserts that no sequence number of an SPI was used twice; returns how many packets there were.
pub(crate) fn assert_sequence_numbers_fresh(packets: &[Ip]) -> usize {
    let mut used = HashSet::new();
    for packet in packets {
        if let Some(esp) = packet.esp() {
            assert!(
                used.insert((esp, packet.source)),
                "SPI and sequence number {esp:x?} twice"
            );
        }
    }
    used.len()
}
