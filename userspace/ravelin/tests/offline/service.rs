//! `ravelin install-service`: what it says about the options that the unit gets.

use crate::golden::ravelin;

#[test]
fn a_service_that_opens_when_it_stops_is_warned_about() {
    let said = |more: &[&str]| {
        let options = [
            "install-service",
            "--print",
            "--",
            "--policy",
            "servers.toml",
            "--outer",
            "eth0",
        ];
        let output = ravelin(&[&options[..], &["--inner", "eth1"], more].concat());
        let errors = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(0), "{errors}");
        errors
    };
    assert_eq!(said(&[]), "");
    assert_eq!(said(&["--on-exit", "closed"]), "");
    for open in [&["--on-exit", "open"][..], &["--on-exit=open"]] {
        let warning = said(open);
        assert!(
            warning.starts_with("warning: `--on-exit open` opens the machine")
                && warning.contains("in the clear"),
            "{warning}"
        );
    }
}
