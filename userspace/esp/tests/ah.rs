//! AH against scapy, an implementation by others: each verifies what the other authenticated, and rejects what was damaged.
//! GMAC, which scapy does not have in AH, is held against Python's `cryptography`.
//!
//! Needs python3 with scapy and cryptography (Debian: `python3-scapy`, `python3-cryptography`), and fails without.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::Instant;

use ravelin_esp::{
    Algorithm, DropReason, InboundSa, Mode, OutboundSa, Protocol, Provider, SaParameters, Secret,
};
use serde_json::json;
use support::python::{Python, bytes, hex};
use support::{SPI, ipv4, ipv6, open_one, seal_one};

/// Our name, scapy's, and the bytes of the ICV.
const ALGORITHMS: [(&str, &str, usize); 7] = [
    ("null-hmac-sha1", "HMAC-SHA1-96", 12),
    ("null-hmac-sha2-256", "SHA2-256-128", 16),
    ("null-hmac-sha2-384", "SHA2-384-192", 24),
    ("null-hmac-sha2-512", "SHA2-512-256", 32),
    ("aes-128-gmac", "GMAC", 16),
    ("aes-192-gmac", "GMAC", 16),
    ("aes-256-gmac", "GMAC", 16),
];

#[derive(Clone, Copy, Debug)]
struct Case {
    algorithm: Algorithm,
    scapy: &'static str,
    icv_len: usize,
    tunnel: bool,
    v6: bool,
    extended: bool,
}

impl Case {
    fn all() -> Vec<Self> {
        let made = ALGORITHMS.iter().flat_map(|(name, scapy, icv_len)| {
            (0..8).map(move |bits| {
                let [tunnel, v6, extended] = [1, 2, 4].map(|bit| bits & bit != 0);
                Self {
                    algorithm: name.parse().unwrap(),
                    scapy,
                    icv_len: *icv_len,
                    tunnel,
                    v6,
                    extended,
                }
            })
        });
        made.filter(|case| Provider::RustCrypto.has(case.algorithm) || case.scapy == "GMAC")
            .collect()
    }

    fn keymat(self) -> Vec<u8> {
        (0..self.algorithm.keymat_len())
            .map(|n| (n * 5 + 1) as u8)
            .collect()
    }

    fn endpoints(self) -> [&'static str; 2] {
        if self.v6 {
            ["2001:db8::1", "2001:db8::2"]
        } else {
            ["192.0.2.1", "192.0.2.2"]
        }
    }

    fn parameters(self, outbound: bool) -> SaParameters {
        let [a, b] = self.endpoints().map(|end| end.parse().unwrap());
        let mode = match (self.tunnel, outbound) {
            (false, _) => Mode::Transport,
            (true, true) => Mode::Tunnel { local: a, remote: b },
            (true, false) => Mode::Tunnel { local: b, remote: a },
        };
        let mut parameters = SaParameters::new(SPI, mode, self.algorithm, Secret::from(self.keymat()));
        parameters.protocol = Protocol::Ah;
        parameters.extended_sequence_numbers = self.extended;
        parameters
    }

    fn outbound(self, last_used: u64) -> OutboundSa {
        let sa = OutboundSa::new(
            self.parameters(true),
            Provider::preferred(),
            last_used,
            Instant::now(),
        )
        .unwrap();
        sa.sequence().raise_ceiling(u64::MAX);
        sa
    }

    fn inbound(self, highest_seen: u64) -> InboundSa {
        InboundSa::new(
            self.parameters(false),
            Provider::preferred(),
            highest_seen,
            Instant::now(),
        )
        .unwrap()
    }

    fn ask(self, python: &mut Python, operation: &str, sequence: u64, packet: &[u8]) -> serde_json::Value {
        let [source, destination] = self.endpoints();
        python.ask(&json!({
            "operation": operation,
            "algorithm": self.scapy,
            "tunnel": self.tunnel,
            "extended": self.extended,
            "source": source,
            "destination": destination,
            "spi": SPI,
            "key": hex(&self.keymat()),
            "sequence": sequence,
            "packet": hex(packet),
        }))
    }

