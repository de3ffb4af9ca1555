//! ESP against scapy, an implementation by others: each opens what the other sealed, and rejects what was damaged.
//!
//! Needs python3 with scapy and cryptography (Debian: `python3-scapy`, `python3-cryptography`), and fails without.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use ravelin_esp::{DropReason, Provider};
use serde_json::{Value, json};
use support::python::{Python, bytes, hex};
use support::{Case, SPI, ipv4, ipv6, open_one, seal_one};

/// Asks for one operation on a packet of an SA.
fn ask(scapy: &mut Python, operation: &str, case: Case, sequence: u64, packet: &[u8]) -> Value {
    let (source, destination) = case.endpoints();
    let keymat = case.key_material();
    let (key, rest) = keymat.split_at(case.algorithm.encryption_key_len());
    let (salt, integrity_key) = rest.split_at(case.algorithm.salt_len());
    scapy.ask(&json!({
        "operation": operation,
        "algorithm": case.algorithm.name(),
        "implicit": case.implicit_iv,
        "tunnel": case.tunnel,
        "udp": case.udp,
        "extended": case.extended,
        "source": source,
        "destination": destination,
        "spi": SPI,
        "key": hex(key),
        "salt": hex(salt),
        "integrity_key": hex(integrity_key),
        "sequence": sequence,
        "packet": hex(packet),
    }))
}

/// A fixed sequence of numbers that look random (xorshift64*), so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// A clear packet the case can carry: of every size class, with options or extension headers now and then.
fn clear_packet(random: &mut Random, inner_v6: bool, round: usize) -> Vec<u8> {
    const CHAINS: [&[(u8, usize)]; 4] = [&[], &[(0, 1)], &[(60, 2)], &[(0, 2), (60, 1)]];
    const LENGTHS: [usize; 8] = [0, 1, 2, 3, 16, 64, 1500, 9000];
    let chain = if inner_v6 {
        CHAINS[round % CHAINS.len()]
    } else {
        &[]
    };
    // scapy invents an extension header where nothing follows one.
    let shortest = usize::from(!chain.is_empty());
    let len = shortest + random.below(LENGTHS[round % LENGTHS.len()] + 1);
    let payload = random.bytes(len);
    // Not CE: scapy's outer header has no mark, but ours copies it.
    let traffic_class = random.below(64) as u8 * 4;
    if inner_v6 {
        ipv6(traffic_class, chain, &payload)
    } else {
        ipv4(traffic_class, &vec![1; round % 3 * 4], &payload)
    }
}

/// Every case with the inner families it can carry, and a provider and a sequence number to use. Packets of every kind
/// come by in turn, so that each algorithm meets them all.
fn each_case(random: &mut Random, mut check: impl FnMut(&mut Random, Case, Provider, Vec<u8>, u64)) {
    let mut round = 0;
    for case in Case::all() {
        let inner_families = if case.tunnel {
            vec![false, true]
        } else {
            vec![case.outer_v6]
        };
        for inner_v6 in inner_families {
            let sequence = match (case.extended, random.below(3)) {
                (_, 0) => 1 + random.below(1000) as u64,
                (false, _) => u64::from(u32::MAX) - random.below(1000) as u64,
                // Low halves of zero too.
                (true, 1) => (1 + random.below(1000) as u64) << 32,
                (true, _) => (random.below(1 << 30) as u64) << 33 | (1 + random.below(1 << 30) as u64),
            };
            let provider = Provider::ALL[random.below(Provider::ALL.len())];
            let clear = clear_packet(random, inner_v6, round);
            check(random, case, provider, clear, sequence);
            round += 1;
        }
    }
}

/// `packet` with one bit flipped somewhere from its ESP header on.
fn damaged(random: &mut Random, packet: &[u8]) -> Vec<u8> {
    let esp_at = packet
        .windows(4)
        .position(|bytes| bytes == SPI.to_be_bytes())
        .unwrap();
    let mut packet = packet.to_vec();
    let bit = random.below((packet.len() - esp_at) * 8);
    packet[esp_at + bit / 8] ^= 1 << (bit % 8);
    packet
}

#[test]
fn scapy_opens_what_we_seal() {
    let mut scapy = Python::start("scapy_peer.py");
    each_case(&mut Random(1), |random, case, provider, clear, sequence| {
        let outbound = case.outbound_after(provider, sequence - 1);
        let (sealed, number) = seal_one(&outbound, &clear).unwrap();
        assert_eq!(number, sequence);
        let context = format!("{case:?}, {provider}, sequence {sequence}, clear {}", hex(&clear));

        let opened = ask(&mut scapy, "open", case, sequence, &sealed);
        assert_eq!(opened["spi"], SPI, "{context}");
        assert_eq!(opened["sequence"], sequence as u32, "{context}");
        assert_eq!(opened["iv_as_expected"], true, "{context}");

        let plaintext = bytes(&opened["plaintext"]);
        let around = opened["around"].as_u64().unwrap() as usize;
        assert_eq!(opened["esp"], around + plaintext.len(), "{context}");
        let pad_len = usize::from(plaintext[plaintext.len() - 2]);
        let (payload, trailer) = plaintext.split_at(plaintext.len() - 2 - pad_len);
        let align = case.align();
        assert!(
            plaintext.len().is_multiple_of(align) && pad_len < align,
            "{context}"
        );
        let padding: Vec<u8> = (1..=pad_len as u8).collect();
        assert_eq!(trailer[..pad_len], padding, "{context}");
        assert!(clear.ends_with(payload), "{context}");
        if case.tunnel {
            assert_eq!(payload, clear, "{context}");
            let next_header = if clear[0] >> 4 == 4 { 4 } else { 41 };
            assert_eq!(trailer[pad_len + 1], next_header, "{context}");
        }
        if let Some(packet) = opened.get("packet") {
            assert_eq!(bytes(packet), clear, "{context}");
        } else {
            assert!(
                case.udp && !case.tunnel && case.outer_v6,
                "only this does scapy not know"
            );
        }

        let damaged = damaged(random, &sealed);
        let rejected = ask(&mut scapy, "rejects", case, sequence, &damaged);
        assert_eq!(rejected["rejected"], true, "{context}");
    });
}

#[test]
fn we_open_what_scapy_seals() {
    let mut scapy = Python::start("scapy_peer.py");
    each_case(&mut Random(2), |random, case, provider, clear, sequence| {
        let context = format!("{case:?}, {provider}, sequence {sequence}, clear {}", hex(&clear));
        let sealed = bytes(&ask(&mut scapy, "seal", case, sequence, &clear)["packet"]);
        let inbound = case.inbound_after(provider, sequence - 1);
        let damaged = damaged(random, &sealed);
        assert!(open_one(&inbound, &damaged).is_err(), "{context}");
        assert_eq!(open_one(&inbound, &sealed), Ok((clear, sequence)), "{context}");
        let replayed = open_one(&inbound, &sealed);
        assert_eq!(replayed, Err(DropReason::ReplayDuplicate), "{context}");
    });
}
