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
