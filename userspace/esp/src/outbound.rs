//! The sending side of an SA (RFC 4303 section 3.3).

use std::iter::Take;
use std::num::NonZero;
use std::slice;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_gcm::{Aead, Algorithm, Provider, SealJob};
use ravelin_xdp_common::DropReason;

use crate::ah::{self, Ah};
use crate::counters::{Counters, Counts, age};
use crate::expiry::{Expiry, LifetimeStatus, Spent};
use crate::ip::{self, Family, IpHeader, UDP_HEADER_LEN};
use crate::layout::{FIXED_LEN, Layout, MAX_BATCH};
use crate::lifetime::LifetimeEvent;
use crate::nonce::{self, Salt};
use crate::outer_header::{self, OuterHeader};
use crate::parameters::check_path_mtu;
use crate::plan::Plan;
use crate::sequence::{SequenceNumber, SequenceNumbers, SequenceStart};
use crate::wipe::wiping_stack;
use crate::{
    Encapsulation, Mode, NoRoom, Packet, Protocol, SaError, SaParameters, SequenceCounter, TfcPadding,
    trailer,
};

/// A packet that may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its sequence number, all 64 bits of it.
    pub sequence: u64,
}

/// An SA to send with, usable from any number of threads at once.
#[derive(Debug)]
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
    since: Instant,
    expiry: Expiry,
    /// Bytes; 0 for none.
    path_mtu: AtomicU32,
    /// Where UDP goes to; not used without it.
    destination_port: AtomicU16,
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
const _: () = assert!(std::mem::offset_of!(Running, counters) + Counters::WRITTEN_BY_EVERY_BATCH <= 64);

/// The sequence numbers of a batch.
struct Numbers {
    granted: Take<SequenceNumbers>,
    /// Why there is none when they are used up.
    missing: DropReason,
}

