//! What an ICMP error says about a packet of ours: "fragmentation needed" (RFC 1191 section 4) and "packet too big" (RFC 4443
//! section 3.2), of which path MTU discovery consists.

use crate::parse::protocol;
use crate::{Address, Encapsulation, Family, IpPacket, Ports, Reader, address_v6, mapped_v4};

/// The ICMP header, and in front of what is quoted.
const ICMP_HEADER: usize = 8;
const UDP_HEADER: usize = 8;

/// A packet of ours as an ICMP error quotes it, and the MTU that was too small for it.
///
/// A plain struct that is read into, defined whatever was found: see [`parse`](crate::parse()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpQuote {
    /// Where the quoted packet came from: us.
    pub local: Address,
    /// Where it was to go: the peer.
    pub remote: Address,
    /// Security parameters index, host order.
    pub spi: u32,
    /// The low half of the sequence number.
    pub sequence: u32,
    /// The MTU of the next hop in bytes, as the router says; an old one may say 0 (RFC 1191 section 5).
    pub mtu: u32,
    /// Length of the quoted packet by its own header, in bytes.
    pub length: u32,
    /// UDP ports, host order; 0 without encapsulation.
    pub local_port: u16,
    /// The peer's.
    pub remote_port: u16,
    /// How the quoted packet travels, an [`Encapsulation`].
    pub encapsulation: u8,
    /// 4 or 6.
    pub family: u8,
}

/// The key of an outbound SA: SPIs are the peer's choice, so they are unique at each peer only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct OutboundKey {
    /// The peer's outer address.
    pub remote: Address,
    /// Security parameters index, host order.
    pub spi: u32,
    /// 4 or 6, the outer family.
    pub family: u32,
}

const _: () = assert!(size_of::<OutboundKey>() == 24);

impl IcmpQuote {
    /// Nothing.
    pub const EMPTY: Self = Self {
        local: [0; 2],
        remote: [0; 2],
        spi: 0,
        sequence: 0,
        mtu: 0,
        length: 0,
        local_port: 0,
        remote_port: 0,
        encapsulation: Encapsulation::None as u8,
        family: 0,
    };

    /// The SA that the quoted packet may be of.
    #[must_use]
    #[inline(always)]
    pub const fn key(&self) -> OutboundKey {
        OutboundKey {
            remote: self.remote,
            spi: self.spi,
            family: self.family as u32,
        }
    }

    /// Whether a packet is such an error.
    #[must_use]
    #[inline(always)]
    pub const fn is_in(packet: &IpPacket) -> bool {
        let flow = &packet.flow;
        matches!(flow.ports, Ports::Known)
            && !packet.fragment
            && match flow.family {
                Family::V4 => {
                    flow.protocol == protocol::ICMP && flow.source_port == 3 && flow.destination_port == 4
                }
                Family::V6 => {
                    flow.protocol == protocol::ICMP6 && flow.source_port == 2 && flow.destination_port == 0
                }
            }
    }

    /// Reads what the error `packet` quotes; false if that is neither ESP nor AH, or too little of it.
    ///
    /// Too little of UDP-encapsulated ESP are the eight bytes behind the IP header that RFC 792 promises: the SPI stands
    /// behind them. RFC 1812 section 4.3.2.3 has routers quote more.
    #[inline(always)]
    pub fn read<R: Reader>(&mut self, reader: &R, packet: &IpPacket) -> bool {
        let icmp = packet.l3_offset as usize + packet.upper_offset as usize;
        let Some(header) = reader.read::<ICMP_HEADER>(icmp) else {
            return false;
        };
        let quoted = icmp + ICMP_HEADER;
        let (upper, upper_protocol) = match packet.flow.family {
            Family::V4 => {
                let Some(ip) = reader.read::<20>(quoted) else {
                    return false;
                };
                let header_length = ((ip[0] & 15) as usize) * 4;
                if ip[0] >> 4 != 4 || header_length < 20 {
                    return false;
                }
                self.family = 4;
                self.mtu = u32::from(u16::from_be_bytes([header[6], header[7]]));
                self.length = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
                self.local = mapped_v4([ip[12], ip[13], ip[14], ip[15]]);
                self.remote = mapped_v4([ip[16], ip[17], ip[18], ip[19]]);
                (quoted + header_length, ip[9])
            }
            Family::V6 => {
                // In one piece: of several reads LLVM joins the checks, in ways that the verifier does not follow.
                let Some(ip) = reader.read::<40>(quoted) else {
                    return false;
                };
                let address = |at: usize| address_v6(core::array::from_fn(|index| ip[at + index]));
                if ip[0] >> 4 != 6 {
                    return false;
                }
                self.family = 6;
                self.mtu = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                self.length = 40 + u32::from(u16::from_be_bytes([ip[4], ip[5]]));
                self.local = address(8);
                self.remote = address(24);
                (quoted + 40, ip[6])
            }
        };
        let esp = match upper_protocol {
            protocol::ESP => upper,
            protocol::AH => {
                self.encapsulation = Encapsulation::Ah as u8;
                // Next header, length, reserved.
                upper + 4
            }
            protocol::UDP => {
                let Some(udp) = reader.read::<4>(upper) else {
                    return false;
                };
                self.encapsulation = Encapsulation::Udp as u8;
                self.local_port = u16::from_be_bytes([udp[0], udp[1]]);
                self.remote_port = u16::from_be_bytes([udp[2], udp[3]]);
                upper + UDP_HEADER
            }
            _ => return false,
        };
        // What stands behind the packet in its frame is not quoted.
        if esp + 8 > packet.l3_offset as usize + packet.l3_length as usize {
            return false;
        }
        let Some(esp) = reader.read::<8>(esp) else {
            return false;
        };
        self.spi = u32::from_be_bytes([esp[0], esp[1], esp[2], esp[3]]);
        self.sequence = u32::from_be_bytes([esp[4], esp[5], esp[6], esp[7]]);
        true
    }
}
