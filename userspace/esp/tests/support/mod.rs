//! SAs and packets that the integration tests share.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod headers;
pub(crate) mod memory;
pub(crate) mod python;

use std::net::IpAddr;
use std::time::Instant;

use proptest::prelude::*;
use ravelin_esp::{
    Algorithm, DropReason, Encapsulation, InboundSa, Mode, Opened, OutboundSa, Packet, Provider,
    SaParameters, Sealed, Secret,
};

pub(crate) const SPI: u32 = 0xfeed_0001;
pub(crate) const HEADROOM: usize = ravelin_esp::MAX_HEADROOM;
pub(crate) const TAILROOM: usize = ravelin_esp::MAX_TAILROOM;

/// Everything that changes the wire format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) tunnel: bool,
    pub(crate) outer_v6: bool,
    pub(crate) udp: bool,
    pub(crate) extended: bool,
    pub(crate) algorithm: Algorithm,
    /// RFC 8750.
    pub(crate) implicit_iv: bool,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for bits in 0..32 {
            let [tunnel, outer_v6, udp, extended, implicit_iv] = [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
            let algorithms = Algorithm::ALL.iter().copied();
            let algorithms = algorithms.filter(|algorithm| !implicit_iv || algorithm.takes_implicit_iv());
            all.extend(algorithms.map(|algorithm| Self {
                tunnel,
                outer_v6,
                udp,
                extended,
                algorithm,
                implicit_iv,
            }));
        }
        all
    }

    pub(crate) fn endpoints(self) -> (IpAddr, IpAddr) {
        if self.outer_v6 {
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
        } else {
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())
        }
    }

    pub(crate) fn key_material(self) -> Vec<u8> {
        (0..self.algorithm.keymat_len())
            .map(|n| (n * 7 + 3) as u8)
            .collect()
    }

    /// The parameters as the sender (`outbound`) or the receiver of one SA sees them.
    pub(crate) fn parameters(self, outbound: bool) -> SaParameters {
        let (a, b) = self.endpoints();
        let mode = match (self.tunnel, outbound) {
            (false, _) => Mode::Transport,
            (true, true) => Mode::Tunnel { local: a, remote: b },
            (true, false) => Mode::Tunnel { local: b, remote: a },
        };
        let mut parameters = SaParameters::new(SPI, mode, self.algorithm, Secret::from(self.key_material()));
        parameters.extended_sequence_numbers = self.extended;
        parameters.implicit_iv = self.implicit_iv;
        if self.udp {
            parameters.encapsulation = Encapsulation::Udp {
                source_port: 4501,
                destination_port: 4500,
            };
        }
        parameters
    }

    pub(crate) fn outbound(self) -> OutboundSa {
        self.outbound_after(Provider::preferred(), 0)
    }

    pub(crate) fn outbound_after(self, provider: Provider, last_used: u64) -> OutboundSa {
        let sa = OutboundSa::new(self.parameters(true), provider, last_used, Instant::now()).unwrap();
        sa.sequence().raise_ceiling(u64::MAX);
        sa
    }

    pub(crate) fn inbound(self) -> InboundSa {
        self.inbound_after(Provider::preferred(), 0)
    }

    pub(crate) fn inbound_after(self, provider: Provider, highest_seen: u64) -> InboundSa {
        InboundSa::new(self.parameters(false), provider, highest_seen, Instant::now()).unwrap()
    }

    /// Bytes in front of the ESP header of a tunnel-mode packet, or of a transport-mode one without IP options.
    pub(crate) fn esp_at(self) -> usize {
        let (ip, udp) = (if self.outer_v6 { 40 } else { 20 }, if self.udp { 8 } else { 0 });
        ip + udp
    }

    /// Bytes of the IV in the packet.
    pub(crate) fn iv_len(self) -> usize {
        if self.implicit_iv {
            0
        } else {
            self.algorithm.iv_len()
        }
    }

    /// What RFC 4303 section 2.4 has the ciphertext's length be a multiple of: the cipher's block, and 4 bytes.
    pub(crate) fn align(self) -> usize {
        match self.algorithm {
            Algorithm::AesCbcHmac(..) => 16,
            _ => 4,
        }
    }

    /// `payload` with the trailer that RFC 4303 section 2.4 asks for.
    pub(crate) fn padded(self, payload: &[u8], next_header: u8) -> Vec<u8> {
        let pad_len = (self.align() - (payload.len() + 2) % self.align()) % self.align();
        let mut plaintext = payload.to_vec();
        plaintext.extend(1..=pad_len as u8);
        plaintext.extend([pad_len as u8, next_header]);
        plaintext
    }
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    prop::sample::select(Case::all())
}

