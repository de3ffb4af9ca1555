//! Every mistake is found, at its place, with a word on what to do.

use std::time::Duration;

use ravelin_policy::order::Priority;
use ravelin_policy::{Boot, Policy, PolicyErrors};

/// A good policy; tests spoil one thing in it at a time.
const GOOD: &str = r#"default = "permit"
non-ip = "permit"
[interfaces]
outer = "eth0"
inner = "eth1"
[filter-lists.to-branch]
filters = [
  { source = "10.1.0.0/16", destination = "10.2.0.0/16" },
  { source = "fd01::/64", destination = "fd02::/64", protocol = "tcp", destination-port = "443" },
]
[[rules]]
name = "branch"
filter-list = "to-branch"
action = "protect"
connection = "branch"
priority = 10
accept-unsecured = false
active = true
[connections.branch]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
encapsulation = "none"
path-mtu = 1500
[connections.branch.static]
algorithm = "aes-256-gcm"
esn = true
replay-window = 1024
outbound = { spi = 0x1001, key-file = "branch-out.key" }
inbound  = { spi = 0x2001, key-file = "branch-in.key" }
"#;

fn errors(text: &str) -> PolicyErrors {
    match Policy::parse(text, "site.toml") {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors,
    }
}

/// `GOOD` with `from` replaced by `to` must give one error, at `line:column`, that holds `expected`.
#[track_caller]
fn spoiled(from: &str, to: &str, place: &str, expected: &str) {
    assert!(GOOD.contains(from), "{from} is not in the policy");
    let errors = errors(&GOOD.replacen(from, to, 1));
    let text = errors.to_string();
    assert_eq!(errors.errors().len(), 1, "{text}");
    assert!(text.starts_with(&format!("site.toml:{place}: ")), "{text}");
    assert!(text.contains(expected), "expected {expected:?} in: {text}");
}

#[test]
fn the_good_policy_is_good() {
    let (policy, warnings) = Policy::parse(GOOD, "site.toml").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(policy.rules()[0].priority, Priority::Given(10));
    assert_eq!(policy.connections()[0].keys.outbound.spi.value(), 0x1001);
    assert_eq!(policy.interfaces().inner.as_deref(), Some("eth1"));
}

#[test]
fn top_level() {
    spoiled(
        "default = \"permit\"",
        "default = \"allow\"",
        "1:11",
        "`allow` is not known here; write \"permit\" or \"block\"",
    );
    spoiled("default =", "defualt =", "1:1", "did you mean `default`?");
    spoiled(
        "non-ip = \"permit\"",
        "non-ip = true",
        "2:10",
        "expected \"permit\" or \"block\", found `true`",
    );
    for (wrong, place, expected) in [
        ("exemptions = 4", "2:14", "a whole number from 0 to 3, found `4`"),
        ("audit = 1", "2:9", "expected true or false"),
        (
            "boot = \"open\"",
            "2:8",
            "write \"permit\" or \"block\" or \"stateful\"",
        ),
        ("addresses = []", "2:13", "expected a table (address groups)"),
    ] {
        spoiled("non-ip = \"permit\"", wrong, place, expected);
    }
    spoiled(
        "outer = \"eth0\"",
        "outer = \"eth1\"",
        "3:1",
        "the same interface",
    );
    spoiled(
        "\"eth0\"",
        "\"a-name-longer-than-15\"",
        "4:9",
        "not the name of a network interface",
    );
    spoiled(
        "\"eth0\"",
        "\"../x\"",
        "4:9",
        "not the name of a network interface",
    );
    spoiled("\"eth0\"", "\"eth0", "4:14", "not TOML");
    spoiled("[interfaces]", "[interfaces", "3:12", "not TOML");
    spoiled(
        "inner = \"eth1\"",
        "outer = \"eth1\"",
        "5:1",
        "not TOML: duplicate key",
    );
}