    /// Bytes of AH: 12, an IV with GMAC, the ICV, and padding to 4 or 8 bytes.
    fn ah_len(self) -> usize {
        let iv = if self.scapy == "GMAC" { 8 } else { 0 };
        (12 + iv + self.icv_len).next_multiple_of(if self.v6 { 8 } else { 4 })
    }

    fn clear(self, inner_v6: bool, payload: &[u8], round: usize) -> Vec<u8> {
        // Options that routers rewrite, and options that they leave alone.
        const V4: [&[u8]; 3] = [&[], &[148, 4, 0, 0], &[7, 7, 4, 1, 2, 3, 4, 1]];
        const V6: [&[(u8, usize)]; 3] = [&[], &[(0, 1)], &[(0, 2), (60, 1)]];
        if inner_v6 {
            ipv6(0x28, V6[round % 3], payload)
        } else {
            ipv4(0x28, V4[round % 3], payload)
        }
    }
}

/// A packet on its way: its last hop has changed what routers may change.
fn routed(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[1] = 0xb8;
        packet[8] = 3;
        let header = usize::from(packet[0] & 15) * 4;
        packet[10..12].fill(0);
        let sum = support::checksum(&packet[..header]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[0..4].copy_from_slice(&[0x6b, 0x81, 2, 3]);
        packet[7] = 3;
    }
    packet
}

/// Every case, with both inner families in tunnels, some payloads, and sequence numbers up to the end of 32 bits.
fn each(mut check: impl FnMut(Case, Vec<u8>, u64)) {
    for (n, case) in Case::all().into_iter().enumerate() {
        for inner_v6 in if case.tunnel {
            vec![false, true]
        } else {
            vec![case.v6]
        } {
            for (round, len) in [0, 1, 63, 700, 1400].into_iter().enumerate() {
                let payload: Vec<u8> = (0..len).map(|at| (at * 31 + n * 7) as u8).collect();
                let sequence = match (case.extended, round % 2) {
                    (_, 0) => 1 + n as u64,
                    (false, _) => u64::from(u32::MAX) - n as u64,
                    (true, _) => (5 << 32) + n as u64,
                };
                check(case, case.clear(inner_v6, &payload, round), sequence);
            }
        }
    }
}

#[test]
fn what_we_authenticate_others_verify() {
    let mut python = Python::start("ah_peer.py");
    let mut run = 0;
    each(|case, clear, sequence| {
        let (wire, number) = seal_one(&case.outbound(sequence - 1), &clear).unwrap();
        assert_eq!(number, sequence);
        let kept = if case.tunnel { 0 } else { clear.len() };
        let overhead = case.ah_len()
            + if kept == 0 {
                if case.v6 { 40 } else { 20 }
            } else {
                0
            };
        assert_eq!(wire.len(), clear.len() + overhead, "{case:?}");
        let answer = case.ask(&mut python, "open", sequence, &routed(&wire));
        let opened = bytes(&answer["packet"]);
        let expected = if case.tunnel { clear } else { routed(&clear) };
        assert_eq!(hex(&opened), hex(&expected), "{case:?}");
        run += 1;
    });
    assert!(run >= 300, "{run}");
}

#[test]
fn what_others_authenticate_we_verify() {
    let mut python = Python::start("ah_peer.py");
    each(|case, clear, sequence| {
        let wire = bytes(&case.ask(&mut python, "seal", sequence, &clear)["packet"]);
        let (opened, number) =
            open_one(&case.inbound(sequence - 1), &routed(&wire)).unwrap_or_else(|reason| {
                panic!("{case:?} {}: {reason:?}", hex(&wire));
            });
        assert_eq!(number, sequence);
        let mut expected = if case.tunnel { clear } else { routed(&clear) };
        if case.tunnel && expected[0] >> 4 == 4 {
            // RFC 6040: scapy's outer header carries no mark, so the inner one stays.
            expected[1] = 0x28;
        }
        assert_eq!(hex(&opened), hex(&expected), "{case:?}");
    });
}

