//! Names, sizes and values of the BPF maps.

use crate::{Address, Flow};

/// Most receive queues of a device.
pub const MAX_QUEUES: u32 = 64;

/// Room for inbound SAs: those of 131,072 connections, twice, so that all can be rekeyed at once.
pub const INBOUND_SAS: u32 = 1 << 18;

/// Flags of the map of inbound SAs: BPF_F_NO_PREALLOC, so that it takes memory for those that are there.
pub const INBOUND_FLAGS: u32 = 1;

/// Per-rule counters, unless user space asks for more when it loads the object.
pub const RULE_COUNTERS: u32 = 1 << 16;

/// Flags of the array that holds a rule set: BPF_F_MMAPABLE, so that user space can fill it by one copy.
pub const RULE_SET_FLAGS: u32 = 1 << 10;

/// Values of the map of the machine's own addresses.
pub mod local_bits {
    /// It has the address.
    pub const OWN: u32 = 1;
    /// The rules in force speak of it where they speak of all of them.
    pub const SPOKEN_OF: u32 = 1 << 1;
}

/// Names of the maps and programs in the BPF object.
pub mod map_names {
    /// Array of one array of [`crate::Line`]: the rule set.
    pub const RULE_SET: &str = "RULE_SET";
    /// Hash from SPI (host order) to [`crate::InboundEndpoint`].
    pub const INBOUND: &str = "INBOUND";
    /// Hash whose keys are the [`crate::TunnelEnds`] of inbound SAs without UDP encapsulation.
    pub const TUNNELS: &str = "TUNNELS";
    /// Hash from [`crate::OutboundKey`] to the slot of the SA.
    pub const OUTBOUND: &str = "OUTBOUND";
    /// Hash from this machine's own [`crate::Address`]es to [`local_bits`](super::local_bits).
    pub const LOCAL: &str = "LOCAL";
    /// XSK map of the outer device, by queue.
    pub const OUTER_SOCKETS: &str = "OUTER_SOCKETS";
    /// XSK map of the inner device, or of a host's veth edge, by queue.
    pub const INNER_SOCKETS: &str = "INNER_SOCKETS";
    /// Per-CPU packets by [`crate::DropReason`].
    pub const DROPS: &str = "DROPS";
    /// Per-CPU packets that passed in audit mode, by the [`crate::DropReason`] that they were spared.
    pub const AUDITED: &str = "AUDITED";
    /// Per-CPU packets by [`crate::Pass`].
    pub const PASSES: &str = "PASSES";
    /// Per-CPU [`crate::RuleCounter`] by rule id.
    pub const RULES: &str = "RULES";
    /// XDP program of the outer device.
    pub const OUTER_PROGRAM: &str = "ravelin_outer";
    /// XDP program of the inner device.
    pub const INNER_PROGRAM: &str = "ravelin_inner";
    /// XDP program that drops everything.
    pub const CLOSED_PROGRAM: &str = "ravelin_closed";
    /// tcx egress program of the outer device.
    pub const EGRESS_PROGRAM: &str = "ravelin_egress";
    /// Array of one [`crate::HostEdge`].
    pub const HOST_EDGE: &str = "HOST_EDGE";
    /// tcx egress program of a host's outer device.
    pub const HOST_EGRESS_PROGRAM: &str = "ravelin_host_egress";
    /// tcx ingress program of the host edge.
    pub const EDGE_PROGRAM: &str = "ravelin_edge";
    /// XDP program of the workers' end of a veth edge.
    pub const EDGE_SEAL_PROGRAM: &str = "ravelin_edge_seal";
    /// tcx egress program of that end.
    pub const EDGE_EGRESS_PROGRAM: &str = "ravelin_edge_egress";
    /// Not a map but a constant: bytes of the longest frame, from its Ethernet header on, that packet memory takes.
    pub const LONGEST_FRAME: &str = "LONGEST_FRAME";
}

