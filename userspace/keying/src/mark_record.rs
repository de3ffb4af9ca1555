//! One mark as it lies on disk.

use aws_lc_rs::digest;

use crate::fingerprint::Fingerprint;

/// Bytes of a record: a power of two, so that none crosses a sector.
pub(crate) const RECORD_LEN: usize = 64;

/// What the checksum covers.
const BODY_LEN: usize = 48;

const MAGIC: [u8; 3] = *b"RVM";

/// What a mark records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The highest number that may have been used for sending.
    Sent = 1,
    /// The highest number that was received.
    Received = 2,
}

/// The highest number of one key and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) kind: Kind,
    pub(crate) key: Fingerprint,
    /// For people; the key alone says whose the mark is.
    pub(crate) spi: u32,
    pub(crate) highest: u64,
}

/// What the bytes of a record say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Zeros: nothing was ever written here.
    Free,
    Holds(Mark),
    /// Torn, or changed by somebody else.
    Damaged,
}

impl Mark {
    /// The record's bytes, which hold in this place of the file only.
    ///
    /// Magic 3, kind 1, SPI 4, key 16, highest 8, place 4, zeros 12, then 16 bytes of the SHA-256 of all that; little endian.
    pub(crate) fn to_record(self, place: u32) -> [u8; RECORD_LEN] {
        let mut record = [0; RECORD_LEN];
        record[..3].copy_from_slice(&MAGIC);
        record[3] = self.kind as u8;
        record[4..8].copy_from_slice(&self.spi.to_le_bytes());
        record[8..24].copy_from_slice(self.key.as_bytes());
        record[24..32].copy_from_slice(&self.highest.to_le_bytes());
        record[32..36].copy_from_slice(&place.to_le_bytes());
        let (body, sum) = record.split_at_mut(BODY_LEN);
        let digest = digest::digest(&digest::SHA256, body);
        sum.copy_from_slice(&digest.as_ref()[..RECORD_LEN - BODY_LEN]);
        record
    }
}

impl Record {
    /// Reads a record of this place.
    pub(crate) fn parse(record: &[u8; RECORD_LEN], place: u32) -> Self {
        if *record == [0; RECORD_LEN] {
            return Self::Free;
        }
        let kind = match record[3] {
            1 => Kind::Sent,
            2 => Kind::Received,
            _ => return Self::Damaged,
        };
        let (mut spi, mut key, mut highest) = ([0; 4], [0; 16], [0; 8]);
        spi.copy_from_slice(&record[4..8]);
        key.copy_from_slice(&record[8..24]);
        highest.copy_from_slice(&record[24..32]);
        let mark = Mark {
            kind,
            key: Fingerprint::from_bytes(key),
            spi: u32::from_le_bytes(spi),
            highest: u64::from_le_bytes(highest),
        };
        // Every byte of it is determined by the mark and the place.
        if mark.to_record(place) == *record {
            Self::Holds(mark)
        } else {
            Self::Damaged
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Mark, Record};
    use crate::fingerprint::Fingerprint;

    #[test]
    fn a_record_holds_in_its_place_and_only_whole() {
        let mark = Mark {
            kind: Kind::Received,
            key: Fingerprint::from_bytes([0xa7; 16]),
            spi: 0x1001,
            highest: u64::MAX - 5,
        };
        let record = mark.to_record(7);
        assert_eq!(Record::parse(&record, 7), Record::Holds(mark));
        assert_eq!(Record::parse(&record, 8), Record::Damaged);
        assert_eq!(Record::parse(&[0; 64], 7), Record::Free);
        for bit in 0..512 {
            let mut bad = record;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::parse(&bad, 7), Record::Damaged, "bit {bit}");
        }
    }
}
