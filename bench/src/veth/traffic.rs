//! What is sent.

/// Sizes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// All of one size: bytes of the IPv4 packet.
    Uniform(u32),
    /// Seven of 64 bytes, four of 576, one of 1,420.
    Imix,
}

impl Traffic {
    pub(crate) const ALL: [Self; 4] = [
        Self::Uniform(64),
        Self::Imix,
        Self::Uniform(576),
        Self::Uniform(1420),
    ];

    /// Twelve packets' sizes, in turn.
    pub(crate) const fn sizes(self) -> [u32; 12] {
        match self {
            Self::Uniform(size) => [size; 12],
            Self::Imix => [64, 576, 64, 64, 576, 64, 1420, 64, 576, 64, 576, 64],
        }
    }

    pub(crate) fn longest(self) -> usize {
        self.sizes().into_iter().max().unwrap_or(0) as usize
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Uniform(size) => format!("{size} B"),
            Self::Imix => "IMIX".to_owned(),
        }
    }

    /// Whether ESP is to keep 85 % of what plain forwarding reaches.
    pub(crate) const fn is_small(self) -> bool {
        !matches!(self, Self::Uniform(1000..))
    }
}
