//! Every example in docs/policy.md is a good policy, and every key is explained and shown there.

use ravelin_policy::{Policy, PolicyErrors, Warning, canonical_layout};

const MANUAL: &str = include_str!("../../../docs/policy.md");

fn examples() -> Vec<&'static str> {
    let blocks = MANUAL.split("```toml\n").skip(1);
    blocks
        .map(|block| block.split_once("```").expect("a closed block").0)
        .collect()
}

/// Reads an example; the files that it includes are there, and empty.
fn parse(example: &str) -> Result<(Policy, Vec<Warning>), PolicyErrors> {
    let Some(list) = example.lines().find_map(|line| line.strip_prefix("include = [")) else {
        return Policy::parse(example, "docs/policy.md");
    };
    let folder = tempfile::tempdir().expect("a folder");
    for name in list.split('"').skip(1).step_by(2) {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, "").expect("written");
    }
    let path = folder.path().join("site.toml");
    std::fs::write(&path, example).expect("written");
    Policy::load(&path)
}

#[test]
fn examples_are_good() {
    assert!(examples().len() >= 6);
    for example in examples() {
        match parse(example) {
            Ok((_, warnings)) => {
                // Examples that show what is warned about.
                let unused = |text: &str| {
                    ["same filter", "audit mode", "falls back to clear"]
                        .iter()
                        .any(|known| text.contains(known))
                };
                let odd: Vec<_> = warnings
                    .iter()
                    .filter(|warning| !unused(&warning.message))
                    .collect();
                assert!(odd.is_empty(), "{odd:?}\n{example}");
            }
            Err(errors) => panic!("{errors}\n{example}"),
        }
    }
}

#[test]
fn examples_are_in_canonical_layout() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let files = std::fs::read_dir(&folder).expect("docs/examples").map(|entry| {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        (path.display().to_string(), text)
    });
    let blocks = examples()
        .into_iter()
        .map(|text| ("docs/policy.md".to_owned(), text.to_owned()));
    for (name, text) in files.filter(|(name, _)| name.ends_with(".toml")).chain(blocks) {
        let layout = canonical_layout(&text, &name).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(text, layout, "{name}");
    }
}

#[test]
fn every_key_is_explained_and_shown() {
    let shown = examples().concat();
    let keys = [
        "default",
        "non-ip",
        "audit",
        "exemptions",
        "boot",
        "include",
        "ssh-session",
        "outer",
        "inner",
        "host-edge",
        "filters",
        "source",
        "destination",
        "protocol",
        "source-port",
        "destination-port",
        "icmp-type",
        "icmp-code",
        "mirrored",
        "name",
        "filter-list",
        "action",
        "connection",
        "accept-unsecured",
        "fallback-clear",
        "soft-expiry",
        "priority",
        "active",
        "interfaces",
        "mode",
        "local",
        "remote",
        "encapsulation",
        "local-port",
        "remote-port",
        "path-mtu",
        "tcp-mss-clamp",
        "tfc-padding",
        "dummy-packets",
        "nat-keepalive",
        "address-update",
        "udp-zero-checksum",
        "rekey-grace",
        "original-local",
        "original-remote",
        "df",
        "dscp",
        "inner-dscp",
        "ecn",
        "flow-label",
        "hop-limit",
        "algorithm",
        "implicit-iv",
        "esn",
        "replay-window",
        "lifetime",
        "soft-seconds",
        "hard-seconds",
        "soft-bytes",
        "hard-bytes",
        "soft-packets",
        "hard-packets",
        "jitter-percent",
        "outbound",
        "inbound",
        "spi",
        "key-file",
    ];
    for key in keys {
        assert!(MANUAL.contains(&format!("`{key}`")), "{key} is not explained");
        assert!(shown.contains(&format!("{key} = ")), "{key} is not shown");
    }
    // A key that the reader takes and this list does not know would go unnoticed: an unknown key lists the known.
    for text in [
        "zzzzzzzz = 1",
        "[interfaces]\nzzzzzzzz = 1",
        "[lifeline]\nzzzzzzzz = 1",
        "[filter-lists.a]\nzzzzzzzz = 1",
        "[filter-lists.a]\nfilters = [{ zzzzzzzz = 1 }]",
        "[[rules]]\nzzzzzzzz = 1",
        "[connections.c]\nzzzzzzzz = 1",
        "[connections.c.static]\nzzzzzzzz = 1",
        "[connections.c.static]\noutbound = { zzzzzzzz = 1 }",
        "[connections.c.static]\nlifetime = { zzzzzzzz = 1 }",
    ] {
        let message = Policy::parse(text, "p").expect_err("an unknown key").to_string();
        let known = message
            .split("known are ")
            .nth(1)
            .and_then(|rest| rest.lines().next());
        for key in known.expect("the known keys").split(", ") {
            assert!(MANUAL.contains(key), "{key} is not explained");
            assert!(
                keys.contains(&key)
                    || MANUAL.contains(&format!("[{key}"))
                    || MANUAL.contains(&format!(".{key}]"))
            );
        }
    }
}

#[test]
fn example_policies_are_good() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("docs/examples") {
        let path = entry.expect("an entry").path();
        let (policy, warnings) = Policy::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(warnings.is_empty(), "{}: {warnings:?}", path.display());
        assert!(!policy.rules().is_empty(), "{}", path.display());
        count += 1;
    }
    assert!(count >= 3, "{count} examples in {}", folder.display());
}
