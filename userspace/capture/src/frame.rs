//! One captured frame.

use std::cell::Cell;

use ravelin_xdp_common::Reader;

/// A frame from its Ethernet header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'c> {
    /// Counted from 1, as Wireshark does.
    pub number: u64,
    /// What was captured; often only the start of the frame.
    pub bytes: &'c [u8],
    /// Bytes of the frame on the wire.
    pub wire_length: usize,
    /// When it was captured, in nanoseconds since 1970 or whatever the capture counts from.
    pub time: u64,
    /// Whether the machine sent it (or received it), where the capture tells.
    pub outgoing: Option<bool>,
}

impl<'c> Frame<'c> {
    /// Reads the frame, as long as it was on the wire.
    #[must_use]
    pub fn reader(&self) -> CutReader<'c> {
        CutReader {
            bytes: self.bytes,
            wire_length: self.wire_length,
            missed: Cell::new(false),
        }
    }

    /// Source and destination of the link, unless the frame is too short.
    #[must_use]
    pub fn link_addresses(&self) -> Option<([u8; 6], [u8; 6])> {
        let destination = self.bytes.first_chunk().copied()?;
        Some((self.bytes.get(6..)?.first_chunk().copied()?, destination))
    }
}

/// Reads a frame of which only the start is known: bytes that were not captured read as zero, which is remembered.
#[derive(Clone, Debug)]
pub struct CutReader<'c> {
    bytes: &'c [u8],
    wire_length: usize,
    missed: Cell<bool>,
}

impl CutReader<'_> {
    /// Whether somebody asked for bytes that were not captured: what they made of it means nothing.
    #[must_use]
    pub fn missed(&self) -> bool {
        self.missed.get()
    }
}

impl Reader for CutReader<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if let Some(found) = self.bytes.get(offset..).and_then(|rest| rest.first_chunk()) {
            return Some(*found);
        }
        let end = offset.checked_add(N)?;
        if end > self.wire_length {
            return None;
        }
        self.missed.set(true);
        Some([0; N])
    }

    fn holds(&self, length: usize) -> bool {
        length <= self.wire_length
    }
}
