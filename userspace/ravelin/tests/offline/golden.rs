//! Running the command, and comparing what it prints with a file.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs `ravelin` in `tests/golden`, without what the surroundings would tell it.
pub(crate) fn ravelin(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args(arguments)
        .current_dir(folder())
        .env("SSH_CONNECTION", "")
        .output()
        .expect("ravelin runs")
}

/// What the command printed to standard output; it must have ended with `code`.
pub(crate) fn stdout(arguments: &[&str], code: i32) -> String {
    let output = ravelin(arguments);
    let text = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}\n{text}\n{errors}"
    );
    text
}

/// Compares with `tests/golden/NAME`.
pub(crate) fn compare(name: &str, text: &str) {
    let path = folder().join(name);
    if std::env::var_os("RAVELIN_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs; if the new text is right, run again with RAVELIN_UPDATE_GOLDEN=1\n{text}",
        path.display()
    );
}

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}
