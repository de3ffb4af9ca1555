//! The sending side of an SA (RFC 4303 section 3.3).

use std::mem::offset_of;
use std::num::NonZero;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Instant;

use ravelin_gcm::{Aead, Algorithm, Provider, prefetch};
use ravelin_xdp_common::DropReason;

use crate::ah::Ah;
use crate::counters::{Counters, Counts};
use crate::expiry::{Expiry, LifetimeStatus, Spent};
use crate::ip::{Family, IpHeader, UDP_HEADER_LEN};
use crate::layout::Layout;
use crate::lifetime::LifetimeEvent;
use crate::moment::Moment;
use crate::nonce::Salt;
use crate::outer_header::OuterHeader;
use crate::parameters::check_path_mtu;
use crate::sequence::SequenceStart;
use crate::wipe::wiping_stack;
use crate::{Encapsulation, Mode, Protocol, SaError, SaParameters, SequenceCounter, TfcPadding};

mod batch;
mod sealing;

pub use batch::SealingBatch;
pub use sealing::seal_runs;

/// A packet that may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its sequence number, all 64 bits of it.
    pub sequence: u64,
}

/// An SA to send with, usable from any number of threads at once.
#[derive(Debug)]
#[repr(C)]
pub struct OutboundSa {
    spi: u32,
    extended: bool,
    /// `None` in transport mode.
    pub(crate) outer: Option<OuterHeader>,
    encapsulation: Encapsulation,
    /// IP protocol of sealed packets.
    carrier: u8,
    udp_zero_checksum: bool,
    aead: Box<dyn Aead>,
    salt: Salt,
    pub(crate) layout: Layout,
    /// `None` for ESP. Then `layout` is not used.
    pub(crate) ah: Option<Ah>,
    tfc_padding: TfcPadding,
    mode: Mode,
    algorithm: Algorithm,
    since: Moment,
    expiry: Expiry,
    /// Bytes; 0 for none.
    path_mtu: AtomicU32,
    /// The longest clear packet that fits it; every packet is asked about that.
    inner_mtu: AtomicU32,
    /// Where UDP goes to; not used without it.
    destination_port: AtomicU16,
    /// Last, with its counters of what goes wrong at the very end: what a batch needs lies together.
    running: Running,
}

/// What every batch writes, on cache lines of its own: workers that share an SA would else take from each other what they
/// only read.
#[derive(Debug)]
#[repr(C, align(128))]
struct Running {
    sequence: SequenceCounter,
    spent: Spent,
    counters: Counters,
}

// What a batch without failures writes is one line.
const _: () = assert!(offset_of!(Running, counters) + Counters::WRITTEN_BY_EVERY_BATCH <= 64);

