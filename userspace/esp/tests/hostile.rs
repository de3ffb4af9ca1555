//! Damaged, truncated, forged and authentic but hostile packets: an error each time, never a panic.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::Instant;

use proptest::prelude::*;
use ravelin_esp::{DropReason, InboundSa, Provider, Secret};
use ravelin_gcm::{KeyMaterial, MAX_NONCE_LEN};
use support::{Case, SPI, case, checksum, ipv4, ipv6, open, open_one, seal_one};

fn clear(case: Case) -> Vec<u8> {
    if case.outer_v6 {
        ipv6(2, &[], b"some payload")
    } else {
        ipv4(2, &[], b"some payload")
    }
}

/// Changes the IP and UDP lengths to fit `wire`, as an attacker would.
fn fix_lengths(case: Case, wire: &mut [u8]) {
    let len = wire.len();
    let (ip, at) = if case.outer_v6 {
        (len.saturating_sub(40), 4)
    } else {
        (len, 2)
    };
    if let Some(field) = wire.get_mut(at..at + 2) {
        field.copy_from_slice(&(ip as u16).to_be_bytes());
    }
    if case.udp {
        let udp_at = case.esp_at() - 8;
        if let Some(field) = wire.get_mut(udp_at + 4..udp_at + 6) {
            field.copy_from_slice(&((len - udp_at) as u16).to_be_bytes());
        }
    }
}

