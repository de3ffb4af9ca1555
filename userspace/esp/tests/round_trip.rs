//! What is sealed is opened again, and looks right on the wire.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::HashSet;
use std::time::Instant;

use proptest::prelude::*;
use ravelin_esp::{DropReason, Encapsulation, InboundSa, Mode, OutboundSa, Packet, Provider, SaError};
use support::{Case, Frames, case, checksum, ipv4, ipv6, open, open_one, seal, seal_one};

/// A clear packet that the case can carry: either family in a tunnel, the outer one in transport mode.
fn clear_packet(case: Case) -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![3 => 0_usize..=70, 1 => 0_usize..=9000];
    let payload = length.prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
    // Hop-by-hop, routing and destination options in the order of RFC 8200 section 4.1.
    let extensions = prop::sample::select(vec![
        vec![],
        vec![(0, 1)],
        vec![(60, 2)],
        vec![(0, 2), (60, 1), (43, 3), (60, 2)],
        vec![(43, 1)],
    ]);
    let v6 = if case.tunnel {
        any::<bool>().boxed()
    } else {
        Just(case.outer_v6).boxed()
    };
    (v6, any::<u8>(), 0_usize..=10, extensions, payload).prop_map(
        |(v6, traffic_class, option_words, extensions, payload)| {
            if v6 {
                ipv6(traffic_class, &extensions, &payload)
            } else {
                ipv4(traffic_class, &vec![1; option_words * 4], &payload)
            }
        },
    )
}

fn case_and_packets() -> impl Strategy<Value = (Case, Vec<Vec<u8>>)> {
    case().prop_flat_map(|case| (Just(case), prop::collection::vec(clear_packet(case), 1..70)))
}

