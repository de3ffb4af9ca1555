//! Bounded access to packet bytes.

use crate::IpPacket;

/// Reads packet bytes by offset; every read is checked against the end of the packet.
pub trait Reader {
    /// The `N` bytes at `offset`, or `None` if the packet ends before them.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Whether the packet has at least `length` bytes.
    fn holds(&self, length: usize) -> bool;

    /// The bytes of a packet that is yet to be cut into segments, whose own length field need not hold them; `None` of any other.
    #[inline(always)]
    fn length_of_segments(&self) -> Option<usize> {
        None
    }

    /// Whether the packet came to this machine and is passed on as another's: its source is none of this machine's addresses, as it
    /// would be behind address translation. Only the kernel knows.
    #[inline(always)]
    fn is_passed_on(&self, _packet: &IpPacket) -> bool {
        false
    }

    /// Forgets, where the verifier looks on, what is known about a parsed packet beyond its types.
    ///
    /// Each way through the parser leaves the verifier with other facts, and it would follow every one of them through
    /// all that comes after.
    #[inline(always)]
    fn forget(&self, _packet: &mut IpPacket) {}
}

/// A [`Reader`] over a slice, for the host.
#[derive(Clone, Copy, Debug)]
pub struct SliceReader<'a>(pub &'a [u8]);

impl Reader for SliceReader<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        length <= self.0.len()
    }
}
