//! Sealing (RFC 4303 section 3.3): packets of one SA or of several through one pipeline.

use std::iter::Take;
use std::slice;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrayvec::ArrayVec;
use ravelin_gcm::{Aead, SealJob, seal_mixed};
use ravelin_xdp_common::DropReason;

use super::{OutboundSa, Running, Sealed};
use crate::ah::{self, Ah};
use crate::expiry::Spenders;
use crate::ip::{self, Family, UDP_HEADER_LEN};
use crate::layout::{FIXED_LEN, MAX_BATCH, ranges};
use crate::moment::Moment;
use crate::nonce;

use crate::outer_header::{self, OuterHeader};
use crate::plan::Plan;
use crate::sequence::{SequenceNumber, SequenceNumbers};
use crate::{Encapsulation, NoRoom, Packet, trailer};

/// Encrypts and encapsulates each packet in place, and says in the outcome at the same index how it went. `runs` has SAs with how
/// many of the packets are for each, in the packets' order; packets behind them, or beyond [`MAX_BATCH`], are left alone, as are those
/// without an outcome. `now` is read once for many batches.
///
/// Packets of different SAs are encrypted together where the provider can do that, so that SAs with few packets do not cost more.
///
/// # Errors
/// As the outcome of a packet, which must then not be sent: `PacketTooBig` (see [`OutboundSa::inner_mtu`]),
/// `FrameShort`, `FragmentTransport`, `SequenceExhausted`, `LifetimeExpired`, and the reasons for a malformed IP
/// header. Only packets that pass every other check take a sequence number.
pub fn seal_runs(
    runs: &[(&OutboundSa, usize)],
    packets: &mut [Packet<'_>],
    outcomes: &mut [Result<Sealed, DropReason>],
    now: Instant,
) {
    let mut plans = ArrayVec::<_, MAX_BATCH>::new();
    let mut unplanned = packets.iter_mut().zip(&*outcomes);
    for (sa, count) in runs {
        let path_mtu = sa.path_mtu();
        let (longest, padded) = (longest(path_mtu), sa.tfc_padding.length(path_mtu));
        let room = (*count).min(plans.remaining_capacity());
        plans.extend(
            unplanned
                .by_ref()
                .take(room)
                .map(|(packet, _)| sa.plan(packet, longest, padded)),
        );
    }
    seal_planned(runs, packets, &plans, outcomes, now.into());
}

/// Seals the packets for which there is a plan.
fn seal_planned(
    runs: &[(&OutboundSa, usize)],
    packets: &mut [Packet<'_>],
    plans: &[Result<Plan, DropReason>],
    outcomes: &mut [Result<Sealed, DropReason>],
    now: Moment,
) {
    let mut jobs = ArrayVec::new();
    let mut left = &mut *packets;
    for (sa, range) in ranges(runs, plans.len()) {
        let (these, behind) = left.split_at_mut(range.len());
        sa.begin(these, &plans[range.clone()], &mut outcomes[range], &mut jobs, now);
        left = behind;
    }
    seal_mixed(&mut jobs);
    let mut done = jobs.iter();
    for (_, range) in ranges(runs, plans.len()).filter(|(sa, _)| sa.ah.is_none()) {
        drop_unsealed(&mut done, &mut outcomes[range]);
    }
    drop(jobs);
    for (sa, range) in ranges(runs, plans.len()) {
        sa.finish(
            &mut packets[range.clone()],
            &plans[range.clone()],
            &outcomes[range],
            now,
        );
    }
}

/// Takes over how the jobs went that were made for these packets.
#[inline]
pub(super) fn drop_unsealed(
    done: &mut slice::Iter<'_, (&dyn Aead, SealJob<'_>)>,
    outcomes: &mut [Result<Sealed, DropReason>],
) {
    for (outcome, (_, job)) in outcomes.iter_mut().filter(|outcome| outcome.is_ok()).zip(done) {
        if !job.is_sealed() {
            // Only a packet of an impossible length can fail; it would otherwise go out in clear.
            *outcome = Err(DropReason::PacketTooBig);
        }
    }
}

/// Packets on their way to be encrypted, each with its SA's key.
pub(super) type Jobs<'s, 'p> = ArrayVec<(&'s dyn Aead, SealJob<'p>), MAX_BATCH>;

/// The sequence numbers of a batch.
#[derive(Debug)]
pub(super) struct Numbers {
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
    /// [`seal_runs`] with one SA, and any number of packets.
    pub fn seal_batch(
        &self,
        packets: &mut [Packet<'_>],
        outcomes: &mut [Result<Sealed, DropReason>],
        now: Instant,
    ) {
        debug_assert_eq!(packets.len(), outcomes.len());
        for (packets, outcomes) in packets.chunks_mut(MAX_BATCH).zip(outcomes.chunks_mut(MAX_BATCH)) {
            let count = packets.len().min(outcomes.len());
            seal_runs(&[(self, count)], packets, outcomes, now);
        }
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
        self.seal_one(packet, plan, now)
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
        self.seal_one(packet, plan, now)
    }

    /// Seals the one packet that this is the plan for.
    fn seal_one(
        &self,
        packet: &mut Packet<'_>,
        plan: Result<Plan, DropReason>,
        now: Instant,
    ) -> Result<Sealed, DropReason> {
        let mut outcome = [Err(DropReason::SaMissing)];
        let packets = slice::from_mut(packet);
        seal_planned(&[(self, 1)], packets, &[plan], &mut outcome, now.into());
        outcome[0]
    }

    /// Numbers packets, lays them out and leaves them to be encrypted among `jobs`; with AH they are done then.
    #[inline]
    fn begin<'s, 'p>(
        &'s self,
        packets: &'p mut [Packet<'_>],
        plans: &[Result<Plan, DropReason>],
        outcomes: &mut [Result<Sealed, DropReason>],
        jobs: &mut Jobs<'s, 'p>,
        now: Moment,
    ) {
        match self.draw(plans, now) {
            Ok(numbers) => self.lay_out_all(packets, plans, numbers, outcomes, jobs),
            Err(reason) => outcomes.fill(Err(reason)),
        }
    }

    /// Numbers for the packets that are ready, if the SA still lives.
    #[inline]
    pub(super) fn draw(
        &self,
        plans: &[Result<Plan, DropReason>],
        now: Moment,
    ) -> Result<Numbers, DropReason> {
        let age = now.age(self.since);
        match self.expiry.over(&self.running.spent, age) {
            Some(reason) => Err(reason),
            None => Ok(self.number(plans, age)),
        }
    }

    /// Lays out packets that have numbers and leaves them to be encrypted among `jobs`; with AH they are done then.
    #[inline]
    pub(super) fn lay_out_all<'s, 'p>(
        &'s self,
        packets: &'p mut [Packet<'_>],
        plans: &[Result<Plan, DropReason>],
        mut numbers: Numbers,
        outcomes: &mut [Result<Sealed, DropReason>],
        jobs: &mut Jobs<'s, 'p>,
    ) {
        if let Some(ah) = self.ah {
            return self.authenticate(ah, packets, plans, numbers, outcomes);
        }
        for ((packet, plan), outcome) in packets.iter_mut().zip(plans).zip(outcomes) {
            *outcome = plan.as_ref().map_err(|reason| *reason).and_then(|plan| {
                let number = numbers.next()?;
                self.lay_out(packet, plan, number, jobs)
                    .map_err(|NoRoom| DropReason::FrameShort)
            });
        }
    }

    /// What is left to do once packets are encrypted.
    #[inline]
    fn finish(
        &self,
        packets: &mut [Packet<'_>],
        plans: &[Result<Plan, DropReason>],
        outcomes: &[Result<Sealed, DropReason>],
        now: Moment,
    ) {
        self.complete_checksums(packets, plans, outcomes);
        self.count(plans, outcomes, now);
    }

    /// Counts what was sealed, and what was not.
    #[inline]
    pub(super) fn count(
        &self,
        plans: &[Result<Plan, DropReason>],
        outcomes: &[Result<Sealed, DropReason>],
        now: Moment,
    ) {
        let lengths = plans
            .iter()
            .map(|plan| plan.as_ref().map_or(0, |plan| plan.header.total_len as u64));
        self.running.counters.add(outcomes, lengths, now.age(self.since));
    }

    /// Sequence numbers for the packets that are ready, as far as the SA's life lasts.
    fn number(&self, plans: &[Result<Plan, DropReason>], age: u64) -> Numbers {
        let Running { sequence, spent, .. } = &self.running;
        let ready = plans.iter().flatten();
        let count = ready.clone().count();
        let numbers = sequence.reserve_up_to(count as u32);
        let numbered = numbers.remaining() as usize;
        // Numbers come first: what lacks one has cost no bytes. Those that lack bytes are lost, but so is the SA.
        let lengths = ready.take(numbered).map(|plan| self.processed_len(plan));
        let room = self.expiry.spend_bytes(spent, &lengths, Spenders::Many);
        let packets = self.expiry.packets_at(sequence.last_used());
        self.expiry.notice(spent, age, packets);
        let missing = if room < numbered {
            DropReason::LifetimeExpired
        } else {
            // Asked for only where one is missing.
            let over = (numbered < count).then(|| self.expiry.over(spent, age));
            over.flatten().unwrap_or(DropReason::SequenceExhausted)
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

    /// With AH.
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

    /// Writes everything around the payload and leaves it among `jobs` to be encrypted.
    #[inline]
    fn lay_out<'s, 'p>(
        &'s self,
        packet: &'p mut Packet<'_>,
        plan: &Plan,
        number: SequenceNumber,
        jobs: &mut Jobs<'s, 'p>,
    ) -> Result<Sealed, NoRoom> {
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
        jobs.push((&*self.aead, SealJob::new(nonce, aad, plaintext, icv)));
        Ok(Sealed { sequence })
    }

    /// UDP over IPv6 carries a checksum over the ciphertext.
    pub(super) fn complete_checksums(
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
pub(super) fn longest(path_mtu: Option<u32>) -> usize {
    path_mtu.unwrap_or(u32::from(u16::MAX)) as usize
}
