//! The classifier's step: one line at a time, through one tree after the other, until no better verdict can come.

use crate::entry::{halves, matches_v4, matches_v6};
use crate::line::{
    CONNECTION_LIMIT, Key, MAX_STEPS, NO_CONNECTION, NO_RANK, NO_RULE, THRESHOLDS, VERDICTS, dimension,
    entry_flags, header_flags, line_kind, verdict_bits,
};
use crate::{Action, Direction, Family, Flow, Header, Line, Ports};

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
    /// What this verdict would drop passes and is only counted.
    pub audit: bool,
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
    /// Drop: there is no rule set, or it is damaged.
    NoRuleSet = 4,
    /// Pass: the policy's exemptions keep the packet from the filters.
    Exempt = 5,
    /// Drop: a fragment that contradicts the first one of its datagram.
    FragmentOverlap = 6,
    /// To the worker: a later fragment of a packet with ESP. Of the outer device only.
    Reassemble = 7,
}

impl Verdict {
    /// What a rule set says that there is not, or that ends before a verdict.
    pub const NONE: Self = Self {
        rule_id: NO_RULE,
        connection: NO_CONNECTION,
        decision: Decision::NoRuleSet,
        accept_unsecured: false,
        audit: false,
    };

    /// What is said about a fragment that contradicts the first one of its datagram.
    #[must_use]
    #[inline(always)]
    pub const fn overlap(header: &Header) -> Self {
        Self {
            decision: Decision::FragmentOverlap,
            audit: header.flags & header_flags::AUDIT != 0,
            ..Self::NONE
        }
    }

    /// What is said about a packet that no filter sees.
    pub const EXEMPT: Self = Self {
        decision: Decision::Exempt,
        ..Self::NONE
    };

    /// What is said about a later fragment of ESP for one of our SAs, which no filter sees.
    pub const REASSEMBLE: Self = Self {
        decision: Decision::Reassemble,
        ..Self::NONE
    };

    /// The verdict for a packet that no entry matches.
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
            audit: header.flags & header_flags::AUDIT != 0,
        }
    }

    /// The two words of the verdict in its table, for rules that are no fragment's riddle.
    #[must_use]
    pub const fn to_words(&self) -> [u32; 2] {
        let action = match self.decision {
            Decision::Permit => Action::Permit,
            Decision::Block
            | Decision::FragmentUnknown
            | Decision::FragmentOverlap
            | Decision::NoRuleSet
            | Decision::Exempt
            | Decision::Reassemble => Action::Block,
            Decision::Protect => Action::Protect,
        };
        let connection = if self.connection < CONNECTION_LIMIT {
            self.connection
        } else {
            CONNECTION_LIMIT
        };
        let mut bits = connection | (action as u32) << verdict_bits::ACTION;
        if self.accept_unsecured {
            bits |= verdict_bits::ACCEPT_UNSECURED;
        }
        if self.audit {
            bits |= verdict_bits::AUDIT;
        }
        [self.rule_id, bits]
    }

    /// The verdict from its two words; `unknown` for a fragment whose ports would have decided.
    #[must_use]
    #[inline(always)]
    pub const fn from_words(rule_id: u32, bits: u32, unknown: bool) -> Self {
        let decision = match Action::from_u8((bits >> verdict_bits::ACTION & 3) as u8) {
            _ if unknown => Decision::FragmentUnknown,
            Action::Permit => Decision::Permit,
            Action::Block => Decision::Block,
            Action::Protect => Decision::Protect,
        };
        let connection = bits & CONNECTION_LIMIT;
        Self {
            rule_id,
            connection: if connection == CONNECTION_LIMIT {
                NO_CONNECTION
            } else {
                connection
            },
            decision,
            accept_unsecured: bits & verdict_bits::ACCEPT_UNSECURED != 0,
            audit: bits & verdict_bits::AUDIT != 0,
        }
    }
}

/// A walk under way.
///
/// The fields stand so that two neighbours with constant values start at a multiple of eight: LLVM writes them with one
/// store, and the verifier takes only aligned ones to the stack.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Walk {
    key: Key,
    /// The bit of [`entry_flags`] that says that an entry applies to the packet's direction.
    wanted: u32,
    /// The best rank found.
    best: u32,
    /// The line to look at next; 0 when there is none left.
    cursor: u32,
    ports_known: bool,
}

impl Walk {
    /// A walk at its first tree.
    #[must_use]
    #[inline(always)]
    pub const fn new(header: &Header, flow: &Flow, direction: Direction) -> Self {
        let unknown = matches!(flow.ports, Ports::Unknown);
        let roots = &header.roots;
        let cursor = match flow.family {
            Family::V4 if unknown => roots.v4_fragment,
            Family::V4 => roots.v4,
            Family::V6 if unknown => roots.v6_fragment,
            Family::V6 => roots.v6,
        };
        let wanted = match direction {
            Direction::Outbound => entry_flags::OUTBOUND,
            Direction::Inbound => entry_flags::INBOUND,
        };
        Self {
            key: key(flow, direction),
            cursor,
            best: NO_RANK,
            wanted,
            ports_known: matches!(flow.ports, Ports::Known),
        }
    }

