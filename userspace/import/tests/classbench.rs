//! ClassBench sets against an evaluator of their own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use ravelin_classifier::arbitrary::Rng;
use ravelin_classifier::reference::{Packet, Transport, classify};
use ravelin_import::{Actions, Imported, Source, classbench};
use ravelin_policy::Policy;
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{Decision, Direction};

fn import(text: &str, actions: Actions) -> Imported {
    classbench(&Source::decode("set", text.as_bytes()).unwrap(), actions)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(text: &str) -> String {
    let source = Source::decode("set", text.as_bytes()).unwrap();
    classbench(&source, Actions::Permit)
        .expect_err("an error")
        .to_string()
}

#[test]
fn a_published_set_is_read() {
    let imported = import(
        "@198.12.130.31/32\t192.168.0.0/16\t0 : 65535\t1521 : 1521\t0x06/0xFF\t0x0000/0x0000\t\n\
         \n\
         @0.0.0.0/0 10.1.2.3/32 1024:65535 53:53 0x11/0xff\n\
         @2001:db8::/32 2001:db8:1::1/128 0 : 65535 0 : 65535 0x00/0x00 0x0000/0x0000\n\
         @10.0.0.77/8 0.0.0.0/0 0 : 65535 0 : 65535 47/255\n",
        Actions::Alternate,
    );
    assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
    assert_eq!(
        imported.policy,
        r#"# Imported from set (ClassBench).

default = "permit"

rules = [
{name="rule-1",filter-list="1",action="permit",priority=1},
{name="rule-3",filter-list="3",action="permit",priority=3},
{name="rule-4",filter-list="4",action="block",priority=4},
{name="rule-5",filter-list="5",action="permit",priority=5},
]

[filter-lists]
1={filters=[{source="198.12.130.31",destination="192.168.0.0/16",protocol="tcp",destination-port=1521,mirrored=false}]}
3={filters=[{source="0.0.0.0/0",destination="10.1.2.3",protocol="udp",source-port="1024-65535",destination-port=53,mirrored=false}]}
4={filters=[{source="2001:db8::/32",destination="2001:db8:1::1",mirrored=false}]}
5={filters=[{source="10.0.0.0/8",destination="0.0.0.0/0",protocol=47,mirrored=false}]}
"#
    );
}

#[test]
fn what_cannot_be_said_is_told_with_its_line() {
    let imported = import(
        "@10.0.0.0/8 0.0.0.0/0 0 : 65535 80 : 80 0x00/0x00\n\
         @10.0.0.0/8 0.0.0.0/0 0 : 65535 80 : 80 0x01/0xFF\n\
         @10.0.0.0/8 0.0.0.0/0 0 : 65535 0 : 65535 0x06/0xFE\n\
         @10.0.0.0/8 0.0.0.0/0 0 : 65535 0 : 65535 0x00/0x01\n\
         @10.0.0.0/8 0.0.0.0/0 0 : 65535 0 : 65535 0x06/0xFF 0x1000/0x1000\n\
         @10.0.0.0/8 0.0.0.0/0 0 : 65535 0 : 65535 0x06/0xFF 0x0000/0x0200 17\n\
         @::/0 ::/0 0 : 65535 0 : 65535 0x01/0xFF\n",
        Actions::Permit,
    );
    let told: Vec<(bool, String)> = imported
        .warnings
        .iter()
        .map(|warning| (warning.loss, warning.to_string()))
        .collect();
    let expected = [
        (false, "set:1: 1 rule from here on limit ports but no protocol"),
        (true, "set:2: protocol 1 has no ports"),
        (true, "set:4: the protocol's mask 0x01 stands for 128 protocols"),
        (true, "set:5: 2 rules from here on compare TCP flags"),
        (true, "set:6: 1 rule from here on have more columns"),
        (
            true,
            "set:7: protocol 1 belongs to IPv4, but the addresses are IPv6",
        ),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for ((loss, text), (expected_loss, start)) in told.iter().zip(expected) {
        assert!(
            text.starts_with(start) && *loss == expected_loss,
            "{text} is not {start}"
        );
    }
    assert!(
        imported.policy.contains("#   line 2: protocol 1 has no ports"),
        "{}",
        imported.policy
    );
    let (policy, _) = Policy::parse(&imported.policy, "p").unwrap();
    let names: Vec<&str> = policy.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["rule-1", "rule-3", "rule-5", "rule-6"]);
    assert_eq!(policy.filters(&policy.rules()[1]).len(), 2, "protocols 6 and 7");
}

#[test]
fn bad_lines_are_told_with_their_numbers() {
    for (text, told) in [
        ("10.0.0.0/8 ...", "set:1: a ClassBench rule starts with `@`"),
        (
            "@10.0.0.0/33 1.0.0.0/8 0 : 1 0 : 1 0/0",
            "set:1: the source is not",
        ),
        ("\n@10.0.0.0/8 x 0 : 1 0 : 1 0/0", "set:2: the destination is not"),
        ("@10.0.0.0/8 ::/0 0 : 1 0 : 1 0/0", "different families"),
        ("@10.0.0.0/8 1.0.0.0/8 2 : 1 0 : 1 0/0", "is empty"),
        ("@10.0.0.0/8 1.0.0.0/8 0 - 1 0 : 1 0/0", "`:` is missing"),
        ("@10.0.0.0/8 1.0.0.0/8 0 : 65536 0 : 1 0/0", "65535 but `65536`"),
        ("@10.0.0.0/8 1.0.0.0/8 0 : 1 0 : 1 tcp", "value/mask"),
        ("@10.0.0.0/8 1.0.0.0/8 0 : 1 0 : 1 0x100/0xFF", "value/mask"),
        ("@10.0.0.0/8 1.0.0.0/8 0 : 1 0 : 1", "value/mask"),
        ("@10.0.0.0/8", "the destination is not"),
        ("@::ffff:10.0.0.1/128 ::/0 0 : 1 0 : 1 0/0", "IPv4-mapped"),
    ] {
        let error = refusal(text);
        assert!(error.contains(told), "{error}\nis not {told}");
    }
    let endless = "@".repeat(1 << 20);
    assert!(refusal(&endless).contains("set:1: the line is longer than"));
}

/// A rule as the test understands it, without the importer's code.
struct Rule {
    line: usize,
    source: IpNet,
    destination: IpNet,
    ports: [(u16, u16); 2],
    protocol: Option<u8>,
}

fn random_rule(rng: &mut Rng, line: usize, text: &mut String) -> Rule {
    let v4 = rng.chance(60);
    let mut prefix = || {
        let bits = *rng.pick(&[0_u128, 1, 2, 0x0a00_0000, 0x0a01_0000, 0xffff_ffff]);
        let (address, length): (IpAddr, u8) = if v4 {
            ((bits as u32).to_be_bytes().into(), *rng.pick(&[0, 8, 16, 31, 32]))
        } else {
            (
                (bits | 0x2001_0db8 << 96).to_be_bytes().into(),
                *rng.pick(&[0, 32, 64, 127, 128]),
            )
        };
        IpNet::new(address, length).unwrap()
    };
    let (source, destination) = (prefix(), prefix());
    let icmp = if v4 { 1 } else { 58 };
    let protocol = *rng.pick(&[None, Some(6), Some(17), Some(icmp), Some(50)]);
    let with_ports = matches!(protocol, Some(6 | 17));
    let mut range = || {
        if !with_ports || rng.chance(40) {
            return (0, 65_535);
        }
        let (a, b) = (*rng.pick(&[0, 80, 1024]), *rng.pick(&[80, 443, 1024, 65_535]));
        (a.min(b), a.max(b))
    };
    let ports = [range(), range()];
    let mask = if protocol.is_some() { 0xff } else { 0 };
    let _ = writeln!(
        text,
        "@{source}\t{destination}\t{} : {}\t{} : {}\t{:#04x}/{mask:#04X}\t0x0000/0x0000",
        ports[0].0,
        ports[0].1,
        ports[1].0,
        ports[1].1,
        protocol.unwrap_or(0),
    );
    Rule {
        line,
        source,
        destination,
        ports,
        protocol,
    }
}

impl Rule {
    fn matches(&self, packet: &Packet) -> bool {
        let (source_port, destination_port) = match packet.transport {
            Transport::Ports(a, b) if packet.protocol != 1 && packet.protocol != 58 => (a, b),
            _ => (0, 0),
        };
        self.source.contains(&packet.source)
            && self.destination.contains(&packet.destination)
            && self.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && (self.ports[0].0..=self.ports[0].1).contains(&source_port)
            && (self.ports[1].0..=self.ports[1].1).contains(&destination_port)
    }
}

#[test]
fn the_first_matching_line_decides() {
    let mut rng = Rng::new(20);
    let (mut hits, mut misses) = (0, 0);
    for _ in 0..60 {
        let mut text = String::new();
        let rules: Vec<Rule> = (1..=40)
            .map(|line| random_rule(&mut rng, line, &mut text))
            .collect();
        let imported = import(&text, Actions::Alternate);
        let (policy, _) = Policy::parse(&imported.policy, "p").unwrap();
        for _ in 0..200 {
            let (packet, direction) = ravelin_classifier::arbitrary::packet(&mut rng, &policy);
            if packet.transport == Transport::LaterFragment || is_mapped(packet.source) {
                continue;
            }
            let expected = rules.iter().find(|rule| rule.matches(&packet));
            let verdict = classify(&policy, &packet, direction);
            let decision = match expected.map(|rule| rule.line % 2) {
                None | Some(1) => Decision::Permit,
                _ => Decision::Block,
            };
            assert_eq!(verdict.decision, decision, "{packet:?}\n{text}");
            let name =
                (verdict.rule_id != NO_RULE).then(|| policy.rules()[verdict.rule_id as usize].name.clone());
            assert_eq!(
                name,
                expected.map(|rule| format!("rule-{}", rule.line)),
                "{packet:?}\n{text}"
            );
            if expected.is_some() {
                hits += 1;
            } else {
                misses += 1;
            }
            assert_eq!(
                classify(&policy, &packet, Direction::Inbound).decision,
                classify(&policy, &packet, Direction::Outbound).decision
            );
        }
    }
    assert!(hits > 3_000 && misses > 500, "{hits} hits, {misses} misses");
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

#[test]
fn a_large_set_is_read() {
    let mut rng = Rng::new(250_000);
    let mut text = String::new();
    for line in 1..=250_000 {
        random_rule(&mut rng, line, &mut text);
    }
    // The importer has the policy crate read the parts back.
    let imported = import(&text, Actions::Permit);
    assert_eq!(imported.policy.matches("{name=\"rule-").count(), 250_000);
    // Parts that are good make a good whole.
    let some: String = text
        .lines()
        .take(20_000)
        .map(|line| format!("{line}\n"))
        .collect();
    let (policy, _) = Policy::parse(&import(&some, Actions::Block).policy, "p").unwrap();
    assert_eq!(policy.rules().len(), 20_000);
}

#[test]
fn a_set_too_large_for_a_policy_is_refused() {
    let text = "@::/0 ::/0 0 : 65535 0 : 65535 0x06/0xFF\n".repeat(262_145);
    assert!(refusal(&text).contains("the set comes to 262145 rules, and a policy has at most 262144"));
}
