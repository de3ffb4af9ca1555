//! Cutting and putting together, judged by etherparse and by each other.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use etherparse::{IpHeaders, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use proptest::prelude::*;
use ravelin_offload::{Gso, OffloadError, PartialChecksum, Run, Segment, Segmenter, VnetHeader};

const MTU: usize = 1400;

/// A connection's next stretch of stream.
#[derive(Clone, Debug)]
struct Stretch {
    v6: bool,
    sequence: u32,
    identification: u16,
    timestamps: bool,
    flags: u8,
    payload: Vec<u8>,
}

const FIN: u8 = 1;
const PSH: u8 = 8;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

impl Stretch {
    /// One packet with all of it, with complete checksums, as etherparse makes it.
    fn packet(&self) -> Vec<u8> {
        let mut tcp = TcpHeader::new(40_000, 443, self.sequence, 7000);
        tcp.acknowledgment_number = 0x0102_0304;
        tcp.ack = true;
        tcp.fin = self.flags & FIN != 0;
        tcp.psh = self.flags & PSH != 0;
        tcp.ece = self.flags & ECE != 0;
        tcp.cwr = self.flags & CWR != 0;
        if self.timestamps {
            tcp.set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])
                .unwrap();
        }
        let builder = if self.v6 {
            PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 61)
        } else {
            PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7], 61)
        };
        let mut bytes = Vec::new();
        builder.tcp_header(tcp).write(&mut bytes, &self.payload).unwrap();
        if !self.v6 {
            identify(&mut bytes, self.identification);
        }
        bytes
    }

    fn transport(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn headers(&self) -> usize {
        self.transport() + if self.timestamps { 32 } else { 20 }
    }

    /// The same as the stack hands it out: the checksum's field holds the sum of the pseudo header.
    fn unfinished(&self, gso_size: u16) -> (VnetHeader, Vec<u8>) {
        let mut packet = self.packet();
        let start = self.transport();
        // The field as the stack leaves it, worked out the long way.
        let addresses = if self.v6 { &packet[8..40] } else { &packet[12..20] };
        let mut words: u64 = addresses
            .chunks(2)
            .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        words += 6 + (packet.len() - start) as u64;
        let sum = ((words - 1) % 0xffff + 1) as u16;
        packet[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
        let header = VnetHeader {
            checksum: Some(PartialChecksum {
                start: start as u16,
                offset: 16,
            }),
            gso: match (gso_size, self.v6) {
                (0, _) => Gso::None,
                (_, false) => Gso::TcpV4,
                (_, true) => Gso::TcpV6,
            },
            header_length: self.headers() as u16,
            gso_size,
        };
        (header, packet)
    }
}

/// Sets identification and DF, and the header's checksum by etherparse.
fn identify(packet: &mut [u8], identification: u16) {
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[6] |= 0x40;
    let (header, _) = etherparse::Ipv4Header::from_slice(packet).unwrap();
    packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
}

fn stretch(longest: usize) -> impl Strategy<Value = Stretch> {
    (
        any::<bool>(),
        any::<u32>(),
        any::<u16>(),
        any::<bool>(),
        prop::sample::select(vec![0, PSH, FIN, FIN | PSH, ECE, ECE | PSH]),
        prop::collection::vec(any::<u8>(), 1..longest),
    )
        .prop_map(
            |(v6, sequence, identification, timestamps, flags, payload)| Stretch {
                v6,
                sequence,
                identification,
                timestamps,
                flags,
                payload,
            },
        )
}

fn segments(header: &VnetHeader, packet: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, OffloadError> {
    let mut packet = packet.to_vec();
    let mut segmenter = Segmenter::new(header, &mut packet, limit)?;
    let mut all = Vec::new();
    while let Some(length) = segmenter.next_length() {
        let mut out = vec![0; length];
        assert!(segmenter.write_next(&packet, &mut out));
        all.push(out);
    }
    Ok(all)
}

/// As a receiver does it, one flow: whatever does not fit begins anew.
fn coalesce(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut done = Vec::new();
    let mut open: Option<(Run, Vec<u8>)> = None;
    let finish = |open: &mut Option<(Run, Vec<u8>)>, done: &mut Vec<_>| {
        if let Some((run, mut bytes)) = open.take() {
            let header = run.finish(&mut bytes);
            done.push((header, bytes));
        }
    };
    for packet in packets {
        let Some(segment) = Segment::parse(packet) else {
            finish(&mut open, &mut done);
            done.push((VnetHeader::default(), packet.clone()));
            continue;
        };
        if let Some((run, bytes)) = &mut open
            && run.take(&segment)
        {
            bytes.extend_from_slice(&packet[segment.headers()..]);
        } else {
            finish(&mut open, &mut done);
            open = Some((Run::new(segment), packet.clone()));
        }
        if open.as_ref().is_some_and(|(run, _)| run.is_complete()) {
            finish(&mut open, &mut done);
        }
    }
    finish(&mut open, &mut done);
    done
}

/// Everything that etherparse can verify, and the TCP header with its payload.
fn verified(packet: &[u8]) -> (TcpHeader, Vec<u8>) {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let (ip, _) = IpHeaders::from_slice(packet).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("no TCP");
    };
    let header = tcp.to_header();
    let expected = match &ip {
        IpHeaders::Ipv4(v4, _) => {
            assert_eq!(v4.header_checksum, v4.calc_header_checksum());
            assert_eq!(usize::from(v4.total_len), packet.len());
            header.calc_checksum_ipv4(v4, tcp.payload()).unwrap()
        }
        IpHeaders::Ipv6(v6, _) => {
            assert_eq!(usize::from(v6.payload_length) + 40, packet.len());
            header.calc_checksum_ipv6(v6, tcp.payload()).unwrap()
        }
    };
    assert_eq!(header.checksum, expected);
    (header, tcp.payload().to_vec())
}

proptest! {
    #[test]
    fn segments_carry_the_stream_and_verify(
        stretch in stretch(60_000),
        gso_size in 1u16..1500,
        offloaded in any::<bool>(),
    ) {
        let gso_size = gso_size.max((stretch.payload.len() / 1000) as u16);
        let (header, packet) = if offloaded {
            stretch.unfinished(gso_size)
        } else {
            (VnetHeader::default(), stretch.packet())
        };
        let all = segments(&header, &packet, MTU).unwrap();
        let mut stream = Vec::new();
        for (index, segment) in all.iter().enumerate() {
            prop_assert!(segment.len() <= MTU || (!offloaded && all.len() == 1));
            let (tcp, payload) = verified(segment);
            let place = stretch.sequence.wrapping_add(stream.len() as u32);
            prop_assert_eq!(tcp.sequence_number, place);
            let last = index + 1 == all.len();
            prop_assert_eq!(tcp.fin, last && stretch.flags & FIN != 0);
            prop_assert_eq!(tcp.psh, last && stretch.flags & PSH != 0);
            prop_assert_eq!(tcp.ece, stretch.flags & ECE != 0);
            if !stretch.v6 {
                let identification = u16::from_be_bytes([segment[4], segment[5]]);
                prop_assert_eq!(identification, stretch.identification.wrapping_add(index as u16));
            }
            stream.extend_from_slice(&payload);
        }
        prop_assert_eq!(&stream, &stretch.payload);
    }

    #[test]
    fn what_was_cut_is_put_together_again_and_cut_again(stretch in stretch(40_000), gso_size in 100u16..1300) {
        let (header, packet) = stretch.unfinished(gso_size);
        let all = segments(&header, &packet, 1500).unwrap();
        let large = coalesce(&all);
        if all.len() > 1 {
            prop_assert_eq!(large.len(), 1);
            prop_assert_eq!(&large[0], &(header, packet));
        }
        let again: Vec<_> = large.iter().flat_map(|(header, packet)| segments(header, packet, 1500).unwrap()).collect();
        prop_assert_eq!(again, all);
    }

    /// Whatever comes in whatever order: the bytes that go on are those that came, and could be cut into them again.
    #[test]
    fn coalescing_loses_and_invents_nothing(
        stretches in prop::collection::vec((stretch(3000), any::<bool>()), 1..12),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..), 0..4),
    ) {
        let mut packets = Vec::new();
        let mut next = (0, 0u16);
        for (mut stretch, continues) in stretches {
            if continues {
                (stretch.sequence, stretch.identification) = next;
            }
            let (header, packet) = stretch.unfinished(500);
            let all = segments(&header, &packet, 1500).unwrap();
            next = (
                stretch.sequence.wrapping_add(stretch.payload.len() as u32),
                stretch.identification.wrapping_add(all.len() as u16),
            );
            packets.extend(all);
        }
        for (which, place, bits) in damage {
            let which = which.index(packets.len());
            let packet = &mut packets[which];
            let place = place.index(packet.len());
            packet[place] ^= bits;
        }
        let again: Vec<_> = coalesce(&packets)
            .iter()
            .flat_map(|(header, packet)| segments(header, packet, usize::MAX).unwrap_or_else(|_| vec![packet.clone()]))
            .collect();
        prop_assert_eq!(again, packets);
    }

    #[test]
    fn datagrams_are_cut_and_verify(v6 in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 1..9000), size in 200u16..1400) {
        let builder = if v6 {
            PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 61)
        } else {
            PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7], 61)
        };
        let mut packet = Vec::new();
        builder.udp(4000, 5000).write(&mut packet, &payload).unwrap();
        let start = if v6 { 40 } else { 20 };
        let addresses = if v6 { &packet[8..40] } else { &packet[12..20] };
        let mut words: u64 = addresses.chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        words += 17 + 8 + payload.len() as u64;
        let sum = ((words - 1) % 0xffff + 1) as u16;
        packet[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
        let header = VnetHeader {
            checksum: Some(PartialChecksum { start: start as u16, offset: 6 }),
            gso: Gso::Udp,
            header_length: start as u16 + 8,
            gso_size: size,
        };
        // The limit does not count: a datagram has the size that its sender gave it.
        let all = segments(&header, &packet, 100).unwrap();
        let mut together = Vec::new();
        for datagram in &all {
            let sliced = SlicedPacket::from_ip(datagram).unwrap();
            let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
            let expected = match IpHeaders::from_slice(datagram).unwrap().0 {
                IpHeaders::Ipv4(v4, _) => {
                    prop_assert_eq!(v4.header_checksum, v4.calc_header_checksum());
                    udp.to_header().calc_checksum_ipv4(&v4, udp.payload()).unwrap()
                }
                IpHeaders::Ipv6(v6, _) => udp.to_header().calc_checksum_ipv6(&v6, udp.payload()).unwrap(),
            };
            prop_assert_eq!(udp.checksum(), expected);
            prop_assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
            together.push(udp.payload().to_vec());
        }
        let expected: Vec<_> = payload.chunks(size.into()).map(<[u8]>::to_vec).collect();
        prop_assert_eq!(together, expected);
    }

    #[test]
    fn any_bytes_are_refused_or_cut_in_bounds(
        header in any::<[u8; 10]>(),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60, 0x40]),
        mut packet in prop::collection::vec(any::<u8>(), 0..400),
        start in prop::sample::select(vec![20u16, 24, 40, 60]),
        kind in 0u8..7,
        limit in 0usize..400,
    ) {
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        let mut header = header;
        header[1] = kind;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&if kind == 5 { 6u16 } else { 16 }.to_ne_bytes());
        if let Some(header) = VnetHeader::from_bytes(&header)
            && let Ok(all) = segments(&header, &packet, limit)
        {
            prop_assert!(!all.is_empty());
            prop_assert!(all.iter().map(Vec::len).max().unwrap() <= packet.len());
        }
        let _ = Segment::parse(&packet);
    }
}