/// What must hold of the bytes on the wire, whatever the keys.
fn check_wire(case: Case, clear: &[u8], wire: &[u8]) {
    let outer = if case.tunnel {
        case.esp_at() - if case.udp { 8 } else { 0 }
    } else {
        0
    };
    let protocol = if case.udp { 17 } else { 50 };
    if wire[0] >> 4 == 4 {
        let header = &wire[..usize::from(wire[0] & 0x0f) * 4];
        assert_eq!(usize::from(u16::from_be_bytes([wire[2], wire[3]])), wire.len());
        assert_eq!(checksum(header), 0, "IPv4 header checksum");
        assert_eq!(header[9], protocol);
    } else {
        assert_eq!(
            usize::from(u16::from_be_bytes([wire[4], wire[5]])) + 40,
            wire.len()
        );
    }
    if !case.tunnel {
        return;
    }
    // RFC 6040 section 4.1, normal mode; RFC 4301 section 5.1.2.
    let traffic_class = |packet: &[u8]| match packet[0] >> 4 {
        4 => packet[1],
        _ => packet[0] << 4 | packet[1] >> 4,
    };
    assert_eq!(traffic_class(wire), traffic_class(clear));
    if case.outer_v6 {
        assert_eq!((wire[6], wire[7]), (protocol, 64));
    } else {
        assert_eq!((wire[6], wire[8]), (0x40, 64), "DF and TTL");
    }
    if case.udp {
        let udp = &wire[outer..];
        assert_eq!(udp[..4], [0x11, 0x95, 0x11, 0x94], "ports 4501 and 4500");
        assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
        if case.outer_v6 {
            let mut pseudo = wire[8..40].to_vec();
            pseudo.extend_from_slice(&(udp.len() as u32).to_be_bytes());
            pseudo.extend_from_slice(&[0, 0, 0, 17]);
            pseudo.extend_from_slice(udp);
            assert_eq!(checksum(&pseudo), 0, "UDP checksum over IPv6");
        } else {
            assert_eq!(
                udp[6..8],
                [0, 0],
                "RFC 3948 section 2.1: SHOULD be transmitted as a zero value"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn everything_round_trips((case, packets) in case_and_packets(), start in prop::sample::select(vec![
        0, 1, 1000, (1_u64 << 32) - 200, (1 << 32) - 30, 1 << 32, (1 << 40) + 5, u64::MAX - 100,
    ])) {
        let start = if case.extended { start } else { start.min(u64::from(u32::MAX) - 100) };
        let outbound = case.outbound_after(Provider::AwsLc, start);
        let inbound = case.inbound_after(Provider::RustCrypto, start);
        let wire: Vec<_> = seal(&outbound, &packets).into_iter().map(Result::unwrap).collect();
        for (n, ((wire, sequence), clear)) in wire.iter().zip(&packets).enumerate() {
            prop_assert_eq!(*sequence, start + 1 + n as u64);
            prop_assert_eq!(wire.len(), outbound.sealed_len(clear.len(), kept(case, wire)));
            check_wire(case, clear, wire);
            if case.tunnel {
                let esp = &wire[case.esp_at()..];
                prop_assert_eq!(&esp[..4], support::SPI.to_be_bytes());
                prop_assert_eq!(&esp[4..8], (*sequence as u32).to_be_bytes());
                if case.iv_len() == 8 {
                    prop_assert_eq!(&esp[8..16], sequence.to_be_bytes());
                }
            }
        }
        let wire: Vec<_> = wire.into_iter().map(|(wire, _)| wire).collect();
        for ((opened, clear), n) in open(&inbound, &wire).into_iter().zip(&packets).zip(1..) {
            let (opened, sequence) = opened.unwrap();
            prop_assert_eq!(&opened, clear);
            prop_assert_eq!(sequence, start + n);
        }
        for replayed in open(&inbound, &wire) {
            prop_assert_eq!(replayed, Err(DropReason::ReplayDuplicate));
        }
        let bytes = packets.iter().map(Vec::len).sum::<usize>() as u64;
        for counts in [outbound.counters(), inbound.counters()] {
            prop_assert_eq!((counts.packets, counts.bytes), (packets.len() as u64, bytes));
        }
    }
}

/// Every case at least once, with payloads that end everywhere in a block, each provider opening what the other sealed.
#[test]
fn every_case_round_trips_between_providers() {
    for case in Case::all() {
        let packet = |len: usize| {
            let payload = vec![len as u8; len];
            if case.outer_v6 {
                ipv6(0, &[], &payload)
            } else {
                ipv4(0, &[], &payload)
            }
        };
        let packets: Vec<_> = (0..=33).chain([1400, 9000]).map(packet).collect();
        for (sender, receiver) in [
            (Provider::AwsLc, Provider::RustCrypto),
            (Provider::RustCrypto, Provider::AwsLc),
        ] {
            let sealed = seal(&case.outbound_after(sender, 0), &packets);
            let wire: Vec<_> = sealed.into_iter().map(|sealed| sealed.unwrap().0).collect();
            let opened = open(&case.inbound_after(receiver, 0), &wire);
            let opened: Vec<_> = opened.into_iter().map(|opened| opened.unwrap().0).collect();
            assert_eq!(opened, packets, "{case:?}");
        }
    }
}

/// Bytes of headers in front of ESP that the clear packet had already.
fn kept(case: Case, wire: &[u8]) -> usize {
    let esp = wire
        .windows(4)
        .position(|bytes| bytes == support::SPI.to_be_bytes())
        .unwrap();
    if case.tunnel {
        0
    } else {
        esp - if case.udp { 8 } else { 0 }
    }
}

#[test]
fn the_inner_mtu_is_exact() {
    for case in Case::all() {
        let sa = case.outbound();
        assert_eq!(sa.inner_mtu(), None);
        for path_mtu in 1280..1340 {
            sa.set_path_mtu(Some(path_mtu)).unwrap();
            let inner_mtu = sa.inner_mtu().unwrap() as usize;
            // Headers of every length that the cipher's block tells apart.
            let packets = |len: usize| -> Vec<Vec<u8>> {
                if case.outer_v6 {
                    let bare = ipv6(0, &[], &vec![0; len - 40]);
                    vec![bare, ipv6(0, &[(0, 1)], &vec![0; len - 48])]
                } else {
                    let options = (0..4).map(|words| vec![1; words * 4]);
                    options
                        .map(|options| ipv4(0, &options, &vec![0; len - 20 - options.len()]))
                        .collect()
                }
            };
            for packet in packets(inner_mtu) {
                let (wire, sequence) = seal_one(&sa, &packet).unwrap();
                assert!(wire.len() <= path_mtu as usize);
                assert_eq!(sa.sequence().last_used(), sequence);
            }
            let refused = |len: usize| {
                let before = sa.sequence().last_used();
                let sealed = packets(len).into_iter().map(|packet| seal_one(&sa, &packet));
                let outcomes = sealed.map(|sealed| sealed.err() == Some(DropReason::PacketTooBig));
                let refused: Vec<bool> = outcomes.collect();
                let taken = refused.iter().filter(|refused| !**refused).count() as u64;
                // A packet that is too big takes no number.
                assert_eq!(sa.sequence().last_used(), before + taken);
                refused
            };
            let one_more = refused(inner_mtu + 1);
            if case.tunnel || case.align() == 4 {
                assert!(one_more.iter().all(|refused| *refused), "{case:?}");
            } else if case.outer_v6 {
                // It is exact for headers that are no multiple of 8 bytes, which IPv6 does not have.
                assert!(
                    refused(inner_mtu + case.align()).iter().all(|refused| *refused),
                    "{case:?}"
                );
            } else {
                assert!(one_more.contains(&true), "{case:?}");
            }
        }
        assert!(matches!(
            sa.set_path_mtu(Some(100)),
            Err(SaError::PathMtu { mtu: 100, .. })
        ));
    }
}

#[test]
fn nothing_is_sent_before_the_ceiling_is_raised_and_nothing_beyond_it() {
    let case = Case::all()[0];
    let sa = OutboundSa::new(case.parameters(true), Provider::preferred(), 0, Instant::now()).unwrap();
    let packets = vec![ipv4(0, &[], &[1, 2, 3]); 5];
    assert_eq!(seal(&sa, &packets), vec![Err(DropReason::SequenceExhausted); 5]);
    sa.sequence().raise_ceiling(3);
    let outcomes: Vec<_> = seal(&sa, &packets)
        .into_iter()
        .map(|outcome| outcome.map(|(_, n)| n))
        .collect();
    let exhausted = Err(DropReason::SequenceExhausted);
    assert_eq!(outcomes, [Ok(1), Ok(2), Ok(3), exhausted, exhausted]);
    assert_eq!(sa.counters().packets, 3);
}

#[test]
fn the_end_of_the_number_space_stops_the_sa() {
    for case in Case::all() {
        let limit = if case.extended {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        let sa = case.outbound_after(Provider::preferred(), limit - 1);
        let packet = if case.outer_v6 {
            ipv6(0, &[], &[])
        } else {
            ipv4(0, &[], &[])
        };
        assert_eq!(seal_one(&sa, &packet).unwrap().1, limit);
        assert_eq!(seal_one(&sa, &packet), Err(DropReason::SequenceExhausted));
        sa.sequence().raise_ceiling(u64::MAX);
        assert_eq!(seal_one(&sa, &packet), Err(DropReason::SequenceExhausted));
    }
}

#[test]
fn one_bad_packet_affects_no_other_and_takes_no_number() {
    let case = Case {
        tunnel: true,
        ..Case::all()[0]
    };
    let (outbound, inbound) = (case.outbound(), case.inbound());
    let good = ipv4(0, &[], b"payload");
    let mut bad = good.clone();
    bad[3] = 200;
    let sealed = seal(&outbound, &[good.clone(), bad, vec![], good.clone()]);
    assert_eq!(sealed[1], Err(DropReason::IpBadTotalLength));
    assert_eq!(sealed[2], Err(DropReason::IpTruncated));
    assert_eq!(
        [&sealed[0], &sealed[3]].map(|sealed| sealed.as_ref().unwrap().1),
        [1, 2]
    );
    let mut damaged = sealed[0].as_ref().unwrap().0.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let wire = [
        damaged,
        sealed[3].as_ref().unwrap().0.clone(),
        vec![0x45],
        sealed[0].as_ref().unwrap().0.clone(),
    ];
    let opened = open(&inbound, &wire);
    assert_eq!(opened[0], Err(DropReason::IcvMismatch));
    assert_eq!(opened[1], Ok((good.clone(), 2)));
    assert_eq!(opened[2], Err(DropReason::IpTruncated));
    assert_eq!(
        opened[3],
        Ok((good, 1)),
        "the damaged copy did not use up number 1"
    );
}

#[test]
fn two_copies_in_one_batch_are_one_packet() {
    let case = Case {
        tunnel: true,
        ..Case::all()[0]
    };
    let (wire, _) = seal_one(&case.outbound(), &ipv4(0, &[], &[])).unwrap();
    let opened = open(&case.inbound(), &[wire.clone(), wire]);
    assert!(opened[0].is_ok());
    assert_eq!(opened[1], Err(DropReason::ReplayDuplicate));
}

#[test]
fn link_layer_padding_is_not_sealed() {
    for tunnel in [true, false] {
        let case = Case {
            tunnel,
            ..Case::all()[0]
        };
        let clear = ipv4(0, &[], b"x");
        let mut padded = clear.clone();
        padded.resize(46, 0);
        let (mut wire, _) = seal_one(&case.outbound(), &padded).unwrap();
        assert_eq!(
            wire.len(),
            case.outbound().sealed_len(clear.len(), kept(case, &wire))
        );
        wire.resize(wire.len() + 7, 0);
        assert_eq!(open_one(&case.inbound(), &wire).unwrap().0, clear);
    }
}

#[test]
fn transport_mode_refuses_fragments_in_and_out() {
    let v4 = Case {
        tunnel: false,
        outer_v6: false,
        ..Case::all()[0]
    };
    let v6 = Case { outer_v6: true, ..v4 };
    let mut first = ipv4(0, &[], &[0; 8]);
    first[6] = 0x20;
    let mut later = ipv4(0, &[], &[0; 8]);
    later[7] = 1;
    let mut fragment = ipv6(0, &[(44, 1)], &[0; 8]);
    fragment[43] = 1;
    let atomic = ipv6(0, &[(44, 1)], &[0; 8]);
    for (case, packet) in [(v4, first), (v4, later), (v6, fragment)] {
        assert_eq!(
            seal_one(&case.outbound(), &packet),
            Err(DropReason::FragmentTransport)
        );
        let tunnel = Case { tunnel: true, ..case };
        let (wire, _) = seal_one(&tunnel.outbound(), &packet).unwrap();
        assert_eq!(
            open_one(&tunnel.inbound(), &wire).unwrap().0,
            packet,
            "a tunnel carries fragments"
        );
    }
    let (mut wire, _) = seal_one(&v6.outbound(), &atomic).unwrap();
    assert_eq!(open_one(&v6.inbound(), &wire).unwrap().0, atomic);
    wire[43] = 1;
    assert_eq!(open_one(&v6.inbound(), &wire), Err(DropReason::EspFragment));
    let (mut wire, _) = seal_one(&v4.outbound(), &ipv4(0, &[], &[0; 8])).unwrap();
    wire[6] = 0x20;
    assert_eq!(open_one(&v4.inbound(), &wire), Err(DropReason::EspFragment));
}

#[test]
fn a_frame_without_room_is_refused_before_it_takes_a_number() {
    let case = Case {
        tunnel: true,
        outer_v6: true,
        udp: true,
        ..Case::all()[0]
    };
    let sa = case.outbound();
    let clear = ipv4(0, &[], &[]);
    let needed_front = 40 + 8 + 16;
    for (headroom, tailroom, fits) in [
        (needed_front, 20, true),
        (needed_front - 1, 20, false),
        (needed_front, 17, false),
    ] {
        let mut buffer = vec![0; headroom];
        buffer.extend_from_slice(&clear);
        buffer.resize(buffer.len() + tailroom, 0);
        let before = sa.sequence().last_used();
        let mut packet = [Packet::new(&mut buffer, headroom..headroom + clear.len()).unwrap()];
        let mut outcome = [Err(DropReason::SaMissing)];
        sa.seal_batch(&mut packet, &mut outcome, Instant::now());
        if fits {
            assert!(outcome[0].is_ok());
        } else {
            assert_eq!(
                (outcome[0], sa.sequence().last_used()),
                (Err(DropReason::FrameShort), before)
            );
        }
    }
}

#[test]
fn an_sa_takes_only_its_own_endpoints_spi_and_encapsulation() {
    let case = Case {
        tunnel: true,
        outer_v6: false,
        udp: false,
        ..Case::all()[0]
    };
    let (wire, _) = seal_one(&case.outbound(), &ipv4(0, &[], &[])).unwrap();
    let inbound = |change: &dyn Fn(&mut ravelin_esp::SaParameters)| {
        let mut parameters = case.parameters(false);
        change(&mut parameters);
        InboundSa::new(parameters, Provider::preferred(), 0, Instant::now()).unwrap()
    };
    let tunnel = |local: [u8; 4], remote: [u8; 4]| Mode::Tunnel {
        local: local.into(),
        remote: remote.into(),
    };
    let cases: [(InboundSa, DropReason); 4] = [
        (
            inbound(&|p| p.mode = tunnel([192, 0, 2, 9], [192, 0, 2, 1])),
            DropReason::SpiWrongEndpoint,
        ),
        (
            inbound(&|p| p.mode = tunnel([192, 0, 2, 2], [192, 0, 2, 9])),
            DropReason::SpiWrongEndpoint,
        ),
        (
            inbound(&|p| {
                p.encapsulation = Encapsulation::Udp {
                    source_port: 1,
                    destination_port: 2,
                }
            }),
            DropReason::SpiWrongEndpoint,
        ),
        (inbound(&|p| p.spi += 1), DropReason::SpiUnknown),
    ];
    for (sa, reason) in cases {
        assert_eq!(open_one(&sa, &wire), Err(reason));
    }
    let mut reserved = wire.clone();
    reserved[20..24].copy_from_slice(&[0, 0, 0, 255]);
    assert_eq!(open_one(&case.inbound(), &reserved), Err(DropReason::SpiReserved));
    assert!(open_one(&case.inbound(), &wire).is_ok());
}

#[test]
fn a_nat_may_change_the_source_port_but_not_the_destination_port() {
    let case = Case {
        tunnel: true,
        outer_v6: false,
        udp: true,
        ..Case::all()[0]
    };
    let (mut wire, _) = seal_one(&case.outbound(), &ipv4(0, &[], &[])).unwrap();
    wire[20] ^= 0x55;
    let mut elsewhere = wire.clone();
    elsewhere[22] ^= 0x55;
    let mut short = wire.clone();
    short[25] -= 1;
    let inbound = case.inbound();
    assert_eq!(open_one(&inbound, &elsewhere), Err(DropReason::SpiWrongEndpoint));
    assert_eq!(open_one(&inbound, &short), Err(DropReason::TransportBadLength));
    assert!(open_one(&inbound, &wire).is_ok());
}

/// No two workers send one number, and no number is accepted by two workers.
#[test]
fn workers_share_an_sa() {
    const WORKERS: usize = 4;
    let case = Case {
        tunnel: true,
        ..Case::all()[0]
    };
    let (outbound, mut parameters) = (case.outbound(), case.parameters(false));
    parameters.replay_window = 65536;
    let inbound = InboundSa::new(parameters, Provider::preferred(), 0, Instant::now()).unwrap();
    let clear = vec![ipv4(0, &[], b"shared"); 50];
    let sealed: Vec<(Vec<u8>, u64)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| scope.spawn(|| (0..40).flat_map(|_| seal(&outbound, &clear)).collect::<Vec<_>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .map(Result::unwrap)
            .collect()
    });
    let numbers: HashSet<u64> = sealed.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len(), sealed.len());
    let ivs: HashSet<&[u8]> = sealed.iter().map(|(wire, _)| &wire[28..36]).collect();
    assert_eq!(ivs.len(), sealed.len());

    let wire: Vec<Vec<u8>> = sealed.into_iter().map(|(wire, _)| wire).collect();
    let accepted: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    wire.chunks(32)
                        .flat_map(|batch| open(&inbound, batch))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let outcomes = workers.into_iter().flat_map(|worker| worker.join().unwrap());
        outcomes
            .filter_map(|outcome| outcome.ok().map(|(_, number)| number))
            .collect()
    });
    assert_eq!(
        accepted.len(),
        wire.len(),
        "each number once, although every worker had every packet"
    );
    assert_eq!(accepted.iter().copied().collect::<HashSet<_>>(), numbers);
}

