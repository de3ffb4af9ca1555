//! Compiled rule sets against the plain reference, and the order of rules by example.

use std::net::IpAddr;

use ravelin_classifier::arbitrary::{Rng, packet, policy_text_of, rule_set};
use ravelin_classifier::reference::{Packet, Transport, classify};
use ravelin_classifier::{CompileError, RuleSet, compile};
use ravelin_policy::{Policy, explain};
use ravelin_xdp_common::line::{LINE_SLOTS, MAX_STEPS, NO_CONNECTION, NO_RULE};
use ravelin_xdp_common::{Decision, Direction, Verdict};

const POLICIES: u64 = 800;
const PACKETS: usize = 250;

#[test]
fn lines_say_what_the_filters_say() {
    let (mut by_rule, mut fragments, mut defaults) = (0, 0, 0);
    for seed in 0..POLICIES {
        let mut rng = Rng::new(seed);
        let (policy, rules) = rule_set(&mut rng);
        for _ in 0..PACKETS {
            let (packet, direction) = packet(&mut rng, &policy);
            let expected = classify(&policy, &packet, direction);
            let found = rules.classify(&packet.flow(), direction);
            assert_eq!(
                found, expected,
                "seed {seed}, {packet:?} {direction:?}\n{policy:#?}"
            );
            match found {
                Verdict {
                    decision: Decision::FragmentUnknown,
                    ..
                } => fragments += 1,
                Verdict { rule_id: NO_RULE, .. } => defaults += 1,
                _ => by_rule += 1,
            }
        }
    }
    // The generator is worth nothing if it only ever hits one kind.
    let total = POLICIES as usize * PACKETS;
    assert!(
        by_rule > total / 4 && defaults > total / 20 && fragments > total / 200,
        "{by_rule} {defaults} {fragments}"
    );
}

#[test]
fn trees_of_a_thousand_rules_say_what_the_filters_say() {
    let mut longest = 0;
    for seed in 0..24 {
        let mut rng = Rng::new(1_000 + seed);
        let text = policy_text_of(&mut rng, 40 * seed as usize + 20, 40 * seed as usize + 20);
        let policy = parsed(&text);
        let rules = compile(&policy).expect("the policy fits");
        longest = longest.max(rules.steps());
        for _ in 0..2_000 {
            let (packet, direction) = packet(&mut rng, &policy);
            let expected = classify(&policy, &packet, direction);
            let found = rules.classify(&packet.flow(), direction);
            assert_eq!(found, expected, "seed {seed}, {packet:?} {direction:?}");
        }
    }
    assert!(longest > 20, "{longest} steps: these are no deep trees");
}

#[test]
fn the_order_of_rules_in_the_file_matters_only_between_equals() {
    // Reversing the rules may only change verdicts where two rules are of equal weight.
    let text = |rules: [&str; 3]| format!("{LISTS}\n{}", rules.concat());
    let rules = [
        "[[rules]]\nname = \"block\"\nfilter-list = \"all\"\naction = \"block\"\n",
        "[[rules]]\nname = \"intranet\"\nfilter-list = \"intranet\"\naction = \"permit\"\n",
        "[[rules]]\nname = \"servers\"\nfilter-list = \"servers\"\naction = \"protect\"\nconnection = \"c\"\n",
    ];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let set = compiled(&text(order.map(|index| rules[index])));
        let decide = |source: &str, destination: &str, direction| {
            let packet = tcp(source, destination, 40_000, 80);
            set.classify(&packet.flow(), direction).decision
        };
        for server in ["10.0.0.1", "10.0.0.2", "10.9.0.3"] {
            assert_eq!(decide("10.1.1.1", server, Direction::Outbound), Decision::Protect);
            assert_eq!(decide(server, "10.1.1.1", Direction::Inbound), Decision::Protect);
        }
        assert_eq!(
            decide("10.1.1.1", "10.0.0.4", Direction::Outbound),
            Decision::Permit
        );
        assert_eq!(
            decide("10.0.0.4", "10.1.1.1", Direction::Inbound),
            Decision::Permit
        );
        assert_eq!(
            decide("10.1.1.1", "192.0.2.7", Direction::Outbound),
            Decision::Block
        );
        assert_eq!(
            decide("192.0.2.7", "10.1.1.1", Direction::Inbound),
            Decision::Block
        );
        assert_eq!(decide("fd00::1", "fd00::2", Direction::Outbound), Decision::Block);
    }
}

