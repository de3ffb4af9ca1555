//! ESP (RFC 4303), sans I/O: bytes in, bytes out, in place, in batches.
//!
//! In the order a packet meets them:
//! - [`SaParameters`] say what a security association is; [`OutboundSa::new`] and [`InboundSa::new`] check them and
//!   build what the fast path reads.
//! - A [`Packet`] is an IP packet inside a larger buffer, with room in front and behind.
//! - A [`Fragmentation`] cuts clear packets that would be too long, and sealed ones that a host itself sends.
//! - [`seal_runs`] takes numbers from each SA's [`SequenceCounter`], encrypts and encapsulates.
//! - [`Reassembly`] puts received packets together again that routers have fragmented.
//! - [`open_runs`] asks each SA's [`ReplayWindow`], verifies, decrypts and decapsulates.
//! - [`SealingBatch`] and [`OpeningBatch`] do the same in steps, of which the expensive one can be another thread's.
//!
//! What an SA has done is in its [`Counts`], how long it may go on in its [`Lifetime`].
//!
//! Each packet ends as [`Sealed`] or [`Opened`], or with the one [`DropReason`] that says why it must be dropped; after
//! a drop the buffer's content is unspecified. One packet's fate never touches another's.
//!
//! This crate never looks up an SA, applies policy, decrements a TTL or keeps keys anywhere but in its SAs. It does not allocate once an SA exists.

#![forbid(unsafe_code)]

mod ah;
pub mod checksum;
mod counters;
mod decapsulation;
mod ecn;
mod expiry;
mod fragment;
mod fragmentation;
mod inbound;
mod ip;
mod keepalive;
mod layout;
mod lifetime;
mod moment;
mod nat;
mod nonce;
mod outbound;
mod outer_header;
mod outer_options;
mod packet;
mod parameters;
mod plan;
mod reassembly;
mod replay;
mod sequence;
mod tfc;
mod trailer;
mod wipe;

pub use counters::Counts;
pub use expiry::LifetimeStatus;
pub use fragmentation::{Fragmentation, Piece};
pub use inbound::{InboundSa, Opened, OpeningBatch, Verified, open_runs};
pub use keepalive::{MAX_KEEPALIVE_LEN, nat_keepalive};
pub use layout::{MAX_BATCH, MAX_HEADROOM, MAX_TAILROOM};
pub use lifetime::{Lifetime, LifetimeError, LifetimeEvent, Limits, Measure};
pub use nat::NatOriginal;
pub use outbound::{OutboundSa, Sealed, SealingBatch, seal_runs};
pub use outer_options::{DontFragment, Dscp, EcnMode, FlowLabel, InnerDscp, OuterOptions};
pub use packet::{NoRoom, Packet};
pub use parameters::{Encapsulation, Mode, Protocol, SaError, SaParameters};
pub use ravelin_gcm::{AesKey, Algorithm, Hmac, IcvLen, Provider, Secret};
pub use ravelin_xdp_common::DropReason;
pub use reassembly::{Reassembly, Whole};
pub use replay::ReplayWindow;
pub use sequence::{
    RESERVATION, Reservation, SequenceCounter, SequenceNumber, SequenceNumbers, SequenceStart,
};
pub use tfc::TfcPadding;
