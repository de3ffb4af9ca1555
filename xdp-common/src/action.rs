//! What a rule does with its packets.

/// What happens to matching packets: RFC 4301 BYPASS, DISCARD and PROTECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// Passes in the clear.
    Permit = 0,
    /// Silently dropped.
    Block = 1,
    /// Must be ESP under the rule's connection.
    Protect = 2,
}

impl Action {
    /// The action with this value; anything unknown is [`Action::Block`], so that a damaged line fails closed.
    #[must_use]
    #[inline(always)]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Permit,
            2 => Self::Protect,
            _ => Self::Block,
        }
    }
}
