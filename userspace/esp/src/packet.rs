//! A packet inside a larger buffer.

use std::ops::Range;

/// The buffer has no room for the bytes asked for, or the packet does not hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet's buffer has no room")]
pub struct NoRoom;

/// A packet, from its IP header on, with room in front and behind it.
///
/// The bytes of the buffer outside the packet are never read, and are written only after growing into them.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    // Invariant: start <= end <= buffer.len().
    start: usize,
    end: usize,
}

impl<'a> Packet<'a> {
    /// The packet at `range` of `buffer`.
    ///
    /// # Errors
    /// [`NoRoom`] if `range` is not inside `buffer`.
    pub fn new(buffer: &'a mut [u8], range: Range<usize>) -> Result<Self, NoRoom> {
        if range.start > range.end || range.end > buffer.len() {
            return Err(NoRoom);
        }
        Ok(Self {
            buffer,
            start: range.start,
            end: range.end,
        })
    }

    /// Where the packet is in the buffer now.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The packet, to be changed in place.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Length of the packet in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the packet holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Free bytes in front of the packet.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Free bytes behind the packet.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.buffer.len() - self.end
    }

    /// Grows the packet by `len` bytes at its front. The new bytes hold what the buffer held.
    ///
    /// # Errors
    /// [`NoRoom`]; the packet is unchanged.
    pub fn prepend(&mut self, len: usize) -> Result<(), NoRoom> {
        self.start = self.start.checked_sub(len).ok_or(NoRoom)?;
        Ok(())
    }

    /// Grows the packet by `len` bytes at its end. The new bytes hold what the buffer held.
    ///
    /// # Errors
    /// [`NoRoom`]; the packet is unchanged.
    pub fn append(&mut self, len: usize) -> Result<(), NoRoom> {
        if len > self.tailroom() {
            return Err(NoRoom);
        }
        self.end += len;
        Ok(())
    }

    /// Removes `len` bytes from the front.
    ///
    /// # Errors
    /// [`NoRoom`] if the packet is shorter; it is unchanged.
    pub fn trim_front(&mut self, len: usize) -> Result<(), NoRoom> {
        if len > self.len() {
            return Err(NoRoom);
        }
        self.start += len;
        Ok(())
    }

    /// Shortens the packet to `len` bytes from its front; a shorter packet stays as it is.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.start + len.min(self.len());
    }
}

#[cfg(test)]
mod tests {
    use super::{NoRoom, Packet};

    #[test]
    fn grows_and_shrinks_within_its_buffer_only() {
        let mut buffer = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let mut packet = Packet::new(&mut buffer, 3..6).unwrap();
        assert_eq!(packet.bytes(), [3, 4, 5]);
        assert_eq!(packet.prepend(4), Err(NoRoom));
        assert_eq!(packet.append(5), Err(NoRoom));
        assert_eq!(packet.trim_front(4), Err(NoRoom));
        assert_eq!(packet.append(usize::MAX), Err(NoRoom));
        assert_eq!(
            (packet.range(), packet.headroom(), packet.tailroom()),
            (3..6, 3, 4)
        );
        packet.prepend(3).unwrap();
        packet.append(4).unwrap();
        assert_eq!((packet.len(), packet.headroom(), packet.tailroom()), (10, 0, 0));
        packet.truncate(11);
        assert_eq!(packet.len(), 10);
        packet.trim_front(2).unwrap();
        packet.truncate(1);
        assert_eq!(packet.bytes(), [2]);
        packet.truncate(0);
        assert!(packet.is_empty());
    }

    #[test]
    fn refuses_a_range_outside_the_buffer() {
        let mut buffer = [0; 4];
        assert!(Packet::new(&mut buffer, 0..5).is_err());
        assert!(Packet::new(&mut buffer, 5..5).is_err());
        assert!(Packet::new(&mut buffer, std::ops::Range { start: 3, end: 2 }).is_err());
        assert!(Packet::new(&mut buffer, 4..4).is_ok());
    }
}
