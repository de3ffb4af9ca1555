//! What becomes of one packet.

use crate::line::NO_RULE;
use crate::{DropReason, FrameMetadata, Kind};

/// Why a packet passed to the kernel: the index of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Pass {
    /// A rule with action permit matched, or one that accepts unsecured packets.
    Rule = 0,
    /// No rule matched and the default is permit.
    Default = 1,
    /// ARP, neighbour discovery, IKE and NAT keepalives of this machine.
    Lifeline = 2,
    /// Neither IP nor ARP, permitted by the policy.
    NonIp = 3,
    /// Would have been dropped, were the rule or the policy not in audit mode.
    Audit = 4,
    /// The policy's level of exemptions keeps filters from seeing it.
    Exempt = 5,
}

impl Pass {
    /// Every kind, in the order of its value.
    pub const ALL: [Self; 6] = [
        Self::Rule,
        Self::Default,
        Self::Lifeline,
        Self::NonIp,
        Self::Audit,
        Self::Exempt,
    ];

    /// The stable name, used in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule => "permit_rule",
            Self::Default => "permit_default",
            Self::Lifeline => "lifeline",
            Self::NonIp => "non_ip",
            Self::Audit => "audit",
            Self::Exempt => "exempt",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Goes on to the kernel's stack.
    Pass(Pass),
    /// Ends here.
    Drop(DropReason),
    /// Goes to the worker of its queue.
    Redirect(FrameMetadata),
}

/// The kinds of [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// See [`Judgement::pass`].
    Pass = 0,
    /// See [`Judgement::reason`].
    Drop = 1,
    /// See [`Judgement::metadata`].
    Redirect = 2,
}

/// What becomes of a packet, and which rule said so.
///
/// All fields are defined whatever the fate: in an enum's payload those of other variants would not be, and LLVM then
/// stores undefined registers, which the verifier refuses. On the host [`Judgement::outcome`] is the same as an enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Which of the following counts.
    pub fate: Fate,
    /// Why it passed.
    pub pass: Pass,
    /// Why it is dropped, or with [`Pass::Audit`] would have been.
    pub reason: DropReason,
    /// What the worker is told.
    pub metadata: FrameMetadata,
    /// The rule that decided, or [`NO_RULE`].
    pub rule_id: u32,
    /// Bytes of the IP packet, for the rule's byte counter; 0 for anything else.
    pub length: u16,
}

impl Judgement {
    const NEUTRAL: Self = Self {
        fate: Fate::Drop,
        pass: Pass::Default,
        reason: DropReason::NoRuleSet,
        metadata: FrameMetadata {
            slot: 0,
            rule_id: NO_RULE,
            l3_offset: 0,
            l3_length: 0,
            generation: 0,
            kind: Kind::Seal,
            family: 0,
        },
        rule_id: NO_RULE,
        length: 0,
    };

    /// A packet that passes.
    #[must_use]
    #[inline(always)]
    pub const fn passed(pass: Pass) -> Self {
        Self {
            fate: Fate::Pass,
            pass,
            ..Self::NEUTRAL
        }
    }

    /// A packet that is dropped.
    #[must_use]
    #[inline(always)]
    pub const fn dropped(reason: DropReason) -> Self {
        Self {
            reason,
            ..Self::NEUTRAL
        }
    }

    /// A packet that is dropped, unless there is only an audit.
    #[must_use]
    #[inline(always)]
    pub const fn dropped_or_audited(reason: DropReason, audit: bool) -> Self {
        Self {
            fate: if audit { Fate::Pass } else { Fate::Drop },
            pass: if audit { Pass::Audit } else { Pass::Default },
            reason,
            ..Self::NEUTRAL
        }
    }

    /// A packet for a worker.
    #[must_use]
    #[inline(always)]
    pub const fn redirected(metadata: FrameMetadata) -> Self {
        Self {
            fate: Fate::Redirect,
            metadata,
            ..Self::NEUTRAL
        }
    }

    /// The same, by a rule, for a packet of `length` bytes.
    #[must_use]
    #[inline(always)]
    pub const fn by(self, rule_id: u32, length: u16) -> Self {
        Self {
            rule_id,
            length,
            ..self
        }
    }

    /// What becomes of the packet.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self.fate {
            Fate::Pass => Outcome::Pass(self.pass),
            Fate::Drop => Outcome::Drop(self.reason),
            Fate::Redirect => Outcome::Redirect(self.metadata),
        }
    }

    /// Why the packet would have been dropped, had there not been an audit.
    #[must_use]
    pub const fn audited(&self) -> Option<DropReason> {
        match (self.fate, self.pass) {
            (Fate::Pass, Pass::Audit) => Some(self.reason),
            _ => None,
        }
    }
}
