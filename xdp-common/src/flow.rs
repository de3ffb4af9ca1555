//! What a packet is classified by: the RFC 4301 selector values of one packet.

/// An IP address as two big-endian halves in host integers, `[high, low]`.
///
/// IPv4 addresses stand at `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2), so that one comparison serves both
/// families; [`Family`] keeps a real IPv6 packet that carries such an address apart.
pub type Address = [u64; 2];

/// The IPv4-mapped form of an IPv4 address.
#[must_use]
#[inline(always)]
pub const fn mapped_v4(octets: [u8; 4]) -> Address {
    [0, 0xffff_0000_0000 | u32::from_be_bytes(octets) as u64]
}

/// An IPv6 address from its sixteen bytes in network order.
#[must_use]
#[inline(always)]
pub const fn address_v6(octets: [u8; 16]) -> Address {
    let value = u128::from_be_bytes(octets);
    [(value >> 64) as u64, value as u64]
}

/// The network-order bytes of an address, sixteen for either family.
#[must_use]
#[inline(always)]
pub const fn address_bytes(address: Address) -> [u8; 16] {
    (((address[0] as u128) << 64) | address[1] as u128).to_be_bytes()
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// Which way a packet crosses the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the clear side towards the wire.
    Outbound = 1,
    /// From the wire towards the clear side.
    Inbound = 2,
}

/// Whether the transport header of a packet can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ports {
    /// The protocol has ports, or ICMP type and code, and the packet holds them.
    Known = 0,
    /// The protocol has neither.
    Absent = 1,
    /// A later fragment: its first fragment held them. One of IPv6 does not even prove its protocol (RFC 8200 section 4.5).
    Unknown = 2,
}

/// The selector values of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Flow {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port in host order, or ICMP type; 0 unless `ports` is [`Ports::Known`].
    pub source_port: u16,
    /// Destination port in host order, or ICMP code; 0 unless `ports` is [`Ports::Known`].
    pub destination_port: u16,
    /// IP version.
    pub family: Family,
    /// Upper-layer protocol: the last next-header value after IPv6 extension headers. Of a later IPv6 fragment it is only
    /// what that says.
    pub protocol: u8,
    /// Whether the ports mean anything.
    pub ports: Ports,
}
