//! What an engine is for.

/// What an engine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Filters what passes at the outer device. Nothing is sealed or opened.
    Filter,
    /// Seals and opens for the hosts behind the inner device.
    Gateway,
    /// Seals and opens for this host itself: its own packets on the outer device.
    Host,
}

impl Role {
    /// Whether there are SAs and workers.
    #[must_use]
    pub const fn seals(self) -> bool {
        matches!(self, Self::Gateway | Self::Host)
    }
}

/// How a host's own packets get to the workers, and opened ones back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edge {
    /// Through a TUN device, up to 64 KiB at a time.
    #[default]
    Tun,
    /// Through a pair of veth devices and AF_XDP, a packet of the wire at a time.
    Veth,
}

impl Edge {
    /// `tun` or `veth`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::Veth => "veth",
        }
    }
}
