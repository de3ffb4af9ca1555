//! The same rules for nftables, at the earliest hook it has (netdev ingress).

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ravelin_bench::{Prefix, Rule, RuleList};
use ravelin_policy::Family;

/// One rule per line: `ip saddr … ip daddr … meta l4proto … th sport … th dport … goto permit`.
pub(crate) fn linear(list: &RuleList, device: &str) -> String {
    let mut rules = String::new();
    let ip = ip(list.family());
    for rule in list.rules() {
        for (field, prefix) in [("saddr", rule.source), ("daddr", rule.destination)] {
            if prefix.length() > 0 {
                let _ = write!(rules, "{ip} {field} {prefix} ");
            }
        }
        if let Some(protocol) = rule.protocol {
            let _ = write!(rules, "meta l4proto {protocol} ");
        }
        for (field, range) in [("sport", rule.source_ports), ("dport", rule.destination_ports)] {
            if range != ANY {
                let _ = write!(rules, "th {field} {} ", ports(range));
            }
        }
        let _ = writeln!(rules, "goto {}", verdict(rule));
    }
    table(device, "", &rules)
}

/// One lookup: `ip saddr . ip daddr . meta l4proto . th dport vmap @rules`, a map with intervals.
pub(crate) fn set(list: &RuleList, device: &str) -> String {
    let (ip, kind) = match list.family() {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let mut map =
        format!("map rules {{\ntype {kind} . {kind} . inet_proto . inet_service : verdict\nflags interval\n");
    if !list.rules().is_empty() {
        map.push_str("elements = {\n");
        for rule in list.rules() {
            let protocol = rule
                .protocol
                .map_or("0-255".to_owned(), |protocol| protocol.to_string());
            let _ = writeln!(
                map,
                "{} . {} . {protocol} . {} : goto {},",
                addresses(&rule.source),
                addresses(&rule.destination),
                ports(rule.destination_ports),
                verdict(rule),
            );
        }
        map.push_str("}\n");
    }
    map.push_str("}\n");
    let rule = format!("{ip} saddr . {ip} daddr . meta l4proto . th dport vmap @rules\n");
    table(device, &map, &rule)
}

/// The rules that the set can hold: those that name no source port, and of which no end lies in one before, which the
/// kernel refuses (nft_pipapo_insert, net/netfilter/nft_set_pipapo.c).
pub(crate) fn expressible(list: &RuleList) -> Vec<Rule> {
    let mut kept: Vec<Rule> = Vec::new();
    for rule in list.rules().iter().filter(|rule| rule.source_ports == ANY) {
        let free = kept
            .iter()
            .all(|other| !holds(other, rule, false) && !holds(other, rule, true));
        if free {
            kept.push(*rule);
        }
    }
    kept
}

/// Whether the lowest or highest corner of `inner` lies in `outer`.
fn holds(outer: &Rule, inner: &Rule, highest: bool) -> bool {
    let at = |prefix: &Prefix| if highest { prefix.last() } else { prefix.first() };
    if !outer.source.contains(at(&inner.source)) || !outer.destination.contains(at(&inner.destination)) {
        return false;
    }
    let port = inner.destination_ports[usize::from(highest)];
    let protocol = inner.protocol.unwrap_or(if highest { u8::MAX } else { 0 });
    outer.protocol.is_none_or(|own| own == protocol)
        && (outer.destination_ports[0]..=outer.destination_ports[1]).contains(&port)
}

/// Loads a table; how long that took, or `None` after `patience`.
pub(crate) fn load(text: &str, patience: Duration) -> Result<Option<Duration>> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `nft`; `cargo xtask setup` installs nftables")?;
    let start = Instant::now();
    let mut input = child.stdin.take().context("the input of nft")?;
    // It reads everything before it does anything, so this does not block for long.
    input.write_all(text.as_bytes()).context("the input of nft")?;
    drop(input);
    loop {
        if let Some(status) = child.try_wait().context("nft")? {
            if status.success() {
                return Ok(Some(start.elapsed()));
            }
            let output = child.wait_with_output().context("nft")?;
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("nft: {}", errors.lines().take(5).collect::<Vec<_>>().join("\n"));
        }
        if start.elapsed() > patience {
            child.kill().context("nft")?;
            child.wait().context("nft")?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Packets that a table has let through, and packets it has dropped.
pub(crate) fn counted(device: &str) -> Result<(u64, u64)> {
    let output = Command::new("nft")
        .args(["list", "counters", "table", "netdev", &name(device)])
        .output()
        .context("cannot start `nft`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let packets = |counter: &str| {
        let (_, rest) = text.split_once(&format!("counter {counter} {{"))?;
        rest.split_whitespace().nth(1)?.parse().ok()
    };
    match (packets("permitted"), packets("blocked")) {
        (Some(permitted), Some(blocked)) => Ok((permitted, blocked)),
        _ => bail!(
            "nft shows no counters: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

const ANY: [u16; 2] = [0, u16::MAX];

fn table(device: &str, map: &str, rules: &str) -> String {
    format!(
        "table netdev {} {{\n\
         counter permitted {{ }}\ncounter blocked {{ }}\n\
         chain permit {{ counter name \"permitted\" accept; }}\n\
         chain block {{ counter name \"blocked\" drop; }}\n\
         {map}\
         chain ingress {{\ntype filter hook ingress device \"{device}\" priority 0; policy accept;\n{rules}goto block\n}}\n}}\n",
        name(device)
    )
}

/// Tables have no `-` in their names.
fn name(device: &str) -> String {
    device.replace('-', "_")
}

const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

const fn verdict(rule: &Rule) -> &'static str {
    if rule.permit { "permit" } else { "block" }
}

fn ports([low, high]: [u16; 2]) -> String {
    if low == high {
        low.to_string()
    } else {
        format!("{low}-{high}")
    }
}

/// Everything is a range, since a prefix of length 0 is not taken in a concatenation.
fn addresses(prefix: &Prefix) -> String {
    match (prefix.length(), prefix.family()) {
        (0, Family::V4) => "0.0.0.0-255.255.255.255".to_owned(),
        (0, Family::V6) => "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".to_owned(),
        _ => prefix.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ravelin_bench::Profile;

    #[test]
    fn what_fits_into_the_set_has_no_source_ports_and_no_ends_inside_another() {
        let list = RuleList::generate(Profile::Firewall, Family::V4, 500, 1);
        let kept = expressible(&list);
        assert!(kept.len() > 100 && kept.len() < 500, "{}", kept.len());
        assert!(kept.iter().all(|rule| rule.source_ports == ANY));
        let text = set(&RuleList::from_rules(Family::V4, kept.clone()), "x-b");
        assert_eq!(
            text.lines().filter(|line| line.contains(" : goto ")).count(),
            kept.len()
        );
        assert!(text.starts_with("table netdev x_b {"));
    }

    #[test]
    fn the_linear_chain_has_every_rule() {
        let list = RuleList::generate(Profile::Acl, Family::V6, 100, 1);
        let text = linear(&list, "x");
        assert_eq!(text.lines().filter(|line| line.contains("goto ")).count(), 101);
        assert!(text.contains("ip6 daddr ") && !text.contains("/0 "));
    }
}
