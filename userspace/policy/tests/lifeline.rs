//! The lifeline comes before everything, leads to this machine only, and follows it.

use std::net::IpAddr;

use ravelin_policy::explain::{Verdict, decide, explain, rank_in_words, why_it_lost};
use ravelin_policy::{Management, Policy, Surroundings};
use ravelin_xdp_common::Direction;

/// Everything is blocked or protected in as many ways as there are, and the strictest come first.
const STRICT: &str = r#"
default = "block"
[filter-lists.ssh]
filters = [{ source = "198.51.100.7", destination = "192.0.2.1", protocol = "tcp", source-port = 4000, destination-port = 22 }]
[filter-lists.peers]
filters = [{ source = "192.0.2.1", destination = "198.51.100.7" }]
[[rules]]
name = "no ssh"
filter-list = "ssh"
action = "block"
priority = 0
[[rules]]
name = "peers"
filter-list = "peers"
action = "protect"
connection = "c"
[connections.c]
mode = "transport"
local = "192.0.2.1"
remote = "198.51.100.7"
[connections.c.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1001, key-file = "a" }
inbound = { spi = 0x2001, key-file = "b" }
"#;

const LIFELINE: &str = r#"
[lifeline]
filters = [{ source = "198.51.100.0/24", destination = "me", protocol = "tcp", destination-port = 22 }]
"#;

fn parse(text: &str) -> Policy {
    let (policy, _) = Policy::parse(text, "p.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    policy
}

fn errors(text: &str) -> String {
    Policy::parse(text, "p.toml").expect_err(text).to_string()
}

fn on(own: &str, session: Option<Management>) -> Surroundings {
    Surroundings {
        own: vec![own.parse().expect("an address")],
        session,
        ..Surroundings::default()
    }
}

fn verdict(policy: &Policy, packet: &str, direction: Direction) -> Verdict {
    decide(policy, &packet.parse().expect(packet), direction).0
}

#[test]
fn it_comes_before_every_rule_in_both_directions() {
    let (policy, warnings) = parse(&(STRICT.to_owned() + LIFELINE))
        .resolve(&on("192.0.2.1", None))
        .expect("it resolves");
    assert_eq!(warnings, []);
    let (to, back) = (
        "tcp 198.51.100.7:4000 -> 192.0.2.1:22",
        "tcp 192.0.2.1:22 -> 198.51.100.7:4000",
    );
    for direction in [Direction::Inbound, Direction::Outbound] {
        for packet in [to, back] {
            assert_eq!(verdict(&policy, packet, direction), Verdict::Permit, "{packet}");
        }
    }
    let explained = explain(&policy, &to.parse().expect("a packet"), Direction::Inbound, 9);
    let winner = explained.winner.expect("a filter");
    assert_eq!(winner.rule.name, "[lifeline]");
    let rank = rank_in_words(&winner.rank, winner.filter);
    assert!(rank.starts_with("lifeline, "), "{rank}");
    assert_eq!(explained.losers.len(), 2);
    for loser in explained.losers {
        let why = why_it_lost(&loser, &winner);
        assert_eq!(why, "the winner is the lifeline, which comes before every rule");
    }
    // What routers say about its packets arrives, in this family, and nothing like it.
    for (packet, permitted) in [
        ("icmp 203.0.113.77 -> 192.0.2.1 type 3 code 4", true),
        ("icmp 203.0.113.77 -> 192.0.2.1 type 3 code 1", false),
        ("icmp 203.0.113.77 -> 192.0.2.1 type 8 code 0", false),
        ("icmp 203.0.113.77 -> 192.0.2.2 type 3 code 4", false),
        ("icmp 192.0.2.1 -> 203.0.113.77 type 3 code 4", false),
    ] {
        let verdict = verdict(&policy, packet, Direction::Inbound);
        assert_eq!(verdict == Verdict::Permit, permitted, "{packet}");
    }
    // Not other ports, not other sources, not elsewhere.
    for other in [
        "tcp 198.51.100.7:4000 -> 192.0.2.1:23",
        "udp 198.51.100.7:4000 -> 192.0.2.1:22",
        "tcp 203.0.113.1:4000 -> 192.0.2.1:22",
        "tcp 198.51.100.7:4000 -> 192.0.2.2:22",
    ] {
        assert_ne!(
            verdict(&policy, other, Direction::Inbound),
            Verdict::Permit,
            "{other}"
        );
    }
    let (moved, _) = policy.resolve(&on("192.0.2.2", None)).expect("it resolves");
    assert_ne!(verdict(&moved, to, Direction::Inbound), Verdict::Permit);
    let there = "tcp 198.51.100.7:4000 -> 192.0.2.2:22";
    assert_eq!(verdict(&moved, there, Direction::Inbound), Verdict::Permit);
}

#[test]
fn the_session_is_held_for_its_client_alone_unless_the_policy_does_not_want_it() {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let session = Management {
        client: address("198.51.100.7"),
        own: address("192.0.2.1"),
        port: 22,
    };
    let policy = parse(STRICT);
    let rules = policy.rules().len();
    let (held, _) = policy
        .resolve(&on("192.0.2.1", Some(session)))
        .expect("it resolves");
    let names: Vec<&str> = held.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["no ssh", "peers", "[lifeline] ssh-session"]);
    // Who has lost the connection comes back from another port.
    for packet in [
        "tcp 198.51.100.7:4000 -> 192.0.2.1:22",
        "tcp 198.51.100.7:4001 -> 192.0.2.1:22",
    ] {
        assert_eq!(
            verdict(&held, packet, Direction::Inbound),
            Verdict::Permit,
            "{packet}"
        );
    }
    for packet in [
        "tcp 198.51.100.8:4000 -> 192.0.2.1:22",
        "tcp 198.51.100.7:4000 -> 192.0.2.1:80",
        "tcp 198.51.100.7:22 -> 192.0.2.1:4000",
    ] {
        assert_ne!(
            verdict(&held, packet, Direction::Inbound),
            Verdict::Permit,
            "{packet}"
        );
    }
    // Again, with another session, with none: never two.
    let other = Management {
        port: 2222,
        ..session
    };
    for (session, more) in [(Some(session), 1), (Some(other), 1), (None, 0)] {
        let (again, _) = held.resolve(&on("192.0.2.1", session)).expect("it resolves");
        assert_eq!(again.rules().len(), rules + more);
        assert_eq!(again.filter_lists().len(), policy.filter_lists().len() + more);
        let packet = "tcp 198.51.100.7:4000 -> 192.0.2.1:2222";
        let open = verdict(&again, packet, Direction::Inbound) == Verdict::Permit;
        assert_eq!(open, session == Some(other));
    }
    let unwanted = parse(&(STRICT.to_owned() + "[lifeline]\nssh-session = false\n"));
    let (unwanted, _) = unwanted
        .resolve(&on("192.0.2.1", Some(session)))
        .expect("it resolves");
    assert_eq!(unwanted.rules().len(), rules);
}