/// A packet of sequence number 1 with `plaintext` as it is, trailer and all, sealed with the SA's key.
fn authentic(case: Case, outer_traffic_class: u8, plaintext: &[u8]) -> Vec<u8> {
    let mut wire = if case.outer_v6 {
        ipv6(outer_traffic_class, &[], &[])
    } else {
        ipv4(outer_traffic_class, &[], &[])
    };
    let protocol_at = if case.outer_v6 { 6 } else { 9 };
    wire[protocol_at] = if case.udp { 17 } else { 50 };
    if case.udp {
        wire.extend_from_slice(&[0x11, 0x95, 0x11, 0x94, 0, 0, 0, 0]);
    }
    let algorithm = case.algorithm;
    let keymat = case.key_material();
    let (encryption, rest) = keymat.split_at(algorithm.encryption_key_len());
    let (salt, integrity) = rest.split_at(algorithm.salt_len());
    let key = KeyMaterial::new(algorithm, Secret::from([encryption, integrity].concat())).unwrap();
    let key = Provider::RustCrypto.key(&key).unwrap();
    let number = 1_u64.to_be_bytes();
    let mut iv = vec![0; algorithm.iv_len()];
    key.iv(1, &mut iv);
    let mut nonce = [0; MAX_NONCE_LEN];
    nonce[..salt.len()].copy_from_slice(salt);
    nonce[salt.len()..salt.len() + iv.len()].copy_from_slice(&iv);
    let mut aad = SPI.to_be_bytes().to_vec();
    aad.extend_from_slice(if case.extended { &number } else { &number[4..] });
    let mut data = plaintext.to_vec();
    let mut tag = vec![0; algorithm.tag_len()];
    key.seal(&nonce, &aad, &mut data, &mut tag).unwrap();
    wire.extend_from_slice(&SPI.to_be_bytes());
    wire.extend_from_slice(&number[4..]);
    wire.extend_from_slice(&iv[..case.iv_len()]);
    wire.extend_from_slice(&data);
    wire.extend_from_slice(&tag);
    fix_lengths(case, &mut wire);
    if !case.outer_v6 {
        wire[10..12].fill(0);
        let sum = checksum(&wire[..20]);
        wire[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    wire
}

fn tunnels() -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(|case| case.tunnel)
}

#[test]
fn every_flipped_bit_of_esp_is_rejected_and_harms_nothing() {
    for case in Case::all() {
        let (wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
        let inbound = case.inbound();
        let damaged: Vec<Vec<u8>> = (case.esp_at() * 8..wire.len() * 8)
            .map(|bit| {
                let mut damaged = wire.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                damaged
            })
            .collect();
        for (n, outcome) in open(&inbound, &damaged).into_iter().enumerate() {
            assert!(outcome.is_err(), "{case:?}: bit {n} of ESP");
        }
        assert_eq!(inbound.counters().packets, 0);
        assert_eq!(
            open_one(&inbound, &wire),
            Ok((clear(case), 1)),
            "{case:?}: the window did not move"
        );
    }
}

/// The outer header is not authenticated. Whatever is done to it, the inner packet of a tunnel is as it was sent, but
/// for ECN.
#[test]
fn no_flipped_bit_of_the_outer_header_changes_the_inner_packet() {
    for case in tunnels() {
        let (wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
        for bit in 0..case.esp_at() * 8 {
            let mut damaged = wire.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok((mut opened, _)) = open_one(&case.inbound(), &damaged) {
                let clear = clear(case);
                if case.outer_v6 {
                    opened[1] = opened[1] & !0x30 | clear[1] & 0x30;
                } else {
                    assert_eq!(checksum(&opened[..20]), 0);
                    opened[1] = opened[1] & !3 | clear[1] & 3;
                    opened[10..12].copy_from_slice(&clear[10..12]);
                }
                assert_eq!(opened, clear, "{case:?}: bit {bit}");
            }
        }
    }
}

#[test]
fn every_truncation_is_rejected() {
    for case in Case::all() {
        let (wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
        let inbound = case.inbound();
        let around = 8 + case.iv_len() + case.algorithm.tag_len();
        for len in 0..wire.len() {
            let mut cut = wire[..len].to_vec();
            assert!(open_one(&inbound, &cut).is_err(), "{case:?}: {len} bytes");
            fix_lengths(case, &mut cut);
            let reason = open_one(&inbound, &cut).unwrap_err();
            let Some(esp_len) = len.checked_sub(case.esp_at()) else {
                continue;
            };
            let expected = match esp_len.checked_sub(around) {
                Some(ciphertext_len) if ciphertext_len >= case.align() => {
                    if ciphertext_len.is_multiple_of(case.align()) {
                        DropReason::IcvMismatch
                    } else {
                        DropReason::EspMisaligned
                    }
                }
                _ => DropReason::EspTruncated,
            };
            assert_eq!(reason, expected, "{case:?}: {esp_len} bytes of ESP");
        }
        assert!(open_one(&inbound, &wire).is_ok());
    }
}

#[test]
fn sequence_number_zero_is_refused_unless_anti_replay_is_off() {
    let case = Case {
        tunnel: true,
        extended: false,
        ..Case::all()[0]
    };
    let (mut wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
    wire[case.esp_at() + 4..case.esp_at() + 8].fill(0);
    assert_eq!(open_one(&case.inbound(), &wire), Err(DropReason::SequenceZero));
    let mut parameters = case.parameters(false);
    parameters.replay_window = 0;
    let inbound = InboundSa::new(parameters, Provider::preferred(), 0, Instant::now()).unwrap();
    assert_eq!(open_one(&inbound, &wire), Err(DropReason::IcvMismatch));
    assert_eq!(inbound.highest_sequence(), None);
}

#[test]
fn authentic_plaintext_is_checked_too() {
    // Of a length that makes a trailer end with a block of every cipher.
    let inner = |trailer: &[u8]| ipv4(0, &[], &vec![b'1'; 4 + (16 - (24 + trailer.len()) % 16) % 16]);
    let with = |trailer: &[u8]| [&inner(trailer)[..], trailer].concat();
    let good = [1, 2, 2, 4];
    let with_header = |change: fn(&mut Vec<u8>)| {
        let mut packet = inner(&good);
        change(&mut packet);
        [&packet[..], &good].concat()
    };
    let inner_len = inner(&good).len() as u8;
    let refused: [(Vec<u8>, DropReason); 12] = [
        (with(&[1, 2, 3, 254, 4, 0, 0, 255]), DropReason::NextHeader),
        (with(&[0, 0, 255, 4]), DropReason::PadLength),
        (with(&[0, 0, inner_len + 2, 4]), DropReason::PadContent),
        (with(&[0, 0, inner_len + 3, 4]), DropReason::PadLength),
        (with(&[1, 1, 2, 4]), DropReason::PadContent),
        (with(&[1, 2, 2, 6]), DropReason::NextHeader),
        (with(&[1, 2, 2, 0]), DropReason::NextHeader),
        (with(&[1, 2, 2, 59]), DropReason::Dummy),
        (with(&[1, 2, 2, 41]), DropReason::InnerMalformed),
        (with_header(|packet| packet[3] += 4), DropReason::InnerMalformed),
        (with_header(|packet| packet[3] = 19), DropReason::InnerMalformed),
        (with_header(|packet| packet[0] = 0x55), DropReason::InnerMalformed),
    ];
    for case in tunnels() {
        let open_authentic = |plaintext: &[u8]| {
            open_one(&case.inbound(), &authentic(case, 0, plaintext)).map(|(packet, _)| packet)
        };
        for (plaintext, reason) in &refused {
            assert_eq!(
                open_authentic(plaintext),
                Err(*reason),
                "{case:?}: {plaintext:x?}"
            );
        }
        assert_eq!(
            open_authentic(&case.padded(&[], 59)),
            Err(DropReason::Dummy),
            "{case:?}"
        );
        let empty = open_authentic(&case.padded(&[], 4));
        assert_eq!(empty, Err(DropReason::InnerMalformed), "{case:?}");

        let long_trailer: Vec<u8> = (1..=254).chain([254, 4]).collect();
        // Behind the inner packet of the last: traffic flow confidentiality padding.
        for trailer in [&good[..], &long_trailer, &[9, 9, 9, 9, 9, 9, 0, 4]] {
            assert_eq!(open_authentic(&with(trailer)), Ok(inner(trailer)), "{case:?}");
        }
    }
}

#[test]
fn a_packet_dropped_after_verification_has_used_its_number() {
    let case = tunnels().next().unwrap();
    let inbound = case.inbound();
    let dummy = authentic(case, 0, &case.padded(&[], 59));
    assert_eq!(open_one(&inbound, &dummy), Err(DropReason::Dummy));
    assert_eq!(open_one(&inbound, &dummy), Err(DropReason::ReplayDuplicate));
}

/// RFC 6040 figure 4 over real packets of both inner families.
#[test]
fn congestion_marks_survive_the_tunnel() {
    for case in tunnels() {
        for inner_v6 in [false, true] {
            let inner = |ecn: u8| {
                if inner_v6 {
                    ipv6(0xb8 | ecn, &[], &[0; 4])
                } else {
                    ipv4(0xb8 | ecn, &[], &[0; 4])
                }
            };
            let next_header = if inner_v6 { 41 } else { 4 };
            let through = |outer: u8, ecn: u8| {
                let plaintext = case.padded(&inner(ecn), next_header);
                open_one(&case.inbound(), &authentic(case, outer, &plaintext)).map(|(opened, _)| opened)
            };
            assert_eq!(through(0b11, 0b00), Err(DropReason::EcnNotCapable));
            assert_eq!(through(0b11, 0b10), Ok(inner(0b11)), "with a valid checksum");
            assert_eq!(through(0b11, 0b01), Ok(inner(0b11)));
            assert_eq!(through(0b01, 0b10), Ok(inner(0b01)));
            assert_eq!(through(0b00, 0b11), Ok(inner(0b11)));
        }
    }
}

#[test]
fn transport_mode_delivers_no_fragment_header_from_inside() {
    let case = Case {
        tunnel: false,
        outer_v6: true,
        ..Case::all()[0]
    };
    let wire = authentic(case, 0, &case.padded(&[17, 0, 0, 1, 0, 0, 0, 0], 44));
    assert_eq!(open_one(&case.inbound(), &wire), Err(DropReason::NextHeader));
}

/// An IPv4 header damaged on the way has a wrong checksum; opening must not repair it.
#[test]
fn transport_mode_does_not_hide_a_damaged_header() {
    let case = Case {
        tunnel: false,
        outer_v6: false,
        udp: false,
        ..Case::all()[0]
    };
    let (mut wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
    wire[15] ^= 0x40;
    let (opened, _) = open_one(&case.inbound(), &wire).unwrap();
    assert_ne!(checksum(&opened[..20]), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(case in case(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open_one(&case.inbound(), &bytes).is_err());
    }

    #[test]
    fn random_esp_never_panics(case in case(), mut esp in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut wire = authentic(case, 0, &[]);
        wire.truncate(case.esp_at());
        if let Some(spi) = esp.first_chunk_mut() {
            *spi = SPI.to_be_bytes();
        }
        wire.extend_from_slice(&esp);
        fix_lengths(case, &mut wire);
        prop_assert!(open_one(&case.inbound(), &wire).is_err());
    }

    #[test]
    fn random_changes_never_pass(
        case in case(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..6),
        cut in any::<prop::sample::Index>(),
        keep: bool,
    ) {
        let (mut wire, _) = seal_one(&case.outbound(), &clear(case)).unwrap();
        let original = wire.clone();
        for (place, change) in changes {
            let place = place.index(wire.len());
            wire[place] ^= change;
        }
        if !keep {
            wire.truncate(cut.index(wire.len()));
            fix_lengths(case, &mut wire);
        }
        if wire.get(case.esp_at()..) != original.get(case.esp_at()..) {
            prop_assert!(open_one(&case.inbound(), &wire).is_err());
        }
    }

    /// The peer is authentic, and hostile: it chooses the whole plaintext.
    #[test]
    fn random_plaintext_never_panics(
        case in case(),
        mut plaintext in (1_usize..60).prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4)),
        next_header in prop::sample::select(vec![4_u8, 41, 6, 17, 44, 0, 60, 59]),
        pad_len in 0_u8..3,
        first in prop::sample::select(vec![0x45_u8, 0x46, 0x4f, 0x60, 0]),
    ) {
        let len = plaintext.len().next_multiple_of(case.align());
        plaintext.resize(len, 0);
        plaintext[0] = first;
        for n in 0..pad_len.min(2) {
            plaintext[len - 2 - usize::from(pad_len.min(2)) + usize::from(n)] = n + 1;
        }
        plaintext[len - 2] = pad_len.min(2);
        plaintext[len - 1] = next_header;
        let opened = open_one(&case.inbound(), &authentic(case, 0, &plaintext));
        if let (true, Ok((opened, _))) = (case.tunnel, opened) {
            let total = match opened[0] >> 4 {
                4 => usize::from(u16::from_be_bytes([opened[2], opened[3]])),
                _ => 40 + usize::from(u16::from_be_bytes([opened[4], opened[5]])),
            };
            prop_assert_eq!(total, opened.len());
        }
    }
}