/// The original's own example: block any, permit 10/8, protect three servers.
const LISTS: &str = r#"
[filter-lists.all]
filters = [{ source = "any", destination = "any" }]
[filter-lists.intranet]
filters = [{ source = "10.0.0.0/8", destination = "10.0.0.0/8" }]
[filter-lists.servers]
filters = [
    { source = "10.0.0.0/8", destination = "10.0.0.1" },
    { source = "10.0.0.0/8", destination = "10.0.0.2" },
    { source = "10.0.0.0/8", destination = "10.9.0.3" },
]
[connections.c]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.c.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1001, key-file = "out" }
inbound = { spi = 0x2001, key-file = "in" }
"#;

#[test]
fn each_field_of_the_order_decides_in_its_turn() {
    // Better filter first; both match the packet, the better permits and the worse blocks, which would win a tie.
    let pairs = [
        // Longer shorter prefix beats longer longer prefix.
        (
            r#"source = "10.0.0.0/8", destination = "10.0.0.0/8""#,
            r#"source = "10.1.1.1", destination = "any""#,
        ),
        (
            r#"source = "10.0.0.0/8", destination = "10.2.0.0/16""#,
            r#"source = "10.0.0.0/8", destination = "10.0.0.0/8""#,
        ),
        // A range counts as its covering prefix: 10.1.1.0-10.1.1.2 lies in a /30.
        (
            r#"source = "10.1.1.1", destination = "any""#,
            r#"source = "10.1.1.0-10.1.1.2", destination = "any""#,
        ),
        (
            r#"source = "10.1.1.0-10.1.1.2", destination = "any""#,
            r#"source = "10.1.1.0/29", destination = "any""#,
        ),
        (
            r#"source = "any", destination = "any", protocol = "tcp""#,
            r#"source = "any", destination = "any""#,
        ),
        // A prefix outweighs ports.
        (
            r#"source = "10.0.0.0/8", destination = "any""#,
            r#"source = "any", destination = "any", protocol = "tcp", source-port = 40000, destination-port = 80"#,
        ),
        (
            r#"source = "any", destination = "any", protocol = "tcp", source-port = "1024-65535", destination-port = "1-1023""#,
            r#"source = "any", destination = "any", protocol = "tcp", destination-port = 80"#,
        ),
        (
            r#"source = "any", destination = "any", protocol = "tcp", destination-port = "1-1023""#,
            r#"source = "any", destination = "any", protocol = "tcp""#,
        ),
        (
            r#"source = "any", destination = "any", protocol = "tcp", destination-port = "80""#,
            r#"source = "any", destination = "any", protocol = "tcp", destination-port = "80, 81""#,
        ),
    ];
    for (better, worse) in pairs {
        let set = compiled(&two_rules(better, "permit", worse, "block"));
        let verdict = set.classify(
            &tcp("10.1.1.1", "10.2.2.2", 40_000, 80).flow(),
            Direction::Outbound,
        );
        assert_eq!(
            verdict.decision,
            Decision::Permit,
            "{better} should win over {worse}"
        );
    }
}

