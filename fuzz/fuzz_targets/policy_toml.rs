//! Any bytes as a policy: read or refused, never a panic; what is read compiles or is refused for its size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_policy::Policy;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok((policy, _)) = Policy::parse(text, "policy.toml")
        && let Ok(rules) = ravelin_classifier::compile(&policy)
    {
        assert_eq!(rules.header().line_count as usize, rules.lines().len());
        assert!(rules.lines().is_sorted_by_key(|line| line.rank));
    }
});
