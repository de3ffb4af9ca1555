//! Policies to scripts of netsh and back.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod golden;

use std::fmt::Write as _;

use ravelin_classifier::arbitrary::{self, Rng};
use ravelin_classifier::reference::{Transport, classify};
use ravelin_import::{NetshOptions, Source, export_netsh, netsh};
use ravelin_policy::explain::explain;
use ravelin_policy::order::Priority;
use ravelin_policy::{Action, Filter, Policy, Rule, Selector};

/// The script read back by the importer, on the machine with the policy's local address.
fn back(script: &str) -> Policy {
    let source = Source::decode("script", script.as_bytes()).unwrap();
    let options = NetshOptions {
        local: vec!["192.0.2.1".parse().unwrap()],
        assign: None,
    };
    let imported = netsh(&source, &options).unwrap_or_else(|error| panic!("{error}\n{script}"));
    Policy::parse(&imported.policy, "p").unwrap().0
}

const CONNECTIONS: &str = r#"
[connections.tunnel]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.tunnel.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1001, key-file = "a" }
inbound = { spi = 0x2001, key-file = "b" }
[connections.transport]
mode = "transport"
local = "192.0.2.1"
remote = "192.0.2.3"
[connections.transport.static]
algorithm = "aes-256-gcm"
outbound = { spi = 0x1002, key-file = "c" }
inbound = { spi = 0x2002, key-file = "d" }
"#;

/// A policy that netsh can express all of, but for ciphers and keys.
fn expressible(rng: &mut Rng) -> String {
    let mut text = format!(
        "default = \"{}\"\nexemptions = {}\nboot = \"{}\"\n",
        rng.pick(&["permit", "block"]),
        rng.below(4),
        rng.pick(&["permit", "block", "stateful"])
    );
    let lists = 1 + rng.below(5);
    for list in 0..lists {
        let _ = writeln!(text, "[filter-lists.\"List {list}\"]\nfilters = [");
        for _ in 0..rng.below(5) {
            let (source, destination) = (address(rng), address(rng));
            filter(rng, &source, &destination, &mut text);
        }
        text.push_str("]\n");
    }
    // Transport mode wants filters between its ends.
    text.push_str("[filter-lists.hosts]\nfilters = [\n");
    for _ in 0..1 + rng.below(3) {
        filter(rng, "192.0.2.1", "192.0.2.3", &mut text);
    }
    text.push_str("]\n");
    for rule in 0..1 + rng.below(8) {
        let (mut list, mut more) = (format!("List {}", rng.below(lists)), String::new());
        let action = match rng.below(4) {
            0 => "permit",
            1 => "block",
            kind => {
                let connection = if kind == 2 { "tunnel" } else { "transport" };
                if kind == 3 {
                    "hosts".clone_into(&mut list);
                }
                let _ = writeln!(
                    more,
                    "connection = \"{connection}\"\naccept-unsecured = {}",
                    rng.chance(30)
                );
                let _ = writeln!(more, "fallback-clear = {}", rng.chance(20));
                "protect"
            }
        };
        let _ = writeln!(
            text,
            "[[rules]]\nname = \"Rule {rule}\"\nfilter-list = \"{list}\"\naction = \"{action}\"\nactive = {}\n{more}",
            !rng.chance(15)
        );
    }
    text + CONNECTIONS
}

fn address(rng: &mut Rng) -> String {
    let pool = [
        "any",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3",
        "10.1.2.4-10.1.3.77",
        "0.0.0.0/0",
        "192.0.2.1",
        "192.0.2.3",
        "224.0.0.0/4",
    ];
    (*rng.pick(&pool)).to_owned()
}

fn filter(rng: &mut Rng, source: &str, destination: &str, text: &mut String) {
    let _ = write!(
        text,
        "  {{ source = \"{source}\", destination = \"{destination}\""
    );
    match rng.below(4) {
        0 => {}
        1 => {
            let _ = write!(text, ", protocol = {}", rng.pick(&[1, 6, 17, 47, 50, 132, 255]));
        }
        _ => {
            let _ = write!(text, ", protocol = \"{}\"", rng.pick(&["tcp", "udp"]));
            for key in ["source-port", "destination-port"] {
                if rng.chance(50) {
                    let _ = write!(text, ", {key} = {}", rng.pick(&[1, 53, 80, 443, 65_535]));
                }
            }
        }
    }
    let _ = writeln!(text, ", mirrored = {} }},", rng.chance(60));
}

