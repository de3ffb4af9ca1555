//! The space of packets: what can be said about all packets of a kind without looking at each.
//!
//! Packets of one [`Plane`] (direction, IP version, whether a later fragment) differ in five numbers: both addresses,
//! protocol, and both ports or ICMP type and code. A filter is a [`Shape`] in that space, a set of packets yet to be
//! looked at a [`Region`]. Questions are answered by points: take a packet of the region, find the filter that decides
//! it ([`Arrangement::best`]), and take away from the region all that is known by that, until nothing is left or the
//! work that was allowed is done.

mod arrangement;
mod region;
mod shape;
mod shown;
mod tree;

use ravelin_xdp_common::Direction;

pub(crate) use arrangement::{Arrangement, Entry, Placed};
pub(crate) use region::{Point, Region};
pub(crate) use shown::Shown;
pub(crate) use tree::{Tree, Wanted};

use crate::address::Family;
use crate::protocol::Protocol;

/// Packets that filters judge alike in kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Plane {
    pub(crate) direction: Direction,
    pub(crate) family: Family,
    /// Later fragments: in IPv4 of protocols that have ports, which they do not show; in IPv6 of all, since they do not prove
    /// their protocol (RFC 8200 section 4.5).
    pub(crate) fragment: bool,
}

impl Plane {
    pub(crate) const ALL: [Self; 8] = {
        let mut planes = [Self {
            direction: Direction::Outbound,
            family: Family::V4,
            fragment: false,
        }; 8];
        let mut index = 0;
        while index < 8 {
            if index & 1 != 0 {
                planes[index].direction = Direction::Inbound;
            }
            if index & 2 != 0 {
                planes[index].family = Family::V6;
            }
            planes[index].fragment = index & 4 != 0;
            index += 1;
        }
        planes
    };

    /// Whether the protocol is not known either.
    pub(crate) fn hides_protocol(self) -> bool {
        self.fragment && self.family == Family::V6
    }

    /// Whether packets of this plane do not show all that a filter asks for, with these limits.
    pub(crate) fn hides(self, limits_protocol: bool, limits_ports: bool) -> bool {
        self.fragment && (limits_ports || (limits_protocol && self.hides_protocol()))
    }

    /// Whether packets of this plane's family have ports, or ICMP type and code, if they are of this protocol.
    fn has_ports(self, protocol: Protocol) -> bool {
        protocol.has_ports() || protocol.family() == Some(self.family)
    }
}

/// Work that may still be done, in steps of a search.
#[derive(Debug)]
pub(crate) struct Budget(u64);

/// The work that was allowed is done, and the answer is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Budget {
    pub(crate) fn new(steps: u64) -> Self {
        Self(steps)
    }

    /// Takes one step, if it may be taken.
    pub(crate) fn spend(&mut self) -> Result<(), Exhausted> {
        self.spend_more(1)
    }

    /// Takes several.
    pub(crate) fn spend_more(&mut self, steps: usize) -> Result<(), Exhausted> {
        self.0 = self.0.saturating_sub(steps as u64);
        if self.0 == 0 { Err(Exhausted) } else { Ok(()) }
    }

    pub(crate) fn left(&self) -> u64 {
        self.0
    }
}
