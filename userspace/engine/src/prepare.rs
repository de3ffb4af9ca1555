//! From a policy to what can be put in force: everything that takes time and touches nothing.

use std::sync::Arc;

use ravelin_classifier::{CompileError, RuleSet, compile};
use ravelin_keying::{KeyingErrors, StateFolderError, StaticKeys};
use ravelin_policy::{Policy, PolicyErrors};
use thiserror::Error;

use crate::filter::FilterError;
use crate::policy_file::PolicyFile;
use crate::verify::{Disagreement, verify};

/// Why a policy was not put in force. The one before stays as it is.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyErrors),
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
    /// More connections than the driver has room for.
    #[error("the policy needs more than the {0} connections that are possible")]
    TooManyConnections(u32),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateFolderError),
    /// Keys.
    #[error(transparent)]
    Keying(#[from] KeyingErrors),
    /// Transport mode in a gateway.
    #[error(
        "connection `{0}`: transport mode protects this host's own packets, and a gateway forwards those of others; use `mode = \"tunnel\"`"
    )]
    TransportInGateway(String),
    /// UDP encapsulation on other ports than the driver looks at.
    #[error("connection `{0}`: UDP-encapsulated ESP needs local-port 4500 (RFC 3948)")]
    EncapsulationPort(String),
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
    /// The worker thread panicked.
    #[error("preparing the policy panicked; the one before stays. Please report this with the policy")]
    Panicked,
}

impl From<Disagreement> for ApplyError {
    fn from(disagreement: Disagreement) -> Self {
        Self::Disagreement(format!("{:?} {:?}", disagreement.direction, disagreement.packet))
    }
}

/// A policy that can be put in force.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) file: PolicyFile,
    /// With the addresses of its surroundings.
    pub(crate) policy: Arc<Policy>,
    /// Rules and connections by their index in the policy.
    pub(crate) rules: RuleSet,
    /// `None` leaves the connections as they are.
    pub(crate) keys: Option<StaticKeys>,
    pub(crate) warnings: Vec<String>,
}

impl Prepared {
    /// Compiles a policy, tries the result, and reads its keys.
    ///
    /// # Errors
    ///
    /// [`ApplyError`].
    pub(crate) fn new(file: PolicyFile, with_keys: bool, warnings: Vec<String>) -> Result<Self, ApplyError> {
        let policy = Arc::clone(file.policy());
        let rules = compile(&policy)?;
        verify(&policy, &rules)?;
        let keys = if with_keys {
            Some(StaticKeys::read(&policy)?)
        } else {
            None
        };
        Ok(Self {
            file,
            policy,
            rules,
            keys,
            warnings,
        })
    }
}
