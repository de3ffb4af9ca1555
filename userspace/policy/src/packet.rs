//! One packet as a policy sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ravelin_xdp_common::{Address, Family, Flow, Ports, address_bytes, address_v6, mapped_v4};

use crate::protocol::Protocol;

/// The selector values of one packet (RFC 4301 section 4.4.1.1). Source and destination are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Upper-layer protocol number.
    pub protocol: u8,
    /// What is known of its transport header.
    pub transport: Transport,
}

/// What a packet's transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Source and destination port in host order, or ICMP type and code.
    Ports(u16, u16),
    /// The protocol has neither.
    Absent,
    /// A later fragment of a protocol that has them; in IPv6 of any, since the protocol that it names does not bind (RFC
    /// 8200 section 4.5).
    LaterFragment,
}

impl Packet {
    /// The packet in the classifier's form.
    #[must_use]
    pub fn flow(&self) -> Flow {
        let (ports, source_port, destination_port) = match self.transport {
            Transport::Ports(source, destination) => (Ports::Known, source, destination),
            Transport::Absent => (Ports::Absent, 0, 0),
            Transport::LaterFragment => (Ports::Unknown, 0, 0),
        };
        Flow {
            source: to_address(self.source),
            destination: to_address(self.destination),
            source_port,
            destination_port,
            family: if self.source.is_ipv4() {
                Family::V4
            } else {
                Family::V6
            },
            protocol: self.protocol,
            ports,
        }
    }

    /// The packet that the classifier's form describes.
    #[must_use]
    pub fn of(flow: &Flow) -> Self {
        let address = |address: Address| -> IpAddr {
            let octets = address_bytes(address);
            match flow.family {
                Family::V4 => Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]).into(),
                Family::V6 => Ipv6Addr::from(octets).into(),
            }
        };
        Self {
            source: address(flow.source),
            destination: address(flow.destination),
            protocol: flow.protocol,
            transport: match flow.ports {
                Ports::Known => Transport::Ports(flow.source_port, flow.destination_port),
                Ports::Absent => Transport::Absent,
                Ports::Unknown => Transport::LaterFragment,
            },
        }
    }

    /// The packet that answers this one: addresses and ports swapped, ICMP type and code as they are.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let transport = match self.transport {
            Transport::Ports(a, b) if !Protocol(self.protocol).is_icmp() => Transport::Ports(b, a),
            other => other,
        };
        Self {
            source: self.destination,
            destination: self.source,
            transport,
            ..*self
        }
    }
}

/// The classifier's form of an address.
fn to_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped_v4(v4.octets()),
        IpAddr::V6(v6) => address_v6(v6.octets()),
    }
}