impl Numbers {
    fn next(&mut self) -> Result<SequenceNumber, DropReason> {
        self.granted.next().ok_or(self.missing)
    }
}

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
        Ok(Self {
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
            since: now,
            path_mtu: AtomicU32::new(path_mtu.unwrap_or(0)),
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
        self.expiry.status(spent, age(self.since, now), packets)
    }

    /// What has happened to the SA's life and was not told yet. To be asked about every second.
    #[must_use]
    pub fn lifetime_event(&self, now: Instant) -> Option<LifetimeEvent> {
        let Running { sequence, spent, .. } = &self.running;
        let packets = self.expiry.packets_at(sequence.last_used());
        self.expiry.event(spent, age(self.since, now), packets)
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
        Some(self.inner_mtu_of(self.path_mtu()?))
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

    /// Encrypts and encapsulates each packet in place, and says in the outcome at the same index how it went. The
    /// slices have equal lengths; packets without an outcome are left alone. `now` is read once for many batches.
    ///
    /// # Errors
    /// As the outcome of a packet, which must then not be sent: `PacketTooBig` (see [`OutboundSa::inner_mtu`]),
    /// `FrameShort`, `FragmentTransport`, `SequenceExhausted`, `LifetimeExpired`, and the reasons for a malformed IP
    /// header. Only packets that pass every other check take a sequence number.
    pub fn seal_batch(
        &self,
        packets: &mut [Packet<'_>],
        outcomes: &mut [Result<Sealed, DropReason>],
        now: Instant,
    ) {
        debug_assert_eq!(packets.len(), outcomes.len());
        let age = age(self.since, now);
        for (packets, outcomes) in packets.chunks_mut(MAX_BATCH).zip(outcomes.chunks_mut(MAX_BATCH)) {
            self.seal_chunk(packets, outcomes, age);
        }
    }

    fn seal_chunk(&self, packets: &mut [Packet<'_>], outcomes: &mut [Result<Sealed, DropReason>], age: u64) {
        let path_mtu = self.path_mtu();
        let padded = self.tfc_padding.length(path_mtu);
        let longest = longest(path_mtu);
        let plans: ArrayVec<_, MAX_BATCH> = packets
            .iter_mut()
            .zip(&*outcomes)
            .map(|(packet, _)| self.plan(packet, longest, padded))
            .collect();
        self.seal_planned(packets, &plans, outcomes, age);
    }

    /// Seals a packet whatever the path MTU: the sealed packet is to be fragmented.
    ///
    /// RFC 4303 section 3.3.4: "If necessary, fragmentation is performed after ESP processing within an IPsec implementation."
    ///
    /// # Errors
    /// As [`OutboundSa::seal_batch`]; `PacketTooBig` only beyond what an IP packet holds.
    pub fn seal_unfitted(&self, packet: &mut Packet<'_>, now: Instant) -> Result<Sealed, DropReason> {
        let padded = self.tfc_padding.length(self.path_mtu());
        let plan = self.plan(packet, longest(None), padded);
        let mut outcome = [Err(DropReason::SaMissing)];
        self.seal_planned(
            slice::from_mut(packet),
            &[plan],
            &mut outcome,
            age(self.since, now),
        );
        outcome[0]
    }

    /// Seals a dummy (RFC 4303 section 2.6), which the peer discards, so that those who watch cannot tell when there is nothing
    /// to say. In tunnel mode the bytes of `packet` are what the dummy carries, of whatever kind; make it as long as other
    /// packets are. In transport mode `packet` is an IP packet to the peer whose protocol is 59.
    ///
    /// It takes a sequence number, and counts as any packet.
    ///
    /// # Errors
    /// As [`OutboundSa::seal_batch`]; `NextHeader` in transport mode for a packet of another protocol, and for AH.
    pub fn seal_dummy(&self, packet: &mut Packet<'_>, now: Instant) -> Result<Sealed, DropReason> {
        let plan = self.plan_dummy(packet, longest(self.path_mtu()));
        let mut outcome = [Err(DropReason::SaMissing)];
        self.seal_planned(
            slice::from_mut(packet),
            &[plan],
            &mut outcome,
            age(self.since, now),
        );
        outcome[0]
    }

    /// Seals the packets for which there is a plan.
    fn seal_planned(
        &self,
        packets: &mut [Packet<'_>],
        plans: &[Result<Plan, DropReason>],
        outcomes: &mut [Result<Sealed, DropReason>],
        age: u64,
    ) {
        if let Some(reason) = self.expiry.over(&self.running.spent, age) {
            outcomes.fill(Err(reason));
            return self.running.counters.add(outcomes, std::iter::empty(), age);
        }
        let numbers = self.number(plans, age);
        match self.ah {
            None => self.encrypt(packets, plans, numbers, outcomes),
            Some(ah) => self.authenticate(ah, packets, plans, numbers, outcomes),
        }
        let lengths = plans
            .iter()
            .map(|plan| plan.as_ref().map_or(0, |plan| plan.header.total_len as u64));
        self.running.counters.add(outcomes, lengths, age);
    }

    /// Sequence numbers for the packets that are ready, as far as the SA's life lasts.
    fn number(&self, plans: &[Result<Plan, DropReason>], age: u64) -> Numbers {
        let Running { sequence, spent, .. } = &self.running;
        let ready = plans.iter().flatten();
        let numbers = sequence.reserve_up_to(ready.clone().count() as u32);
        let numbered = numbers.remaining() as usize;
        // Numbers come first: what lacks one has cost no bytes. Those that lack bytes are lost, but so is the SA.
        let lengths = ready.take(numbered).map(|plan| self.processed_len(plan));
        let room = self.expiry.spend_bytes(spent, &lengths);
        let packets = self.expiry.packets_at(sequence.last_used());
        self.expiry.notice(spent, age, packets);
        let missing = if room < numbered {
            DropReason::LifetimeExpired
        } else {
            let over = self.expiry.over(spent, age);
            over.unwrap_or(DropReason::SequenceExhausted)
        };
        Numbers {
            granted: numbers.take(room),
            missing,
        }
    }

    /// Bytes that the packet's algorithm is applied to.
    fn processed_len(&self, plan: &Plan) -> u64 {
        match self.ah {
            None => self.layout.ciphertext_len(plan.padded_len) as u64,
            Some(_) => plan.total_len.into(),
        }
    }

    /// Lays out the packets, each with a number of its own, and encrypts them.
    fn encrypt(
        &self,
        packets: &mut [Packet<'_>],
        plans: &[Result<Plan, DropReason>],
        mut numbers: Numbers,
        outcomes: &mut [Result<Sealed, DropReason>],
    ) {
        let mut jobs = ArrayVec::<_, MAX_BATCH>::new();
        for ((packet, plan), outcome) in packets.iter_mut().zip(plans).zip(&mut *outcomes) {
            *outcome = plan.as_ref().map_err(|reason| *reason).and_then(|plan| {
                let number = numbers.next()?;
                let (job, sealed) = self
                    .lay_out(packet, plan, number)
                    .map_err(|NoRoom| DropReason::FrameShort)?;
                jobs.push(job);
                Ok(sealed)
            });
        }
        self.aead.seal_batch(&mut jobs);
        for (job, outcome) in jobs
            .iter()
            .zip(outcomes.iter_mut().filter(|outcome| outcome.is_ok()))
        {
            if !job.is_sealed() {
                // Only a packet of an impossible length can fail; it would otherwise go out in clear.
                *outcome = Err(DropReason::PacketTooBig);
            }
        }
        drop(jobs);
        self.complete_checksums(packets, plans, outcomes);
    }

    /// What `encrypt` is for ESP, for AH.
    fn authenticate(
        &self,
        ah: Ah,
        packets: &mut [Packet<'_>],
        plans: &[Result<Plan, DropReason>],
        mut numbers: Numbers,
        outcomes: &mut [Result<Sealed, DropReason>],
    ) {
        let key = ah::Key {
            aead: &*self.aead,
            salt: &self.salt,
        };
        for ((packet, plan), outcome) in packets.iter_mut().zip(plans).zip(outcomes) {
            *outcome = plan.as_ref().map_err(|reason| *reason).and_then(|plan| {
                let number = numbers.next()?;
                let sequence = number.into_value();
                self.wrap(packet, plan, sequence)
                    .map_err(|NoRoom| DropReason::FrameShort)?;
                let place = ah::Place {
                    family: self.wire_family(&plan.header),
                    at: plan.esp_at,
                    sequence,
                    extended: self.extended,
                };
                ah.seal(key, packet, place, self.spi, plan.next_header)?;
                Ok(Sealed { sequence })
            });
        }
    }

    /// Makes room around the payload, and puts the IP header in front.
    fn wrap(&self, packet: &mut Packet<'_>, plan: &Plan, sequence: u64) -> Result<(), NoRoom> {
        let payload_len = plan.header.total_len - plan.kept;
        let (front, behind) = self.around(self.wire_family(&plan.header), payload_len, plan.padded_len);
        let front = plan.esp_at + front - plan.kept;
        packet.append(behind)?;
        packet.prepend(front)?;
        let bytes = packet.bytes_mut();

        if let Some(outer) = &self.outer {
            outer.write(bytes, plan.total_len, &plan.header, sequence);
        } else {
            bytes.copy_within(front..front + plan.kept, 0);
            let family = plan.header.family;
            let len = ip::length_field(family, plan.total_len.into()).ok_or(NoRoom)?;
            ip::rewrite_chain(bytes, family, plan.next_header_at, self.carrier, len);
        }
        Ok(())
    }

    /// Writes everything around the payload and makes the job that encrypts it.
    fn lay_out<'p>(
        &self,
        packet: &'p mut Packet<'_>,
        plan: &Plan,
        number: SequenceNumber,
    ) -> Result<(SealJob<'p>, Sealed), NoRoom> {
        let sequence = number.into_value();
        self.wrap(packet, plan, sequence)?;
        let payload_len = plan.header.total_len - plan.kept;
        let layout = self.layout;
        let bytes = packet.bytes_mut();
        let (headers, sealed) = bytes.split_at_mut(plan.esp_at + layout.header_len());
        let (before, esp) = headers.split_at_mut(plan.esp_at);
        if let Encapsulation::Udp { source_port, .. } = self.encapsulation {
            let destination_port = self.destination_port.load(Ordering::Relaxed);
            let udp = before.last_chunk_mut::<UDP_HEADER_LEN>().ok_or(NoRoom)?;
            let udp_len = plan.total_len - (plan.esp_at - UDP_HEADER_LEN) as u16;
            outer_header::write_udp(udp, source_port, destination_port, udp_len);
        }
        esp[0..4].copy_from_slice(&self.spi.to_be_bytes());
        esp[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
        let iv = &mut esp[FIXED_LEN..];
        let nonce = if iv.is_empty() {
            // RFC 8750 section 4: the IV is the sequence number in 64 bits. An algorithm without a nonce ignores it.
            self.salt.nonce(&sequence.to_be_bytes())
        } else {
            self.aead.iv(sequence, iv);
            self.salt.nonce(iv)
        };

        let icv_at = sealed.len().checked_sub(layout.icv_len()).ok_or(NoRoom)?;
        let (plaintext, icv) = sealed.split_at_mut(icv_at);
        plaintext[payload_len..plan.padded_len].fill(0);
        trailer::write(&mut plaintext[plan.padded_len..], plan.next_header);
        let aad = nonce::associated_data(self.spi, sequence, self.extended);
        Ok((SealJob::new(nonce, aad, plaintext, icv), Sealed { sequence }))
    }

    /// UDP over IPv6 carries a checksum over the ciphertext.
    fn complete_checksums(
        &self,
        packets: &mut [Packet<'_>],
        plans: &[Result<Plan, DropReason>],
        outcomes: &[Result<Sealed, DropReason>],
    ) {
        if self.udp_zero_checksum || self.encapsulation == Encapsulation::None {
            return;
        }
        let outer_family = self.outer.as_ref().map(OuterHeader::family);
        for ((packet, plan), outcome) in packets.iter_mut().zip(plans).zip(outcomes) {
            let (Ok(plan), Ok(_)) = (plan, outcome) else {
                continue;
            };
            if outer_family.unwrap_or(plan.header.family) == Family::V6 {
                outer_header::complete_udp_checksum(packet.bytes_mut(), plan.esp_at - UDP_HEADER_LEN);
            }
        }
    }
}

/// The longest outer packet in bytes.
fn longest(path_mtu: Option<u32>) -> usize {
    path_mtu.unwrap_or(u32::from(u16::MAX)) as usize
}
