//! What an ICMP error says about a packet of ours, as the driver and the worker read it; and about any packet, as the rules want it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_xdp_common::{Address, IcmpQuote, IpPacket, Ports, SliceReader, address_bytes, parse_ip};

fuzz_target!(|input: &[u8]| {
    let mut packet = IpPacket::EMPTY;
    if parse_ip(&SliceReader(input), &mut packet).is_err() || !packet.is_icmp_error() {
        assert!(!IcmpQuote::is_in(&packet) || packet.is_icmp_error());
        return;
    }
    // All that is said stands in the quoted packet, none of it behind the packet.
    let quoted = &input[usize::from(packet.upper_offset) + 8..packet.l3_length.into()];
    selectors(&packet, input, quoted);
    if !IcmpQuote::is_in(&packet) {
        return;
    }
    let mut quote = IcmpQuote::EMPTY;
    if !quote.read(&SliceReader(input), &packet) {
        return;
    }
    let header = ends_of(quote.family, quoted, [quote.local, quote.remote]);
    let spi_at = header + [0, 8, 4][usize::from(quote.encapsulation)];
    assert_eq!(quote.spi.to_be_bytes(), quoted[spi_at..spi_at + 4]);
    assert_eq!(quote.sequence.to_be_bytes(), quoted[spi_at + 4..spi_at + 8]);
});

/// The addresses are those of the quoted header; returns its length, without extensions.
fn ends_of(family: u8, quoted: &[u8], [source, destination]: [Address; 2]) -> usize {
    let (ends, header) = match family {
        4 => (&quoted[12..20], usize::from(quoted[0] & 15) * 4),
        _ => (&quoted[8..40], 40),
    };
    let octets = ends.len() / 2;
    assert_eq!(address_bytes(source)[16 - octets..], ends[..octets]);
    assert_eq!(address_bytes(destination)[16 - octets..], ends[octets..]);
    header
}

fn selectors(packet: &IpPacket, input: &[u8], quoted: &[u8]) {
    let Some(flow) = packet.quoted(&SliceReader(input)) else {
        return;
    };
    assert_eq!(flow.family, packet.flow.family);
    let header = ends_of(flow.family as u8, quoted, [flow.source, flow.destination]);
    if flow.ports != Ports::Known {
        assert_eq!((flow.source_port, flow.destination_port), (0, 0));
        return;
    }
    let words = [
        flow.source_port.to_be_bytes(),
        flow.destination_port.to_be_bytes(),
    ]
    .concat();
    let icmp = [words[1], words[3]];
    // Behind extensions they are somewhere behind the header.
    let rest = &quoted[header..];
    assert!(
        rest.windows(4).any(|window| window == words)
            || matches!(flow.protocol, 1 | 58) && rest.windows(2).any(|window| window == icmp)
    );
}
