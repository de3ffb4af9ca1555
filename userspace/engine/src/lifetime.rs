//! How far the lives of SAs are over: for the status, and for the log when a limit is reached.

use std::time::Instant;

use ravelin_esp::{LifetimeEvent, LifetimeStatus, Limits, OutboundSa};
use serde::{Deserialize, Serialize};

use crate::enforcement::Enforcement;
use crate::status::SaDirection;

/// Most events that are told one by one at a time. 100,000 SAs may reach a limit in the same second.
const MOST_TOLD: usize = 16;

/// How much of an SA's life is over (RFC 4301 section 4.4.2.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaLifetime {
    /// Seconds since its start in this process.
    pub seconds: Usage,
    /// Bytes encrypted or decrypted, padding included: under its key where the policy limits them, else in this process.
    pub bytes: Usage,
    /// Packets under its key, with those that may have been sent before this process.
    pub packets: Usage,
    /// The limit that was reached, if one was: the hard one before the soft one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<ReachedLimit>,
}

/// What was used of one measure, and its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// So far.
    pub used: u64,
    /// Where it is time for other keys; none without a limit.
    pub soft: Option<u64>,
    /// Where the SA stops.
    pub hard: Option<u64>,
}

/// A limit that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachedLimit {
    /// What it means.
    pub kind: LimitKind,
    /// `seconds`, `bytes`, `packets`, or `icvs` for the number of ICVs checked.
    pub measure: String,
}

/// What reaching a limit means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// It is time for other keys.
    Soft,
    /// The SA carries nothing any more.
    Hard,
}

/// A limit that an SA has reached just now.
#[derive(Debug)]
pub(crate) struct Reached {
    /// Number of the SA's pair.
    pub(crate) pair: u32,
    pub(crate) connection: String,
    pub(crate) direction: SaDirection,
    pub(crate) spi: u32,
    pub(crate) event: LifetimeEvent,
}

impl SaLifetime {
    pub(crate) fn new(status: &LifetimeStatus) -> Self {
        let usage = |used, Limits { soft, hard }| Usage { used, soft, hard };
        Self {
            seconds: usage(status.age.as_secs(), status.seconds_limits),
            bytes: usage(status.bytes, status.bytes_limits),
            packets: usage(status.packets, status.packets_limits),
            reached: status.reached.map(|event| {
                let (kind, measure) = match event {
                    LifetimeEvent::Soft(measure) => (LimitKind::Soft, measure),
                    LifetimeEvent::Hard(measure) => (LimitKind::Hard, measure),
                };
                ReachedLimit {
                    kind,
                    measure: measure.name().to_owned(),
                }
            }),
        }
    }
}

impl Enforcement {
    /// What to tell about limits that SAs have reached since this was asked last, a line each.
    pub(crate) fn lifetime_news(&self, now: Instant) -> Vec<String> {
        let mut reached = self.sas.lifetime_events(now);
        let mut news: Vec<String> = reached
            .by_ref()
            .take(MOST_TOLD)
            .map(|one| {
                let connections = &self.current().connections;
                let in_force = connections.iter().any(|connection| connection.pair == one.pair);
                described(&one, in_force)
            })
            .collect();
        let untold = reached.count();
        if untold > 0 {
            news.push(format!(
                "{untold} more SAs have reached limits of their lifetimes; see `ravelin sa list`"
            ));
        }
        news
    }
}

/// Those that are on their way out have nobody do anything.
fn described(reached: &Reached, in_force: bool) -> String {
    let Reached {
        connection,
        direction,
        spi,
        event,
        ..
    } = reached;
    let what = match event {
        LifetimeEvent::Soft(measure) => format!("has reached its soft limit of {measure}"),
        LifetimeEvent::Hard(measure) => format!(
            "has reached its hard limit of {measure} and has stopped: its packets are dropped (`lifetime_expired`)"
        ),
    };
    let advice = if in_force {
        "; give the connection new SPIs and new key files on both ends"
    } else {
        ""
    };
    format!(
        "connection `{connection}`: the {} SA {spi:#010x} {what}{advice}",
        direction.name()
    )
}

/// Whether an outbound SA has stopped for good.
pub(crate) fn has_stopped(sa: &OutboundSa, now: Instant) -> bool {
    matches!(sa.lifetime(now).reached, Some(LifetimeEvent::Hard(_)))
}
