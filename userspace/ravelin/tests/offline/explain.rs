//! `ravelin explain`.

use crate::golden::{compare, ravelin, stdout};

/// The packets, each with the name of its file and further arguments.
const CASES: &[(&str, &str, &[&str])] = &[
    ("server", "tcp 10.0.0.5:40000 -> 10.1.0.9:1433", &[]),
    ("answer", "tcp 10.1.0.9:1433 -> 10.0.0.5:40000", &["--in"]),
    (
        "priority",
        "tcp 10.0.0.5:40000 -> 10.1.0.9:23",
        &["--out", "--all"],
    ),
    ("ping", "icmp 203.0.113.5 -> 10.1.0.9 type 8 code 0", &["--in"]),
    ("pong", "icmp 10.1.0.9 -> 203.0.113.5 type 0 code 0", &["--out"]),
    ("fragment", "tcp 203.0.113.5 -> 10.1.0.9 fragment", &["--in"]),
    (
        "fragment-ipv6",
        "udp 2001:db8::1 -> 2001:db8::2 fragment",
        &["--in"],
    ),
    ("ike", "udp 192.0.2.2:500 -> 192.0.2.1:500", &["--in"]),
    (
        "ike-own",
        "udp 192.0.2.2:500 -> 192.0.2.1:500",
        &["--in", "--me", "192.0.2.1"],
    ),
    ("esp", "esp 192.0.2.2 -> 192.0.2.1", &["--in"]),
    ("ipv6", "udp [2001:db8::1]:53 -> [2001:db8::2]:53", &["--out"]),
    ("neighbour", "icmp6 fe80::1 -> ff02::1 type 134 code 0", &["--in"]),
    ("impossible", "44 2001:db8::1 -> 2001:db8::2", &["--in"]),
];

#[test]
fn every_verdict_is_told_in_words() {
    for (name, packet, more) in CASES {
        let arguments = [&["explain", "--policy", "servers.toml", packet], *more].concat();
        compare(&format!("explain-{name}.txt"), &stdout(&arguments, 0));
    }
}

/// What a host itself sends goes another way than what a gateway forwards.
#[test]
fn a_host_seals_what_it_sends_itself() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/host-a.toml");
    let packet = "tcp 192.0.2.1:40000 -> 192.0.2.2:80";
    let ike = "udp 192.0.2.1:500 -> 192.0.2.2:500";
    let explain = |policy: &str, packet: &str, more: &[&str]| {
        let arguments = [&["explain", "--policy", policy, packet, "--out"], more].concat();
        stdout(&arguments, 0)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let forwarded = "That is for packets from the inner device";
    let said = explain(example, packet, &[]);
    assert!(
        said.contains("It is sealed with connection `host-b-v4`") && said.contains("transport mode"),
        "{said}"
    );
    assert!(!said.contains(forwarded), "{said}");
    assert!(explain(example, packet, &["--mode", "gateway"]).contains(forwarded));
    // IKE is this machine's by its source.
    let said = explain(example, ike, &["--me", "192.0.2.1"]);
    assert!(said.contains("It is IKE of this machine"), "{said}");
    let said = explain(example, ike, &[]);
    assert!(
        said.contains("If 192.0.2.1 is an address of this machine"),
        "{said}"
    );
    // A tunnel may be a host's as well, and only its user knows.
    let tunnel = "tcp 10.0.0.5:40000 -> 10.1.0.9:1433";
    assert!(explain("servers.toml", tunnel, &[]).contains(forwarded));
    assert!(!explain("servers.toml", tunnel, &["--mode", "host"]).contains(forwarded));
}

#[test]
fn the_same_for_machines() {
    let text = stdout(
        &[
            "explain",
            "--policy",
            "servers.toml",
            "tcp 10.0.0.5:40000 -> 10.1.0.9:23",
            "--json",
        ],
        0,
    );
    compare("explain-priority.json", &text);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["ways"][0]["winner"]["rule"], "no telnet");
    assert_eq!(report["ways"][0]["losers"][0]["field"], "priority");
}

#[test]
fn a_packet_that_is_none_teaches_the_grammar() {
    let output = ravelin(&["explain", "--policy", "servers.toml", "10.0.0.5 to 10.1.0.9"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.contains("there is no `->`"), "{errors}");
    assert!(errors.contains("tcp 10.0.0.5:40000 -> 10.1.0.9:1433"), "{errors}");
}