/// TOML takes a bare address for a number or a date, and says so.
#[test]
fn an_address_without_quotes_is_told_what_it_lacks() {
    for (address, column) in [
        ("10.1.0.0/16", 14),
        ("192.0.2.1", 14),
        ("192.0.2.1-192.0.2.9", 14),
        ("fd01::/64", 14),
        ("2001:db8::1", 14),
        ("::1", 14),
    ] {
        let to = format!("{{ source = {address}, destination");
        let errors = errors(&GOOD.replacen("{ source = \"10.1.0.0/16\", destination", &to, 1));
        let text = errors.to_string();
        let hint = format!("addresses are strings: write \"{address}\"");
        assert!(
            text.starts_with(&format!("site.toml:8:{column}: not TOML: ")),
            "{text}"
        );
        assert_eq!(text.matches(&hint).count(), 1, "{text}");
    }
    // A key is never shown, and other words get no such advice.
    for other in ["any", "10.1", "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf::"] {
        let to = format!("{{ source = {other}, destination");
        let text = match Policy::parse(
            &GOOD.replacen("{ source = \"10.1.0.0/16\", destination", &to, 1),
            "site.toml",
        ) {
            Ok(_) => panic!("accepted"),
            Err(errors) => errors.to_string(),
        };
        assert!(!text.contains("addresses are strings"), "{text}");
    }
}

#[test]
fn filters() {
    spoiled(
        "\"10.1.0.0/16\"",
        "\"10.1.0.1/16\"",
        "8:14",
        "write \"10.1.0.0/16\"",
    );
    spoiled("\"10.1.0.0/16\"", "\"10.1.0.0/40\"", "8:14", "is not an address");
    spoiled("\"10.1.0.0/16\"", "\"m\"", "8:14", "did you mean \"me\"?");
    spoiled(
        "\"10.1.0.0/16\"",
        "16",
        "8:14",
        "expected an address in quotes, or an array of them, found `16`",
    );
    spoiled("\"10.1.0.0/16\"", "\"fd00::/16\"", "8:3", "of one family");
    spoiled("source = \"10.1.0.0/16\", ", "", "8:3", "needs the key `source`");
    spoiled(
        "protocol = \"tcp\"",
        "protocol = \"tpc\"",
        "9:65",
        "expected a protocol",
    );
    spoiled(
        "protocol = \"tcp\"",
        "protocol = 256",
        "9:65",
        "expected a protocol",
    );
    spoiled(
        "protocol = \"tcp\"",
        "protocol = \"gre\"",
        "9:91",
        "protocol gre has no ports",
    );
    spoiled("protocol = \"tcp\", ", "", "9:73", "any protocol has no ports");
    spoiled(
        "destination-port = \"443\"",
        "destination-port = \"443-80\"",
        "9:91",
        "write the lower one first: \"80-443\"",
    );
    spoiled(
        "destination-port = \"443\"",
        "destination-port = []",
        "9:91",
        "is empty",
    );
    spoiled(
        "destination-port = \"443\"",
        "icmp-type = 8",
        "9:84",
        "icmp-type needs protocol",
    );
    spoiled(
        "protocol = \"tcp\", destination-port = \"443\"",
        "protocol = \"icmp\"",
        "9:3",
        "write \"icmp6\"",
    );
    spoiled(
        "protocol = \"tcp\", destination-port = \"443\"",
        "protocol = \"icmp6\", icmp-code = 1",
        "9:3",
        "needs icmp-type",
    );
    spoiled(
        "destination-port = \"443\"",
        "mirrored = \"no\"",
        "9:83",
        "expected true or false",
    );
}