#[test]
fn a_lifeline_may_lead_to_several_addresses_of_this_machine() {
    let filter = "source = \"10.0.0.1\", destination = [\"me\", \"192.0.2.2\", \"192.0.2.3\"]";
    Policy::parse(&format!("[lifeline]\nfilters = [{{ {filter} }}]\n"), "p.toml").expect("single addresses");
}

#[test]
fn what_would_open_more_than_this_machine_is_a_mistake() {
    let lifeline =
        |filter: &str| format!("[addresses]\neverywhere = \"any\"\n[lifeline]\nfilters = [{{ {filter} }}]\n");
    for (filter, expected) in [
        (
            "source = \"10.0.0.1\", destination = \"any\"",
            "p.toml:4:12: a lifeline leads to this machine",
        ),
        (
            "source = \"10.0.0.1\", destination = \"0.0.0.0/0\"",
            "a lifeline leads to this machine",
        ),
        (
            "source = \"10.0.0.1\", destination = [\"192.0.2.0/31\", \"192.0.2.2\"]",
            "a lifeline leads to this machine",
        ),
        (
            "source = \"10.0.0.1\", destination = [\"me\", \"10.2.0.0/16\"]",
            "a lifeline leads to this machine",
        ),
        (
            "source = \"10.0.0.1\", destination = \"10.0.0.1-10.0.0.9\"",
            "a lifeline leads to this machine",
        ),
        (
            "source = \"10.0.0.1\", destination = [\"me\", \"any\"]",
            "a lifeline leads to this machine",
        ),
        (
            "source = \"10.0.0.1\", destination = \"$everywhere\"",
            "a lifeline leads to this machine",
        ),
        (
            "source = \"10.0.0.1\", destination = \"me\", mirrored = false",
            "without the way back",
        ),
        ("source = \"10.0.0.1\"", "needs the key `destination`"),
        (
            "source = \"10.0.0.1\", destination = \"me\", destination-port = 22",
            "has no ports",
        ),
    ] {
        let said = errors(&lifeline(filter));
        assert!(said.contains(expected), "{filter}: {said}");
    }
    assert!(errors("[lifeline]\nport = 22\n").contains("known are filters, ssh-session"));
    assert!(errors("[lifeline]\nssh-session = 1\n").contains("p.toml:2:15: expected true or false"));
    // Its name cannot be a rule's.
    let clash = STRICT.replace("\"no ssh\"", "\"[lifeline]\"");
    assert!(errors(&clash).contains("not usable as a name"));
    let (_, warnings) =
        Policy::parse(&lifeline("source = \"any\", destination = \"me\""), "p").expect("a policy");
    let told = |words| warnings.iter().any(|warning| warning.message.contains(words));
    assert!(told("every port"), "{warnings:?}");
    let (empty, _) = Policy::parse("default = \"block\"\n[lifeline]\nfilters = []\n", "p").expect("a policy");
    assert_eq!(empty.rules().len(), 0);
}