#[test]
fn equals_are_decided_by_action_then_by_definition() {
    let filter = r#"source = "10.0.0.0/8", destination = "any""#;
    let packet = tcp("10.1.1.1", "10.2.2.2", 40_000, 80);
    for (first, second) in [("permit", "block"), ("block", "permit")] {
        let set = compiled(&two_rules(filter, first, filter, second));
        assert_eq!(
            set.classify(&packet.flow(), Direction::Outbound).decision,
            Decision::Block
        );
    }
    let set = compiled(&two_rules(filter, "block", filter, "block"));
    assert_eq!(set.classify(&packet.flow(), Direction::Outbound).rule_id, 0);
}

#[test]
fn a_priority_comes_before_everything() {
    let host = r#"source = "10.1.1.1", destination = "10.2.2.2", protocol = "tcp", destination-port = 80"#;
    let text = two_rules(host, "block", r#"source = "any", destination = "any""#, "permit");
    let text = text.replace("action = \"permit\"", "action = \"permit\"\npriority = 7");
    let verdict = compiled(&text).classify(&tcp("10.1.1.1", "10.2.2.2", 4, 80).flow(), Direction::Inbound);
    assert_eq!((verdict.decision, verdict.rule_id), (Decision::Permit, 1));
}

#[test]
fn a_protect_filter_is_outbound_as_written_and_inbound_reversed() {
    let text = format!(
        "{LISTS}\n[[rules]]\nname = \"s\"\nfilter-list = \"servers\"\naction = \"protect\"\nconnection = \"c\"\naccept-unsecured = true\n"
    );
    let set = compiled(&text);
    let out = tcp("10.1.1.1", "10.0.0.1", 40_000, 80);
    let verdict = set.classify(&out.flow(), Direction::Outbound);
    assert_eq!(
        (verdict.decision, verdict.connection, verdict.accept_unsecured),
        (Decision::Protect, 0, true)
    );
    assert_eq!(
        set.classify(&out.flow(), Direction::Inbound).decision,
        Decision::Permit
    );
    assert_eq!(
        set.classify(&out.reversed().flow(), Direction::Inbound).decision,
        Decision::Protect
    );
    assert_eq!(
        set.classify(&out.reversed().flow(), Direction::Outbound).decision,
        Decision::Permit
    );
}

/// docs/policy.md: `"icmp"` (or 1) is about IPv4, `"icmp6"` (or 58) about IPv6, also between any and any.
#[test]
fn each_icmp_is_of_its_own_version_of_ip() {
    let packet = |v4: bool, protocol: u8| {
        let (source, destination) = if v4 {
            ("10.1.1.1", "10.2.2.2")
        } else {
            ("fd00::1", "fd00::2")
        };
        let icmp = protocol == if v4 { 1 } else { 58 };
        let transport = if icmp {
            Transport::Ports(8, 0)
        } else {
            Transport::Absent
        };
        Packet {
            protocol,
            transport,
            ..tcp(source, destination, 0, 0)
        }
    };
    for (written, number, v4) in [
        ("\"icmp\"", 1, true),
        ("1", 1, true),
        ("\"icmp6\"", 58, false),
        ("58", 58, false),
    ] {
        let filter = format!("source = \"any\", destination = \"any\", protocol = {written}");
        let nobody = "source = \"192.0.2.1\", destination = \"192.0.2.2\"";
        let text = two_rules(&filter, "block", nobody, "permit");
        let (policy, rules) = (parsed(&text), compiled(&text));
        for (packet, expected) in [
            (packet(v4, number), Decision::Block),
            (packet(!v4, number), Decision::Permit),
            (packet(v4, 59 - number), Decision::Permit),
            (packet(!v4, 59 - number), Decision::Permit),
        ] {
            for direction in [Direction::Inbound, Direction::Outbound] {
                let found = [
                    rules.classify(&packet.flow(), direction).decision,
                    classify(&policy, &packet, direction).decision,
                ];
                assert_eq!(found, [expected; 2], "{written}: {packet} {direction:?}");
                let blocks = explain::decide(&policy, &packet, direction).0 == explain::Verdict::Block;
                assert_eq!(
                    blocks,
                    expected == Decision::Block,
                    "{written}: {packet} {direction:?}"
                );
            }
        }
    }
}

#[test]
fn a_later_fragment_never_slips_past_ports() {
    let ports = r#"source = "any", destination = "10.2.0.0/16", protocol = "udp", destination-port = 53"#;
    let all = r#"source = "any", destination = "any""#;
    let fragment = Packet {
        transport: Transport::LaterFragment,
        protocol: 17,
        ..tcp("10.1.1.1", "10.2.2.2", 0, 0)
    };
    let decide = |text: &str, packet: &Packet| {
        compiled(text)
            .classify(&packet.flow(), Direction::Outbound)
            .decision
    };
    assert_eq!(
        decide(&two_rules(ports, "block", all, "permit"), &fragment),
        Decision::FragmentUnknown
    );
    // A permit with ports says nothing about the fragment; the next rule does.
    assert_eq!(
        decide(&two_rules(ports, "permit", all, "block"), &fragment),
        Decision::Block
    );
    let tcp_fragment = Packet {
        protocol: 6,
        ..fragment
    };
    assert_eq!(
        decide(&two_rules(ports, "block", all, "permit"), &tcp_fragment),
        Decision::Permit
    );
}

#[test]
fn a_policy_that_is_too_large_names_its_largest_rules() {
    let ports: Vec<String> = (0..64).map(|port| (port * 2).to_string()).collect();
    let range = "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe";
    let wide = format!(
        r#"source = "{range}", destination = "{range}", mirrored = false, protocol = "tcp", source-port = "{}""#,
        ports.join(",")
    );
    let any = r#"source = "any", destination = "any""#;
    let error = compile(&parsed(&two_rules(any, "block", &wide, "permit"))).unwrap_err();
    let CompileError::TooManyEntries {
        entries,
        limit,
        largest,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((*entries, *limit), (254 * 254 * 64 + 2, 1 << 20));
    assert_eq!(largest[0], ("second".to_owned(), 254 * 254 * 64));
    assert!(error.to_string().contains("`second` (4129024)"), "{error}");
}

/// With a priority of its own for each rule, neither their order in the file nor a second rule that says the same can
/// change what is decided, or by which rule.
#[test]
fn permuted_and_doubled_rules_decide_the_same() {
    for seed in 0..60 {
        let mut rng = Rng::new(500 + seed);
        let text = policy_text_of(&mut rng, 12, 30);
        let (rest, connections) = text.split_at(text.find("\n[connections.").expect("connections"));
        let mut blocks = rest.split("[[rules]]");
        let head = blocks.next().expect("a head");
        let rules: Vec<String> = blocks
            .enumerate()
            .map(|(index, block)| {
                let kept = block.lines().filter(|line| !line.starts_with("priority"));
                let lines: Vec<&str> = kept.filter(|line| !line.is_empty()).collect();
                format!("[[rules]]\npriority = {index}\n{}\n", lines.join("\n"))
            })
            .collect();
        let whole = |rules: &[String]| parsed(&format!("{head}{}{connections}", rules.concat()));
        let mut permuted = rules.clone();
        for index in (1..permuted.len()).rev() {
            permuted.swap(index, rng.below(index + 1));
        }
        let mut doubled = rules.clone();
        doubled.extend(
            rules
                .iter()
                .map(|rule| rule.replace("name = \"r", "name = \"again")),
        );
        let policies = [&rules, &permuted, &doubled].map(|rules| whole(rules));
        let sets = policies
            .each_ref()
            .map(|policy| compile(policy).expect("the policy fits"));
        for _ in 0..300 {
            let (packet, direction) = packet(&mut rng, &policies[0]);
            let decided = [0, 1, 2].map(|index| {
                let verdict = sets[index].classify(&packet.flow(), direction);
                let rule = policies[index].rules().get(verdict.rule_id as usize);
                (
                    verdict.decision,
                    verdict.connection,
                    rule.map(|rule| rule.name.clone()),
                )
            });
            assert_eq!(decided[0], decided[1], "seed {seed}, {packet:?}");
            assert_eq!(decided[0], decided[2], "seed {seed}, {packet:?}");
        }
    }
}

/// Filters that all overlap: each a wide range of source ports by a wide range of destination ports.
#[test]
fn two_thousand_overlapping_rectangles_of_ports_are_compiled_or_refused_soon() {
    for (count, may_refuse) in [(300, false), (2_000, true)] {
        let mut rng = Rng::new(3);
        let filters: Vec<String> = (0..count)
            .map(|_| {
                let mut range = || {
                    let low = rng.below(30_000);
                    format!("{low}-{}", 35_000 + rng.below(30_000))
                };
                let (source, destination) = (range(), range());
                format!(
                    r#"{{ source = "any", destination = "any", protocol = "tcp", source-port = "{source}", destination-port = "{destination}", mirrored = false }},"#
                )
            })
            .collect();
        let half = count / 2;
        let text = format!(
            "[filter-lists.a]\nfilters = [{}]\n[filter-lists.b]\nfilters = [{}]\n\
             [[rules]]\nname = \"a\"\nfilter-list = \"a\"\naction = \"block\"\n\
             [[rules]]\nname = \"b\"\nfilter-list = \"b\"\naction = \"permit\"\n",
            filters[..half].concat(),
            filters[half..].concat()
        );
        let policy = parsed(&text);
        match compile(&policy) {
            Ok(rules) => {
                assert!(rules.lines().len() <= LINE_SLOTS && rules.steps() <= MAX_STEPS);
                for _ in 0..500 {
                    let (packet, direction) = packet(&mut rng, &policy);
                    let expected = classify(&policy, &packet, direction);
                    assert_eq!(rules.classify(&packet.flow(), direction), expected);
                }
            }
            Err(error) => assert!(may_refuse && error.to_string().contains('`'), "{error}"),
        }
    }
}

#[test]
fn renumbered_rules_and_connections_keep_their_verdicts() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let (policy, rules) = rule_set(&mut rng);
        let ids: Vec<u32> = (0..policy.rules().len() as u32).map(|id| 70_000 - id).collect();
        let mut moved = rules.clone();
        moved.renumber(&ids, &[11, 5]);
        for _ in 0..50 {
            let (packet, direction) = packet(&mut rng, &policy);
            let before = rules.classify(&packet.flow(), direction);
            let after = moved.classify(&packet.flow(), direction);
            let expected = Verdict {
                rule_id: ids.get(before.rule_id as usize).copied().unwrap_or(NO_RULE),
                connection: [11, 5]
                    .get(before.connection as usize)
                    .copied()
                    .unwrap_or(NO_CONNECTION),
                ..before
            };
            assert_eq!(after, expected, "seed {seed}");
        }
    }
}

fn two_rules(first: &str, first_action: &str, second: &str, second_action: &str) -> String {
    format!(
        "[filter-lists.a]\nfilters = [{{ {first} }}]\n[filter-lists.b]\nfilters = [{{ {second} }}]\n\
         [[rules]]\nname = \"first\"\nfilter-list = \"a\"\naction = \"{first_action}\"\n\
         [[rules]]\nname = \"second\"\nfilter-list = \"b\"\naction = \"{second_action}\"\n"
    )
}

fn parsed(text: &str) -> Policy {
    Policy::parse(text, "test.toml")
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
        .0
}

fn compiled(text: &str) -> RuleSet {
    compile(&parsed(text)).expect("the policy fits")
}

fn tcp(source: &str, destination: &str, source_port: u16, destination_port: u16) -> Packet {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Packet {
        source: address(source),
        destination: address(destination),
        protocol: 6,
        transport: Transport::Ports(source_port, destination_port),
    }
}
