//! Policies as files: where they are, what is no policy at all, and what garbage does.

use std::path::Path;

use proptest::prelude::*;
use ravelin_policy::{MAX_FILE_BYTES, Policy};

const TUNNEL: &str = r#"
[connections.c]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
[connections.c.static]
algorithm = "aes-128-gcm"
outbound = { spi = 0x1001, key-file = "keys/out" }
inbound = { spi = 0x2001, key-file = "/etc/ravelin/in" }
"#;

fn load(content: &[u8]) -> Result<Policy, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("p.toml");
    std::fs::write(&path, content).expect("written");
    match Policy::load(&path) {
        Ok((policy, _)) => Ok(policy),
        Err(errors) => Err(errors.to_string().replace(&path.display().to_string(), "p.toml")),
    }
}

#[test]
fn key_files_are_relative_to_the_policy() {
    let (policy, _) = Policy::parse(TUNNEL, "/srv/site/p.toml").unwrap();
    let keys = &policy.connections()[0].keys;
    assert_eq!(keys.outbound.key_file, Path::new("/srv/site/keys/out"));
    assert_eq!(keys.inbound.key_file, Path::new("/etc/ravelin/in"));
    let (policy, _) = Policy::parse(TUNNEL, "p.toml").unwrap();
    assert_eq!(
        policy.connections()[0].keys.outbound.key_file,
        Path::new("keys/out")
    );
}

#[test]
fn what_is_no_text_is_refused_with_its_place() {
    assert_eq!(
        load(b"default = \"permit\"\n# \xff\n"),
        Err("p.toml:2:3: not UTF-8; save the policy as UTF-8 text".into())
    );
    assert_eq!(
        load(b"default = \"permit\"\n\0"),
        Err("p.toml:2:1: a NUL byte; a policy is text".into())
    );
    let large = vec![b'#'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
    assert_eq!(
        load(&large),
        Err("p.toml: larger than 64 MiB; this is no policy".into())
    );
    assert!(load(b"").is_ok(), "an empty policy permits everything");
    let missing = Policy::load(Path::new("/nonexistent/p.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("/nonexistent/p.toml: cannot open the policy: "),
        "{missing}"
    );
    let folder = Policy::load(Path::new("/")).unwrap_err().to_string();
    assert!(folder.contains("this is a directory"), "{folder}");
}

#[test]
fn a_flood_of_mistakes_is_cut_short() {
    let text = format!(
        "[filter-lists.a]\nfilters = [{}]",
        "{source = 1, destination = 2},".repeat(10_000)
    );
    let errors = Policy::parse(&text, "p.toml").unwrap_err();
    assert_eq!(errors.errors().len(), 50);
    assert_eq!(errors.omitted(), 20_000 - 50);
}

/// A hint for each would compare each with hundreds of long names.
#[test]
fn a_flood_of_misspelt_names_is_only_counted() {
    let name = |kind: &str, n: usize| format!("{kind}{n:0>58}");
    let lists: String = (0..300)
        .map(|n| format!("[filter-lists.{}]\nfilters = []\n", name("list", n)))
        .collect();
    let groups: String = (0..300).map(|n| format!("{} = []\n", name("group", n))).collect();
    let filter = format!(
        "{{ source = \"${}\", destination = \"{}\" }},",
        name("gruop", 7),
        name("word", 7)
    );
    let rules: String = (0..30_000)
        .map(|n| {
            format!(
                "[[rules]]\nname = \"r{n}\"\nfilter-list = \"{}\"\naction = \"block\"\n",
                name("lits", n)
            )
        })
        .collect();
    let text = format!(
        "[addresses]\n{groups}{lists}[filter-lists.many]\nfilters = [{}]\n{rules}",
        filter.repeat(30_000)
    );
    let errors = Policy::parse(&text, "p.toml").unwrap_err();
    assert_eq!(errors.errors().len() + errors.omitted(), 90_000);
}

#[test]
fn a_policy_that_would_explode_is_refused() {
    let filters = "{source = \"any\", destination = \"any\"},".repeat(2_000);
    let rules: String = (0..1_000)
        .map(|n| format!("[[rules]]\nname = \"r{n}\"\nfilter-list = \"a\"\naction = \"block\"\n"))
        .collect();
    let text = format!("[filter-lists.a]\nfilters = [{filters}]\n{rules}");
    let errors = Policy::parse(&text, "p.toml").unwrap_err().to_string();
    assert!(
        errors.contains("2000000 filters in all; at most 1000000"),
        "{errors}"
    );
    let text = format!("[filter-lists.a]\nfilters = [{}]", "{},".repeat(1_000_001));
    let errors = Policy::parse(&text, "p.toml").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "p.toml:2:11: more than 1000000 filters in the policy"
    );
    for deep in [
        "[".repeat(100_000),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        "{a=".repeat(100_000),
    ] {
        let errors = Policy::parse(&format!("a = {deep}"), "p.toml").unwrap_err();
        assert!(errors.to_string().starts_with("p.toml:1:"), "{errors}");
    }
    let deep = format!(
        "[filter-lists.a]\nfilters = [{{ source = {}, destination = \"any\" }}]",
        "[".repeat(40) + &"]".repeat(40)
    );
    let errors = Policy::parse(&deep, "p.toml").unwrap_err().to_string();
    assert!(
        errors.contains("expected a string in quotes, found an array"),
        "{errors}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Policy::parse(&String::from_utf8_lossy(&bytes), "p.toml");
    }

    #[test]
    fn text_never_panics(text in "[\\[\\]{}=\"a-z0-9.,\\-#\n öß\u{0}]{0,200}") {
        let _ = Policy::parse(&text, "p.toml");
    }

    /// A policy with a stretch of it overwritten; errors point into the text.
    #[test]
    fn damaged_policies_never_panic(at in 0..TUNNEL.len(), length in 0_usize..30, patch in "\\PC{0,12}") {
        let end = (at + length).min(TUNNEL.len());
        let text = format!("{}{patch}{}", &TUNNEL[..at], &TUNNEL[end..]);
        if let Err(errors) = Policy::parse(&text, "p.toml") {
            let lines = u32::try_from(text.lines().count()).unwrap() + 1;
            for error in errors.errors() {
                prop_assert!(error.position.is_none_or(|place| (1..=lines).contains(&place.line)), "{}", error);
                prop_assert!(!error.message.contains('\n'));
            }
        }
    }
}
