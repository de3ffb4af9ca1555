//! Rules as the real `iptables-save` prints them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod golden;
mod model;

use std::fmt::{Display, Write as _};

use ravelin_classifier::arbitrary::Rng;
use ravelin_import::{FirewallOptions, Source, iptables_save};

use model::{Firewall, Rule, Test, Verdict};

const BASES: [&str; 3] = ["INPUT", "OUTPUT", "FORWARD"];

fn options() -> FirewallOptions {
    FirewallOptions {
        local: model::OWN.iter().map(|own| own.parse().unwrap()).collect(),
    }
}

fn refusal(text: &str) -> String {
    let source = Source::decode("r", text.as_bytes()).unwrap();
    iptables_save(&source, &options())
        .expect_err("an error")
        .to_string()
}

fn chain_name(index: usize) -> String {
    BASES
        .get(index)
        .map_or(format!("c{index}"), |name| (*name).to_owned())
}

/// The chains for `iptables-restore`.
fn script(firewall: &Firewall) -> String {
    let mut text = "*filter\n".to_owned();
    for (index, chain) in firewall.chains.iter().enumerate() {
        let policy = match (index, chain.accepts) {
            (3.., _) => "-",
            (_, true) => "ACCEPT",
            (_, false) => "DROP",
        };
        let _ = writeln!(text, ":{} {policy} [0:0]", chain_name(index));
    }
    for (index, chain) in firewall.chains.iter().enumerate() {
        for rule in &chain.rules {
            let _ = writeln!(text, "-A {}{}", chain_name(index), rule_text(rule));
        }
    }
    text + "COMMIT\n"
}

/// One prefix can be compared, or one range: of several only the first is kept.
fn simple<T: Copy>(test: &mut Option<Test<T>>) {
    if let Some(test) = test {
        test.ranges.truncate(1);
    }
}

fn rule_text(rule: &Rule) -> String {
    let mut text = String::new();
    let not = |negated| if negated { " !" } else { "" };
    let range = |first: &dyn Display, last: &dyn Display| format!("{first}-{last}");
    for (key, test) in [("src", &rule.source), ("dst", &rule.destination)] {
        if let Some(Test { negated, ranges }) = test {
            let (first, last) = &ranges[0];
            let _ = write!(
                text,
                " -m iprange{} --{key}-range {}",
                not(*negated),
                range(first, last)
            );
        }
    }
    if let Some(protocol) = rule.protocol {
        let _ = write!(text, " -p {protocol}");
    }
    for (key, test) in [("sports", &rule.source_port), ("dports", &rule.destination_port)] {
        if let Some(Test { negated, ranges }) = test {
            let ports: Vec<String> = ranges
                .iter()
                .map(|(first, last)| {
                    if first == last {
                        first.to_string()
                    } else {
                        format!("{first}:{last}")
                    }
                })
                .collect();
            let _ = write!(text, " -m multiport{} --{key} {}", not(*negated), ports.join(","));
        }
    }
    if let Some(kind) = rule.icmp {
        let name = if rule.protocol == Some(1) {
            "icmp"
        } else {
            "icmpv6"
        };
        let _ = write!(text, " --{name}-type {kind}");
    }
    let _ = match rule.verdict {
        Verdict::Accept => write!(text, " -j ACCEPT"),
        Verdict::Drop => write!(text, " -j DROP"),
        Verdict::Return => write!(text, " -j RETURN"),
        Verdict::Jump(chain) => write!(text, " -j {}", chain_name(chain)),
        Verdict::Goto(chain) => write!(text, " -g {}", chain_name(chain)),
    };
    text
}

#[test]
fn real_rules_have_the_same_verdicts() {
    let mut rng = Rng::new(6);
    let (mut passed, mut dropped) = (0, 0);
    for (v4, program) in [(true, "iptables"), (false, "ip6tables")] {
        for _ in 0..30 {
            let mut firewall = Firewall::random(&mut rng, &[v4], true);
            for rule in firewall.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
                simple(&mut rule.source);
                simple(&mut rule.destination);
            }
            let script = script(&firewall);
            let saved = model::in_namespace(&format!("{program}-restore && {program}-save"), &script);
            let source = Source::decode("saved", saved.as_bytes()).unwrap();
            let imported =
                iptables_save(&source, &options()).unwrap_or_else(|error| panic!("{error}\n{saved}"));
            let lost: Vec<_> = imported.warnings.iter().filter(|warning| warning.loss).collect();
            assert!(lost.is_empty(), "{lost:?}\n{saved}");
            let (p, d) = model::compare(&mut rng, &firewall, &[v4], &imported.policy, &saved);
            (passed, dropped) = (passed + p, dropped + d);
        }
    }
    assert!(passed > 2_000 && dropped > 2_000, "{passed} {dropped}");
}

