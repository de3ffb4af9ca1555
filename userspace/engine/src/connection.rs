//! The connections as workers see them.

use std::mem::offset_of;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ravelin_esp::{InboundSa, OutboundSa};
use ravelin_policy::{self as policy, AddressUpdate, Encapsulation, IpsecProtocol, NatTraversal};
use ravelin_xdp_common::{InboundEndpoint, OutboundKey};

use crate::address::to_address;
use crate::adjacency::Ends;
use crate::path_mtu::PathMtu;

/// One connection with its SAs. What every packet asks for comes first, in one line of the cache.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Connection {
    /// Its place: what the driver writes into [`ravelin_xdp_common::FrameMetadata`] of clear packets. Kept across swaps of
    /// the policy and when its SAs change.
    pub slot: u32,
    /// The first generation in which the slot was its own.
    pub since: u32,
    /// Seals; `None` when it was deleted.
    pub outbound: Option<Outbound>,
    /// What is known of the path to the peer.
    pub path: Arc<PathMtu>,
    /// What needs no other SAs when it changes.
    pub settings: Settings,
    /// Name in the policy.
    pub name: String,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// The same as the classifier has them.
    pub ends: Ends,
    /// The number of its pair of SAs, there or not.
    pub pair: u32,
    /// Opens; `None` when it was deleted.
    pub inbound: Option<Arc<Inbound>>,
}

/// What a policy says of a connection that its SAs need not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Longest outer packet in bytes.
    pub path_mtu: Option<u32>,
    /// Whether TCP is told segment sizes that fit.
    pub tcp_mss_clamp: bool,
    /// How long its SAs stay when it gets others.
    pub rekey_grace: Duration,
    /// What is done about NAT.
    pub nat: NatTraversal,
    /// Dummies to send in a second.
    pub dummy_packets: u16,
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
#[repr(C)]
pub struct Inbound {
    /// The SA.
    pub sa: Arc<InboundSa>,
    /// The number of its pair: what the driver writes into the metadata of ESP packets.
    pub pair: u32,
    /// Slot of the connection that its packets must be for (RFC 4301 section 5.2).
    pub connection: u32,
    /// What the driver checks about its packets, as the policy had it when the SA started.
    pub endpoint: InboundEndpoint,
    /// By what the driver knows the packets of the outbound SA of its pair when routers quote them.
    pub quoted: OutboundKey,
}

impl Settings {
    /// Of a connection of a policy.
    #[must_use]
    pub fn of(definition: &policy::Connection) -> Self {
        Self {
            path_mtu: definition.path_mtu.map(u32::from),
            tcp_mss_clamp: definition.tcp_mss_clamp,
            rekey_grace: definition.rekey_grace,
            nat: definition.nat,
            dummy_packets: definition.dummy_packets,
        }
    }
}

impl Connection {
    /// Bytes at the front with what every packet asks for.
    pub(crate) const ASKED_FOR: usize = offset_of!(Self, settings) + offset_of!(Settings, tcp_mss_clamp) + 1;

    /// A connection as a policy defines it, with a pair of SAs. `slot` was its own from generation `since` on.
    #[must_use]
    pub fn new(
        definition: &policy::Connection,
        (slot, since): (u32, u32),
        path: Arc<PathMtu>,
        pair: u32,
        outbound: Option<Arc<OutboundSa>>,
        inbound: Option<Arc<InboundSa>>,
    ) -> Self {
        Self {
            slot,
            since,
            name: definition.name.clone(),
            local: definition.local,
            remote: definition.remote,
            ends: Ends::between(definition.local, definition.remote),
            settings: Settings::of(definition),
            path,
            pair,
            outbound: outbound.map(|sa| Outbound { pair, sa }),
            inbound: inbound.map(|sa| {
                Arc::new(Inbound {
                    pair,
                    connection: slot,
                    endpoint: Inbound::endpoint(definition, pair),
                    quoted: Inbound::quoted(definition),
                    sa,
                })
            }),
        }
    }

    /// The longest outer packet in bytes: by the device's MTU, the policy's and the one that was learned, whichever is smallest.
    #[inline]
    pub(crate) fn outer_mtu(&self, device_mtu: u32, now: Instant) -> u32 {
        let limits = [self.settings.path_mtu, self.path.learned(now)];
        limits.into_iter().flatten().fold(device_mtu, u32::min)
    }

