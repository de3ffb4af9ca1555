//! What the engine tells about itself: the answer of `GET /v1/status`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::lifetime::SaLifetime;

/// Everything, at one moment. What is counted by outcome, reason and rule goes on from process to process until the filter is taken
/// away or the machine is started again; the rest is of this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the engine.
    pub version: String,
    /// Name of the instance.
    pub instance: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// If the policy in force is on trial: what comes back unless it is confirmed.
    pub pending: Option<PendingStatus>,
    /// Why the last attempt to change the policy failed; absent if it did not.
    pub last_error: Option<String>,
    /// The AEAD implementation in use; absent without connections.
    pub provider: Option<String>,
    /// By `outer` and `inner`.
    pub interfaces: BTreeMap<String, InterfaceStatus>,
    /// Packets that passed to the kernel, by why.
    pub outcomes: BTreeMap<String, u64>,
    /// Packets dropped, by reason, at the driver and in the workers together. All reasons, zeros included.
    pub drops: BTreeMap<String, u64>,
    /// Those among them that the driver dropped while no engine served, to within a second before it ended. Only reasons that
    /// occurred.
    #[serde(default)]
    pub unserved: BTreeMap<String, u64>,
    /// Packets that an audit spared, by the reason that would have dropped them. Only reasons that occurred.
    #[serde(default)]
    pub audited: BTreeMap<String, u64>,
    /// In the order of the policy.
    pub rules: Vec<RuleStatus>,
    /// What rules have counted, together, that are in no policy any more.
    pub removed_rules: RuleCount,
    /// In the order of the policy.
    pub connections: Vec<ConnectionStatus>,
    /// By queue.
    pub workers: Vec<WorkerStatus>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its file.
    pub file: PathBuf,
    /// SHA-256 of the file's text, in hex.
    pub sha256: String,
    /// Counts swaps: each time a policy, or the addresses it stands for, comes into force. Goes on from process to process, as
    /// counters do.
    pub generation: u32,
    /// Number of rules.
    pub rules: usize,
    /// Number of connections.
    pub connections: usize,
    /// `permit` or `block`: what happens to packets that no rule matches.
    #[serde(default)]
    pub default: String,
}

/// A policy on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingStatus {
    /// Seconds left to confirm it.
    pub seconds_left: u64,
    /// The policy that comes back otherwise.
    pub previous: PolicyStatus,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// `native` or `generic`.
    pub xdp: String,
    /// What is wrong with it, and what helps: of a host edge why nothing passes, of the outer device why anything might.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Name in the policy.
    pub name: String,
    /// `permit`, `block` or `protect`.
    #[serde(default)]
    pub action: String,
    /// Whether it is in force.
    #[serde(default)]
    pub active: bool,
    /// Packets that it decided, on the way out and, for protected ones, after decryption.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Name in the policy.
    pub name: String,
    /// The peer's outer address.
    pub remote: String,
    /// The path MTU in bytes that ICMP errors of routers have taught; absent where the device's holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned_path_mtu: Option<u32>,
    /// The SA that seals now.
    pub outbound: SaStatus,
    /// After a rekey: the SAs that are to seal after it, in order. The first does when the peer has shown that it has
    /// its pair, or when its seconds are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<SaStatus>,
    /// The SA that opens.
    pub inbound: SaStatus,
    /// After a rekey: SAs that open as well for some seconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old: Vec<SaStatus>,
    /// Packets received whose outer and inner ECN fields no honest path makes (RFC 6040 section 4.2).
    #[serde(default)]
    pub unexpected_ecn: u64,
    /// Where its peer was seen last, if that was not where it should be.
    #[serde(default)]
    pub peer: Option<PeerStatus>,
}

/// A peer that was seen elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Address that its last packet came from.
    pub address: String,
    /// UDP port that it came from.
    pub port: u16,
    /// Authentic packets from elsewhere, each newer than all before.
    pub packets: u64,
    /// Whether packets go there since.
    pub followed: bool,
}

/// One SA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaStatus {
    /// Security parameters index.
    pub spi: u32,
    /// What it does.
    pub state: SaState,
    /// How long it stays so at most, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// Packets sealed or opened.
    pub packets: u64,
    /// Their bytes on the clear side.
    pub bytes: u64,
    /// The highest sequence number used or accepted.
    pub sequence: u64,
    /// Seconds since the last packet was sealed or opened; absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    /// Packets that failed, by reason: those that it could not seal or open, and those that were opened and then did not
    /// fit the policy. Only reasons that occurred.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
    /// How much of its life is over; absent once it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<SaLifetime>,
}

/// What an SA does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaState {
    /// It seals or opens.
    InUse,
    /// It is to seal after the one that does now.
    Next,
    /// Its connection has another one, and it opens what still comes under it.
    Old,
    /// It does nothing, and comes back with the policy before, unless the one on trial is confirmed.
    Kept,
    /// It was deleted.
    Deleted,
}

impl SaState {
    /// In a word or two.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InUse => "in use",
            Self::Next => "next",
            Self::Old => "old",
            Self::Kept => "kept",
            Self::Deleted => "deleted",
        }
    }
}

/// Which way an SA works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaDirection {
    /// It seals.
    Outbound,
    /// It opens.
    Inbound,
}

impl SaDirection {
    /// `outbound` or `inbound`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// One SA by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaEntry {
    /// The connection's name in the policy.
    pub connection: String,
    /// The peer's outer address.
    pub remote: String,
    /// Which way it works.
    pub direction: SaDirection,
    /// The rest.
    #[serde(flatten)]
    pub sa: SaStatus,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its receive queue on both devices.
    pub queue: u32,
    /// Whether the driver writes into packet memory itself.
    pub zero_copy: bool,
    /// Packets sealed and handed to the outer device.
    pub sealed: u64,
    /// Packets opened and handed to the inner device.
    pub opened: u64,
    /// Packets cut into fragments: clear ones, and in transport mode sealed ones.
    #[serde(default)]
    pub fragmented: u64,
    /// ESP packets put together of fragments.
    #[serde(default)]
    pub reassembled: u64,
    /// TCP packets whose maximum segment size was lowered.
    #[serde(default)]
    pub mss_clamped: u64,
    /// ICMP errors of routers that made a path MTU smaller.
    #[serde(default)]
    pub path_mtus: u64,
    /// ICMP errors sent.
    pub icmp_errors: u64,
    /// NAT keepalives sent; they count as sealed, too.
    #[serde(default)]
    pub keepalives: u64,
    /// Dummies sent; they count as sealed, too.
    #[serde(default)]
    pub dummies: u64,
    /// Packets that waited for a neighbour.
    pub waited: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Packets of busy times that were done together with its crypto threads; they count as sealed and opened, too.
    #[serde(default)]
    pub shared: u64,
    /// Seconds since it last did anything at all, if it hangs.
    #[serde(default)]
    pub stuck_seconds: Option<u64>,
    /// Which of its crypto threads hang.
    #[serde(default)]
    pub stuck_crypto_threads: Vec<usize>,
}
