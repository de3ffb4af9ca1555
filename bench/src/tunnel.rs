//! The tunnels of a bench's gateway: who they are, for Ravelin and for its peers.

use std::net::Ipv4Addr;

/// The gateway's own address on the wire.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The network behind the gateway, and the length of its prefix.
pub const INSIDE: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 16, 0, 0), 16);

/// The host behind the gateway that sends and receives.
pub const HOST: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 5);

/// All sites' gateways are in this network.
pub const REMOTES: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);

/// Tunnels that there can be.
pub const MOST: u32 = 1 << 17;

/// A tunnel to one site, from 0 to [`MOST`] - 1. The sites are /25 of 10/8, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel(pub u32);

impl Tunnel {
    /// The network behind the other end, and the length of its prefix.
    #[must_use]
    pub fn site(self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::from_bits(0x0a00_0000 + (self.0 << 7)), 25)
    }

    /// The host of the site that sends and receives.
    #[must_use]
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.site().0.to_bits() + 5)
    }

    /// The other end.
    #[must_use]
    pub fn remote(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(REMOTES.0.to_bits() + self.0)
    }

    /// The SPI of what the gateway sends.
    #[must_use]
    pub const fn outbound_spi(self) -> u32 {
        0x1_0000 + self.0
    }

    /// The SPI of what it receives.
    #[must_use]
    pub const fn inbound_spi(self) -> u32 {
        0x10_0000 + self.0
    }

    /// Key and salt of AES-256-GCM for what the gateway sends.
    #[must_use]
    pub fn outbound_key(self) -> [u8; 36] {
        self.key(1)
    }

    /// Key and salt of AES-256-GCM for what it receives.
    #[must_use]
    pub fn inbound_key(self) -> [u8; 36] {
        self.key(2)
    }

    fn key(self, fill: u8) -> [u8; 36] {
        let mut key = [fill; 36];
        key[..4].copy_from_slice(&self.0.to_be_bytes());
        key
    }
}
