//! From a policy to what can be put in force: everything that takes time and touches nothing.

use std::path::PathBuf;
use std::sync::Arc;

use ravelin_classifier::{CompileError, RuleSet, compile};
use ravelin_keying::{KeyingErrors, StateFolderError, StaticKeys};
use ravelin_policy::{Policy, PolicyErrors, Surroundings};
use thiserror::Error;

use crate::filter::FilterError;
use crate::held::{Held, Hold};
use crate::names::{Lookup, is_well_known, look_up};
use crate::policy_file::PolicyFile;
use crate::preflight::check_connections;
use crate::reading::{Reading, Stalled};
use crate::role::Role;
use crate::slots::Full;
use crate::verify::{Disagreement, verify};

/// Names without addresses that an error lists.
const MOST_UNRESOLVED: usize = 20;

/// Why a policy was not put in force. The one before stays as it is.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyErrors),
    /// A policy without a word.
    #[error(
        "{}: the policy is empty, and everything would pass; if that is meant, write `default = \"permit\"`", .0.display()
    )]
    Empty(PathBuf),
    /// Names without addresses, each with its place.
    #[error("{0}")]
    Unresolved(String),
    /// The rule set does not fit.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Compiler and reference disagree.
    #[error(
        "the compiled rules do not do what the policy says: {0}. This is a bug in Ravelin; please report it with the policy"
    )]
    Disagreement(String),
    /// More rules than there are counters.
    #[error(
        "the policy needs {needed} rule counters, with those of rules that are going, and there are {capacity}: start \
         Ravelin again with `--max-rules {}`", .needed.next_power_of_two()
    )]
    TooManyRules {
        /// Counters needed.
        needed: usize,
        /// Counters that there are.
        capacity: u32,
    },
    /// More SAs than the driver has room for.
    #[error(
        "with the SAs that stay for a while after a rekey, the policy needs more than the {0} pairs of SAs that are possible; \
         wait until those are gone (`ravelin sa list`), or give connections a shorter `rekey-grace`"
    )]
    TooManyConnections(u32),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateFolderError),
    /// Keys.
    #[error(transparent)]
    Keying(#[from] KeyingErrors),
    /// Transport mode in a gateway.
    #[error(
        "{0}: transport mode protects this host's own packets, and a gateway forwards those of others; use `mode = \"tunnel\"`, or leave the \
         inner device out and start with `ravelin run --mode host`"
    )]
    TransportInGateway(String),
    /// UDP encapsulation on other ports than the driver looks at.
    #[error("{0}: UDP-encapsulated ESP needs local-port 4500 (RFC 3948)")]
    EncapsulationPort(String),
    /// Too little is left inside the tunnel, whatever the device.
    #[error(
        "{connection}: path-mtu {path_mtu} leaves {inner} for packets inside, and {least} are needed; raise it"
    )]
    PathMtuTooSmall {
        /// The connection and its place.
        connection: String,
        /// Its path MTU in bytes.
        path_mtu: u16,
        /// What fits inside.
        inner: u16,
        /// What is needed inside.
        least: u32,
    },
    /// Too little is left inside the tunnel.
    #[error(
        "connection `{connection}`: an MTU of {mtu} bytes on device {device} leaves {inner} for packets inside, and \
         {least} are needed; raise it with `ip link set dev {device} mtu N`, or `path-mtu` in the policy"
    )]
    MtuTooSmall {
        /// The connection.
        connection: String,
        /// The outer device.
        device: String,
        /// The path MTU that results, in bytes.
        mtu: u32,
        /// What fits inside.
        inner: u32,
        /// What is needed inside.
        least: u32,
    },
    /// The BPF side.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Another apply awaits its confirmation.
    #[error(
        "{file} awaits confirmation for another {seconds} s: `ravelin confirm` or `ravelin rollback` first"
    )]
    Unconfirmed {
        /// The policy file in force.
        file: String,
        /// How much longer it may be confirmed.
        seconds: u64,
    },
    /// Nothing to confirm or to roll back.
    #[error(
        "no apply awaits confirmation; `ravelin apply FILE --confirm SECONDS` makes one that can be rolled back"
    )]
    NothingPending,
    /// Too much to do.
    #[error("other policies wait to be applied; try again when they are done")]
    Busy,
    /// A file that the policy needs does not answer.
    #[error("{0}")]
    Stalled(Stalled),
    /// Too many files do not answer.
    #[error(
        "{0} policies before it still wait for files that do not answer; mend their file systems, or restart Ravelin"
    )]
    ManyStalled(usize),
    /// The worker thread panicked.
    #[error("preparing the policy panicked; the one before stays. Please report this with the policy")]
    Panicked,
}

impl From<Disagreement> for ApplyError {
    fn from(disagreement: Disagreement) -> Self {
        Self::Disagreement(format!("{:?} {:?}", disagreement.direction, disagreement.packet))
    }
}

impl From<Full> for ApplyError {
    fn from(Full { needed, capacity }: Full) -> Self {
        Self::TooManyRules { needed, capacity }
    }
}

