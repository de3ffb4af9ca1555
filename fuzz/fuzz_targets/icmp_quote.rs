//! What an ICMP error says about a packet of ours, as the driver and the worker read it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_xdp_common::{IcmpQuote, IpPacket, SliceReader, address_bytes, parse_ip};

fuzz_target!(|input: &[u8]| {
    let mut packet = IpPacket::EMPTY;
    if parse_ip(&SliceReader(input), &mut packet).is_err() || !IcmpQuote::is_in(&packet) {
        return;
    }
    let mut quote = IcmpQuote::EMPTY;
    if !quote.read(&SliceReader(input), &packet) {
        return;
    }
    // All that it says stands in the quoted packet, none of it behind the packet.
    let quoted = &input[usize::from(packet.upper_offset) + 8..packet.l3_length.into()];
    let (ends, header) = match quote.family {
        4 => (&quoted[12..20], usize::from(quoted[0] & 15) * 4),
        _ => (&quoted[8..40], 40),
    };
    let octets = ends.len() / 2;
    assert_eq!(address_bytes(quote.local)[16 - octets..], ends[..octets]);
    assert_eq!(address_bytes(quote.remote)[16 - octets..], ends[octets..]);
    let spi_at = header + [0, 8, 4][usize::from(quote.encapsulation)];
    assert_eq!(quote.spi.to_be_bytes(), quoted[spi_at..spi_at + 4]);
    assert_eq!(quote.sequence.to_be_bytes(), quoted[spi_at + 4..spi_at + 8]);
});
