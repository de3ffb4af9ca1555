//! Everything that can happen to a running engine, many times over: nothing that must be protected may be seen in the clear,
//! what is permitted goes on, and no sequence number comes twice. Needs root.
//!
//! Two pairs of sites live through it at the same time, hosts with transport mode and gateways with tunnels. Their engines are
//! the shipped program, looked after as a service manager would: what ends is started again. The witnesses are a packet socket
//! with a parser of its own, and libpcap's filter language in dumpcap.
//!
//! `RAVELIN_CHAOS_EVENTS` makes it longer (200 events unless told otherwise), `RAVELIN_CHAOS_SEED` repeats a schedule, and with
//! `RAVELIN_CHAOS_PUBLISH` the table of recovery times goes into docs/operation.md.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod detector;
mod event;
mod flows;
mod pair;
mod random;
mod report;
mod room;
mod run;
mod side;
#[expect(dead_code, reason = "the other tests use the rest of it")]
#[path = "../gateway/support/mod.rs"]
mod support;
