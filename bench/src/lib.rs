//! Rule sets and traffic for the benches.
//!
//! [`RuleList::generate`] makes rules that look like those of a router, a firewall or a host ([`Profile`]), from
//! 100 to 250,000 of them. A [`Rule`] list is written as the text that the field publishes
//! ([`RuleList::to_classbench`]) or as a policy ([`RuleList::to_policy`]). [`Trace`] makes the packets: on the
//! corners of the rules, beside them, or without regard to them.
//!
//! Everything follows from a seed. The statistics are our own, after what ClassBench (Taylor and Turner, INFOCOM 2005)
//! found to tell such rule sets apart: pairs of prefix lengths, classes of port ranges, nesting and skew of the
//! prefixes, and which protocols go with them.
//!
//! What the benches have in common besides: [`machine`], [`program`], [`samples`], [`publish`], [`plot`], [`interrupt`], [`huge_pages`],
//! [`namespace`], [`daemon`]; a gateway in
//! memory: [`rig`], with its [`tunnel`]s and a [`memory_port`], what it is given ([`work`]), and how fast it is ([`ours`]); and DPDK's: [`secgw`].
#![forbid(unsafe_code)]

pub mod daemon;
mod generate;
pub mod huge_pages;
pub mod interrupt;
pub mod machine;
pub mod memory_port;
pub mod namespace;
pub mod ours;
pub mod plot;
mod prefix;
mod prefix_tree;
mod profile;
pub mod program;
pub mod publish;
pub mod rig;
mod rule;
pub mod samples;
pub mod secgw;
mod trace;
pub mod tunnel;
pub mod work;

pub use generate::{Order, RuleList};
pub use prefix::Prefix;
pub use profile::{PortClass, Profile};
pub use rule::Rule;
pub use trace::{Kind, Trace};
