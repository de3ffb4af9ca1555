//! The engine: loads the BPF programs, fills their maps, runs the workers and answers the control socket.
#![forbid(unsafe_code)]

mod address;
mod adjacency;
mod connection;
mod counters;
mod device;
mod filter;
mod forward;
mod forwarder;
mod hold;
mod icmp;
mod netlink;
mod open;
mod resolver;
mod seal;

pub use adjacency::{Adjacencies, Hop, Question, Snapshot};
pub use connection::Connection;
pub use counters::WorkerCounters;
pub use device::{Device, Mac};
pub use filter::{Filter, FilterError, Side};
pub use forwarder::{Forwarder, Shared, Turn};
pub use resolver::{News, Resolver};
