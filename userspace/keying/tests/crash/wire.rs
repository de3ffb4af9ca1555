//! What was sent, by all processes of a machine.

use std::collections::BTreeMap;

use crate::death::Death;

/// Numbers from the first to the last, under one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) key: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Sent {
    /// Bytes that a process says it with.
    pub(crate) const LEN: usize = 24;

    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let (words, _) = bytes.as_chunks();
        let word = |place: usize| u64::from_le_bytes(words[place]);
        Self {
            key: word(0),
            first: word(1),
            last: word(2),
        }
    }
}

/// The highest number that was seen under each key. Numbers only go up, also from one process to the next, so one that is
/// not higher is one that was used before, or could have been.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    last: BTreeMap<u64, u64>,
}

impl Wire {
    pub(crate) fn saw(&mut self, sent: &[Sent], death: &Death) {
        for Sent { key, first, last } in sent {
            let before = self.last.insert(*key, *last).unwrap_or(0);
            assert!(
                *first > before && last >= first,
                "key {key}: {first} to {last} was sent by a process that met {death:?}, after {before}"
            );
        }
    }

    pub(crate) fn last(&self, key: u64) -> Option<u64> {
        self.last.get(&key).copied()
    }
}
