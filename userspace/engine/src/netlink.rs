//! rtnetlink, synchronously: questions to the kernel and its announcements.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Multicast groups: links, neighbours, addresses, routes and routing rules of both families (`linux/rtnetlink.h`, RTNLGRP_*).
const GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];

/// A socket for questions.
#[derive(Debug)]
pub(crate) struct Questions {
    socket: Socket,
    sequence: u32,
}

impl Questions {
    /// Opens the socket in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Everything of one kind.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_DUMP)
    }

    /// One question or order; `flags` beside those of a request.
    pub(crate) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, flags | NLM_F_ACK)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages(&bytes) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// A socket for announcements.
#[derive(Debug)]
pub(crate) struct Announcements(Socket);

impl Announcements {
    /// Joins the groups. Open this before the first dump, so that nothing falls between the two.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Best effort: the kernel clamps it, and an overflow is noticed.
        let _ = socket.set_rx_buf_sz(4 << 20);
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// All announcements that wait, or an error with `ENOBUFS` if some were lost.
    pub(crate) fn drain(&self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut news = Vec::new();
        loop {
            match self.0.recv_from_full() {
                Ok((bytes, sender)) if sender.port_number() == 0 => {
                    news.extend(messages(&bytes).filter_map(|message| match message.payload {
                        NetlinkPayload::InnerMessage(message) => Some(message),
                        _ => None,
                    }));
                }
                // Only the kernel's word counts.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Announcements {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Announcements {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// The messages in a datagram. One that the decoder does not know is passed over.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    std::iter::from_fn(move || {
        loop {
            let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
            let (one, rest) = bytes.split_at_checked(length)?;
            // Messages are aligned to four bytes.
            bytes = rest.get(length.next_multiple_of(4) - length..).unwrap_or(&[]);
            if length < 16 {
                return None;
            }
            if let Ok(message) = NetlinkMessage::deserialize(one) {
                return Some(message);
            }
        }
    })
}
