//! The daemon end to end, in network namespaces that the tests make themselves. Needs root.
//!
//! The outside witnesses are the kernel's stack at both ends, packet sockets on the wire, and scapy.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod adoption;
mod big_tcp;
mod boot;
mod broken_rekeys;
mod crypto_threads;
mod expiry;
mod following;
mod foreign_egress;
mod fragments;
mod host;
mod host_nat;
mod jumbo;
mod lifeline;
mod lifetime;
mod make_before_break;
mod many;
mod mistakes;
mod nat;
mod new_address;
mod one_key;
mod other_device;
mod path_mtu;
mod queues;
mod quoted;
mod rekeying;
mod routers;
mod sas;
mod secrets;
mod secure_server;
mod service;
mod session;
mod support;
mod surroundings;
mod swap;
mod tunnel;
mod unit;
mod uplinks;
mod waiting;
mod wire;
#[cfg(feature = "xsk-rs")]
mod xsk_rs;
