//! Any bytes as rules of iptables-save: read or refused, never a panic; what is read is a policy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_import::{FirewallOptions, Source, iptables_save};
use ravelin_policy::Policy;

fuzz_target!(|input: &[u8]| {
    let Ok(source) = Source::decode("input", input) else {
        return;
    };
    let options = FirewallOptions {
        local: vec![[192, 0, 2, 1].into()],
    };
    match iptables_save(&source, &options) {
        Ok(imported) => {
            Policy::parse(&imported.policy, "imported").expect("a policy");
        }
        Err(errors) => assert!(
            !errors.to_string().contains("no policy that Ravelin takes"),
            "{errors}"
        ),
    }
});
