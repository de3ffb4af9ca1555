//! The receiving side of an SA (RFC 4303 section 3.4).

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ravelin_gcm::{Aead, Algorithm, Provider, prefetch};
use ravelin_xdp_common::DropReason;

use crate::ah::Ah;
use crate::counters::{Counters, Counts};
use crate::expiry::{Expiry, LifetimeStatus, Spent};
use crate::layout::Layout;
use crate::lifetime::LifetimeEvent;
use crate::moment::Moment;
use crate::nat::ChecksumFixUp;
use crate::nonce::Salt;
use crate::outer_options::{DSCP_MASK, InnerDscp};
use crate::wipe::wiping_stack;
use crate::{Encapsulation, Mode, Protocol, ReplayWindow, SaError, SaParameters, SequenceCounter};

mod batch;
mod opening;

pub use batch::OpeningBatch;
pub(crate) use opening::Located;
pub use opening::open_runs;

/// A packet that was authentic, fresh and well-formed. Policy has still to accept what it holds (RFC 4301 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its sequence number, all 64 bits of it.
    pub sequence: u64,
}

/// A packet that was authentic and fresh, and of which no more is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its sequence number, all 64 bits of it.
    pub sequence: u64,
    /// Whether the number is higher than those of all packets accepted so far; never with anti-replay off.
    pub newest: bool,
}

/// An SA to receive with, usable from any number of threads at once.
#[derive(Debug)]
#[repr(C)]
pub struct InboundSa {
    spi: u32,
    extended: bool,
    mode: Mode,
    encapsulation: Encapsulation,
    aead: Box<dyn Aead>,
    salt: Salt,
    layout: Layout,
    /// `None` for ESP. Then `layout` is not used.
    ah: Option<Ah>,
    /// Bits of the outer traffic class that decapsulated packets get.
    dscp_copied: u8,
    /// In transport mode behind a NAT.
    fix_up: Option<ChecksumFixUp>,
    algorithm: Algorithm,
    since: Moment,
    expiry: Expiry,
    /// Last, with its counters of what goes wrong at the very end: what a batch needs lies together.
    running: Running,
}

/// What every batch writes, on cache lines of its own: workers that share an SA would else take from each other what they
/// only read.
#[derive(Debug)]
#[repr(C, align(128))]
struct Running {
    spent: Spent,
    /// Accepted, and before the SA's start.
    packets: AtomicU64,
    /// Checked, if there is a limit.
    icvs: AtomicU64,
    /// `None` with anti-replay off. Its lock is held once per batch, never while a packet is decrypted.
    window: Option<ReplayWindow>,
    unexpected_ecn: AtomicU64,
    counters: Counters,
}

// What a batch without failures writes is two lines.
const _: () = assert!(offset_of!(Running, counters) + Counters::WRITTEN_BY_EVERY_BATCH <= 128);

impl InboundSa {
    /// Checks `parameters` and expands the key. Only sequence numbers above `highest_seen` are taken, 0 for a new key. The
    /// SA's life begins `now`.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(
        parameters: SaParameters,
        provider: Provider,
        highest_seen: u64,
        now: Instant,
    ) -> Result<Self, SaError> {
        parameters.validate()?;
        let extended = parameters.extended_sequence_numbers;
        let limit = SequenceCounter::limit_of(extended);
        if highest_seen > limit {
            return Err(SaError::SequenceMark {
                mark: highest_seen,
                limit,
            });
        }
        let SaParameters {
            spi,
            mode,
            encapsulation,
            replay_window,
            outer,
            nat_original,
            algorithm,
            ..
        } = parameters;
        let layout = Layout::new(algorithm, parameters.implicit_iv);
        let ah = (parameters.protocol == Protocol::Ah).then(|| Ah::new(algorithm));
        let packets_before = parameters.lifetime.packets_before;
        let expiry = Expiry::inbound(&parameters.lifetime, algorithm);
        let (aead, salt) = wiping_stack(|| parameters.into_key(provider))?;
        let window = (replay_window != 0).then(|| ReplayWindow::new(replay_window, extended, highest_seen));
        Ok(Self {
            spi,
            extended,
            mode,
            encapsulation,
            aead,
            salt,
            layout,
            ah,
            algorithm,
            since: now.into(),
            running: Running {
                spent: expiry.begin(),
                packets: AtomicU64::new(packets_before),
                icvs: AtomicU64::new(0),
                window,
                unexpected_ecn: AtomicU64::new(0),
                counters: Counters::default(),
            },
            expiry,
            dscp_copied: match outer.inner_dscp {
                InnerDscp::Keep => 0,
                InnerDscp::Copy => DSCP_MASK,
            },
            fix_up: nat_original.map(ChecksumFixUp::new),
        })
    }

    /// The security parameters index.
    #[must_use]
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Tunnel or transport.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Has the cache fetch what opening reads and writes of the SA, but for its [key and window](Self::prefetch_key).
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self, offset_of!(Self, running) + offset_of!(Running, counters));
    }

    /// The same for its key and the end of its anti-replay window, for which the SA itself is read.
    #[inline]
    pub fn prefetch_key(&self) {
        self.aead.prefetch();
        if let Some(window) = &self.running.window {
            window.prefetch();
        }
    }

    /// The AEAD implementation in use.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.aead.provider()
    }

    /// What was opened so far, and what was not.
    #[must_use]
    pub fn counters(&self) -> Counts {
        self.running.counters.counts(self.since)
    }

    /// What encrypts and authenticates.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How much of the SA's life is over.
    #[must_use]
    pub fn lifetime(&self, now: Instant) -> LifetimeStatus {
        let accepted = self.running.packets.load(Ordering::Relaxed);
        self.expiry
            .status(&self.running.spent, Moment::from(now).age(self.since), accepted)
    }

    /// What has happened to the SA's life and was not told yet. To be asked about every second.
    #[must_use]
    pub fn lifetime_event(&self, now: Instant) -> Option<LifetimeEvent> {
        let accepted = self.running.packets.load(Ordering::Relaxed);
        self.expiry
            .event(&self.running.spent, Moment::from(now).age(self.since), accepted)
    }

    /// Counts a packet that was opened and then dropped, by the policy (RFC 4301 section 5.2) or on its way on.
    pub fn dropped(&self, reason: DropReason) {
        self.running.counters.drop_one(reason);
    }

    /// Authentic packets whose outer ECN field no peer and no router that obeys RFC 6040 makes of the inner one (section 4.2).
    /// Many of them mean that somebody on the way, or the peer, tampers with congestion marks.
    #[must_use]
    pub fn unexpected_ecn(&self) -> u64 {
        self.running.unexpected_ecn.load(Ordering::Relaxed)
    }

    /// The highest sequence number accepted; `None` with anti-replay off.
    #[must_use]
    pub fn highest_sequence(&self) -> Option<u64> {
        self.running.window.as_ref().map(ReplayWindow::highest)
    }
}
