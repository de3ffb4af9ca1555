//! What a gateway in memory is given to do.

use anyhow::Result;
use ravelin_xdp_common::Direction;

use crate::rig::{Network, Ready};

/// Packets that a measurement goes round in, at least: the capture that the peer repeats has as many.
const LEAST_PACKETS: usize = 2048;

/// Few, many, and more than any cache holds.
const SAS: [u32; 3] = [1, 1000, 100_000];

/// One kind of traffic through one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Outbound: clear packets are sealed; inbound: sealed ones are opened.
    pub direction: Direction,
    /// SAs, which take turns packet by packet.
    pub sas: u32,
    /// Bytes of the inner IPv4 packet.
    pub size: usize,
}

impl Work {
    /// Numbers of SAs that a table has, or a quick look.
    #[must_use]
    pub fn numbers_of_sas(quick: bool) -> &'static [u32] {
        if quick { &SAS[..2] } else { &SAS }
    }

    /// How many different packets there are.
    #[must_use]
    pub fn count(self) -> usize {
        LEAST_PACKETS.max(self.sas as usize)
    }

    /// The packets: clear ones of the gateway's own network, or sealed ones of its peers, which are new each time.
    ///
    /// # Errors
    /// A packet that cannot be sealed.
    pub fn packets(self, network: &Network) -> Result<Vec<Ready>> {
        match self.direction {
            Direction::Outbound => {
                let frames = network.clear_frames(self.size);
                Ok(frames.iter().cycle().take(self.count()).cloned().collect())
            }
            Direction::Inbound => network.sealed_frames(self.size, self.count()),
        }
    }

    /// How many times the peer's rate is aimed at.
    #[must_use]
    pub const fn aim(self) -> f64 {
        match self.size {
            ..576 => 3.0,
            576..1420 => 2.0,
            _ => 1.5,
        }
    }

    /// As it stands in the table.
    #[must_use]
    pub fn name(self) -> String {
        format!("{}, {} SAs, {} B", self.way(), grouped(self.sas), self.size).replace(" 1 SAs", " 1 SA")
    }

    /// The direction, as it stands in tables.
    #[must_use]
    pub const fn way(self) -> &'static str {
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
