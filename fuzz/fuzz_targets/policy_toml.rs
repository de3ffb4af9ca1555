//! Any bytes as a policy: read or refused, never a panic; what is read compiles or is refused for its size, in
//! whichever surroundings, and its canonical layout says the same.
#![no_main]

use std::collections::BTreeMap;
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use ravelin_policy::{Policy, Surroundings, canonical_layout};
use ravelin_xdp_common::line::{LINE_SLOTS, MAX_STEPS};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let policy = Policy::parse(text, "policy.toml").ok().map(|(policy, _)| policy);
    match canonical_layout(text, "policy.toml") {
        Ok(layout) => {
            assert_eq!(canonical_layout(&layout, "policy.toml").as_ref(), Ok(&layout));
            assert_eq!(Policy::parse(&layout, "policy.toml").is_ok(), policy.is_some());
        }
        Err(_) => assert!(policy.is_none()),
    }
    let Some(policy) = policy else {
        return;
    };
    compile(&policy);
    if policy.depends_on_surroundings() {
        resolve(&policy);
    }
});

/// Here, there and here again: only the surroundings of the last time count.
fn resolve(policy: &Policy) {
    let addresses = |last: u8| {
        [
            IpAddr::from([192, 0, 2, last]),
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last.into()]),
        ]
    };
    let names = policy.names().into_iter().map(str::to_owned);
    let names = names.zip((0..=u8::MAX).map(|last| addresses(last)[..usize::from(last % 3)].to_vec()));
    let here = Surroundings {
        own: addresses(7).to_vec(),
        names: names.collect(),
        outer: None,
        session: None,
    };
    let there = Surroundings {
        own: Vec::new(),
        names: BTreeMap::new(),
        // No device has that name.
        outer: Some("/".to_owned()),
        session: None,
    };
    let Ok((resolved, _)) = policy.resolve(&here) else {
        return;
    };
    compile(&resolved);
    let (nowhere, warnings) = resolved.resolve(&there).expect("fewer filters");
    assert!(
        !warnings.is_empty(),
        "nothing was told of names without addresses, nor of rules for other devices"
    );
    let again = nowhere.resolve(&here).map(|(policy, _)| policy);
    assert_eq!(again.as_ref(), Ok(&resolved));
}

fn compile(policy: &Policy) {
    if let Ok(rules) = ravelin_classifier::compile(policy) {
        assert!(rules.lines().len() <= LINE_SLOTS && rules.steps() <= MAX_STEPS);
    }
}
