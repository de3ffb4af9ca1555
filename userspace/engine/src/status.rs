//! What the engine tells about itself: the answer of `GET /v1/status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything, at one moment. Counters count since the start of the process.
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
    /// Generation of the rule set in force.
    pub generation: u32,
    /// The AEAD implementation in use; absent without connections.
    pub provider: Option<String>,
    /// By `outer` and `inner`.
    pub interfaces: BTreeMap<String, InterfaceStatus>,
    /// Packets that passed to the kernel, by why.
    pub outcomes: BTreeMap<String, u64>,
    /// Packets dropped, by reason, at the driver and in the workers together. All reasons, zeros included.
    pub drops: BTreeMap<String, u64>,
    /// In the order of the policy.
    pub rules: Vec<RuleStatus>,
    /// In the order of the policy.
    pub connections: Vec<ConnectionStatus>,
    /// By queue.
    pub workers: Vec<WorkerStatus>,
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
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Name in the policy.
    pub name: String,
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
    /// What it sends.
    pub outbound: SaStatus,
    /// What it receives.
    pub inbound: SaStatus,
}

/// One SA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaStatus {
    /// Security parameters index.
    pub spi: u32,
    /// Packets sealed or opened.
    pub packets: u64,
    /// Their bytes on the clear side.
    pub bytes: u64,
    /// The highest sequence number used or accepted.
    pub sequence: u64,
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
    /// ICMP errors sent.
    pub icmp_errors: u64,
    /// Packets that waited for a neighbour.
    pub waited: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
}