/// Else the machine stays shut for ever, and nobody was told.
#[test]
fn names_that_only_an_open_machine_can_look_up_are_warned_of() {
    let policy = |boot: &str, party: &str, lifeline: &str| {
        format!(
            "boot = \"{boot}\"\n[lifeline]\nfilters = [{{ source = \"10.0.0.1\", destination = \"me\", protocol = \"tcp\", \
             destination-port = 22 }}{lifeline}]\n[filter-lists.n]\nfilters = [{{ source = \"me\", destination = \"{party}\" }}]\n\
             [[rules]]\nname = \"n\"\nfilter-list = \"n\"\naction = \"permit\"\n"
        )
    };
    let dns = ", { source = \"192.0.2.53\", destination = \"me\", protocol = \"udp\", source-port = 53 }";
    let tcp = ", { source = \"192.0.2.53\", destination = \"me\", protocol = \"tcp\", source-port = 53 }";
    let all = ", { source = \"192.0.2.53\", destination = \"me\" }";
    for (boot, party, lifeline, warned) in [
        ("block", "backup.example.com", "", true),
        ("block", "backup.example.com", tcp, true),
        ("block", "backup.example.com", dns, false),
        ("block", "backup.example.com", all, false),
        ("permit", "backup.example.com", "", false),
        ("block", "gateway", "", false),
        ("block", "10.9.0.1", "", false),
    ] {
        let (_, warnings) = Policy::parse(&policy(boot, party, lifeline), "p").expect("a policy");
        let told = warnings
            .iter()
            .filter(|warning| warning.message.contains("no name server answers"))
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        assert_eq!(
            !told.is_empty(),
            warned,
            "{boot} {party} {lifeline}: {warnings:?}"
        );
        assert!(told.iter().all(|told| told.starts_with("p:5:12: ")), "{told:?}");
    }
}

/// Whoever may connect is told by anybody that a packet was too big, however source and destination are written.
#[test]
fn errors_come_to_every_destination_of_a_lifeline() {
    for source in [
        "[\"198.51.100.0/24\", \"2001:db8:9::/64\"]",
        "\"admin.example.com\"",
        "[\"gateway\", \"dns-servers\"]",
    ] {
        for destination in [
            "[\"192.0.2.1\", \"2001:db8::1\"]",
            "[\"me\", \"2001:db8::1\"]",
            "\"me\"",
        ] {
            let policy = parse(&format!(
                "default = \"block\"\n[lifeline]\nfilters = [{{ source = {source}, destination = {destination}, \
                 protocol = \"tcp\", destination-port = 22 }}]\n"
            ));
            let mut surroundings = on("192.0.2.1", None);
            surroundings.own.push("2001:db8::1".parse().unwrap());
            let (policy, _) = policy.resolve(&surroundings).expect("it resolves");
            for packet in [
                "icmp 203.0.113.9 -> 192.0.2.1 type 3 code 4",
                "icmp6 2001:db8:9::1 -> 2001:db8::1 type 2 code 0",
            ] {
                let verdict = verdict(&policy, packet, Direction::Inbound);
                assert_eq!(verdict, Verdict::Permit, "{packet}: {source} to {destination}");
            }
        }
    }
}