/// How ESP of an SA travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encapsulation {
    /// Directly over IP, protocol 50.
    None = 0,
    /// In UDP (RFC 3948).
    Udp = 1,
    /// No ESP at all, but AH: protocol 51.
    Ah = 2,
}

/// What the driver checks about ESP packets of one inbound SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InboundEndpoint {
    /// Our outer address: the packet's destination.
    pub local: Address,
    /// The peer's outer address: the packet's source.
    pub remote: Address,
    /// Index of the SA in user space.
    pub slot: u32,
    /// Our UDP port, host order; 0 without encapsulation.
    pub local_port: u16,
    /// The peer's UDP port, host order; 0 without encapsulation.
    pub remote_port: u16,
    /// 4 or 6, the outer family.
    pub family: u8,
    /// An [`Encapsulation`].
    pub encapsulation: u8,
    /// Bytes of the SA's shortest ESP packet: header, IV, the shortest padded trailer, ICV.
    pub shortest: u16,
    /// Not 0: UDP-encapsulated packets from another address or port go to user space as well, which verifies them and judges
    /// what that means (RFC 7296 section 2.23).
    pub verify_moved: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

const _: () = assert!(size_of::<InboundEndpoint>() == 48);

impl InboundEndpoint {
    /// The ends of the SA's tunnel, by which later fragments are known; `None` with UDP encapsulation, where only the first
    /// fragment tells what the others are.
    #[must_use]
    pub const fn tunnel(&self) -> Option<TunnelEnds> {
        if self.encapsulation == Encapsulation::Udp as u8 {
            return None;
        }
        Some(TunnelEnds {
            local: self.local,
            remote: self.remote,
            family: self.family as u32,
            reserved: 0,
        })
    }
}

/// The outer addresses of ESP packets to us: all that a later fragment of one shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TunnelEnds {
    /// Our outer address: the packet's destination.
    pub local: Address,
    /// The peer's outer address: the packet's source.
    pub remote: Address,
    /// 4 or 6, the outer family.
    pub family: u32,
    /// Zero.
    pub reserved: u32,
}

impl TunnelEnds {
    /// The ends of the tunnel that a packet to us would have come through.
    #[must_use]
    #[inline(always)]
    pub const fn of(flow: &Flow) -> Self {
        Self {
            local: flow.destination,
            remote: flow.source,
            family: flow.family as u32,
            reserved: 0,
        }
    }
}

const _: () = assert!(size_of::<TunnelEnds>() == 40);

/// Where a host's own packets go to be sealed, and where opened ones come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HostEdge {
    /// Index of the device that takes packets from the stack; 0 when there is none.
    pub edge: u32,
    /// Index of the outer device.
    pub outer: u32,
    /// Link-layer address of the outer device.
    pub mac: [u8; 6],
    /// Not 0 if packets have an Ethernet header on that device: a veth, not a TUN device.
    pub ethernet: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<HostEdge>() == 16);

/// What one rule has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RuleCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

/// The ABI structs hold integers only, have no padding and allow every bit pattern.
#[cfg(feature = "aya")]
mod pod {
    use super::{HostEdge, InboundEndpoint, RuleCounter, TunnelEnds};
    use crate::{Line, OutboundKey};

    // SAFETY: `repr(C)`, integers only, 64 bytes without padding (asserted beside the type).
    unsafe impl aya::Pod for Line {}
    // SAFETY: `repr(C)`, integers only, 48 bytes without padding (asserted beside the type).
    unsafe impl aya::Pod for InboundEndpoint {}
    // SAFETY: `repr(C)`, integers only, 40 bytes without padding (asserted beside the type).
    unsafe impl aya::Pod for TunnelEnds {}
    // SAFETY: `repr(C)`, integers only, 24 bytes without padding (asserted beside the type).
    unsafe impl aya::Pod for OutboundKey {}
    // SAFETY: `repr(C)`, integers only, 16 bytes without padding (asserted beside the type).
    unsafe impl aya::Pod for HostEdge {}
    // SAFETY: `repr(C)`, two u64.
    unsafe impl aya::Pod for RuleCounter {}
}
