//! What the BPF programs and user space share: the packet parser, the classifier's step, the decision for one
//! packet, and the layout of the maps.
//!
//! A packet meets the types in this order: a [`Reader`] gives bounded access to its bytes, [`parse`] turns them
//! into a [`Frame`] with a [`Flow`], [`decide_outer`] or [`decide_inner`] asks the [`Tables`] and answers with an
//! [`Outcome`]: pass, drop with a [`DropReason`], or redirect to user space with [`FrameMetadata`] in front.
//!
//! The same code runs in the kernel, on the host and under the fuzzer. It never allocates, never panics on packet
//! bytes and holds no state.
#![no_std]

mod action;
mod decide;
mod drop_reason;
mod entry;
mod flow;
mod flow_cache;
mod fragment;
mod icmp_quote;
mod judgement;
pub mod line;
mod map;
mod metadata;
mod parse;
mod quoted;
mod reader;
mod walk;

pub use action::Action;
pub use decide::{Tables, decide_edge, decide_egress, decide_host_egress, decide_inner, decide_outer};
pub use drop_reason::DropReason;
pub use entry::{Entry, halves};
pub use flow::{Address, Direction, Family, Flow, Ports, address_bytes, address_v6, mapped_v4};
pub use flow_cache::{CachedVerdict, FLOW_CACHE_SLOTS};
pub use fragment::{FRAGMENT_SLOTS, FragmentKey, FragmentRecord, Place};
pub use icmp_quote::{IcmpQuote, OutboundKey};
pub use judgement::{Fate, Judgement, Outcome, Pass};
pub use line::{Header, Line, Roots};
pub use map::{
    Encapsulation, HostEdge, INBOUND_FLAGS, INBOUND_SAS, InboundEndpoint, MAX_QUEUES, RULE_COUNTERS,
    RULE_SET_FLAGS, RuleCounter, TunnelEnds, local_bits, map_names,
};
pub use metadata::{FrameMetadata, Kind};
pub use parse::{Frame, IpPacket, Upper, parse, parse_ip};
pub use reader::{Reader, SliceReader};
pub use walk::{Decision, Verdict, Walk, walk};
