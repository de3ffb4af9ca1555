//! Where the kernel would send a packet.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use ravelin_xdp_common::DropReason;

use crate::netlink::Questions;

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// By the device with this index, to this neighbour.
    Via(u32, IpAddr),
    /// Nowhere.
    Closed(DropReason),
}

impl Route {
    /// Asks the kernel about a packet to `destination`, from one of this machine's addresses if that is given: of others it knows no way.
    ///
    /// # Errors
    ///
    /// When it could not be asked.
    pub(crate) fn look_up(
        questions: &mut Questions,
        source: Option<IpAddr>,
        destination: IpAddr,
    ) -> io::Result<Self> {
        let mut message = RouteMessage::default();
        let (family, length, address) = in_message(destination);
        message.header.address_family = family;
        message.header.destination_prefix_length = length;
        message.attributes.push(RouteAttribute::Destination(address));
        if let Some(source) = source {
            let (_, length, address) = in_message(source);
            message.header.source_prefix_length = length;
            message.attributes.push(RouteAttribute::Source(address));
        }
        let answers = match questions.ask(RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(answers) => answers,
            Err(error) if could_not_ask(&error) => return Err(error),
            // ENETUNREACH, or EACCES, EHOSTUNREACH and EINVAL of a route that prohibits, refuses or swallows.
            Err(_) => return Ok(Self::Closed(DropReason::NoRoute)),
        };
        let route = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        Ok(route.map_or(Self::Closed(DropReason::NoRoute), |route| {
            Self::read(&route, destination)
        }))
    }

    fn read(route: &RouteMessage, destination: IpAddr) -> Self {
        match route.header.kind {
            RouteType::Unicast => {}
            RouteType::Local => return Self::Closed(DropReason::LocalDelivery),
            _ => return Self::Closed(DropReason::NoRoute),
        }
        let mut device = None;
        let mut next = destination;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => device = Some(*index),
                // Via: an IPv4 destination behind an IPv6 next hop (RFC 5549).
                RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
                    next = IpAddr::V4(*v4);
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(v6))
                | RouteAttribute::Via(RouteVia::Inet6(v6)) => next = IpAddr::V6(*v6),
                _ => {}
            }
        }
        device.map_or(Self::Closed(DropReason::NoRoute), |device| {
            Self::Via(device, next)
        })
    }
}

/// An address as messages about routes have it, and its length in bits.
fn in_message(address: IpAddr) -> (AddressFamily, u8, RouteAddress) {
    match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    }
}

/// Whether an error is no answer of the routing table, but the lack of one.
fn could_not_ask(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        None | Some(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS)
    )
}