/// RFC 3168 section 6.1.2: one packet tells that the window was reduced.
#[test]
fn only_the_first_segment_carries_cwr() {
    let stretch = Stretch {
        v6: false,
        sequence: u32::MAX - 100,
        identification: u16::MAX,
        timestamps: true,
        flags: CWR | PSH,
        payload: vec![1; 3000],
    };
    let (header, packet) = stretch.unfinished(1000);
    let carried: Vec<bool> = segments(&header, &packet, 1500)
        .unwrap()
        .iter()
        .map(|segment| verified(segment).0.cwr)
        .collect();
    assert_eq!(carried, [true, false, false]);
}

fn pair(change: impl FnOnce(&mut Stretch)) -> Vec<Vec<u8>> {
    let first = Stretch {
        v6: false,
        sequence: 1000,
        identification: 5,
        timestamps: true,
        flags: 0,
        payload: vec![3; 500],
    };
    let mut second = Stretch {
        sequence: 1500,
        identification: 6,
        ..first.clone()
    };
    change(&mut second);
    vec![first.packet(), second.packet()]
}

#[test]
fn only_what_continues_the_stream_joins_it() {
    assert_eq!(coalesce(&pair(|_| {})).len(), 1);
    let changes: [fn(&mut Stretch); 6] = [
        |second| second.sequence += 1,
        |second| second.sequence -= 1,
        |second| second.timestamps = false,
        |second| second.flags = ECE,
        |second| second.payload.push(0),
        |second| second.identification += 1,
    ];
    for change in changes {
        assert_eq!(coalesce(&pair(change)).len(), 2);
    }
    // TOS, TTL, DF, acknowledgement, window, source port: each with checksums that are right again.
    for (place, bits) in [(1, 4u8), (8, 1), (6, 0x40), (28, 1), (34, 1), (20, 1)] {
        let mut packets = pair(|_| {});
        packets[1][place] ^= bits;
        let (v4, _) = etherparse::Ipv4Header::from_slice(&packets[1]).unwrap();
        packets[1][10..12].copy_from_slice(&v4.calc_header_checksum().to_be_bytes());
        let (tcp, payload) = TcpHeader::from_slice(&packets[1][20..]).unwrap();
        let sum = tcp.calc_checksum_ipv4(&v4, payload).unwrap();
        packets[1][36..38].copy_from_slice(&sum.to_be_bytes());
        verified(&packets[1]);
        assert_eq!(coalesce(&packets).len(), 2, "byte {place}");
    }
}

