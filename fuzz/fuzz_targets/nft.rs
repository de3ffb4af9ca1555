//! Any bytes as a rule set of nftables: read or refused, never a panic; what is read is a policy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_import::{FirewallOptions, Source, nft};
use ravelin_policy::Policy;

fuzz_target!(|input: &[u8]| {
    let Ok(source) = Source::decode("input", input) else {
        return;
    };
    match nft(&source, &FirewallOptions::default()) {
        Ok(imported) => {
            Policy::parse(&imported.policy, "imported").expect("a policy");
        }
        Err(errors) => assert!(
            !errors.to_string().contains("no policy that Ravelin takes"),
            "{errors}"
        ),
    }
});
