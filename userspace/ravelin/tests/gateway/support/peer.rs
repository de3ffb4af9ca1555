//! The other gateway, spoken for by the test and scapy.

use super::capture::Capture;
use super::lab::{G1, G2, H1, H2, Half, PORT};
use super::scapy::{Sa, Scapy};

/// The peer: its SAs, its place on the wire, and scapy to speak for it.
pub(crate) struct Peer {
    pub(crate) scapy: Scapy,
    pub(crate) wire: Capture,
    /// From the daemon.
    pub(crate) sealed: Sa,
    /// To the daemon.
    pub(crate) own: Sa,
    /// The link-layer addresses of the gateway and of the peer: where its frames go, and whence.
    way: [[u8; 6]; 2],
}

impl Peer {
    pub(crate) fn new(half: &Half, outer: usize, extended: bool, udp: bool) -> Self {
        let sa = |key: &str, spi, source, destination| Sa {
            key: half.key(key),
            spi,
            source,
            destination,
            extended,
            udp,
        };
        Self {
            scapy: Scapy::start(),
            wire: Capture::start(&half.peer, "peer0"),
            sealed: sa("a", 0x1001, G1[outer], G2[outer]),
            own: sa("b", 0x1002, G2[outer], G1[outer]),
            way: [half.g1.mac("out0"), half.peer.mac("peer0")],
        }
    }

    /// Puts an IP packet on the wire towards the gateway.
    pub(crate) fn send(&self, packet: &[u8]) {
        self.wire.send_ip(self.way, packet);
    }

    /// A datagram from h2 to h1, from its IP header on.
    pub(crate) fn datagram(&mut self, family: usize, text: &str) -> Vec<u8> {
        let ip = ["IP", "IPv6"][family];
        self.scapy.build(&format!(
            "{ip}(src='{}', dst='{}')/UDP(sport=1234, dport={PORT})/Raw(b'{text}')",
            H2[family], H1[family]
        ))
    }

    /// Seals a datagram to h1.
    pub(crate) fn sealed_datagram(&mut self, sequence: u64, text: &str) -> Vec<u8> {
        let clear = self.datagram(0, text);
        self.scapy.seal(&self.own, sequence, &clear)
    }
}
