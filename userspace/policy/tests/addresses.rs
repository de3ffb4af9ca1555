//! Address groups, arrays, `me` and names: what a filter stands for, here and now.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ravelin_policy::{Policy, Surroundings};

fn parse(text: &str) -> Policy {
    let (policy, _) = Policy::parse(text, "p.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    policy
}

fn errors(text: &str) -> String {
    Policy::parse(text, "p.toml").expect_err(text).to_string()
}

fn filters(policy: &Policy) -> Vec<String> {
    policy
        .filters(&policy.rules()[0])
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// A policy with these groups and one rule whose list has these filters.
fn policy(groups: &str, filters: &str) -> String {
    format!(
        "[addresses]\n{groups}\n[filter-lists.a]\nfilters = [{filters}]\n\
         [[rules]]\nname = \"r\"\nfilter-list = \"a\"\naction = \"permit\"\n"
    )
}

fn surroundings(own: &[&str], names: &[(&str, &[&str])]) -> Surroundings {
    let addresses = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect::<Vec<IpAddr>>()
    };
    Surroundings {
        own: addresses(own),
        names: names
            .iter()
            .map(|(name, texts)| ((*name).to_owned(), addresses(texts)))
            .collect(),
        ..Surroundings::default()
    }
}

#[test]
fn arrays_and_groups_are_written_out_by_family() {
    let text = policy(
        "office = [\"10.1.0.0/16\", \"fd01::/64\", \"$lab\"]\nlab = \"10.2.0.0/16\"",
        "{ source = \"$office\", destination = [\"10.9.0.1\", \"fd09::1\", \"any\"], protocol = \"tcp\" }",
    );
    let policy = parse(&text);
    assert!(!policy.depends_on_surroundings());
    assert_eq!(
        filters(&policy),
        [
            "10.1.0.0/16 -> any tcp",
            "10.1.0.0/16 -> 10.9.0.1 tcp",
            "10.2.0.0/16 -> any tcp",
            "10.2.0.0/16 -> 10.9.0.1 tcp",
            "fd01::/64 -> any tcp",
            "fd01::/64 -> fd09::1 tcp",
        ]
    );
}

#[test]
fn icmp_takes_the_pairs_of_its_family() {
    let text = policy(
        "",
        "{ source = [\"10.1.0.0/16\", \"fd01::/64\"], destination = \"any\", protocol = \"icmp6\" }",
    );
    assert_eq!(filters(&parse(&text)), ["fd01::/64 -> any icmp6"]);
}

#[test]
fn me_and_names_are_put_in_as_hosts() {
    let text = policy(
        "db = [\"db.example.org\", \"10.7.0.0/16\"]",
        "{ source = \"any\", destination = \"any\" }, { source = \"me\", destination = \"$db\" }, \
         { source = \"10.0.0.0/8\", destination = \"10.0.0.0/8\" }",
    );
    let policy = parse(&text);
    assert!(policy.depends_on_surroundings());
    assert_eq!(policy.names().into_iter().collect::<Vec<_>>(), ["db.example.org"]);
    assert_eq!(filters(&policy), ["any -> any", "10.0.0.0/8 -> 10.0.0.0/8"]);

    let first = surroundings(
        &["fd00::5", "10.0.0.5", "10.0.0.5"],
        &[("db.example.org", &["10.0.3.1", "fd00::31", "::ffff:10.0.3.2"])],
    );
    let (resolved, warnings) = policy.resolve(&first).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(
        filters(&resolved),
        [
            "any -> any",
            "10.0.0.5 -> 10.7.0.0/16",
            "10.0.0.5 -> 10.0.3.1",
            "10.0.0.5 -> 10.0.3.2",
            "fd00::5 -> fd00::31",
            "10.0.0.0/8 -> 10.0.0.0/8",
        ]
    );
    // Each keeps the place where it is written.
    assert_eq!(resolved.filters(&resolved.rules()[0])[3].position.line, 4);

    // Again, in other surroundings: nothing of the first is left.
    let second = surroundings(&["10.0.0.6"], &[("db.example.org", &[])]);
    let (again, warnings) = resolved.resolve(&second).unwrap();
    assert_eq!(
        filters(&again),
        [
            "any -> any",
            "10.0.0.6 -> 10.7.0.0/16",
            "10.0.0.0/8 -> 10.0.0.0/8"
        ]
    );
    let (afresh, _) = policy.resolve(&second).unwrap();
    assert_eq!(again, afresh);
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["p.toml:4:53: `db.example.org` has no address; its filters match nothing"]
    );
    let (nothing, warnings) = again.resolve(&Surroundings::default()).unwrap();
    assert_eq!(filters(&nothing), ["any -> any", "10.0.0.0/8 -> 10.0.0.0/8"]);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].message.contains("this machine has no address"),
        "{warnings:?}"
    );
}

