//! The engine: what turns a policy into filtered and encrypted traffic.
//!
//! - [`Engine`] starts everything in the order in which nothing can leak, changes policies while it runs, and stops.
//! - [`PolicyFile`] is a policy as it is written; the private `Prepared` one that was compiled and tried; `Enforcement` puts
//!   it in force, and [`Regime`] is what workers see of it.
//! - [`Filter`] is the BPF side: maps, programs, counters; [`Attachments`] keeps the programs attached and pinned.
//! - [`Resolver`] follows the kernel's routes and neighbours and publishes [`Snapshot`]s of next hops.
//! - [`Worker`] is a thread with one queue of both devices; [`Forwarder`] is its packet path, which also runs over
//!   ports in memory, for tests and benches.
//! - [`Role`] says for whom: in host mode the private `Host` edge stands for the inner device: a TUN device with `EdgePort` for its socket, or a
//!   `Pair` of veth devices.
//! - [`fetch_status`], [`apply()`], [`confirm`], [`roll_back`], [`fetch_sas`] and [`delete_sa`] talk to a running engine over its control socket.
//!
//! The engine never speaks IKE, never changes routes or addresses, and never touches a device that it was not given.
#![forbid(unsafe_code)]

mod address;
mod adjacency;
mod arrivals;
mod attach;
mod book;
mod boot;
mod boot_pages;
mod bpffs;
mod change;
mod client;
mod confinement;
mod connection;
mod control;
mod counters;
mod crypto_pool;
mod datagram;
mod delete;
mod delivery;
mod detour;
mod device;
mod difference;
mod edge_port;
mod enforcement;
mod engine;
mod errand;
mod error;
mod filter;
mod follow;
mod foresight;
mod forward;
mod forwarder;
mod fragments;
mod held;
mod hold;
mod host;
mod icmp;
mod installed;
mod ledger;
mod lifetime;
mod link;
mod listener;
mod lock_holder;
mod mss;
mod names;
mod netlink;
mod open;
mod order;
mod pair;
mod path_mtu;
mod peer_hops;
mod peer_ports;
mod peers;
mod pinned_words;
mod pipeline;
mod policy_file;
mod preflight;
mod prepare;
mod pulse;
mod quoted;
mod reading;
mod regime;
mod rekey;
mod report;
mod resolver;
mod role;
mod route;
mod sa_report;
mod sas;
mod schedule;
mod seal;
mod serve;
mod session;
mod session_record;
mod shared_keys;
mod sighting;
mod slots;
mod standing;
mod status;
mod supervisor;
mod thread;
mod touched;
mod tunnels;
mod unfinished;
mod verify;
mod watch;
mod worker;

pub use adjacency::{Adjacencies, Ends, Hop, Port, Question, Snapshot};
pub use attach::{AttachError, Attachments, Mode, detach_leftovers};
pub use boot::{Booted, boot};
pub use bpffs::BpffsError;
pub use client::{apply, confirm, delete_sa, fetch_sas, fetch_status, keep_filter, roll_back};
pub use confinement::{Confinement, ConfinementError};
pub use connection::{Connection, Inbound, Outbound, Settings};
pub use control::{ControlError, parse_spi};
pub use counters::{Counter, WorkerCounters};
pub use crypto_pool::{CryptoPool, CryptoThread};
pub use device::{Device, Mac};
pub use engine::{Engine, Options};
pub use error::EngineError;
pub use filter::{Filter, FilterError, Side};
pub use forwarder::{Forwarder, Turn};
pub use host::HostError;
pub use lifetime::{LimitKind, ReachedLimit, SaLifetime, Usage};
pub use order::{Applied, ApplyRequest, SaDeleted, SaSelector};
pub use path_mtu::PathMtu;
pub use policy_file::PolicyFile;
pub use prepare::{ApplyError, check};
pub use reading::Stalled;
pub use regime::{Regime, Shared, TakenUp};
pub use resolver::{News, Resolver};
pub use role::{Edge, Role};
pub use session::Session;
pub use standing::filtered_devices;
pub use status::{
    ConnectionStatus, InterfaceStatus, PeerStatus, PendingStatus, PolicyStatus, RuleCount, RuleStatus,
    SaDirection, SaEntry, SaState, SaStatus, Status, WorkerStatus,
};
pub use worker::{AfXdp, ClearSide, Sockets, Worker, WorkerError, WorkerOptions};
