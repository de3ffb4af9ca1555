//! What clients of the control socket may want.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::held::Comes;
use crate::session::Session;
use crate::status::{PolicyStatus, SaDirection, SaEntry, Status};

/// Paths of the control socket.
pub(crate) mod paths {
    /// GET: [`Status`](crate::Status).
    pub(crate) const STATUS: &str = "/v1/status";
    /// POST [`ApplyRequest`](crate::ApplyRequest): [`Applied`](crate::Applied).
    pub(crate) const POLICY: &str = "/v1/policy";
    /// POST: [`PolicyStatus`](crate::PolicyStatus).
    pub(crate) const CONFIRM: &str = "/v1/confirm";
    /// POST: [`PolicyStatus`](crate::PolicyStatus).
    pub(crate) const ROLLBACK: &str = "/v1/rollback";
    /// POST: nothing.
    pub(crate) const KEEP: &str = "/v1/keep";
    /// POST [`Session`](crate::Session): how it comes.
    pub(crate) const SESSION: &str = "/v1/session";
    /// GET: a list of [`SaEntry`](crate::SaEntry). DELETE [`SaSelector`](crate::SaSelector) below it, by SPI:
    /// [`SaDeleted`](crate::SaDeleted).
    pub(crate) const SAS: &str = "/v1/sas";
}

/// A policy to put in force: the body of `POST /v1/policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The policy file: an absolute path, as the engine reads it.
    pub file: PathBuf,
    /// The policy before comes back unless this one is confirmed within so many seconds.
    #[serde(default)]
    pub confirm_seconds: Option<u32>,
    /// Does everything but the swap.
    #[serde(default)]
    pub dry_run: bool,
    /// The SSH connection that the client was started from. Without one, that of the policy in force keeps its lifeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

/// What an apply did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The policy in force now; with `dry_run` the one that was tried.
    pub policy: PolicyStatus,
    /// Whether it was only tried.
    pub dry_run: bool,
    /// Seconds within which it must be confirmed.
    pub confirm_seconds: Option<u32>,
    /// Rules whose names the policy before did not have.
    pub rules_added: usize,
    /// Rules whose names only the policy before had.
    pub rules_removed: usize,
    /// Connections that started.
    pub started: Vec<String>,
    /// Connections that got other SAs; those they had stay for a while.
    #[serde(default)]
    pub rekeyed: Vec<String>,
    /// Connections that stopped.
    pub stopped: Vec<String>,
    /// What becomes of the SSH connection that has a lifeline, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What its author should look at.
    pub warnings: Vec<String>,
}

/// Which of the SAs with an SPI: the body of `DELETE /v1/sas/SPI`, which may be empty if there is but one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaSelector {
    /// Which way it works.
    #[serde(default)]
    pub direction: Option<SaDirection>,
    /// Its connection.
    #[serde(default)]
    pub connection: Option<String>,
}

/// An SA that was deleted: neither driver nor workers have it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaDeleted {
    /// As it was last.
    #[serde(flatten)]
    pub entry: SaEntry,
    /// What its connection does now, in a sentence.
    pub effect: String,
}

/// Where an answer goes: the answer, or why not.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, String>>;

/// One client's wish.
#[derive(Debug)]
pub(crate) enum Order {
    Status(Reply<Status>),
    Apply(ApplyRequest, Reply<Applied>),
    Confirm(Reply<PolicyStatus>),
    RollBack(Reply<PolicyStatus>),
    Keep(Reply<()>),
    Session(Session, Reply<Comes>),
    Sas(Reply<Vec<SaEntry>>),
    DeleteSa(u32, SaSelector, Reply<SaDeleted>),
}