    /// Its outbound SA, which obeys the longest outer packet of the moment from now on; `None` when it was deleted.
    ///
    /// Whoever is about to seal asks for it so. Not all SAs are told when the MTU changes: there may be many, and few are in use.
    #[inline]
    pub(crate) fn outbound_within(&self, device_mtu: u32, now: Instant) -> Option<&Outbound> {
        let outbound = self.outbound.as_ref()?;
        let mtu = self.outer_mtu(device_mtu, now);
        if outbound.sa.path_mtu() != Some(mtu) {
            // Too small for the mode's minimum: the old limit stays, and longer packets fail at the device.
            let _ = outbound.sa.set_path_mtu(Some(mtu));
        }
        Some(outbound)
    }
}

const _: () = assert!(Connection::ASKED_FOR <= 64);

impl Inbound {
    /// Bytes at the front with what every packet asks for.
    pub(crate) const ASKED_FOR: usize = offset_of!(Self, endpoint);

    /// By what the driver knows a connection's outbound packets.
    pub(crate) fn quoted(connection: &policy::Connection) -> OutboundKey {
        OutboundKey {
            remote: to_address(connection.remote),
            spi: connection.keys.outbound.spi.value(),
            family: if connection.remote.is_ipv4() { 4 } else { 6 },
        }
    }

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
            verify_moved: verify_moved(&connection.nat),
            reserved: [0; 3],
        }
    }
}

/// [`InboundEndpoint::verify_moved`].
pub(crate) fn verify_moved(nat: &NatTraversal) -> u8 {
    (nat.address_update != AddressUpdate::Off).into()
}

/// A connection from 192.0.2.1 to 192.0.2.2 whose policy has these lines too; it may send 2^20 packets.
#[cfg(test)]
pub(crate) fn sample(slot: u32, lines: &str) -> Connection {
    use std::time::Instant;

    use ravelin_esp::{Algorithm, Encapsulation, Mode, Provider, SaParameters, Secret, TfcPadding};

    let policy = format!(
        "[connections.c]\nmode = \"tunnel\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.2\"\n{lines}\n\
         [connections.c.static]\nalgorithm = \"aes-128-gcm\"\n\
         outbound = {{ spi = 0x1001, key-file = \"a\" }}\ninbound = {{ spi = 0x1002, key-file = \"b\" }}\n"
    );
    let (policy, _) = policy::Policy::parse(&policy, "test").unwrap_or_else(|errors| panic!("{errors}"));
    let definition = &policy.connections()[0];
    let parameters = |spi, key: u8| {
        let mode = Mode::Tunnel {
            local: definition.local,
            remote: definition.remote,
        };
        let mut parameters =
            SaParameters::new(spi, mode, Algorithm::AES_128_GCM, Secret::copy_from(&[key; 20]));
        if let policy::Encapsulation::Udp {
            local_port,
            remote_port,
        } = definition.encapsulation
        {
            parameters.encapsulation = Encapsulation::Udp {
                source_port: local_port,
                destination_port: remote_port,
            };
        }
        if let policy::TfcPadding::To(len) = definition.tfc_padding {
            parameters.tfc_padding = TfcPadding::To(len);
        }
        parameters
    };
    let now = Instant::now();
    let outbound = OutboundSa::new(parameters(0x1001, 1), Provider::preferred(), 0, now).expect("valid");
    outbound.sequence().raise_ceiling(1 << 20);
    let inbound = InboundSa::new(parameters(0x1002, 2), Provider::preferred(), 0, now).expect("valid");
    Connection {
        slot,
        since: 0,
        name: definition.name.clone(),
        local: definition.local,
        remote: definition.remote,
        ends: Ends::between(definition.local, definition.remote),
        settings: Settings::of(definition),
        path: Arc::new(PathMtu::new(now)),
        pair: slot,
        outbound: Some(Outbound {
            pair: slot,
            sa: outbound.into(),
        }),
        inbound: Some(Arc::new(Inbound {
            pair: slot,
            connection: slot,
            endpoint: Inbound::endpoint(definition, slot),
            quoted: Inbound::quoted(definition),
            sa: inbound.into(),
        })),
    }
}