#[test]
fn a_slice_without_outcomes_is_left_alone() {
    let clear = ipv4(0, &[], &[]);
    let mut frames = Frames::new([&clear]);
    let mut packets = frames.packets();
    let case = Case {
        tunnel: true,
        ..Case::all()[0]
    };
    let sa = case.outbound();
    sa.seal_batch(&mut packets[..0], &mut [], Instant::now());
    assert_eq!(packets[0].bytes(), clear);
    assert_eq!(sa.sequence().last_used(), 0);
}

#[test]
fn a_zero_udp_checksum_over_ipv6_is_a_choice() {
    let case = Case {
        tunnel: true,
        outer_v6: true,
        udp: true,
        ..Case::all()[0]
    };
    let mut parameters = case.parameters(true);
    parameters.udp_zero_checksum = true;
    let sa = OutboundSa::new(parameters, Provider::preferred(), 0, Instant::now()).unwrap();
    sa.sequence().raise_ceiling(1);
    let clear = ipv4(0, &[], &[]);
    let (wire, _) = seal_one(&sa, &clear).unwrap();
    assert_eq!(wire[46..48], [0, 0]);
    assert_eq!(open_one(&case.inbound(), &wire), Ok((clear, 1)));
}

#[test]
fn a_recorded_number_that_the_sa_cannot_have_used_is_refused() {
    let case = Case {
        extended: false,
        ..Case::all()[0]
    };
    let mark = 1 << 32;
    let expected = SaError::SequenceMark {
        mark,
        limit: mark - 1,
    };
    assert_eq!(
        OutboundSa::new(case.parameters(true), Provider::preferred(), mark, Instant::now()).unwrap_err(),
        expected
    );
    assert_eq!(
        InboundSa::new(
            case.parameters(false),
            Provider::preferred(),
            mark,
            Instant::now()
        )
        .unwrap_err(),
        expected
    );
}
