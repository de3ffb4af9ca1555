//! Opening (RFC 4303 section 3.4): packets of one SA or of several through one pipeline.

use std::net::IpAddr;
use std::slice;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_gcm::{Aead, OpenJob, open_mixed};
use ravelin_xdp_common::DropReason;

use super::{InboundSa, Opened, Running, Verified};
use crate::ah::{self, Ah};
use crate::decapsulation::{self, Payload};
use crate::expiry::Spenders;
use crate::ip::{Family, HeaderChain, IpHeader, PROTOCOL_AH, PROTOCOL_ESP, PROTOCOL_UDP, UDP_HEADER_LEN};
use crate::layout::{FIXED_LEN, MAX_BATCH, ranges};
use crate::moment::Moment;
use crate::{Encapsulation, Mode, Packet, ReplayWindow, nonce};

/// Verifies, decrypts and decapsulates each packet in place, and says in the outcome at the same index how it went. `runs` has SAs
/// with how many of the packets are for each, in the packets' order; packets behind them, or beyond [`MAX_BATCH`], are left alone, as
/// are those without an outcome. `now` is read once for many batches.
///
/// Packets of different SAs are decrypted together where the provider can do that, so that SAs with few packets do not cost more.
///
/// # Errors
/// As the outcome of a packet, which must then be dropped: every reason of the group "ESP before and after
/// decryption" but `InnerPolicy`, and the reasons for a malformed outer header.
pub fn open_runs(
    runs: &[(&InboundSa, usize)],
    packets: &mut [Packet<'_>],
    outcomes: &mut [Result<Opened, DropReason>],
    now: Instant,
) {
    let now = Moment::from(now);
    let mut states = ArrayVec::<_, MAX_BATCH>::new();
    let mut fresh = packets.iter_mut().zip(&*outcomes);
    for (sa, count) in runs {
        let room = (*count).min(states.remaining_capacity());
        states.extend(
            fresh
                .by_ref()
                .take(room)
                .map(|(packet, _)| sa.locate(packet, From::Peer)),
        );
    }
    let len = states.len();
    let mut jobs = ArrayVec::new();
    let mut left = &mut *packets;
    for (sa, range) in ranges(runs, len) {
        let (these, behind) = left.split_at_mut(range.len());
        sa.begin(these, &mut states[range], &mut jobs, now);
        left = behind;
    }
    open_mixed(&mut jobs);
    let mut done = jobs.iter();
    for (sa, range) in ranges(runs, len) {
        sa.end(&mut done, &mut states[range]);
    }
    drop(jobs);
    for (sa, range) in ranges(runs, len) {
        sa.finish(
            &mut packets[range.clone()],
            &mut states[range.clone()],
            &mut outcomes[range],
            now,
        );
    }
}

/// Packets on their way to be decrypted, each with its SA's key.
pub(super) type Jobs<'s, 'p> = ArrayVec<(&'s dyn Aead, OpenJob<'p>), MAX_BATCH>;

/// Whence packets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// In tunnel mode from the other end's address.
    Peer,
    Anywhere,
}

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
    /// [`open_runs`] with one SA, and any number of packets.
    pub fn open_batch(
        &self,
        packets: &mut [Packet<'_>],
        outcomes: &mut [Result<Opened, DropReason>],
        now: Instant,
    ) {
        debug_assert_eq!(packets.len(), outcomes.len());
        for (packets, outcomes) in packets.chunks_mut(MAX_BATCH).zip(outcomes.chunks_mut(MAX_BATCH)) {
            let count = packets.len().min(outcomes.len());
            open_runs(&[(self, count)], packets, outcomes, now);
        }
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
        let now = Moment::from(now);
        if let Some(reason) = self.expiry.over(&self.running.spent, now.age(self.since)) {
            outcomes.iter().for_each(|_| self.dropped(reason));
            return outcomes.fill(Err(reason));
        }
        let mut states: ArrayVec<Result<Located, DropReason>, MAX_BATCH> = packets
            .iter_mut()
            .take(MAX_BATCH)
            .map(|packet| self.locate(packet, From::Anywhere))
            .collect();
        let mut jobs = ArrayVec::new();
        // Each is a chance for a forger, as good as any.
        self.begin(packets, &mut states, &mut jobs, now);
        open_mixed(&mut jobs);
        self.end(&mut jobs.iter(), &mut states);
        drop(jobs);
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

    /// Asks the window for located packets, and leaves those that pass to be decrypted among `jobs`; with AH they are verified then.
    #[inline]
    fn begin<'s, 'p>(
        &'s self,
        packets: &'p mut [Packet<'_>],
        states: &mut [Result<Located, DropReason>],
        jobs: &mut Jobs<'s, 'p>,
        now: Moment,
    ) {
        self.admit(states, now);
        self.make_jobs(packets, states, jobs);
    }

    /// Asks the window for located packets.
    #[inline]
    pub(super) fn admit(&self, states: &mut [Result<Located, DropReason>], now: Moment) {
        if let Some(reason) = self.expiry.over(&self.running.spent, now.age(self.since)) {
            return states.fill(Err(reason));
        }
        // RFC 4303 section 3.4.3: "Duplicates are rejected through the use of a sliding receive window", first of all,
        // so that a replay costs no decryption …
        self.check_window(states);
        self.spend_icvs(states);
    }

    /// Leaves packets to be decrypted among `jobs`; with AH they are verified then.
    #[inline]
    pub(super) fn make_jobs<'s, 'p>(
        &'s self,
        packets: &'p mut [Packet<'_>],
        states: &mut [Result<Located, DropReason>],
        jobs: &mut Jobs<'s, 'p>,
    ) {
        if let Some(ah) = self.ah {
            return self.verify(ah, packets, states);
        }
        for (packet, state) in packets.iter_mut().zip(states) {
            let Ok(located) = state else { continue };
            match self.open_job(packet, located) {
                Some(job) => jobs.push((&*self.aead, job)),
                None => *state = Err(DropReason::EspTruncated),
            }
        }
    }

    /// Takes over how the jobs went that [`InboundSa::make_jobs`] has made for these packets.
    pub(super) fn end(
        &self,
        done: &mut slice::Iter<'_, (&dyn Aead, OpenJob<'_>)>,
        states: &mut [Result<Located, DropReason>],
    ) {
        if self.ah.is_some() {
            return;
        }
        for (state, (_, job)) in states.iter_mut().filter(|state| state.is_ok()).zip(done) {
            if !job.is_verified() {
                *state = Err(DropReason::IcvMismatch);
            }
        }
    }

    /// What is left to do once packets are decrypted.
    pub(super) fn finish(
        &self,
        packets: &mut [Packet<'_>],
        states: &mut [Result<Located, DropReason>],
        outcomes: &mut [Result<Opened, DropReason>],
        now: Moment,
    ) {
        let age = now.age(self.since);
        self.record(states, age);
        let mut unexpected_ecn = 0;
        for ((packet, state), outcome) in packets.iter_mut().zip(&*states).zip(&mut *outcomes) {
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

    /// Finds the ESP header and checks all that needs no key.
    #[inline(always)]
    pub(super) fn locate(&self, packet: &mut Packet<'_>, from: From) -> Result<Located, DropReason> {
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

    /// Drops replays and completes the sequence numbers of the rest.
    fn check_window(&self, states: &mut [Result<Located, DropReason>]) {
        let Some(window) = &self.running.window else {
            return;
        };
        for state in states {
            // In place: what is as long as this is not to be moved for a word of it.
            let Ok(located) = state else { continue };
            match window.check(located.sequence as u32) {
                Ok(sequence) => located.sequence = sequence,
                Err(reason) => *state = Err(reason),
            }
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

    /// Records the authentic packets' numbers, of which only one passes if several have the same, and drops what the SA's life is too
    /// short for.
    fn record(&self, states: &mut [Result<Located, DropReason>], age: u64) {
        let Running {
            spent,
            packets,
            window,
            ..
        } = &self.running;
        // … "The receive window is updated only if the integrity verification succeeds."
        let mut recorder = window.as_ref().map(ReplayWindow::recorder);
        if let Some(recorder) = &mut recorder {
            for state in &mut *states {
                let Ok(located) = state else { continue };
                if let Err(reason) = recorder.accept(located.sequence) {
                    *state = Err(reason);
                }
            }
        }
        // Nobody else spends while this thread records.
        let spenders = if recorder.is_some() {
            Spenders::One
        } else {
            Spenders::Many
        };
        let ready = states.iter().flatten();
        let room = self
            .expiry
            .spend_packets(spent, packets, ready.clone().count(), spenders);
        let lengths = ready.take(room).map(|located| self.processed_len(located));
        let room = self.expiry.spend_bytes(spent, &lengths, spenders);
        drop(recorder);
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

    /// With AH.
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

    #[inline(always)]
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
