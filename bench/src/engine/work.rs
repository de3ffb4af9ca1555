//! What a row of the table is about.

use anyhow::Result;
use ravelin_bench::rig::{Network, Ready};
use ravelin_xdp_common::Direction;

/// Packets that a measurement goes round in, at least: the capture that the peer repeats has as many.
const LEAST_PACKETS: usize = 2048;

/// One kind of traffic through one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) direction: Direction,
    /// SAs, which take turns packet by packet.
    pub(crate) sas: u32,
    /// Bytes of the inner IPv4 packet.
    pub(crate) size: usize,
}

impl Work {
    /// How many different packets there are.
    pub(crate) fn count(self) -> usize {
        LEAST_PACKETS.max(self.sas as usize)
    }

    /// The packets: clear ones of the gateway's own network, or sealed ones of its peers, which are new each time.
    pub(crate) fn packets(self, network: &Network) -> Result<Vec<Ready>> {
        match self.direction {
            Direction::Outbound => {
                let frames = network.clear_frames(self.size);
                Ok(frames.iter().cycle().take(self.count()).cloned().collect())
            }
            Direction::Inbound => network.sealed_frames(self.size, self.count()),
        }
    }

    /// How many times the peer's rate is aimed at.
    pub(crate) const fn aim(self) -> f64 {
        match self.size {
            ..576 => 3.0,
            576..1420 => 2.0,
            _ => 1.5,
        }
    }

    /// As it stands in the table.
    pub(crate) fn name(self) -> String {
        format!("{}, {} SAs, {} B", self.way(), grouped(self.sas), self.size).replace(" 1 SAs", " 1 SA")
    }

    pub(crate) const fn way(self) -> &'static str {
        match self.direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        }
    }
}

/// With a comma before the last three digits.
fn grouped(number: u32) -> String {
    match number {
        ..1000 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}
