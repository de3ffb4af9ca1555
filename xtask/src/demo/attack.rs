//! What an attacker on the wire does: forge clear packets, flip bits, replay.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
        socket, sockopt,
    },
    sys::time::TimeVal,
};

use super::{
    interrupt,
    namespace::Namespace,
    topology::{GW2_V4, HOST1_V4, HOST1_V6, HOST2_V4, HOST2_V6, OUTER, Topology},
};

/// The UDP port of host2 that forged packets go to.
const PORT: u16 = 4444;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const ESP: u8 = 50;
const UDP: u8 = 17;

/// A raw socket at one interface of a namespace.
#[derive(Debug)]
pub(super) struct RawPort(OwnedFd);

impl RawPort {
    pub(super) fn open(namespace: &Namespace, device: &str) -> Result<Self> {
        let address = link_address(namespace, device)?;
        namespace.enter(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .context("packet socket")?;
            bind(socket.as_raw_fd(), &address).with_context(|| format!("packet socket at {device}"))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000))
                .context("packet socket")?;
            Ok(Self(socket))
        })
    }

    /// Puts a frame on the wire.
    pub(super) fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty()).context("cannot send a raw frame")?;
        if sent != frame.len() {
            bail!("only {sent} of {} bytes of a raw frame were sent", frame.len());
        }
        Ok(())
    }

    /// Waits for an ESP packet over IPv4 to gw2.
    pub(super) fn receive_esp(&self) -> Result<Vec<u8>> {
        let mut found = None;
        interrupt::wait_until("an ESP packet on the wire", Duration::from_secs(3), || {
            let mut buffer = [0; 2048];
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let frame = &buffer[..length];
                    if is_esp_to_gw2(frame) {
                        found = Some(frame.to_vec());
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot receive raw frames"),
            }
            Ok(found.is_some())
        })?;
        found.context("the condition was met")
    }
}

fn link_address(namespace: &Namespace, device: &str) -> Result<LinkAddr> {
    namespace.enter(|| {
        getifaddrs()
            .context("interfaces")?
            .filter(|interface| interface.interface_name == device)
            .find_map(|interface| interface.address?.as_link_addr().copied())
            .with_context(|| format!("no interface {device} in {}", namespace.name()))
    })
}

/// The two addresses that start a frame from gw1 to gw2.
pub(super) fn ethernet_addresses(topology: &Topology) -> Result<[u8; 12]> {
    let mut addresses = [0; 12];
    for (half, gateway) in addresses.chunks_exact_mut(6).zip([&topology.gw2, &topology.gw1]) {
        let address = link_address(gateway, OUTER)?
            .addr()
            .context("wan has no Ethernet address")?;
        half.copy_from_slice(&address);
    }
    Ok(addresses)
}

fn is_esp_to_gw2(frame: &[u8]) -> bool {
    let Ok(gw2) = GW2_V4.parse::<Ipv4Addr>() else {
        return false;
    };
    frame.len() > ETHERNET + IPV4 + 8 + 8 + 16
        && frame[12..14] == [0x08, 0x00]
        && frame[ETHERNET] == 0x45
        && frame[ETHERNET + 9] == ESP
        && frame[ETHERNET + 16..ETHERNET + 20] == gw2.octets()
}

/// `esp` with one bit of its ciphertext changed.
pub(super) fn flip_bit(esp: &[u8]) -> Vec<u8> {
    let mut frame = esp.to_vec();
    frame[ETHERNET + IPV4 + 8 + 8 + 3] ^= 0x10;
    frame
}

/// A clear UDP packet from host1 to host2, as gw1 would have to send it if there were no ESP.
///
/// `ethernet` comes from [`ethernet_addresses`].
pub(super) fn forged_datagram(ethernet: &[u8; 12], v6: bool, text: &str) -> Result<Vec<u8>> {
    let length = u16::try_from(8 + text.len()).context("text too long")?;
    let mut udp = Vec::new();
    udp.extend(PORT.to_be_bytes());
    udp.extend(PORT.to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(text.as_bytes());

    let mut frame = ethernet.to_vec();
    if v6 {
        let (source, destination) = (HOST1_V6.parse::<Ipv6Addr>()?, HOST2_V6.parse::<Ipv6Addr>()?);
        let addresses = [source.octets(), destination.octets()].concat();
        // RFC 8200 section 8.1: the pseudo-header; over IPv6 the checksum of UDP is not optional.
        let pseudo = [
            &addresses[..],
            &u32::from(length).to_be_bytes(),
            &[0, 0, 0, UDP],
            &udp,
        ]
        .concat();
        udp[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([UDP, 63]);
        frame.extend(addresses);
    } else {
        let (source, destination) = (HOST1_V4.parse::<Ipv4Addr>()?, HOST2_V4.parse::<Ipv4Addr>()?);
        let mut header = vec![0x45, 0];
        header.extend((length + 20).to_be_bytes());
        header.extend([0, 0, 0, 0, 63, UDP, 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend([0x08, 0x00]);
        frame.extend(header);
    }
    frame.extend(udp);
    Ok(frame)
}

/// RFC 1071: the ones' complement of the ones' complement sum.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Host2's open UDP port: what arrives here has passed gw2.
#[derive(Debug)]
pub(super) struct Sink(UdpSocket);

impl Sink {
    pub(super) fn open(host2: &Namespace) -> Result<Self> {
        host2.enter(|| {
            let socket = UdpSocket::bind(("::", PORT)).context("UDP port of host2")?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok(Self(socket))
        })
    }

    /// Everything that arrived, up to and with `last`.
    pub(super) fn read_up_to(&self, last: &str) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        interrupt::wait_until(
            &format!("'{last}' to arrive at host2"),
            Duration::from_secs(3),
            || {
                let mut buffer = [0; 2048];
                match self.0.recv(&mut buffer) {
                    Ok(length) => texts.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("UDP port of host2"),
                }
                Ok(texts.last().is_some_and(|text| text == last))
            },
        )?;
        Ok(texts)
    }
}

/// Sends a datagram from host1 to host2 the regular way.
pub(super) fn send_datagram(host1: &Namespace, v6: bool, text: &str) -> Result<()> {
    let destination = SocketAddr::new(if v6 { HOST2_V6 } else { HOST2_V4 }.parse()?, PORT);
    host1.enter(|| {
        let socket =
            UdpSocket::bind((if v6 { "::" } else { "0.0.0.0" }, 0)).context("UDP socket of host1")?;
        socket
            .send_to(text.as_bytes(), destination)
            .context("UDP socket of host1")?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::{checksum, flip_bit, forged_datagram};

    #[test]
    fn headers_that_hold_their_checksum_sum_to_zero() {
        let frame = forged_datagram(&[0; 12], false, "text").unwrap();
        assert_eq!(checksum(&frame[14..34]), 0);
        let frame = forged_datagram(&[0; 12], true, "odd").unwrap();
        let mut pseudo = frame[22..54].to_vec();
        pseudo.extend([0, 0, 0, 11, 0, 0, 0, 17]);
        pseudo.extend(&frame[54..]);
        assert_eq!(checksum(&pseudo), 0);
    }

    #[test]
    fn exactly_one_bit_is_flipped() {
        let frame = vec![0; 100];
        let ones = flip_bit(&frame).iter().map(|byte| byte.count_ones()).sum::<u32>();
        assert_eq!(ones, 1);
    }
}
