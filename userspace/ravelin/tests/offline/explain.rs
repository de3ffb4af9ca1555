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
