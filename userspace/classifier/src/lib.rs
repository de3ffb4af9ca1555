//! Filters into lookup lines: a policy becomes the rule set that the driver walks for every packet.
//!
//! [`compile`] gives every filter its place in one total order (semantics of RFC 4301 section 4.4.1 made exact:
//! the most specific filter wins) and writes it out as decision trees of [`Line`](ravelin_xdp_common::Line)s. The
//! kernel then only needs to know that of the entries that match the smallest rank decides.
//!
//! [`mod@reference`] answers the same question directly from the policy's filters, slowly and without lines. Tests
//! hold the two against each other, on the host and in the kernel, with what the `arbitrary` feature generates.
//!
//! [`Host`] is a machine that is not there: the kernel's own decisions over plain collections, to explain frames with.
//!
//! This crate never touches a BPF map: the engine writes the lines.
#![forbid(unsafe_code)]

#[cfg(feature = "arbitrary")]
pub mod arbitrary;
mod cut;
mod expand;
mod forest;
mod frame;
mod host;
pub mod reference;
mod region;
mod rule_set;
mod tree;

pub use frame::frame_of;
pub use host::Host;
pub use rule_set::{CompileError, RuleSet, compile};
