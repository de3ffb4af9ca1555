//! The connections as workers see them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ravelin_esp::{InboundSa, OutboundSa};
use ravelin_policy::{self as policy, Encapsulation, IpsecProtocol};
use ravelin_xdp_common::{Address, InboundEndpoint};

use crate::address::to_address;

/// One connection with its SAs.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its place: what the driver writes into [`ravelin_xdp_common::FrameMetadata`] of clear packets. Kept across swaps of
    /// the policy and when its SAs change.
    pub slot: u32,
    /// The first generation in which the slot was its own.
    pub since: u32,
    /// Name in the policy.
    pub name: String,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// The same as the classifier has it.
    pub remote_address: Address,
    /// Longest outer packet in bytes that the policy allows.
    pub path_mtu: Option<u32>,
    /// How long its SAs stay when it gets others.
    pub rekey_grace: Duration,
    /// The number of its pair of SAs, there or not.
    pub pair: u32,
    /// Seals; `None` when it was deleted.
    pub outbound: Option<Outbound>,
    /// Opens; `None` when it was deleted.
    pub inbound: Option<Arc<Inbound>>,
}

/// An outbound SA.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// The number of its pair.
    pub pair: u32,
    /// The SA.
    pub sa: Arc<OutboundSa>,
}

/// An inbound SA, and what driver and workers need to know about it.
#[derive(Debug)]
pub struct Inbound {
    /// The number of its pair: what the driver writes into the metadata of ESP packets.
    pub pair: u32,
    /// Slot of the connection that its packets must be for (RFC 4301 section 5.2).
    pub connection: u32,
    /// What the driver checks about its packets.
    pub endpoint: InboundEndpoint,
    /// The SA.
    pub sa: Arc<InboundSa>,
}

impl Outbound {
    /// Makes the SA obey the device's MTU and the policy's, whichever is smaller.
    #[inline]
    pub(crate) fn limit_to(&self, device_mtu: u32, path_mtu: Option<u32>) {
        let mtu = path_mtu.map_or(device_mtu, |limit| limit.min(device_mtu));
        if self.sa.path_mtu() != Some(mtu) {
            // Too small for the mode's minimum: the old limit stays, and longer packets fail at the device.
            let _ = self.sa.set_path_mtu(Some(mtu));
        }
    }
}

impl Inbound {
    /// What the driver checks about a connection's inbound packets.
    pub(crate) fn endpoint(connection: &policy::Connection, pair: u32) -> InboundEndpoint {
        let (encapsulation, local_port, remote_port) = match connection.encapsulation {
            Encapsulation::None if connection.protocol == IpsecProtocol::Ah => {
                (ravelin_xdp_common::Encapsulation::Ah, 0, 0)
            }
            Encapsulation::None => (ravelin_xdp_common::Encapsulation::None, 0, 0),
            Encapsulation::Udp {
                local_port,
                remote_port,
            } => (ravelin_xdp_common::Encapsulation::Udp, local_port, remote_port),
        };
        InboundEndpoint {
            local: to_address(connection.local),
            remote: to_address(connection.remote),
            slot: pair,
            local_port,
            remote_port,
            family: if connection.local.is_ipv4() { 4 } else { 6 },
            encapsulation: encapsulation as u8,
            shortest: connection.shortest_esp(),
            reserved: [0; 4],
        }
    }
}
