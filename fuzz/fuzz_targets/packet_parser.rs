//! Any frame, under any small rule set, at all three hooks: no panic, and what is decided fits the frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_xdp_common::line::{ANY_FAMILY, line_flags};
use ravelin_xdp_common::{
    Action, Address, Direction, Flow, FrameMetadata, Header, InboundEndpoint, IpPacket, Kind, Line, Outcome,
    Pass, SliceReader, Tables, Verdict, decide_egress, decide_inner, decide_outer, mapped_v4, parse,
    parse_ip, walk,
};

const SPI: u32 = 0x1000;
const LINE: usize = 16;

/// The tables of a gateway at 192.0.2.1 with one inbound SA.
struct Host {
    header: Header,
    lines: Vec<Line>,
}

impl Tables for Host {
    type RuleSet = ();

    fn rule_set(&self) -> Option<()> {
        Some(())
    }

    fn header(&self, (): ()) -> Option<Header> {
        Some(self.header)
    }

    fn classify(&self, (): (), header: &Header, flow: &Flow, direction: Direction) -> Option<Verdict> {
        Some(walk(header, &self.lines, flow, direction))
    }

    fn inbound(&self, spi: u32) -> Option<InboundEndpoint> {
        (spi == SPI).then_some(InboundEndpoint {
            local: mapped_v4([192, 0, 2, 1]),
            remote: mapped_v4([192, 0, 2, 2]),
            slot: 0,
            local_port: 0,
            remote_port: 0,
            family: 4,
            encapsulation: 0,
            reserved: [0; 6],
        })
    }

    fn is_local(&self, address: &Address) -> bool {
        *address == mapped_v4([192, 0, 2, 1])
    }
}

fuzz_target!(|input: &[u8]| {
    let [settings, count, rest @ ..] = input else {
        return;
    };
    let count = usize::from(count % 5);
    let Some((rules, frame)) = rest.split_at_checked(count * LINE) else {
        return;
    };
    let lines: Vec<Line> = rules.chunks_exact(LINE).map(line).collect();
    let header = Header {
        line_count: count as u32,
        generation: u32::from(settings >> 2),
        default_action: Action::from_u8(settings & 1),
        non_ip: Action::from_u8(settings >> 1 & 1),
    };
    let host = Host { header, lines };

    let mut packet = IpPacket::EMPTY;
    let _ = parse_ip(&SliceReader(frame), &mut packet);
    let mut packet = IpPacket::EMPTY;
    let parsed = parse(&SliceReader(frame), &mut packet);
    let reader = SliceReader(frame);
    for (judgement, hook) in [
        (decide_outer(&reader, &host), Some(Kind::OpenEsp)),
        (decide_inner(&reader, &host), Some(Kind::Seal)),
        (decide_egress(&reader, &host), None),
    ] {
        match judgement.outcome {
            Outcome::Redirect(metadata) => {
                assert_eq!(Some(metadata.kind), hook, "only what the hook may redirect");
                check(&metadata, frame);
            }
            Outcome::Pass(kind) => {
                assert!(parsed.is_ok(), "malformed frames never pass");
                assert!(
                    kind == Pass::Lifeline || header.generation != 0,
                    "without a rule set only the lifeline passes"
                );
            }
            Outcome::Drop(_) => {}
        }
    }
});

/// The packet lies within the frame.
fn check(metadata: &FrameMetadata, frame: &[u8]) {
    let end = usize::from(metadata.l3_offset) + usize::from(metadata.l3_length);
    assert!(metadata.l3_offset >= 14 && metadata.l3_length >= 20 && end <= frame.len());
}

fn line(bytes: &[u8]) -> Line {
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Line {
        source: mapped_v4([bytes[0], bytes[1], 0, 0]),
        destination: mapped_v4([bytes[2], bytes[3], 0, 0]),
        source_prefix_length: bytes[4] % 129,
        destination_prefix_length: bytes[5] % 129,
        family: [ANY_FAMILY, 4, 6][usize::from(bytes[6] % 3)],
        protocol: bytes[7],
        flags: bytes[8] & (line_flags::ACCEPT_UNSECURED * 2 - 1),
        action: bytes[9],
        source_port: [port(10), port(12)],
        destination_port: [port(14), u16::MAX],
        rule_id: 0,
        connection: 0,
        ..Line::EMPTY
    }
}
