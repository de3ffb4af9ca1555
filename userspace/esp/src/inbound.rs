//! The receiving side of an SA (RFC 4303 section 3.4).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_gcm::{Aead, Algorithm, OpenJob, Provider};
use ravelin_xdp_common::DropReason;

use crate::ah::{self, Ah};
use crate::counters::{Counters, Counts, age};
use crate::decapsulation::{self, Payload};
use crate::expiry::{Expiry, LifetimeStatus, Spent};
use crate::ip::{Family, HeaderChain, IpHeader, PROTOCOL_AH, PROTOCOL_ESP, PROTOCOL_UDP, UDP_HEADER_LEN};
use crate::layout::{FIXED_LEN, Layout, MAX_BATCH};
use crate::lifetime::LifetimeEvent;
use crate::nat::ChecksumFixUp;
use crate::nonce::{self, Salt};
use crate::outer_options::{DSCP_MASK, InnerDscp};
use crate::wipe::wiping_stack;
use crate::{Encapsulation, Mode, Packet, Protocol, ReplayWindow, SaError, SaParameters, SequenceCounter};

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

/// Whence packets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// In tunnel mode from the other end's address.
    Peer,
    Anywhere,
}

/// An SA to receive with, usable from any number of threads at once.
#[derive(Debug)]
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
    since: Instant,
    expiry: Expiry,
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
    /// `None` with anti-replay off. Locked twice per batch, never while a packet is decrypted.
    window: Option<Mutex<ReplayWindow>>,
    unexpected_ecn: AtomicU64,
    counters: Counters,
}

// What a batch without failures writes is two lines.
const _: () = assert!(std::mem::offset_of!(Running, counters) + Counters::WRITTEN_BY_EVERY_BATCH <= 128);