    /// A walk for a key of which only the cuts and matches matter: it starts at line `cursor`, and ports are known.
    #[must_use]
    pub const fn from_key(key: Key, cursor: u32) -> Self {
        let wanted = if key[dimension::DIRECTION] == Direction::Outbound as u32 {
            entry_flags::OUTBOUND
        } else {
            entry_flags::INBOUND
        };
        Self {
            key,
            cursor,
            best: NO_RANK,
            wanted,
            ports_known: true,
        }
    }

    /// The line to look at next; `None` at the end.
    #[must_use]
    #[inline(always)]
    pub const fn cursor(&self) -> Option<u32> {
        if self.cursor == 0 { None } else { Some(self.cursor) }
    }

    /// Looks at the line under the cursor and moves on. `false` if the line is none that a walk can be at.
    #[inline(always)]
    pub fn step(&mut self, line: &Line) -> bool {
        let head = line.0[0];
        match head & line_kind::MASK {
            line_kind::CUT => {
                let value = u64::from(self.key[(head >> line_kind::BITS & 15) as usize]);
                self.cursor = (head >> 6) + child(line, value);
                true
            }
            line_kind::LEAF_V4 => {
                let found = if (head >> line_kind::BITS) > 0
                    && matches_v4::<4>(line, &self.key, self.wanted, self.ports_known)
                {
                    line.0[9]
                } else if (head >> line_kind::BITS) > 1
                    && matches_v4::<10>(line, &self.key, self.wanted, self.ports_known)
                {
                    line.0[15]
                } else {
                    NO_RANK
                };
                self.leave(line, found);
                true
            }
            line_kind::LEAF_V6 => {
                let found = if (head >> line_kind::BITS) > 0
                    && matches_v6(line, &self.key, self.wanted, self.ports_known)
                {
                    line.0[15]
                } else {
                    NO_RANK
                };
                self.leave(line, found);
                true
            }
            _ => false,
        }
    }

    /// Goes on after a leaf line, unless nothing that follows can be better than what was found.
    #[inline(always)]
    fn leave(&mut self, line: &Line, found: u32) {
        if found < self.best {
            self.best = found;
        }
        self.cursor = if line.0[2] < self.best { line.0[1] } else { 0 };
    }

    /// Where the verdict stands: its line in the table and its place in the line; `None` if nothing matched.
    #[must_use]
    #[inline(always)]
    pub const fn found(&self, header: &Header) -> Option<(u32, usize)> {
        if self.best == NO_RANK {
            return None;
        }
        let rank = self.best >> 1;
        Some((
            header.verdicts.wrapping_add(rank / VERDICTS as u32),
            rank as usize % VERDICTS,
        ))
    }

    /// The verdict in its line of the table.
    #[must_use]
    #[inline(always)]
    pub fn verdict(&self, line: &Line, place: usize) -> Verdict {
        let place = place % VERDICTS * 2;
        Verdict::from_words(line.0[place], line.0[place + 1], self.best & 1 != 0)
    }
}

/// How many thresholds are below `value`. Without a branch: the borrow of each subtraction fills the upper half.
#[inline(always)]
fn child(line: &Line, value: u64) -> u32 {
    let mut below = 0u32;
    let mut index = 1;
    while index <= THRESHOLDS {
        below = below.wrapping_sub((u64::from(line.0[index]).wrapping_sub(value) >> 32) as u32);
        index += 1;
    }
    below
}

#[inline(always)]
const fn key(flow: &Flow, direction: Direction) -> Key {
    let (source, destination) = (halves(flow.source), halves(flow.destination));
    [
        source[0],
        source[1],
        source[2],
        source[3],
        destination[0],
        destination[1],
        destination[2],
        destination[3],
        flow.source_port as u32,
        flow.destination_port as u32,
        flow.protocol as u32,
        direction as u32,
        0,
        0,
        0,
        0,
    ]
}

/// Walks a whole rule set on the host; [`Verdict::NONE`] if it is damaged. `lines[0]` is the header's.
#[must_use]
pub fn walk(header: &Header, lines: &[Line], flow: &Flow, direction: Direction) -> Verdict {
    let mut walk = Walk::new(header, flow, direction);
    for _ in 0..MAX_STEPS {
        let Some(cursor) = walk.cursor() else {
            let Some((line, place)) = walk.found(header) else {
                return Verdict::default(header);
            };
            return lines
                .get(line as usize)
                .map_or(Verdict::NONE, |line| walk.verdict(line, place));
        };
        if !lines.get(cursor as usize).is_some_and(|line| walk.step(line)) {
            return Verdict::NONE;
        }
    }
    Verdict::NONE
}