#[test]
fn rules() {
    spoiled(
        "filter-list = \"to-branch\"",
        "filter-list = \"to-brnach\"",
        "13:15",
        "did you mean `to-branch`?",
    );
    spoiled(
        "connection = \"branch\"",
        "connection = \"paris\"",
        "15:14",
        "there is no connection `paris`",
    );
    spoiled(
        "connection = \"branch\"\n",
        "",
        "11:1",
        "needs the key `connection`",
    );
    spoiled(
        "action = \"protect\"",
        "action = \"drop\"",
        "14:10",
        "\"permit\" or \"block\" or \"protect\"",
    );
    spoiled("priority = 10", "priority = -1", "16:12", "from 0 to 4294967295");
    spoiled("name = \"branch\"", "name = \"\"", "12:8", "usable as a name");
    spoiled(
        "name = \"branch\"",
        "name = \"a\\u0007b\"",
        "12:8",
        "usable as a name",
    );
    spoiled("active = true", "active = 1", "18:10", "expected true or false");
    spoiled(
        "active = true",
        "audit = \"yes\"",
        "18:9",
        "expected true or false",
    );
    spoiled(
        "active = true",
        "soft-expiry = 60",
        "18:15",
        "soft-expiry is only for fallback-clear = true",
    );
    spoiled(
        "active = true",
        "fallback-clear = true\nsoft-expiry = 0",
        "19:15",
        "from 1 to 604800",
    );
    let permit = GOOD
        .replace("action = \"protect\"", "action = \"permit\"")
        .replace("connection = \"branch\"\n", "");
    let errors = errors(&permit);
    assert!(
        errors
            .to_string()
            .contains("accept-unsecured is only for action = \"protect\""),
        "{errors}"
    );
    let twice =
        format!("{GOOD}[[rules]]\nname = \"branch\"\nfilter-list = \"to-branch\"\naction = \"block\"\n");
    let errors = self::errors(&twice);
    assert!(
        errors
            .to_string()
            .contains("31:1: there are two rules named `branch`"),
        "{errors}"
    );
}