#[test]
fn a_wrong_checksum_stays_wrong_and_alone() {
    let mut packets = pair(|_| {});
    packets[1][60] ^= 1;
    assert_eq!(coalesce(&packets).len(), 2);
    // Cut because the path is narrow, though nobody asked for it: no checksum is made right that was not.
    let all = segments(&VnetHeader::default(), &packets[1], 200).unwrap();
    assert!(all.len() > 1);
    for segment in all {
        let (v4, _) = etherparse::Ipv4Header::from_slice(&segment).unwrap();
        let (tcp, payload) = TcpHeader::from_slice(&segment[20..]).unwrap();
        assert_ne!(tcp.checksum, tcp.calc_checksum_ipv4(&v4, payload).unwrap());
    }
}

/// RFC 6864 section 4.1: with DF the identification says nothing, and some senders leave it at zero.
#[test]
fn an_identification_that_stays_is_taken_with_df_only() {
    let packets = pair(|second| second.identification = 5);
    assert_eq!(coalesce(&packets).len(), 1);
    let without: Vec<Vec<u8>> = packets
        .iter()
        .map(|packet| {
            let mut packet = packet.clone();
            packet[6] = 0;
            let (v4, _) = etherparse::Ipv4Header::from_slice(&packet).unwrap();
            packet[10..12].copy_from_slice(&v4.calc_header_checksum().to_be_bytes());
            packet
        })
        .collect();
    assert_eq!(coalesce(&without).len(), 2);
}