/// A policy that can be put in force.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) file: PolicyFile,
    /// What its names and `me` were taken to be.
    pub(crate) surroundings: Surroundings,
    /// The SSH connection that has a lifeline, or would have one.
    pub(crate) session: Option<Held>,
    /// How that is held; `None` where the policy wants to hold none.
    pub(crate) hold: Option<Hold>,
    /// The policy in these surroundings.
    pub(crate) policy: Arc<Policy>,
    /// Rules and connections by their index in the policy.
    pub(crate) rules: RuleSet,
    /// `None` leaves the connections as they are.
    pub(crate) keys: Option<StaticKeys>,
    pub(crate) warnings: Vec<String>,
}

impl Prepared {
    /// Looks up the names of a policy, compiles it, tries the result, and reads its keys. `known` is what names stood for
    /// until now; `reading` tells others how reading goes.
    ///
    /// # Errors
    ///
    /// [`ApplyError`].
    pub(crate) fn new(
        file: PolicyFile,
        known: Surroundings,
        session: Option<Held>,
        role: Role,
        reading: &Reading,
    ) -> Result<Self, ApplyError> {
        let (surroundings, mut warnings) = look_around(file.policy(), known)?;
        let mut policy = if file.policy().depends_on_surroundings() {
            let (policy, more) = file.policy().resolve(&surroundings)?;
            warnings.extend(more.iter().map(ToString::to_string));
            Arc::new(policy)
        } else {
            Arc::clone(file.policy())
        };
        check_connections(&policy, role)?;
        let (session, hold) = hold(&mut policy, session, role)?;
        let keys = if role.seals() {
            reading.begin(format!("a key file of {}", file.path().display()));
            let keys = StaticKeys::read(&policy);
            reading.end();
            Some(keys?)
        } else {
            None
        };
        let rules = compiled(&policy)?;
        Ok(Self {
            file,
            surroundings,
            session,
            hold,
            policy,
            rules,
            keys,
            warnings,
        })
    }

    /// The policy in force in other surroundings, or with a session that comes in another way than the one that `current` holds; `None` if
    /// that makes no difference.
    ///
    /// # Errors
    ///
    /// [`ApplyError`].
    pub(crate) fn again(
        file: PolicyFile,
        surroundings: Surroundings,
        session: Option<Held>,
        role: Role,
        current: (&Policy, Option<&Held>),
    ) -> Result<Option<Self>, ApplyError> {
        let (policy, warnings) = file.policy().resolve(&surroundings)?;
        check_connections(&policy, role)?;
        let mut policy = Arc::new(policy);
        let (session, hold) = hold(&mut policy, session, role)?;
        if (&*policy, session.as_ref()) == current {
            return Ok(None);
        }
        let rules = compiled(&policy)?;
        Ok(Some(Self {
            file,
            surroundings,
            session,
            hold,
            policy,
            rules,
            keys: None,
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }))
    }
}

/// What an engine would refuse of a policy without a look at the machine and at its keys; else its compiled rules.
///
/// # Errors
///
/// [`ApplyError`], as the engine would say it.
pub fn check(policy: &Policy, role: Role) -> Result<RuleSet, ApplyError> {
    check_connections(policy, role)?;
    compiled(policy)
}

/// Gives a session its lifeline in a policy that has none of a session. How that comes may be clear by the policy.
fn hold(
    policy: &mut Arc<Policy>,
    session: Option<Held>,
    role: Role,
) -> Result<(Option<Held>, Option<Hold>), ApplyError> {
    let Some(mut session) = session else {
        return Ok((None, None));
    };
    if !policy.ssh_session() {
        return Ok((Some(session), None));
    }
    let hold = session.under(policy, &compile(policy)?, role);
    if let Some(path) = hold.path {
        Arc::make_mut(policy).hold(Some((&session.management(), path)));
    }
    session.comes.clone_from(&hold.comes);
    Ok((Some(session), Some(hold)))
}

fn compiled(policy: &Policy) -> Result<RuleSet, ApplyError> {
    let rules = compile(policy)?;
    verify(policy, &rules)?;
    Ok(rules)
}

/// The surroundings with the addresses of all names of a policy, and warnings about those that stay as they were.
fn look_around(policy: &Policy, known: Surroundings) -> Result<(Surroundings, Vec<String>), ApplyError> {
    let Surroundings {
        own,
        names: mut known,
        outer,
        session: _,
    } = known;
    let Lookup { found, failed } = look_up(policy.names());
    let mut surroundings = Surroundings {
        own,
        names: found,
        outer,
        session: None,
    };
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    for (name, why) in failed {
        let place = policy.name_position(&name).map_or_else(
            || policy.files()[0].to_string(),
            |position| format!("{}:{position}", policy.file(position)),
        );
        match known.remove(&name) {
            Some(addresses) if !addresses.is_empty() => {
                warnings.push(format!(
                    "{place}: `{name}` cannot be looked up ({why}); its last addresses stay"
                ));
                surroundings.names.insert(name, addresses);
            }
            // Resolving warns about it.
            _ if is_well_known(&name) => {}
            _ => errors.push(format!(
                "{place}: `{name}` has no address ({why}); mend the name, or write its addresses"
            )),
        }
    }
    if errors.is_empty() {
        return Ok((surroundings, warnings));
    }
    let more = errors.len().saturating_sub(MOST_UNRESOLVED);
    errors.truncate(MOST_UNRESOLVED);
    if more > 0 {
        errors.push(format!("... and {more} more names"));
    }
    Err(ApplyError::Unresolved(errors.join("\n")))
}
