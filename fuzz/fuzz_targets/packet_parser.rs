//! Any frame, under any small rule set, at all hooks: no panic, and what is decided fits the frame.
#![no_main]

use std::cell::Cell;

use libfuzzer_sys::fuzz_target;
use ravelin_xdp_common::{
    Action, Address, Direction, Flow, FragmentKey, FragmentRecord, FrameMetadata, Header, InboundEndpoint,
    IpPacket, Kind, Line, OutboundKey, Outcome, Pass, Roots, SliceReader, Tables, TunnelEnds, Verdict,
    decide_egress, decide_host_egress, decide_inner, decide_outer, mapped_v4, parse, parse_ip, walk,
};

const SPI: u32 = 0x1000;
const LINE: usize = size_of::<Line>();

/// The tables of a gateway at 192.0.2.1 with one inbound SA.
struct Host {
    header: Header,
    lines: Vec<Line>,
    fragment: Cell<Option<(FragmentKey, FragmentRecord)>>,
}

impl Tables for Host {
    type RuleSet = ();

    fn rule_set(&self) -> Option<()> {
        Some(())
    }

    fn header(&self, (): ()) -> Option<Header> {
        Some(self.header)
    }

    fn classify(&self, (): (), header: &Header, flow: &Flow, direction: Direction) -> Verdict {
        walk(header, &self.lines, flow, direction)
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
            shortest: 36,
            verify_moved: 0,
            reserved: [0; 3],
        })
    }

    fn is_tunnel(&self, ends: &TunnelEnds) -> bool {
        (ends.local, ends.remote) == (mapped_v4([192, 0, 2, 1]), mapped_v4([192, 0, 2, 2]))
    }

    fn outbound(&self, key: &OutboundKey) -> Option<u32> {
        (key.remote == mapped_v4([192, 0, 2, 2]) && key.spi == SPI).then_some(0)
    }

    fn is_local(&self, address: &Address) -> bool {
        *address == mapped_v4([192, 0, 2, 1])
    }

    // Of this machine's, and of one that it may have had before.
    fn is_spoken_of(&self, address: &Address) -> bool {
        self.is_local(address) || *address == mapped_v4([192, 0, 2, 3])
    }

    fn recall(&self, key: &FragmentKey) -> FragmentRecord {
        let fragment = self.fragment.get();
        fragment
            .filter(|(known, _)| known == key)
            .map_or(FragmentRecord::EMPTY, |(_, record)| record)
    }

    fn remember(&self, key: &FragmentKey, record: &FragmentRecord) {
        self.fragment.set(Some((*key, *record)));
    }

    fn now(&self) -> u64 {
        1
    }
}

fuzz_target!(|input: &[u8]| {
    let [settings, levels, count, rest @ ..] = input else {
        return;
    };
    let count = usize::from(count % 6);
    let Some((rules, frame)) = rest.split_at_checked(count * LINE) else {
        return;
    };
    // Line 0 is the header's; the others are whatever the fuzzer wants: a damaged rule set must neither panic nor
    // loop for ever, and what it does not decide must not pass.
    let mut lines = vec![Line::EMPTY];
    lines.extend(rules.chunks_exact(LINE).map(line));
    let header = Header {
        generation: u32::from(settings >> 2),
        verdicts: 1 + u32::from(levels >> 4),
        roots: Roots {
            v4: 1,
            v4_fragment: 2,
            v6: 3,
            v6_fragment: 4,
        },
        default_action: Action::from_u8(settings & 1),
        non_ip: Action::from_u8(settings >> 1 & 1),
        exemptions: levels & 3,
        flags: levels >> 2 & 3,
    };
    let host = Host {
        header,
        lines,
        fragment: Cell::new(None),
    };

    let mut packet = IpPacket::EMPTY;
    let _ = parse_ip(&SliceReader(frame), &mut packet);
    let mut packet = IpPacket::EMPTY;
    let parsed = parse(&SliceReader(frame), &mut packet);
    let reader = SliceReader(frame);
    for (judgement, hook) in [
        (decide_outer(&reader, &host), Some(Kind::OpenEsp)),
        (decide_inner(&reader, &host), Some(Kind::Seal)),
        (decide_egress(&reader, &host), None),
        (decide_host_egress(&reader, &host), Some(Kind::Seal)),
    ] {
        match judgement.outcome() {
            Outcome::Redirect(metadata) => {
                let outer =
                    matches!(metadata.kind, Kind::Reassemble | Kind::PathMtu) && hook == Some(Kind::OpenEsp);
                assert!(
                    outer || Some(metadata.kind) == hook,
                    "only what the hook may redirect"
                );
                check(&metadata, frame);
            }
            Outcome::Pass(kind) => {
                assert!(
                    parsed.is_ok() || kind == Pass::Audit,
                    "malformed frames never pass, except an audit"
                );
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
    let mut line = Line::EMPTY;
    for (word, bytes) in line.0.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    line
}