#[test]
fn connections() {
    spoiled(
        "mode = \"tunnel\"",
        "mode = \"tunel\"",
        "20:8",
        "\"tunnel\" or \"transport\"",
    );
    spoiled(
        "remote = \"192.0.2.2\"",
        "remote = \"192.0.2.1\"",
        "19:1",
        "the same address",
    );
    spoiled(
        "remote = \"192.0.2.2\"",
        "remote = \"2001:db8::2\"",
        "19:1",
        "one family",
    );
    spoiled(
        "remote = \"192.0.2.2\"",
        "remote = \"224.0.0.1\"",
        "22:10",
        "multicast",
    );
    spoiled(
        "remote = \"192.0.2.2\"",
        "remote = \"gw.example\"",
        "22:10",
        "is not an IP address",
    );
    spoiled(
        "local = \"192.0.2.1\"",
        "local = \"0.0.0.0\"",
        "21:9",
        "unspecified",
    );
    spoiled(
        "encapsulation = \"none\"",
        "local-port = 4500",
        "23:14",
        "only for encapsulation = \"udp\"",
    );
    spoiled("path-mtu = 1500", "path-mtu = 575", "24:12", "at least 576");
    // 1332 - 54 = 1278 bytes inside, and the policy sends IPv6 through the tunnel.
    spoiled(
        "path-mtu = 1500",
        "path-mtu = 1332",
        "19:1",
        "leaves 1278 bytes inside the tunnel",
    );
    for (key, place, message) in [
        ("df = \"keep\"", "24:6", "write \"copy\" or \"set\" or \"clear\""),
        ("dscp = \"ef\"", "24:8", "\"copy\" or a whole number from 0 to 63"),
        ("dscp = 64", "24:8", "\"copy\" or a whole number from 0 to 63"),
        (
            "tfc-padding = 0",
            "24:15",
            "\"none\" or \"mtu\" or a whole number from 1 to 65535",
        ),
        (
            "tfc-padding = \"512\"",
            "24:15",
            "\"none\" or \"mtu\" or a whole number from 1 to 65535",
        ),
        ("dummy-packets = 1001", "24:17", "from 0 to 1000"),
        (
            "dummy-packets = 9",
            "24:17",
            "needs tfc-padding, so that they look like other packets",
        ),
        ("nat-keepalive = 20", "24:17", "only for encapsulation = \"udp\""),
        (
            "address-update = \"off\"",
            "24:18",
            "only for encapsulation = \"udp\"",
        ),
        ("inner-dscp = true", "24:14", "\"keep\" or \"copy\""),
        ("ecn = \"off\"", "24:7", "\"normal\" or \"compatibility\""),
        ("hop-limit = 0", "24:13", "from 1 to 255"),
        ("flow-label = \"zero\"", "24:14", "only for ends of IPv6"),
    ] {
        spoiled("path-mtu = 1500", key, place, message);
    }
    let udp = GOOD.replace("encapsulation = \"none\"", "encapsulation = \"udp\"");
    for (key, message) in [
        (
            "nat-keepalive = 3601",
            "24:17: expected a whole number from 0 to 3600",
        ),
        (
            "address-update = \"address\"",
            "24:18: `address` is not known here; write \"off\" or \"signal\" or \"port\"",
        ),
        (
            "udp-zero-checksum = true",
            "24:21: over IPv4 the checksum is always 0",
        ),
    ] {
        let errors = errors(&udp.replace("path-mtu = 1500", key)).to_string();
        assert!(errors.contains(message), "{errors}");
    }
    // Over IPv6, and in transport mode.
    let ipv6 = GOOD
        .replace("192.0.2.1", "2001:db8::1")
        .replace("192.0.2.2", "2001:db8::2");
    let ipv6 = errors(&ipv6.replace("path-mtu = 1500", "df = \"set\"")).to_string();
    assert!(
        ipv6.contains("site.toml:24:6: df is only for ends of IPv4"),
        "{ipv6}"
    );
    let transport = GOOD.replace("mode = \"tunnel\"", "mode = \"transport\"");
    for key in [
        "df = \"set\"",
        "dscp = 0",
        "ecn = \"normal\"",
        "hop-limit = 9",
        "dummy-packets = 1",
    ] {
        let errors = errors(&transport.replace("path-mtu = 1500", key)).to_string();
        assert!(
            errors.contains("is only for mode = \"tunnel\"; remove it"),
            "{errors}"
        );
    }
    for (keys, place, message) in [
        ("hard-seconds = 0", "28:29", "a whole number from 1 to 4294967295"),
        ("soft-bytes = -1", "28:27", "a whole number from 1 to"),
        (
            "soft-bytes = 9, hard-bytes = 8",
            "28:27",
            "soft-bytes = 9 would warn after hard-bytes = 8 has stopped the SA; use at most 8",
        ),
        (
            "hard-bytes = 4503599627370497",
            "28:27",
            "hard-bytes is beyond the 4503599627370496 that one key may have with aes-256-gcm",
        ),
        (
            "soft-packets = 70368744177665",
            "28:29",
            "soft-packets is beyond the 70368744177664 that one key may have",
        ),
        ("jitter-percent = 51", "28:31", "a whole number from 0 to 50"),
    ] {
        let lifetime = format!("lifetime = {{ {keys} }}");
        spoiled("replay-window = 1024", &lifetime, place, message);
    }
    let without_esn = GOOD.replace(
        "esn = true",
        "esn = false\nlifetime = { hard-packets = 4294967296 }",
    );
    let text = errors(&without_esn).to_string();
    assert!(
        text.contains("hard-packets is beyond the 4294967295 that one key has with `esn = false`"),
        "{text}"
    );
    spoiled(
        "replay-window = 1024",
        "replay-window = 100",
        "28:17",
        "multiple of 64, for instance 128",
    );
    spoiled(
        "replay-window = 1024",
        "replay-window = 0",
        "28:17",
        "from 64 to 65536",
    );
    spoiled(
        "algorithm = \"aes-256-gcm\"",
        "algorithm = \"des\"",
        "26:13",
        "write \"aes-256-gcm\" or \"aes-192-gcm\" or",
    );
    spoiled(
        "path-mtu = 1500",
        "protocol = \"ah\"",
        "24:12",
        "AH does not encrypt, but aes-256-gcm does",
    );
    spoiled(
        "algorithm = \"aes-256-gcm\"",
        "algorithm = \"aes-256-gcm-8\"\nimplicit-iv = true",
        "27:15",
        "cannot do without the IV",
    );
    spoiled("0x1001", "255", "29:20", "SPI 255 is reserved");
    spoiled("0x1001", "0x100000000", "29:20", "from 0 to 4294967295");
    spoiled(
        "\"branch-in.key\"",
        "\"./branch-out.key\"",
        "30:12",
        "already used at 29:12",
    );
    spoiled("\"branch-in.key\"", "\"\"", "30:39", "empty");
    let transport = errors(&GOOD.replace("mode = \"tunnel\"", "mode = \"transport\"")).to_string();
    for place in ["8:3", "9:3"] {
        assert!(transport.contains(&format!(
            "site.toml:{place}: rule `branch` uses connection `branch` in transport mode"
        )));
    }
}

