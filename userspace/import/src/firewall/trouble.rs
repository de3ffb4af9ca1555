//! Rules that are not imported, and what is said about them.

use crate::findings::Findings;
use crate::firewall::Verdict;

/// Why a rule is not imported.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A policy cannot say it.
    Lost(String),
    /// It is no rule.
    Wrong(String),
    /// It does nothing that a policy would have to say.
    Nothing,
}

/// Rules about the loopback device.
const LOOPBACK: &str = "packets of the loopback device are not filtered here; there was nothing to import";

impl Trouble {
    /// A policy has no such thing.
    pub(crate) fn unknown(what: &str) -> Self {
        Self::Lost(format!("{what} is not known to a policy"))
    }

    /// Reports it for a rule at `line`. `accepts` is what the rule would do, if that is known.
    pub(crate) fn tell(self, line: u32, accepts: Option<bool>, findings: &mut Findings) {
        match self {
            Self::Wrong(message) => findings.error(line, message),
            Self::Nothing => findings.note(line, LOOPBACK),
            Self::Lost(what) => {
                let effect = match accepts {
                    Some(true) => "; what it accepts meets the rules after it",
                    Some(false) => "; what it drops meets the rules after it",
                    // It jumps, returns, or does something that has no name here.
                    None => "; what it matches meets the rules after it",
                };
                findings.loss(line, format!("{what}; the rule was left out{effect}"));
            }
        }
    }
}

/// Whether a rule for new connections only may be imported without saying so; what this means is reported.
///
/// Rules that accept new connections stand beside one that accepts what belongs to those already accepted.
pub(crate) fn allow_new_only(line: u32, verdict: Option<&Verdict>, findings: &mut Findings) -> bool {
    if verdict == Some(&Verdict::Accept) {
        findings.loss(
            line,
            "the state of connections is not known to a policy: the rule accepts all packets, not only those of new ones",
        );
        return true;
    }
    let drops = verdict == Some(&Verdict::Drop);
    Trouble::unknown("the state of connections").tell(line, drops.then_some(false), findings);
    false
}
