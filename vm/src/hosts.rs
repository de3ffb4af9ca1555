//! The two ends of a case, and sockets to talk from one to the other.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{case::Direction, namespace::Namespace, topology::Topology};

/// How long anything may take before it counts as lost. Only failures wait so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long to look for what should have come already.
const GLANCE: Duration = Duration::from_millis(10);

const PORT: u16 = 4000;

/// Both ends.
#[derive(Debug)]
pub(crate) struct Hosts<'m> {
    ours: Host<'m>,
    theirs: Host<'m>,
}

/// One of the two.
#[derive(Debug)]
pub(crate) struct Host<'m> {
    pub(crate) address: IpAddr,
    namespace: &'m Namespace,
    udp: UdpSocket,
    /// Sends echo requests; the kernel answers those of the other end.
    pub(crate) ping: UdpSocket,
}

impl<'m> Hosts<'m> {
    /// Ends with `addresses`, ours and theirs.
    pub(crate) fn new(topology: &'m Topology, addresses: [IpAddr; 2]) -> Result<Self> {
        Ok(Self {
            ours: Host::new(&topology.ours, addresses[0])?,
            theirs: Host::new(&topology.theirs, addresses[1])?,
        })
    }

    /// The end that sends in `direction`, and the one that receives.
    pub(crate) fn ends(&self, direction: Direction) -> (&Host<'m>, &Host<'m>) {
        match direction {
            Direction::ToTheirs => (&self.ours, &self.theirs),
            Direction::ToOurs => (&self.theirs, &self.ours),
        }
    }

    /// Sends a datagram with `payload`, without waiting for it.
    pub(crate) fn send(&self, direction: Direction, payload: &[u8]) -> Result<()> {
        let (sender, receiver) = self.ends(direction);
        let sent = sender
            .udp
            .send_to(payload, SocketAddr::new(receiver.address, PORT))
            .with_context(|| format!("cannot send {} bytes", payload.len()))?;
        ensure!(sent == payload.len(), "only {sent} bytes were sent");
        Ok(())
    }

    /// Waits for the next datagram, which must be `payload` and come from the other end.
    pub(crate) fn expect(&self, direction: Direction, payload: &[u8]) -> Result<()> {
        self.expect_until(direction, payload, Instant::now() + PATIENCE)
    }

    /// The same, but not for long after `deadline`.
    pub(crate) fn expect_until(&self, direction: Direction, payload: &[u8], deadline: Instant) -> Result<()> {
        let (sender, receiver) = self.ends(direction);
        let left = deadline.saturating_duration_since(Instant::now());
        receiver.udp.set_read_timeout(Some(left.max(GLANCE)))?;
        let mut buffer = vec![0; payload.len() + 1];
        let (len, source) = receiver
            .udp
            .recv_from(&mut buffer)
            .with_context(|| format!("a datagram of {} bytes {direction} was lost", payload.len()))?;
        ensure!(source.ip() == sender.address, "a datagram came from {source}");
        ensure!(
            buffer[..len] == *payload,
            "a datagram of {} bytes {direction} arrived changed, with {len} bytes",
            payload.len()
        );
        Ok(())
    }

    /// Sends a datagram and waits for it.
    pub(crate) fn deliver(&self, direction: Direction, payload: &[u8]) -> Result<()> {
        self.send(direction, payload)?;
        self.expect(direction, payload)
    }
}

impl<'m> Host<'m> {
    fn new(namespace: &'m Namespace, address: IpAddr) -> Result<Self> {
        let (domain, protocol) = match address {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        namespace.enter(|| {
            let udp = UdpSocket::bind(SocketAddr::new(address, PORT)).context("UDP socket")?;
            let ping = Socket::new(domain, Type::DGRAM, Some(protocol)).context("ping socket")?;
            ping.bind(&SocketAddr::new(address, 0).into())
                .context("ping socket")?;
            ping.set_read_timeout(Some(PATIENCE))?;
            Ok(Self {
                address,
                namespace,
                udp,
                ping: ping.into(),
            })
        })
    }

    pub(crate) fn listen(&self) -> Result<TcpListener> {
        self.namespace
            .enter(|| TcpListener::bind(SocketAddr::new(self.address, PORT)).context("TCP listener"))
    }

    /// Opens a TCP connection to `server`.
    pub(crate) fn connect(&self, server: &Self) -> Result<TcpStream> {
        let domain = Domain::for_address(SocketAddr::new(self.address, 0));
        let socket = self
            .namespace
            .enter(|| Socket::new(domain, Type::STREAM, None).context("TCP socket"))?;
        socket.bind(&SocketAddr::new(self.address, 0).into())?;
        socket
            .connect_timeout(&SocketAddr::new(server.address, PORT).into(), PATIENCE)
            .context("TCP connection")?;
        Ok(socket.into())
    }
}