/// A rule without what depends on the file: its name, what it does with whom, and its filters.
fn essence(policy: &Policy, rule: &Rule) -> String {
    let protects = matches!(rule.action, Action::Protect { .. });
    let action = match rule.action {
        Action::Protect {
            connection,
            accept_unsecured,
        } => {
            let connection = &policy.connections()[connection];
            format!(
                "protect {:?} {} {} {accept_unsecured} {:?}",
                connection.mode, connection.local, connection.remote, rule.fallback_clear
            )
        }
        other => other.to_string(),
    };
    let filters: Vec<String> = policy
        .filters(rule)
        .iter()
        .map(|filter| format!("{filter} {}", protects || filter.mirrored))
        .collect();
    format!("{}: {action} {} [{}]", rule.name, rule.active, filters.join(", "))
}

#[test]
fn what_netsh_can_say_comes_back() {
    let mut rng = Rng::new(3);
    let (mut protected, mut blocked, mut permitted) = (0, 0, 0);
    for _ in 0..300 {
        let text = expressible(&mut rng);
        let (policy, _) = Policy::parse(&text, "p").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let exported = export_netsh(&policy);
        let unexpected: Vec<_> = exported
            .warnings
            .iter()
            .filter(|warning| {
                !warning.message.contains("the best that netsh knows")
                    && !warning.message.contains("no rule uses it")
                    && !warning.message.starts_with("netsh filters IPv4 only")
            })
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:?}\n{text}");
        let returned = back(&exported.script);
        // Windows has no default action: it comes back as a rule.
        let rules: Vec<&Rule> = returned
            .rules()
            .iter()
            .filter(|rule| rule.name != "everything else")
            .collect();
        let essences = |policy: &Policy, rules: &[&Rule]| -> Vec<String> {
            // A list without filters protects nothing, which leaves no rule behind.
            let full = rules.iter().filter(|rule| !policy.filters(rule).is_empty());
            full.map(|rule| essence(policy, rule)).collect()
        };
        assert_eq!(
            essences(&policy, &policy.rules().iter().collect::<Vec<_>>()),
            essences(&returned, &rules),
            "{text}\n{}",
            exported.script
        );
        assert_eq!(
            (policy.exemptions(), policy.boot()),
            (returned.exemptions(), returned.boot())
        );
        if policy.filter_lists().iter().all(|list| list.filters.is_empty()) {
            continue;
        }
        for _ in 0..100 {
            let (packet, direction) = arbitrary::packet(&mut rng, &policy);
            // IPv4 is what netsh speaks of.
            if packet.transport == Transport::LaterFragment || !packet.source.is_ipv4() {
                continue;
            }
            let (before, after) = (
                classify(&policy, &packet, direction),
                classify(&returned, &packet, direction),
            );
            assert_eq!(
                (before.decision, before.accept_unsecured),
                (after.decision, after.accept_unsecured),
                "{packet:?} {direction:?}\n{text}\n{}",
                exported.script
            );
            match before.decision {
                ravelin_xdp_common::Decision::Protect => protected += 1,
                ravelin_xdp_common::Decision::Block => blocked += 1,
                _ => permitted += 1,
            }
        }
    }
    assert!(
        protected > 1_000 && blocked > 1_000 && permitted > 1_000,
        "{protected} {blocked} {permitted}"
    );
}

