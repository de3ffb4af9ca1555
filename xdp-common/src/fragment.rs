//! The memory of fragments: what was decided about a first fragment holds for the others of its datagram, which have no
//! ports.

use crate::{Decision, Family, Header, IpPacket, Verdict};

/// How long a datagram's fragments may take, in nanoseconds: as long as hosts keep them (`net.ipv4.ipfrag_time`).
const LIFETIME: u64 = 30_000_000_000;

/// A first fragment that comes within this time of another for the same datagram is no new datagram under an old
/// identification.
const SAME_DATAGRAM: u64 = 2_000_000_000;

/// Datagrams that are remembered at a time; the oldest are forgotten first.
pub const FRAGMENT_SLOTS: usize = 1 << 15;

/// Where a fragment was seen: each place judges for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Place {
    /// XDP on the outer device.
    Outer = 1,
    /// XDP on the inner device.
    Inner = 2,
    /// tcx egress on the outer device.
    Egress = 3,
    /// After decryption.
    Opened = 4,
    /// XDP on a host's veth edge.
    Edge = 5,
}

/// What the fragments of one datagram have in common.
///
/// In IPv6 the upper-layer protocol is not among it: only the first fragment's next-header value counts (RFC 8200
/// section 4.5), and a later one that lies must not be taken for another datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    source: [u64; 2],
    destination: [u64; 2],
    id: u32,
    /// Protocol (0 in IPv6), family and place.
    rest: u32,
}

impl FragmentKey {
    /// The key of a fragment.
    #[must_use]
    #[inline(always)]
    pub const fn of(packet: &IpPacket, place: Place) -> Self {
        let flow = &packet.flow;
        let protocol = match flow.family {
            Family::V4 => flow.protocol as u32,
            Family::V6 => 0,
        };
        Self {
            source: flow.source,
            destination: flow.destination,
            id: packet.fragment_id,
            rest: protocol | (flow.family as u32) << 8 | (place as u32) << 16,
        }
    }
}

/// What was decided about a first fragment.
///
/// The fields stand so that two neighbours with constant values start at a multiple of eight: LLVM writes them with one
/// store, and the verifier takes only aligned ones to the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentRecord {
    /// Nanoseconds since boot.
    time: u64,
    rule_id: u32,
    bits: u32,
    /// Generation of the rule set, 0 for no record.
    generation: u32,
    /// Bytes of the datagram that the first fragment holds.
    length: u16,
    decision: u8,
    reserved: u8,
}

impl FragmentRecord {
    /// No record.
    pub const EMPTY: Self = Self {
        time: 0,
        generation: 0,
        rule_id: 0,
        bits: 0,
        length: 0,
        decision: Decision::Block as u8,
        reserved: 0,
    };

    /// A record of what was decided about a first fragment.
    #[must_use]
    #[inline(always)]
    pub const fn new(packet: &IpPacket, verdict: &Verdict, generation: u32, now: u64) -> Self {
        let [rule_id, bits] = verdict.to_words();
        Self {
            time: now,
            generation,
            rule_id,
            bits,
            length: packet.fragment_length,
            decision: verdict.decision as u8,
            reserved: 0,
        }
    }

    /// Whether it says anything under this rule set.
    #[must_use]
    #[inline(always)]
    pub const fn is_live(&self, generation: u32, now: u64) -> bool {
        self.generation != 0 && self.generation == generation && now.wrapping_sub(self.time) < LIFETIME
    }

    /// Whether a first fragment contradicts this one: both claim the start of one datagram.
    #[must_use]
    #[inline(always)]
    pub const fn contradicts(&self, packet: &IpPacket, now: u64) -> bool {
        now.wrapping_sub(self.time) < SAME_DATAGRAM && self.length != packet.fragment_length
    }

    /// What holds for a later fragment.
    #[must_use]
    #[inline(always)]
    pub const fn verdict(&self, packet: &IpPacket, header: &Header) -> Verdict {
        // Whether such fragments overlap is for the worker to see: it drops their whole datagram.
        if self.decision == Decision::Reassemble as u8 {
            return Verdict::REASSEMBLE;
        }
        if packet.fragment_offset < self.length {
            return Verdict::overlap(header);
        }
        if self.decision == Decision::Exempt as u8 {
            return Verdict::EXEMPT;
        }
        Verdict::from_words(self.rule_id, self.bits, false)
    }
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentRecord>() == 24);
