//! Any bytes as a policy: read or refused, never a panic; what is read compiles or is refused for its size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_policy::Policy;
use ravelin_xdp_common::line::{LINE_SLOTS, MAX_STEPS};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok((policy, _)) = Policy::parse(text, "policy.toml")
        && let Ok(rules) = ravelin_classifier::compile(&policy)
    {
        assert!(rules.lines().len() <= LINE_SLOTS && rules.steps() <= MAX_STEPS);
    }
});
