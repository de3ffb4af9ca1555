//! The connections as workers see them.

use std::net::IpAddr;
use std::sync::Arc;

use ravelin_esp::{InboundSa, OutboundSa};
use ravelin_policy::{self as policy, Encapsulation, IpsecProtocol};
use ravelin_xdp_common::{Address, InboundEndpoint};

use crate::address::to_address;

/// One connection with its SAs.
#[derive(Debug)]
pub struct Connection {
    /// Its place: what the driver writes into [`ravelin_xdp_common::FrameMetadata`]. Kept across swaps of the policy.
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
    /// What the driver checks about its inbound packets.
    pub endpoint: InboundEndpoint,
    /// Seals.
    pub outbound: Arc<OutboundSa>,
    /// Opens.
    pub inbound: Arc<InboundSa>,
}

impl Connection {
    /// Makes the SA obey the device's MTU and the policy's, whichever is smaller.
    pub(crate) fn limit_to(&self, device_mtu: u32) {
        let mtu = self.path_mtu.map_or(device_mtu, |limit| limit.min(device_mtu));
        if self.outbound.path_mtu() != Some(mtu) {
            // Too small for the mode's minimum: the old limit stays, and longer packets fail at the device.
            let _ = self.outbound.set_path_mtu(Some(mtu));
        }
    }

    /// The same with another limit from the policy.
    pub(crate) fn with_path_mtu(&self, path_mtu: Option<u32>) -> Self {
        Self {
            path_mtu,
            name: self.name.clone(),
            outbound: Arc::clone(&self.outbound),
            inbound: Arc::clone(&self.inbound),
            ..*self
        }
    }

    /// What the driver checks about a connection's inbound packets.
    pub(crate) fn inbound_endpoint(connection: &policy::Connection, slot: u32) -> InboundEndpoint {
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
            slot,
            local_port,
            remote_port,
            family: if connection.local.is_ipv4() { 4 } else { 6 },
            encapsulation: encapsulation as u8,
            shortest: connection.shortest_esp(),
            reserved: [0; 4],
        }
    }
}
