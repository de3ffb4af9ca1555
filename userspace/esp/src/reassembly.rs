//! Putting fragmented ESP packets together again, before they are opened (RFC 4303 section 3.4.1).
//!
//! Everything about it is bounded: so many datagrams at a time, each of so many fragments, for so long. None of it is
//! allocated after the start, and memory that no fragment has reached is never touched.

mod datagram;

use std::time::{Duration, Instant};

use ravelin_xdp_common::DropReason;

use self::datagram::{Added, Datagram, ROOM};
use crate::Packet;
use crate::fragment::{DatagramId, Fragment};

/// Datagrams that are put together at a time; each may need 64 KiB.
const DATAGRAMS: usize = 64;

/// How long a datagram may take from its first fragment to arrive.
///
/// RFC 8200 section 4.5 gives it 60 seconds, RFC 791 suggests 15. The fragments of an ESP packet leave a router one behind the
/// other, and RFC 4963 warns of what long times do at today's rates: 65,536 IPv4 packets, after which identifications come
/// again, are less than a second's worth.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A datagram that is whole.
#[derive(Debug)]
pub struct Whole<'r> {
    /// What came with its first fragment.
    pub label: u32,
    /// The IP packet as it was before it was fragmented.
    pub packet: Packet<'r>,
}

/// The datagrams that wait for fragments.
#[derive(Debug)]
pub struct Reassembly {
    /// Which datagram a slot holds, and until when.
    slots: [Option<(DatagramId, Instant)>; DATAGRAMS],
    datagrams: Vec<Datagram>,
    memory: Vec<u8>,
    /// No datagram's time is over before.
    next_timeout: Option<Instant>,
}

impl Default for Reassembly {
    fn default() -> Self {
        Self::new()
    }
}

impl Reassembly {
    /// With nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: [None; DATAGRAMS],
            datagrams: std::iter::repeat_with(Datagram::default)
                .take(DATAGRAMS)
                .collect(),
            // Zeros come from the kernel, page by page when they are written to.
            memory: vec![0; DATAGRAMS * ROOM],
            next_timeout: None,
        }
    }

    /// Takes a fragment: the IP packet `packet`. If it completes its datagram, that comes out, with the `label` that came with
    /// its first fragment.
    ///
    /// `lost` hears of each fragment that is dropped, this one or others, and how many at a time:
    /// - `ReassemblyMalformed`: it belongs to no datagram, or contradicts others of its datagram, whose fragments then go with
    ///   it, as do those that still come.
    /// - `ReassemblyOverlap`: the same for fragments with bytes in common.
    /// - `ReassemblyDuplicate`: it was there before, byte by byte.
    /// - `ReassemblyFull`: others had to make room.
    pub fn offer(
        &mut self,
        packet: &[u8],
        label: u32,
        now: Instant,
        mut lost: impl FnMut(DropReason, usize),
    ) -> Option<Whole<'_>> {
        let fragment = match Fragment::parse(packet) {
            Ok(fragment) => fragment,
            Err(reason) => {
                lost(reason, 1);
                return None;
            }
        };
        let slot = self.slot_of(&fragment.datagram, now, &mut lost);
        let datagram = &mut self.datagrams[slot];
        let waiting = datagram.waiting();
        match datagram.add(&fragment, label, room_of(&mut self.memory, slot)) {
            Added::Kept => None,
            Added::Ignored(reason) => {
                lost(reason, 1);
                None
            }
            Added::Refused(reason) => {
                lost(reason, waiting + 1);
                datagram.refuse(reason);
                None
            }
            Added::Whole(start, end) => {
                let label = datagram.label;
                self.vacate(slot);
                // The range is within the room.
                let packet = Packet::new(room_of(&mut self.memory, slot), start..end).ok()?;
                Some(Whole { label, packet })
            }
        }
    }

    /// Drops the datagrams whose time is over; `lost` hears how many fragments of each. Cheap when there are none.
    pub fn expire(&mut self, now: Instant, mut lost: impl FnMut(DropReason, usize)) {
        if self.next_timeout.is_none_or(|next| now < next) {
            return;
        }
        for slot in 0..DATAGRAMS {
            if self.slots[slot].is_some_and(|(_, until)| until <= now) {
                let waiting = self.datagrams[slot].waiting();
                if waiting > 0 {
                    lost(DropReason::ReassemblyTimeout, waiting);
                }
                self.vacate(slot);
            }
        }
        self.next_timeout = self.slots.iter().flatten().map(|(_, until)| *until).min();
    }

    /// The slot of a datagram; a new one's is vacant, or made so.
    fn slot_of(&mut self, id: &DatagramId, now: Instant, lost: &mut impl FnMut(DropReason, usize)) -> usize {
        let known = |slot: &Option<(DatagramId, Instant)>| slot.is_some_and(|(known, _)| known == *id);
        if let Some(slot) = self.slots.iter().position(known) {
            return slot;
        }
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            let slot = self.victim();
            let waiting = self.datagrams[slot].waiting();
            if waiting > 0 {
                lost(DropReason::ReassemblyFull, waiting);
            }
            self.vacate(slot);
            slot
        });
        let until = now + TIMEOUT;
        self.slots[slot] = Some((*id, until));
        self.next_timeout = Some(self.next_timeout.map_or(until, |next| next.min(until)));
        slot
    }

    /// Which datagram makes room when all slots are taken: one that was refused, else the oldest of the peer that has the
    /// most, so that one peer's flood costs another nothing.
    fn victim(&self) -> usize {
        let of_peer = |source: &[u8; 16]| {
            let same = |(id, _): &&(DatagramId, Instant)| id.source == *source;
            self.slots.iter().flatten().filter(same).count()
        };
        let rank = |slot: usize| {
            let (id, until) = self.slots[slot]?;
            let refused = self.datagrams[slot].is_refused();
            Some((refused, of_peer(&id.source), std::cmp::Reverse(until)))
        };
        (0..DATAGRAMS).max_by_key(|slot| rank(*slot)).unwrap_or(0)
    }

    fn vacate(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.datagrams[slot] = Datagram::default();
    }
}

fn room_of(memory: &mut [u8], slot: usize) -> &mut [u8] {
    &mut memory[slot * ROOM..(slot + 1) * ROOM]
}
