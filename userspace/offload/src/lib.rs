//! What a network card does for a host's stack, in software and without I/O.
//!
//! The stack hands out packets of up to 64 KiB with unfinished checksums and says in a [`VnetHeader`] what is left to
//! do. [`Segmenter`] does it: it writes the packets of the wire one by one into buffers that the caller provides, so that
//! each byte of payload is copied once. In the other direction [`Segment`] is a packet that may be part of a larger one and
//! [`Run`] decides which of them are: what the stack then gets is one packet with a [`VnetHeader`] from which the
//! original ones could be made again.
//!
//! Nothing here allocates or panics, whatever the bytes are.
#![forbid(unsafe_code)]

mod coalesce;
mod segment;
mod vnet;

pub use coalesce::{Run, Segment};
pub use segment::{OffloadError, Segmenter};
pub use vnet::{Gso, PartialChecksum, VnetHeader};