#[test]
fn a_key_in_the_policy_is_never_repeated() {
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff01020304";
    for text in [
        GOOD.replace("branch-in.key", key),
        GOOD.replace("\"branch-in.key\"", key),
        GOOD.replace("esn = true", &format!("esn = \"{key}\"")),
        GOOD.replace("esn = true", &format!("{key} = true")),
        GOOD.replace("esn = true", &format!("key = \"{key}\"")),
    ] {
        let errors = errors(&text).to_string();
        assert!(!errors.contains("0011"), "{errors}");
    }
}

#[test]
fn two_connections_must_not_overlap() {
    let second = |local: &str, remote: &str, outbound: &str, inbound: &str| {
        format!(
            "{GOOD}[connections.c2]\nmode = \"tunnel\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n\
             [connections.c2.static]\nalgorithm = \"aes-128-gcm\"\n\
             outbound = {{ spi = {outbound}, key-file = \"c\" }}\ninbound = {{ spi = {inbound}, key-file = \"d\" }}\n"
        )
    };
    let message = errors(&second("192.0.2.1", "192.0.2.2", "0x3001", "0x3002")).to_string();
    assert!(
        message.contains("31:1: connection `c2` overlaps with the one at 19:1"),
        "{message}"
    );
    let message = errors(&second("192.0.2.1", "192.0.2.3", "0x3001", "0x2001")).to_string();
    assert!(
        message.contains("inbound SPI 0x00002001 is already used at 30:12"),
        "{message}"
    );
    let message = errors(&second("192.0.2.9", "192.0.2.2", "0x1001", "0x3002")).to_string();
    assert!(
        message.contains("outbound SPI 0x00001001 to 192.0.2.2 is already used"),
        "{message}"
    );
    // To another peer the same outbound SPI is that peer's affair.
    assert!(Policy::parse(&second("192.0.2.1", "192.0.2.3", "0x1001", "0x3002"), "p").is_ok());
}

#[test]
fn all_mistakes_are_said_at_once() {
    let text = GOOD
        .replace("10.1.0.0/16", "10.1.0.0/99")
        .replace("0x1001", "1")
        .replace("default = \"permit\"", "default = \"no\"")
        .replace("path-mtu = 1500", "path-mtu = 10");
    let places: Vec<u32> = errors(&text)
        .errors()
        .iter()
        .map(|error| error.position.expect("a place").line)
        .collect();
    assert_eq!(places, [1, 8, 24, 29]);
}

#[test]
fn what_is_odd_but_works_is_a_warning() {
    let warned = |text: &str, expected: &str| {
        let (_, warnings) = Policy::parse(text, "p").unwrap();
        let all: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert!(
            all.iter().any(|warning| warning.contains(expected)),
            "{expected} not in {all:?}"
        );
    };
    let unused = "connection = \"branch\"\npriority = 10\naccept-unsecured = false\n";
    let blocked = GOOD.replace(unused, "").replace("\"protect\"", "\"block\"");
    warned(&blocked, "p:16:1: no rule uses connection `branch`");
    warned(
        &format!("{GOOD}[filter-lists.unused]\nfilters = []\n"),
        "p:31:15: no rule uses filter list `unused`",
    );
    let empty = format!(
        "{GOOD}[filter-lists.e]\nfilters = []\n[[rules]]\nname = \"e\"\nfilter-list = \"e\"\naction = \"block\"\n"
    );
    warned(&empty, "filter list `e` is empty");
    warned(
        &GOOD.replace("\"10.2.0.0/16\"", "\"10.2.0.0/16\", mirrored = false"),
        "p:8:3: mirrored = false has no effect",
    );
    let all = GOOD
        .replace("\"10.1.0.0/16\"", "\"any\"")
        .replace("\"10.2.0.0/16\"", "\"any\"");
    warned(
        &all,
        "also covers packets between its own tunnel endpoints, 192.0.2.1 and 192.0.2.2",
    );
}

