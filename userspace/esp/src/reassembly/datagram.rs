//! One datagram under way: which bytes of it are there.

use arrayvec::ArrayVec;
use ravelin_xdp_common::DropReason;

use crate::checksum;
use crate::fragment::{Fragment, MAX_HEADER_LEN, MAX_PAYLOAD_LEN};
use crate::ip::{self, Family};

/// Fragments of one datagram. At the smallest MTUs that a path may have (552 and 1280 bytes) these carry 33 and 77 KB.
pub(super) const MAX_PIECES: usize = 64;

/// Bytes of memory that a datagram is put together in: room for its headers, then its payload.
pub(super) const ROOM: usize = MAX_HEADER_LEN + MAX_PAYLOAD_LEN + 1;

/// Bytes of a datagram that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u16,
    end: u16,
}

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// Others are missing.
    Kept,
    /// The datagram is whole: the packet is in this range of its room.
    Whole(usize, usize),
    /// The fragment is dropped, and the datagram none the worse for it.
    Ignored(DropReason),
    /// The datagram is dropped, with this fragment and those that still come.
    Refused(DropReason),
}

/// One datagram under way.
#[derive(Debug, Default)]
pub(super) struct Datagram {
    /// In order, and apart from each other.
    pieces: ArrayVec<Piece, MAX_PIECES>,
    /// Bytes that have come.
    held: usize,
    /// Payload bytes in all, once the last fragment has come.
    total: Option<usize>,
    /// Bytes of the headers, once the first fragment has come; else 0.
    headers_len: usize,
    next_header: u8,
    next_header_at: usize,
    /// A bit for each ECN codepoint that was seen.
    ecn: u8,
    /// What came with the first fragment.
    pub(super) label: u32,
    /// Why no fragment is taken any more.
    refused: Option<DropReason>,
}

impl Datagram {
    /// Fragments that wait in it.
    pub(super) fn waiting(&self) -> usize {
        self.pieces.len()
    }

    /// Whether it only waits for its time to be over.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Takes no fragment any more. RFC 5722 section 4: "the entire datagram (and any constituent fragments, including those
    /// not yet received) MUST be silently discarded".
    pub(super) fn refuse(&mut self, reason: DropReason) {
        *self = Self {
            refused: Some(reason),
            ..Self::default()
        };
    }

    /// Puts a fragment into `room`, which has [`ROOM`] bytes.
    pub(super) fn add(&mut self, fragment: &Fragment<'_>, label: u32, room: &mut [u8]) -> Added {
        if let Some(reason) = self.refused {
            return Added::Ignored(reason);
        }
        let (start, end) = (fragment.offset, fragment.offset + fragment.payload.len());
        let bytes = MAX_HEADER_LEN + start..MAX_HEADER_LEN + end;
        let at = self
            .pieces
            .partition_point(|piece| usize::from(piece.start) < start);
        // `Fragment::parse` has checked that both are 16 bits.
        let piece = Piece {
            start: start as u16,
            end: end as u16,
        };
        // RFC 8200 section 4.5: "an implementation may choose to detect this case and drop exact duplicate fragments while
        // keeping the other fragments".
        if self.pieces.get(at) == Some(&piece) && room[bytes.clone()] == *fragment.payload {
            return Added::Ignored(DropReason::ReassemblyDuplicate);
        }
        let before = at.checked_sub(1).map_or(0, |before| self.pieces[before].end);
        let after = self.pieces.get(at).map_or(u16::MAX, |after| after.start);
        if before > piece.start || (after < piece.end && at < self.pieces.len()) {
            return Added::Refused(DropReason::ReassemblyOverlap);
        }
        let farthest = self
            .pieces
            .last()
            .map_or(0, |last| usize::from(last.end))
            .max(end);
        let total = match (self.total, fragment.more) {
            (None, false) => Some(end),
            (total, _) => total,
        };
        // Two ends, or bytes behind the end.
        if total.is_some_and(|total| farthest > total || (!fragment.more && end != total)) {
            return Added::Refused(DropReason::ReassemblyMalformed);
        }
        if self.pieces.try_insert(at, piece).is_err() {
            return Added::Refused(DropReason::ReassemblyMalformed);
        }
        self.total = total;
        self.held += fragment.payload.len();
        self.ecn |= 1 << fragment.ecn;
        room[bytes].copy_from_slice(fragment.payload);
        if start == 0 {
            self.headers_len = fragment.headers.len();
            room[MAX_HEADER_LEN - self.headers_len..MAX_HEADER_LEN].copy_from_slice(fragment.headers);
            (self.next_header, self.next_header_at) = (fragment.next_header, fragment.next_header_at);
            self.label = label;
        }
        // Pieces are apart, so as many bytes as there are in all are all of them, the first ones included.
        if self.total != Some(self.held) {
            return Added::Kept;
        }
        let range = (MAX_HEADER_LEN - self.headers_len, MAX_HEADER_LEN + self.held);
        if self.complete(&mut room[range.0..range.1]).is_some() {
            Added::Whole(range.0, range.1)
        } else {
            Added::Refused(DropReason::ReassemblyMalformed)
        }
    }

    /// Makes the headers those of the whole packet `packet`. `None` if it is too long for IP, or its fragments contradict each
    /// other about congestion.
    fn complete(&self, packet: &mut [u8]) -> Option<()> {
        let family = if packet[0] >> 4 == 4 {
            Family::V4
        } else {
            Family::V6
        };
        let len = ip::length_field(family, packet.len())?;
        let ecn = self.congestion()?;
        match family {
            Family::V4 => {
                packet[1] = packet[1] & !3 | ecn;
                packet[2..4].copy_from_slice(&len.to_be_bytes());
                // Of the flags and the offset only DF stays.
                packet[6] &= 0x40;
                packet[7] = 0;
                packet[10..12].fill(0);
                let sum = checksum::ipv4_header(&packet[..self.headers_len]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Family::V6 => {
                packet[1] = packet[1] & !0x30 | ecn << 4;
                packet[4..6].copy_from_slice(&len.to_be_bytes());
                packet[self.next_header_at] = self.next_header;
            }
        }
        Some(())
    }

    /// The congestion codepoint of the whole.
    ///
    /// RFC 3168 section 5.3: "the CE codepoint MUST be set on the reassembled packet" if any fragment has it and none is
    /// Not-ECT; with one that is, a packet "SHOULD be dropped" rather than the mark be lost.
    fn congestion(&self) -> Option<u8> {
        const NOT_ECT: u8 = 1;
        const CE: u8 = 1 << 3;
        match self.ecn {
            seen if seen & CE != 0 => (seen & NOT_ECT == 0).then_some(3),
            seen if seen & NOT_ECT != 0 => Some(0),
            // ECT(0) if any fragment has it, which says no more than ECT(1) did in RFC 3168.
            seen if seen & 4 != 0 => Some(2),
            _ => Some(1),
        }
    }
}
