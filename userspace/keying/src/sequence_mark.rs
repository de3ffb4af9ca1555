//! Which sequence numbers may have been used under a key, remembered across crashes and reboots.

use std::io;
use std::sync::Arc;

use ravelin_esp::{Reservation as _, SequenceCounter, SequenceStart};

use crate::boot_memory::BootRecord;
use crate::fingerprint::Fingerprint;
use crate::mark_record::{Kind, Mark};
use crate::marks::MarkFileError;
use crate::state_folder::StateFolder;

/// Sequence numbers reserved at a time.
///
/// [`SequenceMark::extend`] renews a reservation of which half is used: called every 100 ms it keeps up with 5 million
/// packets per second.
pub const RESERVE: u64 = 1 << 20;

/// The highest sequence number that may have been used under one key, on disk before any number up to it is used.
///
/// Where a [`StateFolder`] also has memory of this boot, the next process goes on from what was reserved there, which is closer to what was
/// used.
#[derive(Debug)]
pub struct SequenceMark {
    folder: Arc<StateFolder>,
    key: Fingerprint,
    spi: u32,
    /// What was recorded when it was opened: numbers up to here may have been used before.
    floor: u64,
    /// What is recorded now.
    recorded: u64,
    /// What is remembered from one process to the next.
    memory: Option<Arc<BootRecord>>,
}

/// Why sequence numbers cannot be given out; sending stays stopped.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The file.
    #[error(transparent)]
    File(#[from] MarkFileError),
    /// Memory of this boot.
    #[error(
        "cannot note for other instances on this machine that the key is in use: {0}; look into /sys/fs/bpf/ravelin-numbers"
    )]
    Memory(io::Error),
    /// An SA in this process has the key already.
    #[error("SPI {spi:#010x}: its key is already in use for sending")]
    InUse {
        /// The SPI that asked.
        spi: u32,
    },
    /// The counter was not built from this mark.
    #[error("SPI {spi:#010x}: its counter stands at {used}, but numbers up to {floor} may have been used")]
    Behind {
        /// The SPI.
        spi: u32,
        /// Where the counter stands.
        used: u64,
        /// What may have been used.
        floor: u64,
    },
    /// The key was used in the other direction.
    #[error(
        "SPI {spi:#010x}: its key was used to {used} before, and one key at two senders repeats nonces, which breaks \
         AES-GCM; if inbound and outbound were mixed up, put them back, else make new keys on both ends (`ravelin keygen`)"
    )]
    OtherDirection {
        /// The SPI that asked.
        spi: u32,
        /// `send` or `receive`.
        used: &'static str,
    },
    /// No number is left.
    #[error(
        "SPI {spi:#010x}: its sequence numbers are used up; make a new key on both ends (`ravelin keygen`)"
    )]
    Exhausted {
        /// The SPI.
        spi: u32,
    },
}

impl SequenceMark {
    /// Finds out what may have been used under this key; a key without a mark is new.
    ///
    /// # Errors
    /// [`MarkError::InUse`], [`MarkError::OtherDirection`], or [`MarkError::File`] when nobody knows.
    pub fn open(folder: &Arc<StateFolder>, spi: u32, key: Fingerprint) -> Result<Self, MarkError> {
        if !folder.claim(key) {
            return Err(MarkError::InUse { spi });
        }
        // From here on dropping it releases the claim.
        let mut mark = Self {
            folder: Arc::clone(folder),
            key,
            spi,
            floor: 0,
            recorded: 0,
            memory: None,
        };
        // What the other end has used under its key only it knows.
        let floor = folder.highest(Kind::Sent, key)?;
        if floor.is_none() && folder.highest(Kind::Received, key)?.is_some() {
            return Err(MarkError::OtherDirection { spi, used: "receive" });
        }
        mark.recorded = floor.unwrap_or(0);
        let memory = folder.boot_record(key, mark.recorded);
        mark.memory = memory.map_err(MarkError::Memory)?.map(Arc::new);
        mark.floor = match &mark.memory {
            Some(memory) => memory.settle(mark.recorded),
            None => mark.recorded,
        };
        Ok(mark)
    }

    /// Where the counter has to begin. It must be built from this and nothing else, since what it reserves is what the next process
    /// goes by.
    #[must_use]
    pub fn start(&self) -> SequenceStart {
        SequenceStart {
            last_used: self.floor,
            reservation: self.memory.clone().map(|memory| memory as _),
        }
    }

    /// The highest number that may have been used before this was opened; 0 for a new key.
    pub(crate) fn last_used(&self) -> u64 {
        self.floor
    }

    /// Keeps numbers ready: when less than half of [`RESERVE`] is left, records a higher mark durably and then raises
    /// the counter's ceiling to it. The counter is that of the one SA that seals with this key.
    ///
    /// # Errors
    /// [`MarkError::File`]: the ceiling stays, and the SA stops when it gets there. [`MarkError::Exhausted`] when no
    /// number is left for good. [`MarkError::Behind`] for a counter that does not begin with [`SequenceMark::start`].
    pub fn extend(&mut self, counter: &SequenceCounter) -> Result<(), MarkError> {
        if let Some(wanted) = self.wanted(counter)? {
            self.folder.record(&[wanted])?;
            self.recorded(&wanted);
        }
        self.raise(counter);
        Ok(())
    }

    /// What is to be recorded before the counter's ceiling may rise; `None` if enough is left.
    ///
    /// # Errors
    /// [`MarkError::Exhausted`], [`MarkError::Behind`].
    pub(crate) fn wanted(&self, counter: &SequenceCounter) -> Result<Option<Mark>, MarkError> {
        let limit = counter.limit();
        let (spi, used) = (self.spi, counter.last_used());
        if used < self.floor {
            return Err(MarkError::Behind {
                spi,
                used,
                floor: self.floor,
            });
        }
        if used >= limit {
            return Err(MarkError::Exhausted { spi });
        }
        let highest = used.saturating_add(RESERVE).min(limit);
        let low = self.recorded.saturating_sub(used) < RESERVE / 2;
        Ok((low && highest > self.recorded).then_some(Mark {
            kind: Kind::Sent,
            key: self.key,
            spi,
            highest,
        }))
    }

    /// What was wanted is durable.
    pub(crate) fn recorded(&mut self, mark: &Mark) {
        self.recorded = mark.highest;
        if let Some(memory) = &self.memory {
            memory.set_durable(mark.highest);
        }
    }

    /// Lets the counter go as far as is recorded.
    pub(crate) fn raise(&self, counter: &SequenceCounter) {
        counter.raise_ceiling(self.recorded);
    }
}

impl Drop for SequenceMark {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let none = memory.is_fresh() && self.recorded == self.floor;
            match Arc::try_unwrap(memory) {
                // No number was to be had: whoever else has the key need not hear of it.
                _ if none => self.folder.forget_boot_record(self.key),
                // Nor where nobody has the counter any more and none was ever given out, here or before: it would be reserved.
                Ok(memory) if memory.reserved() == 0 => self.folder.withdraw_boot_record(self.key),
                Ok(_) => {}
                // Whoever still has the counter may go on to the mark, so the next one with this key begins there.
                Err(memory) => memory.reserve(self.recorded),
            }
        }
        self.folder.release(self.key);
    }
}