#[test]
fn a_family_without_partner_is_said() {
    for (filters, expected) in [
        (
            "{ source = [\"10.0.0.1\", \"10.0.0.2\"], destination = \"fd00::1\" }",
            "p.toml:4:12: no source is of one family with a destination: the sources are IPv4, the destinations IPv6",
        ),
        (
            "{ source = [\"10.0.0.1\", \"10.0.0.2\"], destination = \"any\", protocol = \"icmp6\" }",
            "p.toml:4:12: protocol icmp6 belongs to IPv6, but no source and destination are both IPv6",
        ),
        (
            "{ source = [], destination = \"any\" }",
            "p.toml:4:23: the list of addresses is empty",
        ),
        (
            "{ source = [[\"any\"]], destination = \"any\" }",
            "p.toml:4:24: expected a string in quotes, found an array",
        ),
        (
            "{ source = 7, destination = \"any\" }",
            "p.toml:4:23: expected an address in quotes, or an array of them",
        ),
        (
            "{ source = \"$labb\", destination = \"any\" }",
            "p.toml:4:23: there is no address group `labb`; did you mean `$lab`?",
        ),
        (
            "{ source = \"lab\", destination = \"any\" }",
            "p.toml:4:23: `lab` is not an address",
        ),
    ] {
        let text = errors(&policy("lab = [\"10.0.0.0/8\"]", filters));
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn cycles_of_groups_are_named() {
    let filter = "{ source = \"$a\", destination = \"any\" }";
    let text = errors(&policy(
        "a = [\"$b\"]\nb = [\"10.0.0.1\", \"$c\"]\nc = \"$a\"",
        filter,
    ));
    assert_eq!(
        text,
        "p.toml:4:5: these address groups contain each other: $a -> $b -> $c -> $a; take one out"
    );
    let text = errors(&policy("a = [\"$a\"]", filter));
    assert_eq!(
        text,
        "p.toml:2:6: these address groups contain each other: $a -> $a; take one out"
    );
    // A cycle far from any stack's end.
    let chain: String = (0..50_000)
        .map(|n| format!("g{n} = \"$g{}\"\n", (n + 1) % 50_000))
        .collect();
    let text = errors(&chain_policy(&chain));
    assert!(text.contains("contain each other"), "{text}");
    assert!(text.len() < 1_000, "{}", text.len());
}

fn chain_policy(groups: &str) -> String {
    policy(groups, "{ source = \"$g0\", destination = \"any\" }")
}

#[test]
fn long_chains_and_doublings_stay_small() {
    let chain: String = (0..50_000).map(|n| format!("g{n} = \"$g{}\"\n", n + 1)).collect();
    let deep = parse(&chain_policy(&format!("{chain}g50000 = \"10.0.0.1\"\n")));
    assert_eq!(filters(&deep), ["10.0.0.1 -> any"]);

    let doublings: String = (0..1_000)
        .map(|n| format!("g{n} = [\"$g{0}\", \"$g{0}\"]\n", n + 1))
        .collect();
    let wide = parse(&chain_policy(&format!(
        "{doublings}g1000 = [\"10.0.0.1\", \"10.0.0.2\"]\n"
    )));
    assert_eq!(filters(&wide).len(), 2);

    // Each holds one more than the next.
    let stairs: String = (0..3_000)
        .map(|n| format!("g{n} = [\"10.0.{}.{}\", \"$g{}\"]\n", n / 256, n % 256, n + 1))
        .collect();
    let text = errors(&chain_policy(&format!("{stairs}g3000 = []\n")));
    assert!(text.contains("come to more than 1000000 addresses"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn filters_that_multiply_are_refused() {
    let list = |third: u8| {
        (0..2_000)
            .map(|n| format!("\"10.{third}.{}.{}\",", n / 256, n % 256))
            .collect::<String>()
    };
    let groups = format!("a = [{}]\nb = [{}]", list(1), list(2));
    let text = errors(&policy(&groups, "{ source = \"$a\", destination = \"$b\" }"));
    assert!(
        text.starts_with(
            "p.toml:5:12: this filter stands for 4000000 pairs of addresses; a policy has at most 1000000"
        ),
        "{text}"
    );
    let many = "{ source = \"$a\", destination = \"any\" },".repeat(501);
    let text = errors(&policy(&groups, &many));
    assert!(text.contains("more than 1000000 filters"), "{text}");

    let own: Vec<IpAddr> = (0..2_000_u32).map(|n| IpAddr::from(n.to_be_bytes())).collect();
    let both = parse(&policy("", "{ source = \"me\", destination = \"me\" }"));
    let crowd = Surroundings {
        own,
        names: BTreeMap::new(),
        ..Surroundings::default()
    };
    let text = both.resolve(&crowd).unwrap_err().to_string();
    assert!(
        text.starts_with("p.toml:3:15: with the addresses of this machine"),
        "{text}"
    );
    let apart = parse(&policy(
        "",
        &"{ source = [\"me\", \"10.0.0.1\"], destination = \"fd00::1\" },".repeat(5_000),
    ));
    let text = apart.resolve(&crowd).unwrap_err().to_string();
    assert!(text.contains("put them into one address group"), "{text}");
    let together = parse(&policy(
        "all = [\"me\", \"10.0.0.1\"]",
        &"{ source = \"$all\", destination = \"fd00::1\" },".repeat(5_000),
    ));
    let (together, _) = together.resolve(&crowd).unwrap();
    assert_eq!(filters(&together).len(), 0);
}

#[test]
fn odd_groups_are_warned_of() {
    let text = policy(
        "unused = \"10.0.0.1\"\nempty = []",
        "{ source = \"$empty\", destination = \"any\" }",
    );
    let (_, warnings) = Policy::parse(&text, "p.toml").unwrap();
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "p.toml:2:1: no filter uses address group `unused`",
            "p.toml:3:1: address group `empty` is empty; its filters match nothing",
            "p.toml:4:15: filter list `a` is empty; its rules match nothing",
        ]
    );
}

/// A rule is active where the outer device is one of its own, and can be told to be elsewhere again and again.
#[test]
fn rules_are_for_the_devices_that_they_name() {
    const TEXT: &str = r#"
[filter-lists.all]
filters = [{ source = "any", destination = "any" }]
[[rules]]
name = "everywhere"
filter-list = "all"
action = "block"
[[rules]]
name = "modem"
filter-list = "all"
action = "block"
interfaces = ["wwan0", "ppp0"]
[[rules]]
name = "never"
filter-list = "all"
action = "block"
interfaces = ["wwan0"]
active = false
"#;
    let active = |policy: &Policy| -> Vec<bool> { policy.rules().iter().map(|rule| rule.active).collect() };
    let on = |device: Option<&str>| Surroundings {
        outer: device.map(str::to_owned),
        ..Surroundings::default()
    };
    let (mut policy, _) = Policy::parse(TEXT, "p").unwrap();
    assert!(policy.depends_on_surroundings());
    for (device, modem, said) in [
        (Some("ppp0"), true, None),
        (
            Some("eth0"),
            false,
            Some(
                "p:8:1: rule `modem` is not in force here: it is for wwan0, ppp0, and the outer device is eth0",
            ),
        ),
        (Some("wwan0"), true, None),
        // Names are not prefixes.
        (
            Some("ppp"),
            false,
            Some("p:8:1: rule `modem` is not in force here"),
        ),
        (None, true, Some("p:8:1: rule `modem` is taken to be in force")),
    ] {
        let (resolved, warnings) = policy.resolve(&on(device)).unwrap();
        assert_eq!(active(&resolved), [true, modem, false], "{device:?}");
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings.len(),
            usize::from(said.is_some()),
            "{device:?}: {warnings:?}"
        );
        assert!(
            said.is_none_or(|said| warnings[0].starts_with(said)),
            "{device:?}: {warnings:?}"
        );
        policy = resolved;
    }
    let named = format!("[interfaces]\nouter = \"eth0\"\n{TEXT}");
    let (policy, _) = Policy::parse(&named, "p").unwrap();
    assert_eq!(
        active(&policy.resolve(&on(None)).unwrap().0),
        [true, false, false]
    );
    assert_eq!(
        active(&policy.resolve(&on(Some("ppp0"))).unwrap().0),
        [true, true, false]
    );
    for (wrong, message) in [
        ("[]", "no interface is named"),
        ("\"ppp0\"", "an array of names of network interfaces"),
        ("[\"a/b\"]", "is not the name of a network interface"),
        ("[1]", "a string"),
    ] {
        let text = TEXT.replace("[\"wwan0\", \"ppp0\"]", wrong);
        let errors = Policy::parse(&text, "p").unwrap_err().to_string();
        assert!(errors.contains(message), "{wrong}: {errors}");
    }
}
