//! The packet that an ICMP error is about, as far as the error quotes it (RFC 792, RFC 4443 section 2.4 (c)).

use crate::parse::{is_extension, protocol, shortest_header};
use crate::{Address, Family, Flow, IpPacket, Ports, Reader, address_v6, mapped_v4};

/// The ICMP header, and in front of what is quoted.
const ICMP_HEADER: usize = 8;

/// Extension headers of a quoted IPv6 packet that are walked.
const MOST_EXTENSION_HEADERS: usize = 4;

impl IpPacket {
    /// Whether this is an ICMP error, which quotes: destination unreachable, source quench, redirect, time exceeded and
    /// parameter problem, and what they are in IPv6. There redirects are part of neighbour discovery.
    #[must_use]
    pub const fn is_icmp_error(&self) -> bool {
        let flow = &self.flow;
        matches!(flow.ports, Ports::Known)
            && match flow.family {
                Family::V4 => flow.protocol == protocol::ICMP && matches!(flow.source_port, 3..=5 | 11 | 12),
                Family::V6 => flow.protocol == protocol::ICMP6 && matches!(flow.source_port, 1..=4),
            }
    }

    /// Reads the selector values of the packet that this ICMP error quotes, as that went; `None` if that is not even an IP header.
    ///
    /// Where no ports are quoted, be it of a later fragment, they are [`Ports::Unknown`]. What stands behind the error in its frame is not
    /// quoted; the length fields of the quote are not looked at, since it is cut.
    #[must_use]
    pub fn quoted<R: Reader>(&self, reader: &R) -> Option<Flow> {
        let end = usize::from(self.l3_offset) + usize::from(self.l3_length);
        let start = usize::from(self.l3_offset) + usize::from(self.upper_offset) + ICMP_HEADER;
        let family = self.flow.family;
        // Whether what stands behind the IP header is the start of what the protocol says.
        let mut whole = true;
        let (mut flow, upper) = match family {
            Family::V4 => {
                let ip = reader.read::<20>(start).filter(|_| start + 20 <= end)?;
                let header_length = usize::from(ip[0] & 15) * 4;
                if ip[0] >> 4 != 4 || header_length < 20 {
                    return None;
                }
                let flow = flow(
                    mapped_v4([ip[12], ip[13], ip[14], ip[15]]),
                    mapped_v4([ip[16], ip[17], ip[18], ip[19]]),
                    family,
                    ip[9],
                );
                whole = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff == 0;
                (flow, start + header_length)
            }
            Family::V6 => {
                let ip = reader.read::<40>(start).filter(|_| start + 40 <= end)?;
                if ip[0] >> 4 != 6 {
                    return None;
                }
                let address = |at: usize| address_v6(core::array::from_fn(|index| ip[at + index]));
                let mut flow = flow(address(8), address(24), family, ip[6]);
                let mut upper = start + 40;
                let mut headers = 0;
                while whole && is_extension(flow.protocol) {
                    let walked = upper + 8 <= end && headers < MOST_EXTENSION_HEADERS;
                    let Some(extension) = reader.read::<8>(upper).filter(|_| walked) else {
                        whole = false;
                        break;
                    };
                    upper += 8;
                    if flow.protocol == protocol::FRAGMENT {
                        whole = u16::from_be_bytes([extension[2], extension[3]]) >> 3 == 0;
                    } else {
                        upper += usize::from(extension[1]) * 8;
                    }
                    flow.protocol = extension[0];
                    headers += 1;
                }
                (flow, upper)
            }
        };
        // Of a later IPv6 fragment, or behind headers that nobody walked, even the protocol is unproven.
        let unproven = !whole && matches!(family, Family::V6);
        if !unproven && !has_ports(&flow) {
            return Some(flow);
        }
        let Some(start) = reader.read::<4>(upper).filter(|_| whole && upper + 4 <= end) else {
            flow.ports = Ports::Unknown;
            return Some(flow);
        };
        flow.ports = Ports::Known;
        if matches!(flow.protocol, protocol::ICMP | protocol::ICMP6) {
            flow.source_port = start[0].into();
            flow.destination_port = start[1].into();
        } else {
            flow.source_port = u16::from_be_bytes([start[0], start[1]]);
            flow.destination_port = u16::from_be_bytes([start[2], start[3]]);
        }
        Some(flow)
    }
}

/// Whether packets of this protocol have ports, or type and code.
const fn has_ports(flow: &Flow) -> bool {
    shortest_header(flow.family, flow.protocol) != 0 && !matches!(flow.protocol, protocol::ESP | protocol::AH)
}

const fn flow(source: Address, destination: Address, family: Family, protocol: u8) -> Flow {
    Flow {
        source,
        destination,
        source_port: 0,
        destination_port: 0,
        family,
        protocol,
        ports: Ports::Absent,
    }
}
