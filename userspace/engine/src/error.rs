//! Why an engine could not start, or ended.

use std::io;

use ravelin_xdp_common::MAX_QUEUES;
use ravelin_xsk::OpenError;
use thiserror::Error;

use crate::attach::AttachError;
use crate::control::ControlError;
use crate::filter::FilterError;
use crate::host::HostError;
use crate::ledger::COUNTERS;
use crate::prepare::ApplyError;
use crate::worker::WorkerError;

/// Why an engine could not start, or ended.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The host edge.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The host edge was removed.
    #[error(
        "the host edge (device {0}) was removed, or moved to another network namespace; the filter of the outer device stays: what is to be \
         protected is dropped until Ravelin is started again, which makes the edge anew"
    )]
    EdgeGone(String),
    /// An inner device in host mode.
    #[error(
        "host mode protects this host's own packets and has no inner device, but `{0}` was given: leave it out, or use \
         `--mode gateway`"
    )]
    InnerInHost(String),
    /// No XDP in the driver in host mode.
    #[error(
        "device {0}: host mode needs XDP in the driver: in the kernel's receive path the filter would judge opened packets a second \
         time and drop them. Leave `--xdp-mode generic` out, or use a device whose driver has XDP"
    )]
    GenericInHost(String),
    /// No inner device in a gateway.
    #[error(
        "a gateway needs an inner device: give `--inner DEVICE`, or set `inner` in `[interfaces]` of the policy"
    )]
    NoInner,
    /// Netlink.
    #[error("cannot read the network configuration: {0}")]
    Netlink(io::Error),
    /// The engine that ran before does not end.
    #[error("the engine that runs cannot be replaced: {0}")]
    TakeOver(io::Error),
    /// No such device.
    #[error("device {0}: no such Ethernet device in this network namespace; see `ip link`")]
    NoDevice(String),
    /// One device for both sides.
    #[error("device {0} is both outer and inner; a gateway needs two devices")]
    SameDevice(String),
    /// Different numbers of queues.
    #[error(
        "device {inner} has {inner_queues} queues and device {outer} has {outer_queues}; a worker serves one queue of \
         each, so set them equal, for instance `ethtool -L {inner} combined {least}`"
    )]
    Queues {
        /// The inner device.
        inner: String,
        /// Its queues.
        inner_queues: u32,
        /// The outer device.
        outer: String,
        /// Its queues.
        outer_queues: u32,
        /// The smaller of the two.
        least: u32,
    },
    /// More queues than there is room for.
    #[error(
        "device {device} has {queues} queues and Ravelin serves {MAX_QUEUES}; reduce them with `ethtool -L`"
    )]
    TooManyQueues {
        /// The device.
        device: String,
        /// Its queues.
        queues: u32,
    },
    /// Packets do not fit into packet memory.
    #[error(
        "device {device}: MTU {mtu} is larger than the {limit} bytes that Ravelin handles; `ip link set dev {device} mtu {limit}`"
    )]
    MtuTooLarge {
        /// The device.
        device: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest that works.
        limit: u32,
    },
    /// The policy.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The BPF side.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// More rules than the counters that were asked for.
    #[error(
        "the policy has {rules} rules, and `--max-rules {max_rules}` asks for the counters of {max_rules}: leave it out, or give `--max-rules \
         {}`, room for as many again", (2 * .rules).next_power_of_two()
    )]
    MaxRules {
        /// Those of the policy, its lifelines included.
        rules: usize,
        /// Those that there is to be room for.
        max_rules: u32,
    },
    /// The counters of the instance.
    #[error("the counters in {COUNTERS}/{instance}: {error}; remove that folder, and they begin at zero")]
    Counters {
        /// The instance.
        instance: String,
        /// What went wrong.
        error: io::Error,
    },
    /// Attaching.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// AF_XDP.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A worker.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A bug.
    #[error(
        "the resolver panicked; protected traffic is dropped until Ravelin is started again. Please report this"
    )]
    ResolverPanicked,
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Threads or descriptors.
    #[error("cannot start: {0}")]
    System(io::Error),
}