#[test]
fn what_is_open_is_a_warning() {
    let text = GOOD.replace(
        "non-ip = \"permit\"\n",
        "audit = true\nexemptions = 0\nboot = \"permit\"\n",
    );
    let text = text.replace("active = true", "fallback-clear = true\naudit = true");
    let (policy, warnings) = Policy::parse(&text, "site.toml").unwrap();
    assert!(policy.audit());
    assert_eq!(policy.exemptions().level(), 0);
    assert_eq!(policy.boot(), Boot::Permit);
    assert!(policy.rules()[0].audit);
    assert_eq!(policy.rules()[0].fallback_clear, Some(Duration::from_secs(3_600)));
    let text: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "site.toml:2:9: the policy is in audit mode: nothing is dropped",
        "site.toml:3:14: exemptions = 0: anyone who sends from port 88",
        "site.toml:13:1: rule `branch` falls back to clear packets, for 3600 s",
        "site.toml:13:1: rule `branch` is in audit mode",
    ];
    assert_eq!(text.len(), expected.len(), "{text:?}");
    for (text, expected) in text.iter().zip(expected) {
        assert!(text.starts_with(expected), "{text}");
    }
    for (level, kerberos, multicast) in [
        (0, true, true),
        (1, false, true),
        (2, true, false),
        (3, false, false),
    ] {
        let (policy, warnings) = Policy::parse(&format!("exemptions = {level}"), "p").unwrap();
        assert_eq!(policy.exemptions().kerberos_and_rsvp(), kerberos);
        assert_eq!(policy.exemptions().multicast_and_broadcast(), multicast);
        let warned = warnings.first().map_or("", |warning| &warning.message);
        assert_eq!(warned.contains("port 88"), kerberos, "{warned}");
        assert_eq!(warned.contains("multicast"), multicast, "{warned}");
    }
}

#[test]
fn transport_mode_knows_its_ends() {
    let text = GOOD
        .replace("mode = \"tunnel\"", "mode = \"transport\"")
        .replace(
            "{ source = \"10.1.0.0/16\", destination = \"10.2.0.0/16\" },\n  { source = \"fd01::/64\", destination = \"fd02::/64\", protocol",
            "{ source = \"me\", destination = \"192.0.2.2\", protocol",
        );
    let text = errors(&text).to_string();
    assert!(
        text.contains(
            "not those of \"me\" or of a name; write source = \"192.0.2.1\", destination = \"192.0.2.2\""
        ),
        "{text}"
    );
}

/// A policy must not make believe that a machine is shut which is open.
#[test]
fn what_is_not_enforced_is_warned_about() {
    for (text, expected) in [
        ("boot = \"block\"", Some("nobody reaches this machine")),
        ("boot = \"stateful\"", Some("is not enforced yet")),
        ("boot = \"permit\"", None),
        ("", None),
        (
            "boot = \"block\"\n[lifeline]\nfilters = [{ source = \"10.0.0.1\", destination = \"me\" }]",
            None,
        ),
    ] {
        let (_, warnings) = Policy::parse(text, "p").unwrap();
        let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), usize::from(expected.is_some()), "{text}: {told:?}");
        assert!(
            told.iter()
                .all(|told| told.contains(expected.unwrap_or_default())),
            "{told:?}"
        );
    }
}
