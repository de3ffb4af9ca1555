//! What a correct policy probably gets wrong: filters that never decide, filters that decide only by their place, and
//! management that is locked out.
//!
//! These checks look at the filters together and take longer than reading the policy does, so they are not part of it.
//! Each is exact as far as the work allowed goes, and says how much it left out.

mod conflict;
mod management;
mod shadow;
mod unsendable;

use std::collections::HashMap;

pub use conflict::{Conflict, conflicts};
pub use shadow::{Role, roles};

use crate::diagnostic::{Diagnostic, Position};
use crate::lifeline::Management;
use crate::policy::Policy;
use crate::rule::{Action, Rule};
use crate::space::Arrangement;

/// Most findings of a kind that are listed.
const LISTED: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// In the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// Management that the policy locks out.
    pub locked_out: Vec<Diagnostic>,
    /// How many more there are of the kinds that have many.
    pub more: usize,
    /// How many filters could not be examined with the work that was allowed.
    pub unexamined: usize,
}

/// Looks for filters that never decide, for equally specific ones with different actions, for those that no packet can
/// match, and for rules that lock `management` out.
#[must_use]
pub fn lint(policy: &Policy, management: &[Management]) -> Findings {
    let mut notes = Notes::new(policy);
    unsendable::check(policy, &mut notes);
    let arrangement = arrange(policy);
    let shadowed = shadow::check(&arrangement, &mut notes);
    notes.next_kind();
    conflict::check(&arrangement, &shadowed, &mut notes);
    notes.next_kind();
    for management in management {
        management::check(policy, &arrangement, management, &mut notes);
    }
    notes.finish()
}

fn arrange(policy: &Policy) -> Arrangement<'_> {
    let effect = |rule: &Rule| -> (Action, bool) { (rule.action, rule.audit) };
    Arrangement::new(policy, &mut HashMap::new(), effect)
}

/// Collects findings, a bounded number of each kind.
struct Notes<'p> {
    policy: &'p Policy,
    found: Vec<Diagnostic>,
    locked_out: Vec<Diagnostic>,
    of_this_kind: usize,
    more: usize,
    unexamined: usize,
}

impl<'p> Notes<'p> {
    fn new(policy: &'p Policy) -> Self {
        Self {
            policy,
            found: Vec::new(),
            locked_out: Vec::new(),
            of_this_kind: 0,
            more: 0,
            unexamined: 0,
        }
    }

    /// What follows is of another kind, with a bound of its own.
    fn next_kind(&mut self) {
        self.of_this_kind = 0;
    }

    fn add(&mut self, position: Position, message: impl FnOnce() -> String) {
        if self.of_this_kind >= LISTED {
            self.more += 1;
            return;
        }
        self.of_this_kind += 1;
        self.found.push(self.diagnostic(position, message()));
    }

    fn lock_out(&mut self, position: Position, message: String) {
        self.locked_out.push(self.diagnostic(position, message));
    }

    fn diagnostic(&self, position: Position, message: String) -> Diagnostic {
        Diagnostic {
            file: self.policy.file(position).clone(),
            position: Some(position),
            message,
        }
    }

    fn finish(mut self) -> Findings {
        self.found.sort_by_key(|found| found.position);
        Findings {
            warnings: self.found,
            locked_out: self.locked_out,
            more: self.more,
            unexamined: self.unexamined,
        }
    }
}
