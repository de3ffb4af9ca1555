//! Rule sets as the real `nft` prints them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod golden;
mod model;

use std::fmt::{Display, Write as _};

use ravelin_classifier::arbitrary::Rng;
use ravelin_import::{FirewallOptions, Imported, Source, nft};

use model::{BASES, Firewall, Rule, Test, Verdict};

fn import(text: &str) -> Imported {
    let options = FirewallOptions {
        local: model::OWN.iter().map(|own| own.parse().unwrap()).collect(),
    };
    nft(&Source::decode("rules.nft", text.as_bytes()).unwrap(), &options)
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refusal(text: &str) -> String {
    nft(
        &Source::decode("r", text.as_bytes()).unwrap(),
        &FirewallOptions::default(),
    )
    .expect_err("an error")
    .to_string()
}

fn chain_name(index: usize) -> String {
    BASES
        .get(index)
        .map_or(format!("c{index}"), |name| (*name).to_owned())
}

/// The chains as a script for `nft -f`.
fn script(rng: &mut Rng, firewall: &Firewall) -> String {
    let mut sets = String::new();
    let mut chains = String::new();
    for (index, chain) in firewall.chains.iter().enumerate().rev() {
        let _ = writeln!(chains, "\tchain {} {{", chain_name(index));
        if index < 3 {
            let policy = if chain.accepts { "accept" } else { "drop" };
            let _ = writeln!(
                chains,
                "\t\ttype filter hook {} priority filter; policy {policy};",
                BASES[index]
            );
        }
        for rule in &chain.rules {
            let line = rule_text(rng, rule, &mut sets);
            let _ = writeln!(chains, "\t\t{line}");
        }
        chains.push_str("\t}\n");
    }
    format!("table inet filter {{\n{sets}{chains}}}\n")
}

fn rule_text(rng: &mut Rng, rule: &Rule, sets: &mut String) -> String {
    let mut text = String::new();
    let ip = if rule.v4 == Some(false) { "ip6" } else { "ip" };
    let kind = if rule.v4 == Some(false) {
        "ipv6_addr"
    } else {
        "ipv4_addr"
    };
    for (key, test) in [("saddr", &rule.source), ("daddr", &rule.destination)] {
        if let Some(test) = test {
            let _ = write!(text, "{ip} {key} {} ", value(rng, test, kind, sets));
        }
    }
    if rule.source.is_none()
        && rule.destination.is_none()
        && let Some(v4) = rule.v4
    {
        let _ = write!(text, "meta nfproto {} ", if v4 { "ipv4" } else { "ipv6" });
    }
    let names = [(1, "icmp"), (6, "tcp"), (17, "udp"), (47, "gre"), (58, "icmpv6")];
    let name = |number| names.iter().find(|(known, _)| *known == number).unwrap().1;
    if let Some(protocol) = rule.protocol {
        if rule.source_port.is_none() && rule.destination_port.is_none() && rule.icmp.is_none() {
            let _ = write!(text, "meta l4proto {} ", name(protocol));
        }
        for (key, test) in [("sport", &rule.source_port), ("dport", &rule.destination_port)] {
            if let Some(test) = test {
                let _ = write!(
                    text,
                    "{} {key} {} ",
                    name(protocol),
                    value(rng, test, "inet_service", sets)
                );
            }
        }
        if let Some(kind) = rule.icmp {
            let _ = write!(text, "{} type {kind} ", name(protocol));
        }
    }
    let _ = match rule.verdict {
        Verdict::Accept => write!(text, "counter accept"),
        Verdict::Drop => write!(
            text,
            "{}",
            rng.pick(&["drop", "reject", "counter drop comment \"no\""])
        ),
        Verdict::Return => write!(text, "return"),
        Verdict::Jump(chain) => write!(text, "jump {}", chain_name(chain)),
        Verdict::Goto(chain) => write!(text, "goto {}", chain_name(chain)),
    };
    text
}

fn value<T: Display + PartialEq>(rng: &mut Rng, test: &Test<T>, kind: &str, sets: &mut String) -> String {
    let elements: Vec<String> = test
        .ranges
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    let not = if test.negated { "!= " } else { "" };
    if let [one] = elements.as_slice() {
        return format!("{not}{one}");
    }
    if rng.chance(40) {
        let name = format!("s{}", sets.matches("set ").count());
        let _ = writeln!(
            sets,
            "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\tauto-merge\n\t\telements = {{ {} }}\n\t}}",
            elements.join(", ")
        );
        return format!("{not}@{name}");
    }
    format!("{not}{{ {} }}", elements.join(", "))
}

#[test]
fn real_rule_sets_have_the_same_verdicts() {
    let mut rng = Rng::new(5);
    let (mut passed, mut dropped) = (0, 0);
    for _ in 0..60 {
        let firewall = Firewall::random(&mut rng, &[true, false], true);
        let script = script(&mut rng, &firewall);
        let listed = model::in_namespace("nft -f - && nft list ruleset", &script);
        let imported = import(&listed);
        let lost: Vec<_> = imported.warnings.iter().filter(|warning| warning.loss).collect();
        assert!(lost.is_empty(), "{lost:?}\n{listed}");
        let (p, d) = model::compare(&mut rng, &firewall, &[true, false], &imported.policy, &listed);
        (passed, dropped) = (passed + p, dropped + d);
    }
    assert!(passed > 2_000 && dropped > 2_000, "{passed} {dropped}");
}

fn compare(name: &str, imported: &Imported) {
    let mut warnings = String::new();
    for warning in &imported.warnings {
        let _ = writeln!(
            warnings,
            "{}{warning}",
            if warning.loss { "loss: " } else { "note: " }
        );
    }
    golden::compare_text("firewall", &format!("{name}.toml"), &imported.policy);
    golden::compare_text("firewall", &format!("{name}.warnings"), &warnings);
}

#[test]
fn a_realistic_rule_set_becomes_this_policy() {
    let text = include_str!("firewall/server.nft");
    // What is listed here is what nft takes and prints.
    let listed = model::in_namespace("nft -c -f - && echo good", text);
    assert_eq!(listed, "good\n");
    let source = Source::decode("server.nft", text.as_bytes()).unwrap();
    compare("server.nft", &nft(&source, &FirewallOptions::default()).unwrap());
}

/// What a policy cannot say is left out with its line, and what becomes of its packets; the rules around it stay.
#[test]
fn what_cannot_be_expressed_is_listed_and_the_rest_goes_on() {
    let foreign = "protocol 1 (icmp) in IPv6 and protocol 58 (icmp6) in IPv4 are not known to a policy; ";
    for (rule, loss, told) in [
        (
            "ip saddr & 255.0.255.0 == 10.0.0.1 drop",
            true,
            "calculating with a field (`&`) is not known to a policy; the rule was left out; what it drops meets",
        ),
        (
            "tcp dport & 0x1 != 0 jump deeper",
            true,
            "calculating with a field (`&`) is not known to a policy; the rule was left out; what it matches meets",
        ),
        (
            "meta l4proto eigrp accept",
            true,
            "the name `eigrp` is not known here; a number would be; the rule was left out; what it accepts meets",
        ),
        (
            "log ct state established",
            true,
            "the state of connections is not known to a policy; the rule was left out; what it matches meets",
        ),
        ("ip6 nexthdr icmp drop", true, "what the rule drops of them meets"),
        (
            "ip protocol 58 accept",
            true,
            "what the rule accepts of them meets",
        ),
        (
            "meta nfproto ipv6 meta l4proto 1 jump deeper",
            true,
            "what the rule matches of them meets",
        ),
        (
            "meta l4proto icmp drop",
            false,
            "the rule does nothing about them",
        ),
        (
            "meta l4proto { icmp, ipv6-icmp } accept",
            false,
            "the rule does nothing about them",
        ),
    ] {
        let text = format!(
            "table inet t {{\n\tchain deeper {{\n\t\tdrop\n\t}}\n\tchain input {{\n\t\ttype filter hook input priority 0; \
             policy accept;\n\t\tip saddr 10.0.0.1 drop\n\t\t{rule}\n\t\tip saddr 10.0.0.2 drop\n\t}}\n}}\n"
        );
        let source = Source::decode("r", text.as_bytes()).unwrap();
        let imported =
            nft(&source, &FirewallOptions::default()).unwrap_or_else(|error| panic!("{error}\n{rule}"));
        let found = imported.warnings.iter().find(|warning| warning.line == 8);
        let found = found.unwrap_or_else(|| panic!("{rule}: {:#?}", imported.warnings));
        assert_eq!(found.loss, loss, "{rule}: {found}");
        assert!(found.message.contains(told), "{found}\nis not {told}");
        if found.message.contains(" in IPv6") {
            assert!(found.message.starts_with(foreign), "{found}");
        }
        for kept in ["\"10.0.0.1\"", "\"10.0.0.2\""] {
            assert!(imported.policy.contains(kept), "{rule}\n{}", imported.policy);
        }
    }
}

#[test]
fn mistakes_are_told_with_their_lines() {
    let in_chain = |rule: &str| {
        format!(
            "table inet t {{\n\tchain input {{\n\t\ttype filter hook input priority 0; policy accept;\n\t\t{rule}\n\t}}\n}}\n"
        )
    };
    for (text, told) in [
        (
            "flush ruleset\n".to_owned(),
            "r:1: `flush` is not expected here; import what",
        ),
        ("\ntable inet".to_owned(), "r:2: a table has a name"),
        ("table inet t {".to_owned(), "r:1: the table is not closed"),
        ("table x t { }".to_owned(), "r:1: a table has a family"),
        (
            "table inet t {\nset s {\nelements = { 1.1.1.1, ".to_owned(),
            "the elements are not closed",
        ),
        (
            in_chain("ip saddr 10.0.0.300 accept"),
            "r:4: `10.0.0.300` is no value",
        ),
        (
            in_chain("ip saddr @missing accept"),
            "r:4: there is no set `missing`",
        ),
        (in_chain("ip saddr $lan accept"), "r:4: variables"),
        (in_chain("jump nowhere"), "r:4: there is no chain `nowhere`"),
        (
            in_chain("tcp dport { 22 . 23 } accept"),
            "r:4: the set's elements have more parts",
        ),
        (in_chain("accept }"), "r:"),
    ] {
        let error = refusal(&text);
        assert!(error.contains(told), "{error}\nis not {told}\n{text}");
    }
}

#[test]
fn hostile_rule_sets_end_soon() {
    let around = |chains: &str| {
        format!(
            "table inet t {{\n{chains}\tchain input {{\n\t\ttype filter hook input priority 0; policy drop;\n\t\tjump c0\n\t}}\n}}\n"
        )
    };
    // Each chain jumps twice to the next: two to the power of thirty ways.
    let doubling: String = (0..30)
        .map(|n| format!("chain c{n} {{\njump c{m}\njump c{m}\n}}\n", m = n + 1))
        .collect();
    assert!(
        refusal(&around(
            &(doubling + "chain c30 {\nip saddr 10.0.0.1 accept\n}\n")
        ))
        .contains("too many rules")
    );
    let returns = "ip saddr 10.0.0.0/8 return\n".repeat(2_000);
    let wide: String = (0..30)
        .map(|n| format!("chain c{n} {{\n{returns}tcp dport {n} jump c{m}\n}}\n", m = n + 1))
        .collect();
    let text = around(&(wide + "chain c30 {\naccept\n}\n"));
    let _ = nft(
        &Source::decode("r", text.as_bytes()).unwrap(),
        &FirewallOptions::default(),
    );
    let circle = around("chain c0 {\njump c1\n}\nchain c1 {\njump c0\n}\n");
    assert!(refusal(&circle).contains("deep"));
    let circle = around("chain c0 {\ntcp dport 1-9 goto c0\n}\n");
    assert!(refusal(&circle).contains("deep"));
    // A large set in many rules.
    let elements: Vec<String> = (0..60_000_u32)
        .map(|n| std::net::Ipv4Addr::from_bits(n * 2).to_string())
        .collect();
    let set = format!(
        "set s {{\ntype ipv4_addr\nelements = {{ {} }}\n}}\n",
        elements.join(", ")
    );
    let rules = "ip saddr @s accept\n".repeat(1_000);
    assert!(refusal(&around(&format!("{set}chain c0 {{\n{rules}}}\n"))).contains("too many"));
    for text in [
        "{".repeat(1_000_000),
        "table inet t { chain c { ".repeat(100_000),
        "\"".repeat(1_000_000),
        "((((".repeat(100_000),
    ] {
        refusal(&text);
    }
}