#[test]
fn what_netsh_cannot_say_is_told_with_its_place() {
    let mut rng = Rng::new(4);
    for _ in 0..300 {
        let text = arbitrary::policy_text(&mut rng);
        let (policy, _) = Policy::parse(&text, "p").unwrap();
        let exported = export_netsh(&policy);
        let told = |position| {
            exported
                .warnings
                .iter()
                .any(|warning| warning.position == Some(position))
        };
        let cannot = |filter: &Filter| {
            filter.family() == Some(ravelin_policy::Family::V6)
                || matches!(filter.selector, Selector::Icmp { .. })
                || matches!(&filter.selector, Selector::Ports { source, destination }
                    if source.ranges().iter().chain(destination.ranges()).any(|range| range.start() != range.end()))
        };
        for filter in policy.filter_lists().iter().flat_map(|list| &list.filters) {
            assert!(!cannot(filter) || told(filter.position), "{filter}\n{text}");
        }
        for rule in policy
            .rules()
            .iter()
            .filter(|rule| rule.priority != Priority::None)
        {
            assert!(told(rule.position), "{}\n{text}", rule.name);
        }
        // Whatever was written can be read.
        back(&exported.script);
    }
}

/// Whoever reads the warnings knows of each packet whose verdict changes on the way: it matches a filter that a warning
/// is about, or whose rule one is about.
#[test]
fn every_verdict_that_changes_on_the_way_is_told() {
    let mut rng = Rng::new(5);
    let (mut changed, mut same) = (0, 0);
    for _ in 0..300 {
        let text = arbitrary::policy_text(&mut rng);
        let (policy, _) = Policy::parse(&text, "p").unwrap();
        let exported = export_netsh(&policy);
        let returned = back(&exported.script);
        // Ciphers and keys decide nothing.
        let told = |position| {
            exported
                .warnings
                .iter()
                .filter(|warning| !warning.message.contains("the best that netsh knows"))
                .any(|warning| warning.position == Some(position))
        };
        let everywhere: Vec<String> = exported
            .warnings
            .iter()
            .filter(|warning| warning.position.is_none())
            .map(ToString::to_string)
            .collect();
        for _ in 0..200 {
            let (packet, direction) = arbitrary::packet(&mut rng, &policy);
            let (before, after) = (
                classify(&policy, &packet, direction),
                classify(&returned, &packet, direction),
            );
            if (before.decision, before.accept_unsecured, before.audit)
                == (after.decision, after.accept_unsecured, after.audit)
            {
                same += 1;
                continue;
            }
            changed += 1;
            if before.audit && everywhere.iter().any(|said| said.contains("audit = true")) {
                continue;
            }
            let passes = after.decision == ravelin_xdp_common::Decision::Permit;
            if packet.source.is_ipv6() && passes && everywhere.iter().any(|said| said.contains("IPv6")) {
                continue;
            }
            let explanation = explain(&policy, &packet, direction, usize::MAX);
            let mut matching = explanation.winner.iter().chain(&explanation.losers);
            assert!(
                matching.any(|one| told(one.filter.position) || told(one.rule.position)),
                "{packet} {direction:?}: {:?} became {:?}\n{text}\n{}\n{:#?}",
                before.decision,
                after.decision,
                exported.script,
                exported
                    .warnings
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            );
        }
    }
    assert!(changed > 1_000 && same > 1_000, "{changed} {same}");
}

#[test]
fn a_policy_becomes_this_script() {
    let text = r#"
default = "block"
non-ip = "block"
[filter-lists.web]
filters = [
    { source = "any", destination = "me", protocol = "tcp", destination-port = "80, 443" },
    { source = "10.0.0.0/8", destination = "intranet.example.org" },
    { source = "me", destination = "dns-servers", protocol = "udp", destination-port = 53 },
    { source = "fd00::/8", destination = "any" },
    { source = "any", destination = "any", protocol = "tcp", destination-port = "1024-65535" },
]
[filter-lists.branch]
filters = [{ source = "10.1.0.0/16", destination = "10.2.0.0/16" }]
[[rules]]
name = "Web"
filter-list = "web"
action = "permit"
priority = 7
[[rules]]
name = "branch"
filter-list = "branch"
action = "protect"
connection = "tunnel"
[[rules]]
name = "web"
filter-list = "web"
action = "block"
active = false
"#;
    let (policy, _) = Policy::parse(&(text.to_owned() + CONNECTIONS), "site.toml").unwrap();
    let exported = export_netsh(&policy);
    golden::compare_text("netsh", "export.cmd", &exported.script.replace("\r\n", "\n"));
    let warnings: Vec<String> = exported.warnings.iter().map(ToString::to_string).collect();
    golden::compare_text("netsh", "export.warnings", &(warnings.join("\n") + "\n"));
}
