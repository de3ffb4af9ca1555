//! A device of the gateway: IP packets in and out, by a packet socket.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
        socket, sockopt,
    },
};

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// A packet socket at one device whose link has one other end.
#[derive(Debug)]
pub(crate) struct Port {
    socket: OwnedFd,
    /// Destination and source of what is sent.
    addresses: [u8; 12],
}

impl Port {
    /// Opens `device` of the namespace the thread is in.
    pub(crate) fn open(device: &str, peer: &str) -> Result<Self> {
        let address = link_address(device)?;
        let protocol = SockProtocol::EthAll;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )
        .context("packet socket")?;
        // Room for what all cases may have on the way at once.
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).context("packet socket")?;
        bind(socket.as_raw_fd(), &address).with_context(|| format!("packet socket at {device}"))?;
        let mut addresses = [0; 12];
        for (octet, text) in addresses.iter_mut().zip(peer.split(':')) {
            *octet = u8::from_str_radix(text, 16).with_context(|| format!("Ethernet address {peer}"))?;
        }
        addresses[6..].copy_from_slice(&address.addr().context("no Ethernet address")?);
        Ok(Self { socket, addresses })
    }

    /// The next IP packet, once there is one.
    pub(crate) fn receive<'b>(&self, frame: &'b mut [u8]) -> Result<&'b [u8]> {
        loop {
            let len =
                recv(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("cannot receive frames")?;
            if len > ETHERNET && matches!([frame[12], frame[13]], ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
                return Ok(&frame[ETHERNET..len]);
            }
        }
    }

    /// Sends an IP packet.
    pub(crate) fn send(&self, packet: &[u8]) -> Result<()> {
        let ethertype = match packet.first().map(|byte| byte >> 4) {
            Some(4) => ETHERTYPE_IPV4,
            _ => ETHERTYPE_IPV6,
        };
        let frame = [&self.addresses, ethertype.as_slice(), packet].concat();
        let sent = send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("cannot send a frame")?;
        ensure!(
            sent == frame.len(),
            "only {sent} of {} bytes were sent",
            frame.len()
        );
        Ok(())
    }
}

fn link_address(device: &str) -> Result<LinkAddr> {
    getifaddrs()
        .context("interfaces")?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .with_context(|| format!("no interface {device}"))
}
