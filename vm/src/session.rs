//! One case at work: its SAs on both sides, and sockets to talk through them.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ravelin_esp::{InboundSa, OutboundSa};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    association::Association,
    case::{Case, Direction, Generation},
    gateway::{Gateway, Inbound},
    namespace::Namespace,
};

/// How long anything may take before it counts as lost. Only failures wait so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long to look for what should have come already.
const GLANCE: Duration = Duration::from_millis(10);

const PORT: u16 = 4000;

/// A case whose SAs are in place on our side.
#[derive(Debug)]
pub(crate) struct Session<'m> {
    pub(crate) case: Case,
    pub(crate) gateway: &'m Gateway,
    pub(crate) association: Arc<Association>,
    generations: [Pair; 2],
    pub(crate) ours: Host<'m>,
    pub(crate) theirs: Host<'m>,
}

/// Our two SAs of one generation.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) outbound: Arc<OutboundSa>,
    pub(crate) inbound: Arc<InboundSa>,
}

impl Pair {
    fn new(case: &Case, generation: Generation) -> Result<Self> {
        Ok(Self {
            outbound: Arc::new(case.outbound(generation)?),
            inbound: Arc::new(case.inbound(generation)?),
        })
    }

    /// Packets so far: outbound, inbound.
    pub(crate) fn packets(&self) -> [u64; 2] {
        [self.outbound.counters().packets, self.inbound.counters().packets]
    }
}

/// One of the two ends.
#[derive(Debug)]
pub(crate) struct Host<'m> {
    pub(crate) address: IpAddr,
    namespace: &'m Namespace,
    udp: UdpSocket,
    /// Sends echo requests; the kernel answers those of the other end.
    pub(crate) ping: UdpSocket,
}

impl<'m> Session<'m> {
    pub(crate) fn new(
        case: Case,
        gateway: &'m Gateway,
        ours: &'m Namespace,
        theirs: &'m Namespace,
    ) -> Result<Self> {
        let first = Pair::new(&case, Generation::First)?;
        let second = Pair::new(&case, Generation::Second)?;
        let association = Arc::new(Association::new(Arc::clone(&first.outbound)));
        let addresses = case.addresses();
        gateway.add_flow(addresses, Arc::clone(&association));
        let session = Self {
            case,
            gateway,
            association,
            generations: [first, second],
            ours: Host::new(ours, addresses[0])?,
            theirs: Host::new(theirs, addresses[1])?,
        };
        session.arm(Generation::First);
        Ok(session)
    }

    /// Our SAs of one generation.
    pub(crate) fn pair(&self, generation: Generation) -> &Pair {
        &self.generations[generation as usize]
    }

    /// Has the gateway receive with the inbound SA of `generation`.
    pub(crate) fn arm(&self, generation: Generation) {
        self.gateway.arm(Inbound {
            sa: Arc::clone(&self.pair(generation).inbound),
            association: Arc::clone(&self.association),
        });
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

    /// Sends a datagram, longer than an acknowledgement, and catches the ESP packet that carries it. The gateway passes packets on again afterwards.
    pub(crate) fn catch(&self, direction: Direction, payload: &[u8]) -> Result<Vec<u8>> {
        let held = self.association.hold(direction, payload.len());
        self.send(direction, payload)?;
        let packet = held
            .recv_timeout(PATIENCE)
            .with_context(|| format!("no ESP packet for a datagram {direction}"));
        self.association.release(direction);
        packet
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
