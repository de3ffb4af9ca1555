//! Any bytes as a script of netsh: read or refused, never a panic; what is read is a policy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ravelin_import::{NetshOptions, Source, export_netsh, netsh};
use ravelin_policy::Policy;

fuzz_target!(|input: &[u8]| {
    let Ok(source) = Source::decode("input", input) else {
        return;
    };
    let options = NetshOptions {
        local: vec![[192, 0, 2, 1].into(), [10, 1, 5, 1].into()],
        assign: None,
    };
    match netsh(&source, &options) {
        Ok(imported) => {
            let (policy, _) = Policy::parse(&imported.policy, "imported").expect("a policy");
            // Back again, and in once more: what was exported can be read.
            let script = export_netsh(&policy).script;
            let source = Source::decode("exported", script.as_bytes()).expect("text");
            netsh(&source, &options).unwrap_or_else(|errors| panic!("{errors}\n{script}"));
        }
        Err(errors) => assert!(
            !errors.to_string().contains("no policy that Ravelin takes"),
            "{errors}"
        ),
    }
});