#[test]
fn a_bit_flipped_where_no_router_may_is_rejected_by_both() {
    let mut python = Python::start("ah_peer.py");
    each(|case, clear, sequence| {
        if clear.len() > 200 {
            return;
        }
        let (wire, _) = seal_one(&case.outbound(sequence - 1), &clear).unwrap();
        let ip_len = wire.len() - clear.len() - case.ah_len();
        let ah_at = if case.tunnel {
            ip_len
        } else {
            wire.len() - case.ah_len() - payload_behind(&wire, case)
        };
        // Low half of the number, IV or ICV, the end of the ICV, and the last byte of all. scapy takes padding behind the
        // ICV for a part of it that it does not look at.
        let iv_len = if case.scapy == "GMAC" { 8 } else { 0 };
        for at in [
            ah_at + 11,
            ah_at + 12,
            ah_at + 12 + iv_len + case.icv_len - 1,
            wire.len() - 1,
        ] {
            if at >= ah_at + 12 + iv_len + case.icv_len && clear_payload_is_empty(&wire, ah_at, case) {
                continue;
            }
            let mut damaged = wire.clone();
            damaged[at] ^= 0x10;
            if at == ah_at + 11 && case.extended {
                // Another number may be in another subspace, of which scapy is told and we find out.
                continue;
            }
            let opened = open_one(&case.inbound((sequence & !0xff).saturating_sub(512)), &damaged);
            assert_eq!(opened, Err(DropReason::IcvMismatch), "{case:?} {at}");
            let answer = case.ask(&mut python, "open", sequence, &damaged);
            assert_eq!(answer["rejected"], true, "{case:?} {at}");
        }
    });
}

fn clear_payload_is_empty(wire: &[u8], ah_at: usize, case: Case) -> bool {
    wire.len() == ah_at + case.ah_len()
}

/// Bytes behind AH in transport mode: the payload, and destination options that follow AH.
fn payload_behind(wire: &[u8], case: Case) -> usize {
    let at = wire
        .windows(4)
        .position(|bytes| bytes == SPI.to_be_bytes())
        .unwrap()
        - 4;
    wire.len() - at - case.ah_len()
}

#[test]
fn wrong_lengths_are_told_apart() {
    let case = Case::all()[0];
    let clear = case.clear(false, b"payload", 0);
    let (wire, _) = seal_one(&case.outbound(0), &clear).unwrap();
    let ah_at = wire
        .windows(4)
        .position(|bytes| bytes == SPI.to_be_bytes())
        .unwrap()
        - 4;
    let mut longer = wire.clone();
    longer[ah_at + 1] = 9;
    assert_eq!(open_one(&case.inbound(0), &longer), Err(DropReason::AhLength));
    let mut shorter = wire[..ah_at + 20].to_vec();
    let len = shorter.len() as u16;
    shorter[2..4].copy_from_slice(&len.to_be_bytes());
    assert_eq!(open_one(&case.inbound(0), &shorter), Err(DropReason::AhTruncated));
    let mut esp = wire;
    esp[9] = 50;
    assert_eq!(
        open_one(&case.inbound(0), &esp),
        Err(DropReason::SpiWrongEndpoint)
    );
}

#[test]
fn a_replayed_packet_is_dropped_and_a_forged_one_does_not_move_the_window() {
    let case = Case::all()[0];
    let (outbound, inbound) = (case.outbound(0), case.inbound(0));
    let clear = case.clear(false, b"payload", 0);
    let (first, _) = seal_one(&outbound, &clear).unwrap();
    let mut forged = first.clone();
    let at = first
        .windows(4)
        .position(|bytes| bytes == SPI.to_be_bytes())
        .unwrap()
        + 4;
    forged[at..at + 4].copy_from_slice(&900_000_u32.to_be_bytes());
    assert_eq!(open_one(&inbound, &forged), Err(DropReason::IcvMismatch));
    assert!(open_one(&inbound, &first).is_ok());
    assert_eq!(open_one(&inbound, &first), Err(DropReason::ReplayDuplicate));
}