impl OutboundSa {
    /// Checks `parameters` and expands the key. Sequence numbers go on after `start`, 0 for a new key; none may be
    /// used before [`SequenceCounter::raise_ceiling`] was called on [`OutboundSa::sequence`]. The SA's life begins `now`.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(
        parameters: SaParameters,
        provider: Provider,
        start: impl Into<SequenceStart>,
        now: Instant,
    ) -> Result<Self, SaError> {
        let start = start.into();
        let last_used = start.last_used;
        parameters.validate()?;
        let extended = parameters.extended_sequence_numbers;
        let limit = SequenceCounter::limit_of(extended);
        if last_used > limit {
            return Err(SaError::SequenceMark {
                mark: last_used,
                limit,
            });
        }
        let SaParameters {
            spi,
            mode,
            encapsulation,
            path_mtu,
            udp_zero_checksum,
            tfc_padding,
            algorithm,
            ..
        } = parameters;
        let carrier = parameters.carrier();
        let layout = Layout::new(algorithm, parameters.implicit_iv);
        let ah = (parameters.protocol == Protocol::Ah).then(|| Ah::new(algorithm));
        let expiry = Expiry::outbound(&parameters.lifetime, algorithm, last_used, limit);
        let outer = match mode {
            Mode::Tunnel { local, remote } => {
                let options = &parameters.outer;
                Some(OuterHeader::new(local, remote, carrier, spi, options))
            }
            Mode::Transport => None,
        };
        let (aead, salt) = wiping_stack(|| parameters.into_key(provider))?;
        let sa = Self {
            spi,
            extended,
            outer,
            encapsulation,
            carrier,
            udp_zero_checksum,
            aead,
            salt,
            layout,
            ah,
            tfc_padding,
            mode,
            algorithm,
            since: now.into(),
            path_mtu: AtomicU32::new(0),
            inner_mtu: AtomicU32::new(0),
            destination_port: AtomicU16::new(match encapsulation {
                Encapsulation::None => 0,
                Encapsulation::Udp { destination_port, .. } => destination_port,
            }),
            running: Running {
                sequence: SequenceCounter::limited(extended, start, expiry.last_number()),
                spent: expiry.begin(),
                counters: Counters::default(),
            },
            expiry,
        };
        sa.set_path_mtu(path_mtu)?;
        Ok(sa)
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

    /// Has the cache fetch what sealing reads and writes of the SA, but for its [key](Self::prefetch_key).
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self, offset_of!(Self, running) + offset_of!(Running, counters));
    }

    /// The same for its key, for which the SA itself is read.
    #[inline]
    pub fn prefetch_key(&self) {
        self.aead.prefetch();
    }

    /// The AEAD implementation in use.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.aead.provider()
    }

    /// The sequence numbers of this SA.
    #[must_use]
    pub fn sequence(&self) -> &SequenceCounter {
        &self.running.sequence
    }

    /// What was sealed so far, and what was not.
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
        let Running { sequence, spent, .. } = &self.running;
        let packets = self.expiry.packets_at(sequence.last_used());
        self.expiry
            .status(spent, Moment::from(now).age(self.since), packets)
    }

    /// What has happened to the SA's life and was not told yet. To be asked about every second.
    #[must_use]
    pub fn lifetime_event(&self, now: Instant) -> Option<LifetimeEvent> {
        let Running { sequence, spent, .. } = &self.running;
        let packets = self.expiry.packets_at(sequence.last_used());
        self.expiry
            .event(spent, Moment::from(now).age(self.since), packets)
    }

    /// Counts a packet that was for this SA and dropped before it got here: it would not fit, or no router forwards it.
    pub fn dropped(&self, reason: DropReason) {
        self.running.counters.drop_one(reason);
    }

    /// Sets the longest outer packet in bytes, as path MTU discovery learns it.
    ///
    /// # Errors
    /// [`SaError::PathMtu`]; the old value stays.
    pub fn set_path_mtu(&self, path_mtu: Option<u32>) -> Result<(), SaError> {
        check_path_mtu(self.mode, path_mtu)?;
        let inner_mtu = path_mtu.map_or(0, |path_mtu| self.inner_mtu_of(path_mtu));
        self.inner_mtu.store(inner_mtu, Ordering::Relaxed);
        self.path_mtu.store(path_mtu.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// What stands between IP and ESP, with the destination port of the moment.
    #[must_use]
    pub fn encapsulation(&self) -> Encapsulation {
        match self.encapsulation {
            Encapsulation::None => Encapsulation::None,
            Encapsulation::Udp { source_port, .. } => Encapsulation::Udp {
                source_port,
                destination_port: self.destination_port.load(Ordering::Relaxed),
            },
        }
    }

    /// Sends to another UDP port from now on, because the peer has one: it is up to the caller that the peer itself said so
    /// ([`InboundSa::verify_batch`](crate::InboundSa::verify_batch)). Without UDP encapsulation nothing changes.
    ///
    /// RFC 7296 section 2.23 calls it a dynamic update of the address.
    pub fn set_destination_port(&self, port: NonZero<u16>) {
        self.destination_port.store(port.get(), Ordering::Relaxed);
    }

    /// When a packet was last sealed, to the millisecond; `None` if none was.
    #[must_use]
    pub fn last_used(&self) -> Option<Instant> {
        self.running.counters.last_used(self.since)
    }

    /// The length in bytes, from the IP header on, that clear packets are padded to at the moment; `None` without padding. As
    /// long as that a dummy looks like other packets.
    #[must_use]
    pub fn tfc_length(&self) -> Option<u32> {
        let path_mtu = self.path_mtu();
        let padded = self.tfc_padding.length(path_mtu);
        let longest = path_mtu.map_or(usize::MAX, |path_mtu| self.inner_mtu_of(path_mtu) as usize);
        (padded != 0).then(|| padded.min(longest) as u32)
    }

    /// The longest outer packet in bytes, if limited.
    #[must_use]
    pub fn path_mtu(&self) -> Option<u32> {
        match self.path_mtu.load(Ordering::Relaxed) {
            0 => None,
            mtu => Some(mtu),
        }
    }

    /// The longest clear packet in bytes, from its IP header on, that fits the path MTU once sealed; one byte more does
    /// not. What an ICMP "packet too big" must say. `None` without a path MTU.
    ///
    /// In transport mode with CBC, whose blocks are longer than the units of IP headers, it holds for every packet, and a
    /// few bytes more may fit behind some headers.
    #[must_use]
    pub fn inner_mtu(&self) -> Option<u32> {
        Some(self.inner_mtu.load(Ordering::Relaxed)).filter(|_| self.path_mtu().is_some())
    }

    /// What [`OutboundSa::inner_mtu`] would be under another path MTU.
    ///
    /// # Errors
    /// [`SaError::PathMtu`] for one that the SA does not take.
    pub fn inner_mtu_at(&self, path_mtu: u32) -> Result<u32, SaError> {
        check_path_mtu(self.mode, Some(path_mtu))?;
        Ok(self.inner_mtu_of(path_mtu))
    }

    /// `path_mtu` was checked.
    fn inner_mtu_of(&self, path_mtu: u32) -> u32 {
        let room = path_mtu as usize - self.fixed_overhead();
        if self.ah.is_some() {
            return room as u32;
        }
        let behind = |kept: usize| kept + self.layout.payload_len(room - kept);
        let inner_mtu = match self.mode {
            Mode::Tunnel { .. } => behind(0),
            // The headers in front are multiples of 4 bytes: all rests of a division by 16.
            Mode::Transport => [20, 24, 28, 32].map(behind).into_iter().min().unwrap_or(0),
        };
        inner_mtu as u32
    }

    /// Bytes of the sealed packet, from its IP header on, for a clear packet of `len` bytes, of which `kept` bytes of
    /// headers stay in front of ESP: 0 in tunnel mode. Without [`TfcPadding`].
    #[must_use]
    pub fn sealed_len(&self, len: usize, kept: usize) -> usize {
        match self.ah {
            Some(_) => self.fixed_overhead() + len,
            None => self.fixed_overhead() + kept + self.layout.ciphertext_len(len - kept),
        }
    }

    /// Bytes that sealing adds, whatever the packet, without trailer. AH in transport mode counts as over IPv6, where it is
    /// never shorter than over IPv4.
    fn fixed_overhead(&self) -> usize {
        let family = self.outer.as_ref().map_or(Family::V6, OuterHeader::family);
        let protection = match self.ah {
            Some(ah) => ah.header_len(family),
            None => self.layout.header_len() + self.layout.icv_len(),
        };
        self.outer.as_ref().map_or(0, OuterHeader::len) + self.udp_len() + protection
    }

    /// Family of the sealed packet.
    pub(crate) fn wire_family(&self, header: &IpHeader) -> Family {
        self.outer.as_ref().map_or(header.family, OuterHeader::family)
    }

    /// Bytes between the headers and a payload of `payload_len` bytes, which is padded to `padded_len`, and behind it.
    pub(crate) fn around(&self, family: Family, payload_len: usize, padded_len: usize) -> (usize, usize) {
        match self.ah {
            Some(ah) => (ah.header_len(family), 0),
            None => (
                self.layout.header_len(),
                self.layout.ciphertext_len(padded_len) - payload_len + self.layout.icv_len(),
            ),
        }
    }

    pub(crate) fn udp_len(&self) -> usize {
        match self.encapsulation {
            Encapsulation::None => 0,
            Encapsulation::Udp { .. } => UDP_HEADER_LEN,
        }
    }
}
