//! The classifier's step: one line at a time, in the order of rank, until a verdict stands.

use crate::line::{Comparison, NO_CONNECTION, NO_RULE, line_flags};
use crate::{Action, Direction, DropReason, Flow, Header, Line};

/// What the rule set says about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Verdict {
    /// The rule that decided, or [`NO_RULE`] for the default.
    pub rule_id: u32,
    /// The connection to protect with, or [`NO_CONNECTION`].
    pub connection: u32,
    /// What to do.
    pub decision: Decision,
    /// A clear inbound packet is accepted although the rule protects.
    pub accept_unsecured: bool,
}

/// What a verdict tells to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Decision {
    /// Pass in the clear.
    Permit = 0,
    /// Drop.
    Block = 1,
    /// Must be ESP.
    Protect = 2,
    /// Drop: a later fragment for which a rule with ports could have been the one.
    FragmentUnknown = 3,
}

impl Verdict {
    /// The verdict for a packet that no line matches.
    #[must_use]
    #[inline(always)]
    pub const fn default(header: &Header) -> Self {
        let decision = match header.default_action {
            Action::Permit => Decision::Permit,
            Action::Block | Action::Protect => Decision::Block,
        };
        Self {
            rule_id: NO_RULE,
            connection: NO_CONNECTION,
            decision,
            accept_unsecured: false,
        }
    }

    /// Why this verdict drops, if it does.
    #[must_use]
    #[inline(always)]
    pub const fn drop_reason(&self) -> Option<DropReason> {
        match self.decision {
            Decision::Permit | Decision::Protect => None,
            Decision::Block if self.rule_id == NO_RULE => Some(DropReason::DefaultBlock),
            Decision::Block => Some(DropReason::RuleBlock),
            Decision::FragmentUnknown => Some(DropReason::FragmentUnknown),
        }
    }
}

/// Takes one line: the verdict if it decides, else `None` to go on with the next.
///
/// Lines come in the order of their rank, so the first that matches wins. A later fragment matches only lines
/// without ports; where a better-ranked line with ports and action block or protect matches in all else, the
/// packet is dropped, because that line could not be checked.
#[must_use]
#[inline(always)]
pub fn step(line: &Line, flow: &Flow, direction: Direction) -> Option<Verdict> {
    let action = Action::from_u8(line.action);
    let decision = match (line.compare(flow, direction), action) {
        (Comparison::Differs, _) | (Comparison::MatchesButPorts, Action::Permit) => return None,
        (Comparison::MatchesButPorts, _) => Decision::FragmentUnknown,
        (Comparison::Matches, Action::Permit) => Decision::Permit,
        (Comparison::Matches, Action::Block) => Decision::Block,
        (Comparison::Matches, Action::Protect) => Decision::Protect,
    };
    Some(Verdict {
        rule_id: line.rule_id,
        connection: line.connection,
        decision,
        accept_unsecured: line.flags & line_flags::ACCEPT_UNSECURED != 0,
    })
}

/// Walks a whole rule set on the host. `lines` are those after the header.
#[must_use]
pub fn walk(header: &Header, lines: &[Line], flow: &Flow, direction: Direction) -> Verdict {
    lines
        .iter()
        .find_map(|line| step(line, flow, direction))
        .unwrap_or_else(|| Verdict::default(header))
}