/// Where the parts of a received packet are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) header: IpHeader,
    /// Bytes of the IP header and its extension headers.
    pub(crate) ip_len: usize,
    /// The byte that names ESP, or UDP.
    pub(crate) next_header_at: usize,
    /// Offset of the ESP header.
    pub(crate) esp_at: usize,
    /// Low half of the sequence number, later all of it.
    pub(crate) sequence: u64,
}

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
        let window = (replay_window != 0)
            .then(|| Mutex::new(ReplayWindow::new(replay_window, extended, highest_seen)));
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
            since: now,
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
            .status(&self.running.spent, age(self.since, now), accepted)
    }

    /// What has happened to the SA's life and was not told yet. To be asked about every second.
    #[must_use]
    pub fn lifetime_event(&self, now: Instant) -> Option<LifetimeEvent> {
        let accepted = self.running.packets.load(Ordering::Relaxed);
        self.expiry
            .event(&self.running.spent, age(self.since, now), accepted)
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
        self.lock_window().map(|window| window.highest())
    }

    /// Verifies, decrypts and decapsulates each packet in place, and says in the outcome at the same index how it went.
    /// The slices have equal lengths; packets without an outcome are left alone. `now` is read once for many batches.
    ///
    /// # Errors
    /// As the outcome of a packet, which must then be dropped: every reason of the group "ESP before and after
    /// decryption" but `InnerPolicy`, and the reasons for a malformed outer header.
    pub fn open_batch(
        &self,
        packets: &mut [Packet<'_>],
        outcomes: &mut [Result<Opened, DropReason>],
        now: Instant,
    ) {
        debug_assert_eq!(packets.len(), outcomes.len());
        let age = age(self.since, now);
        for (packets, outcomes) in packets.chunks_mut(MAX_BATCH).zip(outcomes.chunks_mut(MAX_BATCH)) {
            self.open_chunk(packets, outcomes, age);
        }
    }

    fn open_chunk(&self, packets: &mut [Packet<'_>], outcomes: &mut [Result<Opened, DropReason>], age: u64) {
        if let Some(reason) = self.expiry.over(&self.running.spent, age) {
            outcomes.fill(Err(reason));
            return self.running.counters.add(outcomes, std::iter::empty(), age);
        }
        let mut states: ArrayVec<Result<Located, DropReason>, MAX_BATCH> = packets
            .iter_mut()
            .zip(&*outcomes)
            .map(|(packet, _)| self.locate(packet, From::Peer))
            .collect();
        // RFC 4303 section 3.4.3: "Duplicates are rejected through the use of a sliding receive window", first of all,
        // so that a replay costs no decryption …
        self.check_window(&mut states);
        self.spend_icvs(&mut states);
        self.decrypt(packets, &mut states);
        // … "The receive window is updated only if the integrity verification succeeds."
        self.update_window(&mut states);
        self.spend(&mut states, age);
        let mut unexpected_ecn = 0;
        for ((packet, state), outcome) in packets.iter_mut().zip(&states).zip(&mut *outcomes) {
            *outcome = state.and_then(|located| {
                let payload = match self.ah {
                    None => Payload::of_esp(packet, located.esp_at, self.layout)?,
                    Some(ah) => {
                        let len = ah.received_len(packet.bytes(), located.esp_at, located.header.family)?;
                        Payload::of_ah(packet, located.esp_at, len)?
                    }
                };
                match self.mode {
                    Mode::Tunnel { .. } => {
                        let dscp_copied = self.dscp_copied;
                        decapsulation::tunnel(packet, &located, payload, dscp_copied, &mut unexpected_ecn)?;
                    }
                    Mode::Transport => {
                        decapsulation::transport(packet, &located, payload, self.fix_up.as_ref())?;
                    }
                }
                Ok(Opened {
                    sequence: located.sequence,
                })
            });
        }
        if unexpected_ecn != 0 {
            let total = &self.running.unexpected_ecn;
            total.fetch_add(unexpected_ecn, Ordering::Relaxed);
        }
        let lengths = packets.iter().map(|packet| packet.len() as u64);
        self.running.counters.add(outcomes, lengths, age);
    }

    /// Finds out which packets are authentic and fresh, wherever they come from, and does nothing with them: no number counts as
    /// seen, and what the packets hold is unspecified afterwards. For packets to us that are not from the peer's address and
    /// port, and may say that it has moved. At most [`MAX_BATCH`] packets; slices as for [`InboundSa::open_batch`].
    ///
    /// RFC 7296 section 2.23: "dynamic address update should only be done in response to a new packet; otherwise, an attacker
    /// can revert the addresses with old replayed packets."
    ///
    /// # Errors
    /// As the outcome of a packet: those of [`InboundSa::open_batch`] that come before decapsulation.
    pub fn verify_batch(
        &self,
        packets: &mut [Packet<'_>],
        outcomes: &mut [Result<Verified, DropReason>],
        now: Instant,
    ) {
        debug_assert!(packets.len() == outcomes.len() && packets.len() <= MAX_BATCH);
        if let Some(reason) = self.expiry.over(&self.running.spent, age(self.since, now)) {
            outcomes.iter().for_each(|_| self.dropped(reason));
            return outcomes.fill(Err(reason));
        }
        let mut states: ArrayVec<Result<Located, DropReason>, MAX_BATCH> = packets
            .iter_mut()
            .take(MAX_BATCH)
            .map(|packet| self.locate(packet, From::Anywhere))
            .collect();
        self.check_window(&mut states);
        // Each is a chance for a forger, as good as any.
        self.spend_icvs(&mut states);
        self.decrypt(packets, &mut states);
        let highest = self.highest_sequence().unwrap_or(u64::MAX);
        for (state, outcome) in states.iter().zip(outcomes) {
            *outcome = state.map(|located| Verified {
                sequence: located.sequence,
                newest: located.sequence > highest,
            });
            if let Err(reason) = state {
                self.running.counters.drop_one(*reason);
            }
        }
    }

    /// Finds the ESP header and checks all that needs no key.
    fn locate(&self, packet: &mut Packet<'_>, from: From) -> Result<Located, DropReason> {
        let header = IpHeader::parse(packet.bytes())?;
        packet.truncate(header.total_len);
        let bytes = packet.bytes();
        let chain = HeaderChain::walk(bytes, &header)?;
        // RFC 4303 section 3.4.1: "If a packet offered to ESP for processing appears to be an IP fragment … the
        // receiver MUST discard the packet".
        if chain.fragment {
            return Err(DropReason::EspFragment);
        }
        if let Mode::Tunnel { local, remote } = self.mode {
            let (source, destination) = match header.family {
                Family::V4 => (&bytes[12..16], &bytes[16..20]),
                Family::V6 => (&bytes[8..24], &bytes[24..40]),
            };
            if !is_address(destination, local) || (from == From::Peer && !is_address(source, remote)) {
                return Err(DropReason::SpiWrongEndpoint);
            }
        }
        let ip_len = chain.upper.offset;
        let esp_at = match (self.encapsulation, chain.upper.next_header) {
            (Encapsulation::None, PROTOCOL_ESP) if self.ah.is_none() => ip_len,
            (Encapsulation::None, PROTOCOL_AH) if self.ah.is_some() => ip_len,
            (Encapsulation::Udp { destination_port, .. }, PROTOCOL_UDP) => {
                check_udp(&bytes[ip_len..], destination_port)?;
                ip_len + UDP_HEADER_LEN
            }
            _ => return Err(DropReason::SpiWrongEndpoint),
        };
        let esp = match self.ah {
            None => bytes.get(esp_at..).unwrap_or_default(),
            Some(ah) => {
                ah.received_len(bytes, esp_at, header.family)?;
                // SPI and sequence number stand behind next header, length and two reserved bytes.
                bytes.get(esp_at + 4..).unwrap_or_default()
            }
        };
        let fixed: &[u8; FIXED_LEN] = esp.first_chunk().ok_or(DropReason::EspTruncated)?;
        let (words, _) = fixed.as_chunks::<4>();
        let (spi, sequence) = (u32::from_be_bytes(words[0]), u32::from_be_bytes(words[1]));
        if spi != self.spi {
            return Err(if spi <= 255 {
                DropReason::SpiReserved
            } else {
                DropReason::SpiUnknown
            });
        }
        let layout = self.layout;
        if self.ah.is_none() && esp.len() < layout.min_len() {
            return Err(DropReason::EspTruncated);
        }
        if self.ah.is_none()
            && (esp.len() - layout.header_len() - layout.icv_len()) & (layout.align() - 1) != 0
        {
            return Err(DropReason::EspMisaligned);
        }
        let (next_header_at, sequence) = (chain.upper.next_header_at, u64::from(sequence));
        Ok(Located {
            header,
            ip_len,
            next_header_at,
            esp_at,
            sequence,
        })
    }

    fn lock_window(&self) -> Option<MutexGuard<'_, ReplayWindow>> {
        // Nothing panics while it holds the lock, and the window is consistent between any two steps.
        self.running
            .window
            .as_ref()
            .map(|window| window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Drops replays and completes the sequence numbers of the rest.
    fn check_window(&self, states: &mut [Result<Located, DropReason>]) {
        let Some(window) = self.lock_window() else { return };
        for state in states {
            *state = state.and_then(|mut located| {
                located.sequence = window.check(located.sequence as u32)?;
                Ok(located)
            });
        }
    }

    /// Drops what may not be verified any more under this key.
    fn spend_icvs(&self, states: &mut [Result<Located, DropReason>]) {
        let Running { spent, icvs, .. } = &self.running;
        let room = self
            .expiry
            .spend_icvs(spent, icvs, states.iter().flatten().count());
        expire_behind(room, states);
    }

    /// Drops what the SA's life is too short for. What comes so far was authentic and fresh.
    fn spend(&self, states: &mut [Result<Located, DropReason>], age: u64) {
        let Running { spent, packets, .. } = &self.running;
        let ready = states.iter().flatten();
        let room = self.expiry.spend_packets(spent, packets, ready.clone().count());
        let lengths = ready.take(room).map(|located| self.processed_len(located));
        let room = self.expiry.spend_bytes(spent, &lengths);
        self.expiry.notice(spent, age, packets.load(Ordering::Relaxed));
        expire_behind(room, states);
    }

    /// Bytes that the packet's algorithm was applied to.
    fn processed_len(&self, located: &Located) -> u64 {
        let around = match self.ah {
            None => located.esp_at + self.layout.header_len() + self.layout.icv_len(),
            Some(_) => 0,
        };
        (located.header.total_len - around) as u64
    }

    fn decrypt(&self, packets: &mut [Packet<'_>], states: &mut [Result<Located, DropReason>]) {
        if let Some(ah) = self.ah {
            return self.verify(ah, packets, states);
        }
        let mut jobs = ArrayVec::<OpenJob<'_>, MAX_BATCH>::new();
        for (packet, state) in packets.iter_mut().zip(&mut *states) {
            *state = state.and_then(|located| {
                jobs.push(self.open_job(packet, &located).ok_or(DropReason::EspTruncated)?);
                Ok(located)
            });
        }
        self.aead.open_batch(&mut jobs);
        for (job, state) in jobs.iter().zip(states.iter_mut().filter(|state| state.is_ok())) {
            if !job.is_verified() {
                *state = Err(DropReason::IcvMismatch);
            }
        }
    }

    /// What `decrypt` is for ESP, for AH.
    fn verify(&self, ah: Ah, packets: &mut [Packet<'_>], states: &mut [Result<Located, DropReason>]) {
        let key = ah::Key {
            aead: &*self.aead,
            salt: &self.salt,
        };
        for (packet, state) in packets.iter_mut().zip(states) {
            *state = state.and_then(|located| {
                let place = ah::Place {
                    family: located.header.family,
                    at: located.esp_at,
                    sequence: located.sequence,
                    extended: self.extended,
                };
                ah.verify(key, packet, place).map(|()| located)
            });
        }
    }

    fn open_job<'p>(&self, packet: &'p mut Packet<'_>, located: &Located) -> Option<OpenJob<'p>> {
        let (header, sealed) = packet
            .bytes_mut()
            .split_at_mut_checked(located.esp_at + self.layout.header_len())?;
        let icv_at = sealed.len().checked_sub(self.layout.icv_len())?;
        let (ciphertext, icv) = sealed.split_at_mut(icv_at);
        let iv = header.get(located.esp_at + FIXED_LEN..)?;
        let nonce = if iv.is_empty() {
            self.salt.nonce(&located.sequence.to_be_bytes())
        } else {
            self.salt.nonce(iv)
        };
        let aad = nonce::associated_data(self.spi, located.sequence, self.extended);
        Some(OpenJob::new(nonce, aad, ciphertext, icv))
    }

    /// Records the authentic packets' numbers; of two with the same number only one passes.
    fn update_window(&self, states: &mut [Result<Located, DropReason>]) {
        let Some(mut window) = self.lock_window() else {
            return;
        };
        for state in states {
            *state = state.and_then(|located| window.accept(located.sequence).map(|()| located));
        }
    }
}

/// Drops all but the first `room` of those that were not dropped yet.
fn expire_behind(room: usize, states: &mut [Result<Located, DropReason>]) {
    for state in states.iter_mut().filter(|state| state.is_ok()).skip(room) {
        *state = Err(DropReason::LifetimeExpired);
    }
}

/// Checks the UDP header that `bytes` begin with.
fn check_udp(bytes: &[u8], destination_port: u16) -> Result<(), DropReason> {
    let udp: &[u8; UDP_HEADER_LEN] = bytes.first_chunk().ok_or(DropReason::TransportTruncated)?;
    if u16::from_be_bytes([udp[2], udp[3]]) != destination_port {
        return Err(DropReason::SpiWrongEndpoint);
    }
    if usize::from(u16::from_be_bytes([udp[4], udp[5]])) != bytes.len() {
        return Err(DropReason::TransportBadLength);
    }
    Ok(())
}

/// Whether the bytes of a header's field are this address.
fn is_address(field: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => field == address.octets(),
        IpAddr::V6(address) => field == address.octets(),
    }
}