#[test]
fn realistic_rules_become_this_policy() {
    let text = include_str!("firewall/server.save");
    let source = Source::decode("server.save", text.as_bytes()).unwrap();
    let imported = iptables_save(&source, &FirewallOptions::default()).unwrap();
    let mut warnings = String::new();
    for warning in &imported.warnings {
        let _ = writeln!(
            warnings,
            "{}{warning}",
            if warning.loss { "loss: " } else { "note: " }
        );
    }
    golden::compare_text("firewall", "server.save.toml", &imported.policy);
    golden::compare_text("firewall", "server.save.warnings", &warnings);
}

/// What a policy cannot say is left out with its line, and what becomes of its packets; the rules around it stay.
#[test]
fn what_cannot_be_expressed_is_listed_and_the_rest_goes_on() {
    for (rule, told) in [
        (
            "-A INPUT -s 10.0.0.1/255.0.255.0 -j DROP",
            "r:5: the mask of `10.0.0.1/255.0.255.0` has gaps, so it is no prefix; the rule was left out; what it drops meets \
             the rules after it",
        ),
        (
            "-A INPUT ! -d 10.0.0.1/0.0.0.255 -j ACCEPT",
            "r:5: the mask of `10.0.0.1/0.0.0.255` has gaps, so it is no prefix; the rule was left out; what it accepts \
             meets the rules after it",
        ),
        (
            "-A INPUT -s 10.0.0.1/255.0.255.0 -j deeper",
            "has gaps, so it is no prefix; the rule was left out; what it matches meets the rules after it",
        ),
        (
            "-A INPUT -s 10.0.0.1/255.0.255.0 -g deeper",
            "has gaps, so it is no prefix; the rule was left out; what it matches meets the rules after it",
        ),
        (
            "-A INPUT -s 10.0.0.1/255.0.255.0 -j RETURN",
            "has gaps, so it is no prefix; the rule was left out; what it matches meets the rules after it",
        ),
        (
            "-A INPUT -p eigrp -j DROP",
            "r:5: the name `eigrp` is not known here; a number would be; the rule was left out; what it drops meets",
        ),
        (
            "-A INPUT -p tcp -m tcp --dport gopher -j DROP",
            "r:5: the name `gopher` is not known here; a number would be; the rule was left out; what it drops meets",
        ),
        (
            "-A INPUT -p 58 -j DROP",
            "r:5: protocol 1 (icmp) in IPv6 and protocol 58 (icmp6) in IPv4 are not known to a policy; what the rule drops",
        ),
        (
            "-A INPUT ! -p tcp -j ACCEPT",
            "r:5: protocol 1 (icmp) in IPv6 and protocol 58 (icmp6) in IPv4 are not known to a policy; what the rule accepts",
        ),
    ] {
        let text = format!(
            "*filter\n:INPUT ACCEPT [0:0]\n:deeper - [0:0]\n-A INPUT -s 10.0.0.1/32 -j DROP\n{rule}\n\
             -A INPUT -s 10.0.0.2/32 -j DROP\n-A deeper -j DROP\nCOMMIT\n"
        );
        let source = Source::decode("r", text.as_bytes()).unwrap();
        let imported = iptables_save(&source, &options()).unwrap_or_else(|error| panic!("{error}\n{rule}"));
        let lost: Vec<String> = imported
            .warnings
            .iter()
            .filter(|warning| warning.loss)
            .map(ToString::to_string)
            .collect();
        assert!(
            matches!(&lost[..], [one] if one.contains(told)),
            "{lost:#?}\nis not {told}"
        );
        for kept in ["\"10.0.0.1\"", "\"10.0.0.2\""] {
            assert!(imported.policy.contains(kept), "{rule}\n{}", imported.policy);
        }
    }
}

#[test]
fn mistakes_are_told_with_their_lines() {
    for (text, told) in [
        ("-A INPUT -j DROP\n", "r:1: `-A INPUT -j DROP` stands in no table"),
        ("*filter\n-A INPUT -j DROP\n", "r:2: there is no chain `INPUT`"),
        (
            "*filter\n:INPUT ACCEPT\niptables -A INPUT -j DROP\n",
            "r:3: a rule starts with `-A CHAIN`",
        ),
        (
            "*filter\n:INPUT ACCEPT\n-A INPUT -s 10.0.0.300 -j DROP\n",
            "r:3: `10.0.0.300` is no value",
        ),
        (
            "*filter\n:INPUT ACCEPT\n-A INPUT -p tcp --dport 90:80 -j DROP\n",
            "r:3: `90-80` is no value",
        ),
        (
            "*filter\n:INPUT ACCEPT\n-A INPUT --comment \"x -j DROP\n",
            "r:3: a quotation mark",
        ),
        ("*filter\n:INPUT\n", "r:2: a chain is written"),
        (
            "*filter\n:INPUT ACCEPT\n-A INPUT -s\n",
            "r:3: `-s` lacks its value",
        ),
    ] {
        let error = refusal(text);
        assert!(error.contains(told), "{error}\nis not {told}");
    }
}