/// An IPv4 packet with `options` (a multiple of 4 bytes), DF set and protocol 253, which is for experiments (RFC 3692).
pub(crate) fn ipv4(traffic_class: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0; 20];
    packet[0] = 0x40 | (header_len / 4) as u8;
    packet[1] = traffic_class;
    packet[2..4].copy_from_slice(&((header_len + payload.len()) as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8..10].copy_from_slice(&[63, 253]);
    packet[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend_from_slice(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// An IPv6 packet of next header 253 whose extension headers are `(protocol, length in 8 bytes)`.
pub(crate) fn ipv6(traffic_class: u8, extensions: &[(u8, usize)], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60 | traffic_class >> 4;
    packet[1] = traffic_class << 4;
    packet[7] = 63;
    packet[8..12].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    packet[23] = 1;
    packet[24..28].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    packet[39] = 2;
    let mut next_header_at = 6;
    for (protocol, units) in extensions {
        packet[next_header_at] = *protocol;
        next_header_at = packet.len();
        packet.resize(next_header_at + units * 8, 0);
        packet[next_header_at + 1] = (units - 1) as u8;
    }
    packet[next_header_at] = 253;
    packet.extend_from_slice(payload);
    let payload_len = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
    packet
}

/// A plain checksum, written apart from the crate's own.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Packets in buffers with just the room that sealing may need.
pub(crate) struct Frames {
    buffers: Vec<Vec<u8>>,
    lengths: Vec<usize>,
}

impl Frames {
    pub(crate) fn new<'a>(packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        let mut frames = Self {
            buffers: Vec::new(),
            lengths: Vec::new(),
        };
        for packet in packets {
            let mut buffer = vec![0xee; HEADROOM];
            buffer.extend_from_slice(packet);
            buffer.resize(buffer.len() + TAILROOM, 0xee);
            frames.buffers.push(buffer);
            frames.lengths.push(packet.len());
        }
        frames
    }

    pub(crate) fn packets(&mut self) -> Vec<Packet<'_>> {
        let frames = self.buffers.iter_mut().zip(&self.lengths);
        frames
            .map(|(buffer, len)| Packet::new(buffer, HEADROOM..HEADROOM + len).unwrap())
            .collect()
    }
}

/// Seals copies of `packets` in one batch.
pub(crate) fn seal(sa: &OutboundSa, packets: &[Vec<u8>]) -> Vec<Result<(Vec<u8>, u64), DropReason>> {
    let mut frames = Frames::new(packets);
    let mut packets = frames.packets();
    let mut outcomes: Vec<Result<Sealed, _>> = vec![Err(DropReason::SaMissing); packets.len()];
    sa.seal_batch(&mut packets, &mut outcomes, Instant::now());
    let bytes = packets.iter().map(|packet| packet.bytes().to_vec());
    bytes
        .zip(outcomes)
        .map(|(bytes, outcome)| outcome.map(|sealed| (bytes, sealed.sequence)))
        .collect()
}

/// Opens copies of `packets` in one batch.
pub(crate) fn open(sa: &InboundSa, packets: &[Vec<u8>]) -> Vec<Result<(Vec<u8>, u64), DropReason>> {
    let mut frames = Frames::new(packets);
    let mut packets = frames.packets();
    let mut outcomes: Vec<Result<Opened, _>> = vec![Err(DropReason::SaMissing); packets.len()];
    sa.open_batch(&mut packets, &mut outcomes, Instant::now());
    let bytes = packets.iter().map(|packet| packet.bytes().to_vec());
    bytes
        .zip(outcomes)
        .map(|(bytes, outcome)| outcome.map(|opened| (bytes, opened.sequence)))
        .collect()
}

pub(crate) fn seal_one(sa: &OutboundSa, packet: &[u8]) -> Result<(Vec<u8>, u64), DropReason> {
    seal(sa, &[packet.to_vec()]).pop().unwrap()
}

pub(crate) fn open_one(sa: &InboundSa, packet: &[u8]) -> Result<(Vec<u8>, u64), DropReason> {
    open(sa, &[packet.to_vec()]).pop().unwrap()
}
